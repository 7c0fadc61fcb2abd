"""A tool and the real daemon: voices in, results out, and nothing half on the way."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from arrivals import archive
from pairing import worker
from pairing.programs import Program, until, version
from pairing.tools import Tool
from pairing.witness import Row, Witness, replacement, temporary
from running import CONFIG, Daemon
from voicekiln.folders.watch import sync_marker

LONG_AGO_S = 1_672_628_645
"""January 2023."""
BIG_BYTES = 6_000_000
STATUS = {"status.html", "status.json"}
"""What the daemon publishes about itself."""


def voice(seed: int, size: int = 50_000) -> bytes:
    """Return a file like a checkpoint: an archive whose completeness can be seen."""
    return archive({"voice/data.pkl": b"weights", "voice/data/0": random.Random(seed).randbytes(size)})  # noqa: S311


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def holds(path: Path, data: bytes) -> bool:
    """Say whether it has this content; it may be away for a moment while a tool replaces it."""
    try:
        return path.read_bytes() == data
    except FileNotFoundError:
        return False


def has_result(outbox: Path, stem: str, data: bytes) -> bool:
    """Say whether the result of that content is there, sidecar and all.

    There may be no sidecar for a moment: an older one goes before the newer file comes.
    """
    try:
        told = json.loads((outbox / f"{stem}.json").read_bytes())
        onnx = (outbox / f"{stem}.onnx").read_bytes()
    except FileNotFoundError:
        return False
    return bool(told["source"]["sha256"] == sha256(data) and told["onnx"][0]["sha256"] == sha256(onnx))


def daemon(at: Path, share: Path, **changes: str) -> Daemon:
    """Return the daemon for inbox and outbox in `share`, which are made; `changes` replace text of its settings."""
    config = f"inbox: {share}/inbox\noutbox: {share}/outbox\n{CONFIG}"
    for old, new in changes.items():
        assert old in config
        config = config.replace(old, new)
    made = Daemon(at, config, worker.PRELUDE)
    made.inbox, made.outbox = share / "inbox", share / "outbox"
    for folder in (made.inbox, made.outbox):
        folder.mkdir(parents=True, exist_ok=True)
    return made


class Pair:
    """See the module. Each step asserts what it has brought about; `row` fills on the way."""

    def __init__(self, tool: Tool, at: Path) -> None:
        self.at = at
        self.tool = tool
        self.row = Row(tool.name, version(tool.programs[0], tool.digits))
        self.date_s = LONG_AGO_S
        self.sent: dict[str, bytes] = {}
        """What was brought to each name last."""
        self.whole: set[str] = set()
        """The hashes of all that was ever sent."""

    def run(self) -> Row:
        """Do all of it."""
        for name in ("here", "own"):
            (self.at / name).mkdir()
        self.daemon = daemon(self.at, self.at / "share")
        (self.daemon.inbox / "a folder").mkdir()
        with (
            self.daemon,
            self.tool.serve(self.at / "share", self.at / "own") as self.link,
            Witness(self.daemon.inbox) as self.witness,
        ):
            self._comes()
            self._is_replaced()
            self._breaks_off()
            self._goes_out()
            self._is_removed()
            assert (sync_marker(self.daemon.inbox) is not None) == self.tool.marks
            settled = {event["sha256"] for event in self.daemon.events("file.settled")}
            assert settled <= self.whole, "half a file was converted"
        return self.row

    def _comes(self) -> None:
        self._send("a folder/é 1.pth", voice(1))
        arrived_s = (self.daemon.inbox / "a folder/é 1.pth").stat().st_mtime
        self.row.date = "kept" if abs(arrived_s - self.date_s) < 2 else "now"
        self._converted("a folder/é 1")

    def _is_replaced(self) -> None:
        self._send("voice.pth", voice(2))
        self._converted("voice")
        voice_pth = self.daemon.inbox / "voice.pth"
        inode = voice_pth.stat().st_ino
        events = self._send("voice.pth", voice(3))
        self.row.replaces = replacement(events, "voice.pth", same_inode=voice_pth.stat().st_ino == inode)
        self._converted("voice")

    def _breaks_off(self) -> None:
        here = self._lay("big.pth", voice(4, BIG_BYTES))
        before = set(self._names())
        with Program(self.link.put(here, "big.pth", True), self.at / "slow.log", self.link.env) as slow:  # noqa: FBT003
            until(lambda: set(self._names()) > before or not slow.runs(), slow.said)
            time.sleep(1)  # a good piece arrives
            names = self._names()
            sizes = [(self.daemon.inbox / name).stat().st_size for name in names if name not in before]
            assert slow.runs(), "it was too fast to be broken off"
            slow.signal(signal.SIGINT)
            until(lambda: not slow.busy(), slow.said)
        self.row.temporary = temporary([name for name in names if name not in before], "big.pth")
        self.row.arrives = "in place" if "big.pth" in names else "renamed when whole"
        if "big.pth" in names and max(sizes) == here.stat().st_size:
            self.row.arrives += ", full size first"
        left = [name for name in self._names_at_rest() if name not in before]
        self.row.broken_off = "half under its name" if "big.pth" in left else temporary(left, "big.pth")
        if "big.pth" in left:
            self.daemon.until_there("big.error.json")
            assert self.daemon.read("big.error.json")["code"] == "damaged"
        assert not (self.daemon.outbox / "big.json").exists()
        self._send("big.pth", here.read_bytes())
        self._converted("big")
        self.daemon.until(lambda: not (self.daemon.outbox / "big.error.json").exists())

    def _goes_out(self) -> None:
        there = self.at / "there"
        there.mkdir()
        self._do(self.link.get(there))
        self.link.got(there)
        found = {str(path.relative_to(there)) for path in there.rglob("*") if path.is_file()}
        stems = [name.removesuffix(".pth") for name in self.sent]
        assert found - STATUS == {name for stem in stems for name in (f"{stem}.onnx", f"{stem}.json")}
        for stem in stems:
            sidecar = json.loads((there / f"{stem}.json").read_text())
            [onnx] = sidecar["onnx"]
            assert onnx["sha256"] == sha256((there / f"{stem}.onnx").read_bytes())
            assert sidecar["source"]["sha256"] == sha256(self.sent[f"{stem}.pth"])

    def _is_removed(self) -> None:
        if self.link.remove is None:
            return
        self._do(self.link.remove("voice.pth"))
        assert not (self.daemon.inbox / "voice.pth").exists()
        self._send("last.pth", voice(5))
        self._converted("last")
        assert (self.daemon.outbox / "voice.onnx").exists(), "who takes a voice away keeps its result"

    def _names(self) -> list[str]:
        inbox = self.daemon.inbox
        return [str(path.relative_to(inbox)) for path in inbox.rglob("*") if path.is_file()]

    def _names_at_rest(self) -> list[str]:
        """Wait until servers, too, have noticed that nothing comes any more."""
        names, since_s = self._names(), time.monotonic()
        while time.monotonic() < since_s + 1:
            time.sleep(0.05)
            if names != (names := self._names()):
                since_s = time.monotonic()
        return names

    def _lay(self, name: str, data: bytes) -> Path:
        path = self.at / "here" / Path(name).name
        path.write_bytes(data)
        self.date_s += 86_400  # some tools take two of one size and date for the same
        os.utime(path, (self.date_s, self.date_s))
        return path

    def _send(self, name: str, data: bytes) -> list[tuple[str, str, str]]:
        """Bring it to the inbox; return what was seen."""
        self.sent[name] = data
        self.whole.add(sha256(data))
        self.witness.seen()
        self._do(self.link.put(self._lay(name, data), name, False))  # noqa: FBT003 - as in Link
        assert (self.daemon.inbox / name).read_bytes() == data
        return self.witness.seen()

    def _do(self, command: Sequence[str | Path]) -> None:
        with Program(command, self.at / "tool.log", self.link.env) as tool:
            tool.finish()

    def _converted(self, stem: str) -> None:
        """Wait until the result is that of what was sent last."""
        self.daemon.until(lambda: has_result(self.daemon.outbox, stem, self.sent[f"{stem}.pth"]))
