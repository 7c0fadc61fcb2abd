"""How each tool puts a file into a folder, call by call: one voice is taken, with the right bytes, and no junk.

A made-up clock: after every step of a tool the folder is scanned once per second for as long as the step is said to
last, and what has settled is taken. Steps last longer than the quiet time where the tool may stall.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from arrivals import archive, noise
from tool_profiles import TOOLS, date, write
from voicekiln.errors import NotYet
from voicekiln.folders.inbox import scan
from voicekiln.folders.settle import Settler
from voicekiln.folders.spool import take
from voicekiln.job import FileStamp

QUIET_S = 3.0
VOICE = archive({"voice/data.pkl": noise(900), "voice/data/0": noise(200_000, 2)})
OLDER = archive({"voice/data.pkl": noise(800, 8), "voice/data/0": noise(240_000, 9)})
UPDATES = {"syncthing", "rsync-inplace"}
"""Tools whose way over an older file is tried, which is not their way to a free name."""


class Bench:
    """The inbox side of the service, with a clock that is moved by hand."""

    def __init__(self, root: Path, spool: Path) -> None:
        self.root, self.spool = root, spool
        self.settler = Settler(QUIET_S)
        self.now_s = 1000.0
        self.done: dict[PurePosixPath, FileStamp] = {}
        self.taken: list[tuple[str, bytes]] = []

    def wait(self, seconds: int) -> None:
        """Let time pass and look every second, a minute at most."""
        for _ in range(min(seconds, 60)):
            self.now_s += 1.0
            self.look()
        self.now_s += max(0, seconds - 60)

    def look(self) -> None:
        """Scan once and take what has settled and is not known yet."""
        for relpath, stamp in self.settler.observe(scan(self.root).files, self.now_s).items():
            if self.done.get(relpath) == stamp:
                continue
            try:
                take(self.root, relpath, stamp, self.spool / "job", 10**9)
            except NotYet:
                continue
            self.done[relpath] = stamp
            self.taken.append((str(relpath), (self.spool / "job").read_bytes()))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """An empty inbox and a spool."""
    for name in ("inbox", "spool"):
        (tmp_path / name).mkdir()
    return Bench(tmp_path / "inbox", tmp_path / "spool")


@pytest.mark.requirement(2)
@pytest.mark.requirement(14)
@pytest.mark.parametrize("tool", TOOLS)
def test_what_a_tool_delivers_is_taken_once(bench: Bench, tool: str) -> None:
    """From the tool's first call to long after its last, one new file is taken, and it is the whole voice."""
    if tool in UPDATES:
        write(bench.root / "voice.pth", OLDER)
        bench.wait(1)
    for pause in TOOLS[tool](bench.root / "voice.pth", VOICE):
        bench.wait(pause)
    bench.wait(30)
    assert [taken for taken in bench.taken if taken != ("voice.pth", OLDER)] == [("voice.pth", VOICE)]


def test_a_late_date_makes_no_other_file_of_it(bench: Bench) -> None:
    """A tool that dates the file after it was taken: it is looked at again and found to hold the same bytes."""
    write(bench.root / "voice.pth", VOICE)
    bench.wait(10)
    date(bench.root / "voice.pth")
    bench.wait(10)
    assert bench.taken == [("voice.pth", VOICE)] * 2


def test_a_newer_file_under_the_same_name_is_taken_too(bench: Bench) -> None:
    """Also where it has the same size and date."""
    other = archive({"voice/data.pkl": noise(900, 6), "voice/data/0": noise(200_000, 7)})
    assert len(other) == len(VOICE)
    for data in (VOICE, other):
        write(bench.root / "new", data)
        date(bench.root / "new")
        (bench.root / "new").replace(bench.root / "voice.pth")
        bench.wait(10)
    assert bench.taken == [("voice.pth", VOICE), ("voice.pth", other)]
