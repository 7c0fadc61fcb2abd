"""How each tool puts a file into a folder, call by call: one voice is taken, with the right bytes, and no junk.

A made-up clock: after every step of a tool the folder is scanned once per second for as long as the step is said to
last, and what has settled is taken. Steps last longer than the quiet time where the tool may stall.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pytest

from arrivals import archive, noise
from voicekiln.errors import NotYet
from voicekiln.folders.inbox import scan
from voicekiln.folders.settle import Settler
from voicekiln.folders.spool import take
from voicekiln.job import FileStamp

QUIET_S = 3.0
STALL = 10
"""Seconds that a tool may do nothing in the middle of its work."""
VOICE = archive({"voice/data.pkl": noise(900), "voice/data/0": noise(200_000, 2)})
OLDER = archive({"voice/data.pkl": noise(800, 8), "voice/data/0": noise(240_000, 9)})
LONG_AGO_NS = 1_500_000_000_000_000_000

Steps = Iterator[int]
"""A tool at work; it yields the seconds that pass before its next step."""


def write(path: Path, data: bytes, at: int = 0) -> None:
    """Write into a file in place, creating it if need be."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(fd, data, at)
    finally:
        os.close(fd)


def grow(path: Path, *, stall: int = STALL) -> Steps:
    """Write the voice in four pieces, with pauses between them and next to none after the last."""
    piece = len(VOICE) // 4 + 1
    for at in range(0, len(VOICE), piece):
        write(path, VOICE[at : at + piece], at)
        yield stall if at + piece < len(VOICE) else 1


def date(path: Path, mtime_ns: int = LONG_AGO_NS) -> None:
    """Set the source's old time stamp."""
    os.utime(path, ns=(mtime_ns, mtime_ns))


def under_another_name(temp: str) -> Callable[[Path], Steps]:
    """Return a tool that writes under a name of its own, dates the file and renames it into place."""

    def tool(root: Path) -> Steps:
        (root / temp).parent.mkdir(parents=True, exist_ok=True)
        yield from grow(root / temp)
        date(root / temp)
        yield STALL
        (root / temp).rename(root / "voice.pth")

    return tool


def syncthing(root: Path) -> Steps:
    """An update: the old file goes first, the time stamp comes last."""
    write(root / "voice.pth", OLDER)
    yield 1
    yield from grow(root / ".syncthing.voice.pth.tmp")
    (root / "voice.pth").unlink()
    yield 1
    (root / ".syncthing.voice.pth.tmp").rename(root / "voice.pth")
    yield 1
    date(root / "voice.pth")


def rsync_temp_dir(root: Path) -> Steps:
    """A temp folder on another file system: the last step is a copy in place."""
    yield from grow(root / "voice.pth")
    date(root / "voice.pth")


def rsync_inplace(root: Path) -> Steps:
    """Over an older, longer file, whose end stays readable until the last moment."""
    write(root / "voice.pth", OLDER)
    yield 1
    yield from grow(root / "voice.pth")
    os.truncate(root / "voice.pth", len(VOICE))
    yield 1
    date(root / "voice.pth")


def nextcloud_without_date(root: Path) -> Steps:
    """A server that lost the time stamp gives 1970."""
    yield from grow(root / ".voice.pth.~1a2b3c")
    date(root / ".voice.pth.~1a2b3c", 0)
    (root / ".voice.pth.~1a2b3c").rename(root / "voice.pth")


def explorer(root: Path) -> Steps:
    """The final size first, then the bytes, then the source's date."""
    write(root / "voice.pth", b"")
    os.truncate(root / "voice.pth", len(VOICE))
    yield STALL
    yield from grow(root / "voice.pth")
    date(root / "voice.pth")


def finder(root: Path) -> Steps:
    """An empty file and its shadow first."""
    write(root / "voice.pth", b"")
    write(root / "._voice.pth", b"\0\5\x16\7" + noise(4000))
    yield STALL
    yield from grow(root / "voice.pth")
    date(root / "voice.pth")
    write(root / "._voice.pth", noise(4096, 5))
    yield 1
    write(root / ".DS_Store", noise(6000))


def date_restored_after_each_write(root: Path) -> Steps:
    """Only the change time tells."""
    write(root / "voice.pth", bytes(len(VOICE)))
    for pause in grow(root / "voice.pth", stall=2):
        date(root / "voice.pth")
        yield pause


def several_streams(root: Path) -> Steps:
    """The end arrives before the middle."""
    third = len(VOICE) // 3
    for at in (0, 2 * third, third):
        write(root / "voice.pth", VOICE[at : at + third + 3], at)
        yield STALL


def taken_up_again(root: Path) -> Steps:
    """A copy that broke off and was done anew the next day."""
    write(root / "voice.pth", VOICE[:90_000])
    yield 86_400
    (root / "voice.pth").unlink()
    yield from grow(root / "voice.pth")


TOOLS: dict[str, Callable[[Path], Steps]] = {
    "syncthing": syncthing,
    "syncthing-windows": under_another_name("~syncthing~voice.pth.tmp"),
    "rsync": under_another_name(".voice.pth.a1B2c3"),
    "rsync-delayed": under_another_name(".~tmp~/voice.pth"),
    "rsync-temp-dir": rsync_temp_dir,
    "rsync-inplace": rsync_inplace,
    "rclone": under_another_name("voice.pth.1a2b3c4d.partial"),
    "rclone-inplace": rsync_temp_dir,
    "nextcloud-client": under_another_name(".voice.pth.~1a2b"),
    "nextcloud-server": under_another_name("voice.pth.ocTransferId123456.part"),
    "nextcloud-1970": nextcloud_without_date,
    "dropbox": under_another_name(".dropbox.cache/new_files/voice.pth"),
    "onedrive": under_another_name("voice.pth.partial"),
    "unison": under_another_name(".unison.voice.pth.1a2b.unison.tmp"),
    "resilio": under_another_name(".sync/voice.pth.!Sync"),
    "insync": under_another_name("voice.pth.insyncdl"),
    "browser": under_another_name("voice.pth.crdownload"),
    "explorer": explorer,
    "finder": finder,
    "cp": lambda root: grow(root / "voice.pth"),
    "date-restored": date_restored_after_each_write,
    "several-streams": several_streams,
    "taken-up-again": taken_up_again,
}


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


@pytest.mark.parametrize("tool", TOOLS.values(), ids=TOOLS)
def test_what_a_tool_delivers_is_taken_once(bench: Bench, tool: Callable[[Path], Steps]) -> None:
    """From the tool's first call to long after its last, one new file is taken, and it is the whole voice."""
    for pause in tool(bench.root):
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
