"""A public inbox: whatever is put into it, only plain files are taken, by their own bytes, and nothing else is touched.

Scan and spool together, on a real file system; what a checkpoint may hold is `tests/convert`'s affair.
"""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import zipfile
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path, PurePosixPath

import pytest

from arrivals import archive, noise, stamp_in
from voicekiln.errors import Changed, Incomplete, NotYet, ShareAwayError, TooLarge
from voicekiln.folders.complete import Proof
from voicekiln.folders.inbox import scan
from voicekiln.folders.names import fold, output_base, reserved, shown, temp_name
from voicekiln.folders.spool import Spooled, take
from voicekiln.folders.sweep import Ground, carry_out
from voicekiln.folders.voices import Item, Published

SECRET = noise(500, 5)
VOICE = archive()

NAMES = [
    b"v" * 251 + b".pth",
    "声".encode() * 83 + b"ab.pth",
    b"bell\x07.pth",
    b"line\nbreak.pth",
    b"\x1b[2Jscreen.pth",
    b"\x7f.pth",
    "evil\u202ehtp.pth".encode(),
    "\u2066isolate\u2069.pth".encode(),
    "zero\u200bwidth.pth".encode(),
    b"CON.pth",
    b"nul.PTH",
    b"com1.x.pth",
    b"a:b.pth",
    b'q?"<>|*.pth',
    b"back\\slash.pth",
    b"trailing .pth",
    b"\xff\xfe.pth",
    b"half\xc3.pth",
    "lone\ud800.pth".encode("utf-8", "surrogatepass"),
    b"-rf.pth",
    b"$(touch x).pth",
    b"; rm -rf x.pth",
    b"%n%s.pth",
    b"{}.pth",
    b"v...pth.pth",
]
"""Names that a Linux file system holds and that somebody has stumbled over."""


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """An empty inbox."""
    (tmp_path / "inbox").mkdir()
    return tmp_path / "inbox"


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """An empty spool."""
    (tmp_path / "spool").mkdir()
    return tmp_path / "spool"


def taken(inbox: Path, spool: Path, max_bytes: int = 10**9) -> Iterator[tuple[PurePosixPath, Spooled | Exception]]:
    """Take all that a scan sees, as the daemon does; give what came of each."""
    for at, (relpath, stamp) in enumerate(scan(inbox).files.items()):
        try:
            yield relpath, take(inbox, relpath, stamp, spool / f"job{at}", max_bytes, unproven_ok=True)
        except (NotYet, TooLarge) as error:
            yield relpath, error


@pytest.mark.requirement(20)
def test_only_plain_files_are_taken_from_among_everything_that_a_folder_can_hold(inbox: Path, spool: Path) -> None:
    """Links, pipes, sockets and folders under voices' names beside real ones, in folders that lead astray."""
    outside = inbox.parent / "outside"
    outside.mkdir()
    (outside / "secret.pth").write_bytes(archive({"voice/data.pkl": SECRET}))
    (inbox / "link.pth").symlink_to(outside / "secret.pth")
    (inbox / "relative.pth").symlink_to("../outside/secret.pth")
    (inbox / "dangling.pth").symlink_to("nowhere")
    (inbox / "itself.pth").symlink_to("itself.pth")
    (inbox / "proc.pth").symlink_to("/proc/self/environ")
    (inbox / "zero.pth").symlink_to("/dev/zero")
    (inbox / "way").symlink_to(outside)
    (inbox / "round").symlink_to(inbox)
    os.mkfifo(inbox / "pipe.pth")
    (inbox / "folder.pth").mkdir()
    (inbox / "folder.pth/voice.pth").write_bytes(VOICE)
    (inbox / "voice.pth").write_bytes(VOICE)
    with closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(str(inbox / "socket.pth"))
    before = sorted(str(path) for path in inbox.rglob("*"))
    found = dict(taken(inbox, spool))
    assert {str(path) for path in found} == {"voice.pth", "folder.pth/voice.pth"}
    assert all((spool / entry).read_bytes() == VOICE for entry in os.listdir(spool))  # noqa: PTH208 - names wanted
    assert sorted(str(path) for path in inbox.rglob("*")) == before
    links = {f"{name}.pth" for name in ("link", "relative", "dangling", "itself", "proc", "zero")}
    odd = {str(path): what for path, what in scan(inbox).odd.items()}
    assert odd == dict.fromkeys(links, "a link") | {"pipe.pth": "a pipe", "socket.pth": "a socket"}


