"""A reader that looks through the outbox all the time, as any program of a person's might.

What it may never see: a file under its final name that is not whole or that changes, and a sidecar whose ONNX files
are not there with the hashes it names. It cannot read both at one moment, so a mismatch counts only if the sidecar
was the same file before and after. Ends at SIGTERM and leaves its findings as JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import onnx

from voicekiln.page.board import PAGE_BEGINNING

NAP_S = 0.002


@dataclass
class Reader:
    """See the module."""

    root: int
    """Open descriptor of the outbox."""
    foreign: frozenset[str]
    """Paths below it that are none of the daemon's."""
    wrong: list[str] = field(default_factory=list)
    looks: int = 0
    sidecars: int = 0
    models: int = 0
    _seen: dict[int, tuple[tuple[int, int], str]] = field(default_factory=dict)
    """Size and time of each file's last byte, and its hash, by inode."""

    def look(self) -> None:
        """Read every file once, the sidecars last."""
        self.looks += 1
        names = [
            os.path.relpath(os.path.join(top, name), ".")  # noqa: PTH118 - fwalk gives text
            for top, _, files, _ in os.fwalk(".", dir_fd=self.root)
            for name in files
            if not name.startswith(".")
        ]
        for name in sorted(set(names) - self.foreign, key=lambda name: name.endswith(".json")):
            if name.endswith(".onnx"):
                self._whole(name)
            elif name.endswith(".json"):
                self._sidecar(name)
            elif name == "status.html":
                self._whole(name)
            else:
                self._say(f"{name} is no name of the daemon's")

    def _say(self, what: str) -> None:
        if what not in self.wrong:
            self.wrong.append(what)

    def _bytes(self, name: str) -> tuple[bytes, os.stat_result] | None:
        try:
            file = os.open(name, os.O_RDONLY, dir_fd=self.root)
        except FileNotFoundError:
            return None
        with os.fdopen(file, "rb") as opened:
            return opened.read(), os.fstat(opened.fileno())

    def _whole(self, name: str) -> str | None:
        """Return the hash of an ONNX file or sidecar, after a look at the whole of it; None if there is none."""
        try:
            st = os.stat(name, dir_fd=self.root)
        except FileNotFoundError:
            return None
        known = self._seen.get(st.st_ino)
        if known is not None and known[0] == (st.st_size, st.st_mtime_ns):
            return known[1]
        if (found := self._bytes(name)) is None:
            return None
        data, st = found
        sha256 = hashlib.sha256(data).hexdigest()
        known = self._seen.get(st.st_ino)
        if known is not None and known[1] != sha256:
            self._say(f"{name} changed under its final name")
        self._seen[st.st_ino] = (st.st_size, st.st_mtime_ns), sha256
        try:
            if name.endswith(".onnx"):
                self.models += 1
                onnx.checker.check_model(onnx.load_from_string(data))
            elif name.endswith(".html"):
                assert data.startswith(PAGE_BEGINNING.encode())
                assert data.rstrip().endswith(b"</html>")
            else:
                json.loads(data)
        except Exception as error:  # noqa: BLE001 - whatever a parser says of half a file
            self._say(f"{name} is not whole: {len(data)} bytes, {str(error)[:200]}")
        return sha256

    def _sidecar(self, name: str) -> None:
        self._whole(name)
        if name.endswith(".error.json") or (before := self._bytes(name)) is None:
            return
        try:
            told = json.loads(before[0]).get("onnx", [])
        except ValueError:
            return  # told of by `_whole`
        self.sidecars += 1
        folder = os.path.dirname(name)  # noqa: PTH120 - text, as fwalk gives it
        for file in told:
            beside = os.path.join(folder, file["name"])  # noqa: PTH118 - as above
            found = self._whole(beside)
            if found == file["sha256"]:
                continue
            after = self._bytes(name)
            if after is not None and after[0] == before[0] and _same(after[1], before[1]):
                self._say(f"{name} tells of {beside}, which is {'missing' if found is None else 'another'}")


def _same(one: os.stat_result, two: os.stat_result) -> bool:
    return (one.st_ino, one.st_mtime_ns, one.st_ctime_ns) == (two.st_ino, two.st_mtime_ns, two.st_ctime_ns)


def main(outbox: str, report: str, *foreign: str) -> None:
    """Look until SIGTERM comes."""
    over = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal over
        del number, frame
        over = True

    signal.signal(signal.SIGTERM, end)
    reader = Reader(os.open(outbox, os.O_RDONLY | os.O_DIRECTORY), frozenset(foreign))
    parent = os.getppid()
    while not over and os.getppid() == parent:
        reader.look()
        time.sleep(NAP_S)
    reader.look()
    counts = {"looks": reader.looks, "sidecars": reader.sidecars, "models": reader.models}
    Path(report).write_text(json.dumps({"wrong": reader.wrong, **counts}))


if __name__ == "__main__":
    main(*sys.argv[1:])
