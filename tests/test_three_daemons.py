"""Three daemons on three hosts with one inbox and one outbox, killed and paused at random: one of them works."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from kiln import voice_bytes
from quick_worker import PRELUDE
from running import CONFIG, Daemon
from voicekiln.folders.owner import FILES, MARKER

VOICES = 100
PAUSE_S = 2.5
"""Longer than the others wait before they take over."""
PAGE = ("status.html", "status.json")
HOST = """
from voicekiln.folders import owner
from voicekiln.supervisor import ownership
ownership.BEAT_S, owner.STALE_S, owner.SURE_S = 0.2, 1.2, 0.6
ownership.socket.gethostname = lambda: {name!r}
"""


def daemon(at: Path, name: str) -> Daemon:
    """Return a daemon of its own host on the shares below `at`."""
    (at / name).mkdir()
    shares = f"inbox: {at}/inbox\noutbox: {at}/outbox\n"
    made = Daemon(at / name, shares + CONFIG, PRELUDE + HOST.format(name=name))
    made.inbox, made.outbox = at / "inbox", at / "outbox"
    return made


class Hosts:
    """The three, some of them asleep."""

    def __init__(self, at: Path) -> None:
        self.all = [daemon(at, name) for name in ("red", "green", "blue")]
        self._asleep: dict[int, float] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        with ExitStack() as stack:
            for host in self.all:
                stack.enter_context(host)
            stack.callback(self.wake_up)
            yield

    def disturb(self, chance: random.Random) -> None:
        """Kill or stop one of them for a while, the one that works as a rule; or none."""
        self.wake_up(time.monotonic())
        what, number = chance.random(), chance.randrange(len(self.all))
        if chance.random() < 0.6:
            number = next((n for n, host in enumerate(self.all) if host.at.name == owner(self.all[0].outbox)), number)
        if number in self._asleep or what > 0.15:
            return
        os.kill(self.all[number].process.pid, signal.SIGKILL if what < 0.07 else signal.SIGSTOP)
        self._asleep[number] = time.monotonic() + PAUSE_S * chance.choice((0.1, 1))

    def wake_up(self, now: float = float("inf")) -> None:
        for number in [n for n, until in self._asleep.items() if now > until]:
            os.kill(self.all[number].process.pid, signal.SIGCONT)
            if self.all[number].process.poll() is not None:
                self.all[number].__enter__()
            del self._asleep[number]

    def count(self, event: str) -> int:
        return sum(len(host.events(event)) for host in self.all)


def owner(outbox: Path) -> str | None:
    """Return the name of the host that the marker tells of."""
    try:
        return str(json.loads((outbox / MARKER).read_bytes())["host"])
    except (OSError, ValueError):
        return None


class Reader:
    """Looks at the outbox again and again, as a client does."""

    def __init__(self, outbox: Path) -> None:
        self.outbox = outbox
        self.wrong: list[str] = []

    def look(self) -> None:
        for sidecar in sorted(self.outbox.glob("*.json")):
            try:
                text = sidecar.read_bytes()
                if sidecar.name in PAGE:
                    json.loads(text)  # whole, whoever of the three has written it
                    continue
                files = json.loads(text)["onnx"]
                found = [hashlib.sha256((self.outbox / file["name"]).read_bytes()).hexdigest() for file in files]
                if sidecar.read_bytes() == text and found != [file["sha256"] for file in files]:
                    self.wrong.append(f"{sidecar.name} does not tell of what lies there")
            except FileNotFoundError:
                continue  # it is being replaced

    def shows(self, contents: dict[str, bytes]) -> bool:
        """Look once more; say whether each of these voices has its result."""
        self.look()
        for name, content in contents.items():
            try:
                source = json.loads((self.outbox / f"{name}.json").read_bytes())["source"]
            except FileNotFoundError:
                return False
            if source["sha256"] != hashlib.sha256(content).hexdigest():
                return False
        return True


def _stands_by(host: Daemon) -> bool:
    return str(host.status()["daemon"]).startswith("standing by: voicekiln on ")


@pytest.mark.requirement(13)
def test_every_voice_is_done_and_no_result_is_mixed(tmp_path: Path) -> None:
    """SIGKILL with a new start, SIGSTOP for longer than the others wait, voices replaced meanwhile."""
    chance = random.Random(int(os.environ.get("VOICEKILN_SEED", "4")))  # noqa: S311 - the same every time
    for name in ("inbox", "outbox"):
        (tmp_path / name).mkdir()
    hosts, reader = Hosts(tmp_path), Reader(tmp_path / "outbox")
    contents: dict[str, bytes] = {}
    drops = 0
    with hosts.running():
        while len(contents) < VOICES:
            number = len(contents) if chance.random() < 0.9 else chance.randrange(len(contents) + 1)
            contents[f"v{number}"] = voice_bytes(f"{number} {chance.random()}")
            hidden = tmp_path / "inbox" / f".v{number}.tmp"
            hidden.write_bytes(contents[f"v{number}"])
            hidden.rename(tmp_path / "inbox" / f"v{number}.pth")
            drops += 1
            hosts.disturb(chance)
            reader.look()
            time.sleep(0.15)
        hosts.wake_up()
        hosts.all[0].until(lambda: reader.shows(contents))
        hosts.all[0].until(lambda: sum(_stands_by(host) for host in hosts.all) == len(hosts.all) - 1)
    assert reader.wrong == []
    left = {path.name for path in (tmp_path / "outbox").iterdir()} - {*FILES, *PAGE}
    assert left == {f"{name}{ending}" for name in contents for ending in (".onnx", ".json")}
    assert {path.stem: path.read_bytes() for path in (tmp_path / "inbox").iterdir()} == contents
    assert hosts.count("owner.taken_over") >= 2, "the test was too gentle"
    # When one is killed, up to three voices are with its worker, in its hands or waiting for their publication.
    twice = hosts.count("job.finished") - drops
    assert twice <= 3 * hosts.count("owner.taken_over"), "what one daemon had done was not known to the next"