@pytest.mark.requirement(20)
def test_a_thousand_swaps_never_let_a_secret_through(inbox: Path, spool: Path) -> None:
    """The voice, and then its folder, become links to a stranger's while we look: between any two steps of ours."""
    outside = inbox.parent / "outside"
    outside.mkdir()
    (outside / "voice.pth").write_bytes(archive({"voice/data.pkl": SECRET}))
    (outside / "only-there.pth").write_bytes(VOICE)
    (inbox / "sub").mkdir()
    path, swaps, done = inbox / "sub/voice.pth", 0, threading.Event()
    path.write_bytes(VOICE)

    def swap() -> None:
        nonlocal swaps
        for at in range(1000):
            thing, link = (path, outside / "voice.pth") if at % 2 else (path.parent, outside)
            thing.rename(inbox / ".aside")
            thing.symlink_to(link)
            done.wait(0.0002 * (at % 3))
            thing.unlink()
            (inbox / ".aside").rename(thing)
            swaps += 1
            done.wait(0.001 * (at % 4))  # else no look would ever find it in its place

    attacker = threading.Thread(target=swap)
    attacker.start()
    whole = 0
    try:
        while attacker.is_alive() or not whole:
            for relpath, stamp in scan(inbox).files.items():
                assert relpath == PurePosixPath("sub/voice.pth")
                with suppress(NotYet):
                    take(inbox, relpath, stamp, spool / "job", 10**9)
                    whole += 1
                    assert (spool / "job").read_bytes() == VOICE
                assert not (spool / "job.part").exists()
    finally:
        done.set()
        attacker.join(30)
    assert swaps == 1000
    assert whole


@pytest.mark.requirement(12)
def test_names_of_any_kind_are_taken_and_answered(inbox: Path, spool: Path) -> None:
    """Control characters, direction marks, names reserved elsewhere, bytes that are no text, names of full length."""
    for name in NAMES:
        (inbox / os.fsdecode(name)).write_bytes(VOICE)
    found = dict(taken(inbox, spool))
    assert {os.fsencode(path) for path in found} == set(NAMES)
    assert all(isinstance(spooled, Spooled) for spooled in found.values())
    outbox = inbox.parent / "outbox"
    outbox.mkdir()
    for relpath in found:
        assert shown(relpath).isprintable()
        for final in reserved(output_base(relpath.name)):
            path = outbox / final
            path.parent.mkdir(exist_ok=True, parents=True)
            temp = path.with_name(temp_name(path.name, "0123456789abcdef"))
            temp.touch()
            temp.rename(path)
    bases = {fold(output_base(relpath.name)) for relpath in found}
    assert len(bases) == len(NAMES)
    files = [path for path in outbox.rglob("*") if path.is_file()]
    assert len(files) == len(NAMES) * len(reserved("x"))


@pytest.mark.requirement(20)
def test_a_hole_below_the_limit_costs_no_disk(inbox: Path, spool: Path) -> None:
    """A whole archive of nothing but a hole arrives as a hole, with the hash of its bytes."""
    blank = 200_000_000
    data = archive({"voice/data.pkl": b"x", "voice/data/0": bytes(blank)})
    at = data.index(b"voice/data/0") + len("voice/data/0")
    with (inbox / "voice.pth").open("wb") as file:
        file.write(data[:at])
        file.seek(blank, os.SEEK_CUR)
        file.write(data[at + blank :])
    if (inbox / "voice.pth").stat().st_blocks * 512 > blank // 2:
        pytest.skip("this file system fills holes")
    [(_, spooled)] = taken(inbox, spool)
    assert isinstance(spooled, Spooled)
    assert (spooled.proof, spooled.sha256) == (Proof.CHECKSUMS, hashlib.sha256(data).hexdigest())
    assert (spool / "job0").stat().st_size == len(data)
    assert (spool / "job0").stat().st_blocks * 512 < 10_000_000


