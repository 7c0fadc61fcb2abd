"""Syncthing on the loopback: devices with keys, settings and folders of their own that know nobody but each other."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.error import HTTPError
from xml.etree import ElementTree as ET

from pairing.programs import PATIENCE_S, Program, until
from ports import free_port

IGNORE = "(?d).~*.part"
"""The line of `.stignore` that the README gives."""
KEY = "loopback"
ALONE = {
    **dict.fromkeys(("globalAnnounceEnabled", "localAnnounceEnabled", "relaysEnabled", "natEnabled"), "false"),
    **dict.fromkeys(("crashReportingEnabled", "startBrowser"), "false"),
    "urAccepted": "-1",
    "autoUpgradeIntervalH": "0",
    "reconnectionIntervalS": "1",
    "limitBandwidthInLan": "true",
}
"""Options: nothing is asked of the internet or told to it."""


@dataclass(frozen=True)
class Share:
    """A folder of a device."""

    id: str
    path: Path
    type: str
    """sendreceive, sendonly or receiveonly."""


@dataclass
class Device:
    """A Syncthing; `begin` it after `know`. Its home is made at once."""

    home: Path
    shares: Sequence[Share]
    port: int = field(default_factory=free_port)
    api: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        self._call("generate", "--skip-port-probing", "--no-default-folder")
        self.id = self._call("serve", "--device-id").strip()
        self.program = Program(self._command("serve", "--no-browser", "--no-restart"), self.home / "log", self._env())

    def __enter__(self) -> Self:
        self.program.__enter__()
        self.ask("system/ping")
        return self

    def __exit__(self, *_: object) -> None:
        self.program.__exit__()

    def know(self, other: Device) -> None:
        """Write the settings: the other one is the only one to talk to, and nothing is asked of the internet."""
        path = self.home / "config.xml"
        config = ET.parse(path)  # noqa: S314 - Syncthing has just written it, with all its defaults
        root = config.getroot()
        for share in self.shares:
            folder = deepcopy(_found(root, "defaults/folder"))
            folder.attrib.update(id=share.id, path=str(share.path), type=share.type, fsWatcherDelayS="1")
            for device in (self.id, other.id):
                ET.SubElement(folder, "device", id=device)
            root.append(folder)
        friend = ET.SubElement(root, "device", id=other.id)
        ET.SubElement(friend, "address").text = f"tcp://127.0.0.1:{other.port}"
        gui = _found(root, "gui")
        _found(gui, "address").text = f"127.0.0.1:{self.api}"
        _found(gui, "apikey").text = KEY
        for name, value in {**ALONE, "listenAddress": f"tcp://127.0.0.1:{self.port}"}.items():
            _found(root, f"options/{name}").text = value
        config.write(path)

    def ask(self, path: str, method: str = "GET", body: object = None) -> Any:
        """Say something to its REST interface."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.api}/rest/{path}", data, {"X-API-Key": KEY}, method=method
        )
        answers: list[bytes] = []

        def asked() -> bool:
            assert self.program.runs(), self.program.said()
            try:
                with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:  # noqa: S310 - http on the loopback
                    answers.append(answer.read())
            except HTTPError:
                raise
            except OSError:  # it does not listen yet
                return False
            return True

        until(asked, self.program.said)
        return json.loads(answers[0]) if answers[0].strip() else None

    def set(self, path: str, **values: object) -> None:
        """Change some settings below `path`."""
        self.ask(f"config/{path}", "PATCH", values)

    def rescan(self) -> None:
        """Look at all folders now, without waiting for what the system reports."""
        self.ask("db/scan", "POST")

    def state(self, share: str) -> Mapping[str, Any]:
        told: Mapping[str, Any] = self.ask(f"db/status?folder={share}")
        return told

    def _command(self, word: str, *options: str) -> list[str]:
        return ["syncthing", word, *options, f"--home={self.home}"]

    def _env(self) -> dict[str, str]:
        return {"HOME": str(self.home), "STNOUPGRADE": "1"}

    def _call(self, word: str, *options: str) -> str:
        self.home.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            self._command(word, *options),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=True,
            env=self._env(),
        )
        return done.stdout


def _found(above: ET.Element, path: str) -> ET.Element:
    found = above.find(path)
    assert found is not None, path
    return found