def test_a_copy_of_blanks_is_byte_for_byte(inbox: Path, spool: Path) -> None:
    """Blank megabytes at its beginning, in its midst and before its end, and at its very end."""
    megabyte = 2**20
    for blanks in (0, 1, megabyte - 1, megabyte, megabyte + 1, 3 * megabyte):
        data = archive({"voice/a": noise(megabyte), "voice/b": bytes(blanks), "voice/c": noise(5)})
        (inbox / "voice.pth").write_bytes(data)
        take(inbox, PurePosixPath("voice.pth"), stamp_in(inbox), spool / "job", 10**9)
        assert (spool / "job").read_bytes() == data
    fitting = megabyte + 100 - len(archive({"voice/a": b""}, comment=bytes(200)))
    data = archive({"voice/a": noise(fitting)}, comment=bytes(200))  # the last piece that is copied is blank
    (inbox / "voice.pth").write_bytes(data)
    take(inbox, PurePosixPath("voice.pth"), stamp_in(inbox), spool / "job", 10**9)
    assert (spool / "job").read_bytes() == data
    (inbox / "legacy.pth").write_bytes(b"\x80" + bytes(3 * megabyte) + b"x" + bytes(100))
    take(inbox, PurePosixPath("legacy.pth"), stamp_in(inbox, "legacy.pth"), spool / "job", 10**9, unproven_ok=True)
    assert (spool / "job").read_bytes() == (inbox / "legacy.pth").read_bytes()


@pytest.mark.requirement(20)
def test_sparse_files_of_any_size_are_not_read(inbox: Path, spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terabyte is too large by its size alone, and one that is all hole shows that by its beginning."""
    (inbox / "huge.pth").touch()
    os.truncate(inbox / "huge.pth", 10**12)
    (inbox / "blank.pth").touch()
    os.truncate(inbox / "blank.pth", 10**9 - 1)

    def read(*_: object) -> None:
        pytest.fail("copied")

    monkeypatch.setattr("voicekiln.folders.spool._copy", read)
    found = {str(path): type(came) for path, came in taken(inbox, spool)}
    assert found == {"huge.pth": TooLarge, "blank.pth": Incomplete}


@pytest.mark.requirement(20)
def test_a_hard_link_to_a_file_of_ours_harms_neither(inbox: Path, spool: Path) -> None:
    """What is swept is the name in the inbox; the file that it was also a name of keeps its bytes and its name."""
    (spool / "ours").write_bytes(VOICE)
    (inbox / "voice.pth").hardlink_to(spool / "ours")
    [(_, spooled)] = taken(inbox, spool)
    assert isinstance(spooled, Spooled)
    assert (spool / "job0").stat().st_ino != (spool / "ours").stat().st_ino
    source = Published(PurePosixPath("voice.pth"), "source", spooled.sha256, spooled.bytes, spooled.stamp)
    [swept] = carry_out([Item(1, "sources", (source,), 1.0)], Ground(inbox, inodes=True), Ground(inbox, inodes=True))
    assert swept.removed == (PurePosixPath("voice.pth"),)
    assert (spool / "ours").read_bytes() == VOICE
    assert not (inbox / "voice.pth").exists()


def test_a_hard_link_that_is_written_through_its_other_name_is_seen(inbox: Path, spool: Path) -> None:
    """It is the file's stamp that is compared, under whatever name it was written."""
    (inbox.parent / "elsewhere").write_bytes(VOICE)
    (inbox / "voice.pth").hardlink_to(inbox.parent / "elsewhere")
    stamp = stamp_in(inbox)
    with (inbox.parent / "elsewhere").open("ab") as file:
        file.write(b"more")
    with pytest.raises(Changed):
        take(inbox, PurePosixPath("voice.pth"), stamp, spool / "job", 10**9)


@pytest.mark.requirement(20)
def test_an_archive_from_the_inbox_is_never_unpacked(inbox: Path, spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor knows where its parts lie and their checksums, no more; bombs are for the caged worker."""

    def unpack(*_: object) -> None:
        pytest.fail("unpacked")

    (inbox / "bomb.pth").write_bytes(archive({"voice/data.pkl": bytes(10**7)}, method=zipfile.ZIP_DEFLATED))
    monkeypatch.setattr("zlib.decompressobj", unpack)
    monkeypatch.setattr("zlib.decompress", unpack)
    [(_, spooled)] = taken(inbox, spool)
    assert isinstance(spooled, Spooled)
    assert spooled.proof is Proof.ARCHIVE


def test_a_root_that_becomes_a_file_is_away(inbox: Path, spool: Path) -> None:
    """Whoever can write beside the inbox can take it away, and nothing is made of that."""
    (inbox / "voice.pth").write_bytes(VOICE)
    stamp = stamp_in(inbox)
    inbox.rename(inbox.with_name("moved"))
    inbox.write_bytes(b"no folder")
    with pytest.raises(ShareAwayError):
        take(inbox, PurePosixPath("voice.pth"), stamp, spool / "job", 10**9)
    with pytest.raises(ShareAwayError):
        scan(inbox)
