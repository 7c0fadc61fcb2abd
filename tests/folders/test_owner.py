"""The owner marker: who may write to an outbox, found out without comparing the clocks of hosts."""

from __future__ import annotations

import errno
import json
import os
import time
import zlib
from dataclasses import asdict
from pathlib import Path

import pytest

from voicekiln.errors import ShareAwayError
from voicekiln.folders import owner
from voicekiln.folders.owner import BEAT_S, FILES, MARKER, QUESTION, STALE_S, SURE_S, UNKNOWN, Look, Marker, Tenancy


def ledger_of(name: str) -> str:
    """Return what stands for the mark of a daemon's ledger."""
    return name.encode().hex().rjust(8, "0")


class Host:
    """A daemon's side of the marker, with a clock of its own that a test sets."""

    def __init__(self, outbox: Path, name: str, *, run: int = 1, ledger: str | None = None) -> None:
        self.now = 1000.0 * len(name)  # no two hosts agree on the time
        former = [f"{name}-{number}" for number in range(run)]
        me = Marker(f"{name}-{run}", ledger_of(ledger or name), name, 0)
        self.tenancy = Tenancy(outbox, me, former, lambda: self.now)

    def look(self, after: float = 0.0) -> str:
        self.now += after
        look = self.tenancy.look()
        return look.standing

    def looks(self, seconds: float) -> list[str]:
        return [self.look(BEAT_S) for _ in range(int(seconds / BEAT_S))]


@pytest.mark.requirement(13)
def test_the_first_one_is_the_owner_at_once(tmp_path: Path) -> None:
    """A lone daemon waits for nobody, and stays the owner."""
    a = Host(tmp_path, "a")
    assert a.look() == "owner"
    assert set(a.looks(60)) == {"owner"}


@pytest.mark.requirement(13)
def test_a_second_one_stands_by_while_the_counter_moves(tmp_path: Path) -> None:
    """However long: the counter alone counts, not how old the file is."""
    a, b = Host(tmp_path, "a"), Host(tmp_path, "bb")
    a.look()
    for _ in range(50):
        assert b.look(BEAT_S) == "spare"
        os.utime(tmp_path / MARKER, (0, 0))
        assert a.look(BEAT_S) == "owner"


def test_nothing_is_written_while_nobody_asks(tmp_path: Path) -> None:
    """A disk may sleep, and a sync tool has nothing to do; a question is answered at the next look and taken away."""
    a, b = Host(tmp_path, "a"), Host(tmp_path, "bb")
    a.look()
    before = (tmp_path / MARKER).stat()
    a.looks(600)
    after = (tmp_path / MARKER).stat()
    assert (before.st_mtime_ns, before.st_ctime_ns) == (after.st_mtime_ns, after.st_ctime_ns)
    b.look()
    assert (tmp_path / QUESTION).exists()
    a.look()
    assert not (tmp_path / QUESTION).exists()
    assert json.loads((tmp_path / MARKER).read_text())["beat"] == 1


def test_silence_on_a_question_that_could_not_be_asked_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk no file can be made: the owner was never asked, so nobody takes over."""
    a, b = Host(tmp_path, "a"), Host(tmp_path, "bb")
    a.look()
    b.looks(STALE_S - BEAT_S)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("voicekiln.folders.owner._ask", full)
    for _ in range(20):
        with pytest.raises(OSError, match="No space"):
            b.look(BEAT_S)
    monkeypatch.undo()
    assert set(b.looks(STALE_S)) == {"spare"}
    assert b.look(BEAT_S) == "claiming"


def test_a_question_that_cannot_be_taken_away_is_answered(tmp_path: Path) -> None:
    """Somebody's folder of that name: the owner answers at each look, and stays the owner."""
    (tmp_path / QUESTION).mkdir()
    a, b = Host(tmp_path, "a"), Host(tmp_path, "bb")
    for _ in range(20):
        assert (a.look(BEAT_S), b.look(BEAT_S)) == ("owner", "spare")


@pytest.mark.requirement(13)
def test_the_spare_takes_over_when_the_counter_stands_still(tmp_path: Path) -> None:
    """Not before the stale time, and only after its own claim has survived two looks."""
    a, b = Host(tmp_path, "a"), Host(tmp_path, "bb")
    a.look()
    assert set(b.looks(STALE_S)) == {"spare"}
    assert b.looks(3 * BEAT_S) == ["claiming", "claiming", "owner"]
    assert [path.name for path in tmp_path.iterdir()] == [MARKER]
    assert json.loads((tmp_path / MARKER).read_text())["beat"] == 0  # its own question is not one to answer


@pytest.mark.requirement(13)
def test_an_owner_that_was_paused_finds_itself_replaced(tmp_path: Path) -> None:
    """By its own clock it was sure for a part of that time only, and then it stands by."""
    a, b = Host(tmp_path, "a"), Host(tmp_path, "bb")
    a.look()
    sure_until = a.tenancy.look().sure_until
    assert sure_until == a.now + SURE_S < a.now + STALE_S
    b.looks(STALE_S + 4 * BEAT_S)
    assert a.look(600) == "spare"
    assert b.look(BEAT_S) == "owner"


@pytest.mark.requirement(13)
def test_of_two_that_claim_at_once_one_becomes_the_owner(tmp_path: Path) -> None:
    """The later writer wins, the other one sees it before it was sure of anything."""
    a, b, c = Host(tmp_path, "a"), Host(tmp_path, "bb"), Host(tmp_path, "ccc")
    a.look()
    b.looks(STALE_S)
    c.looks(STALE_S)
    assert (b.look(BEAT_S), c.look(BEAT_S)) == ("claiming", "spare")  # c sees b's name, and begins to watch it
    assert [*b.looks(2 * BEAT_S), c.look(BEAT_S)] == ["claiming", "owner", "spare"]


def test_a_claim_is_given_up_when_another_one_comes_over_it(tmp_path: Path) -> None:
    """A rival that was paused between its look and its claim writes over ours."""
    a, b = Host(tmp_path, "a"), Host(tmp_path, "bb")
    a.look()
    b.looks(STALE_S)
    assert b.look(BEAT_S) == "claiming"
    (tmp_path / MARKER).write_text(json.dumps(asdict(Marker("rival", "rival", "rival", 0))))
    assert b.look(BEAT_S) == "spare"


def test_a_restart_waits_for_nobody(tmp_path: Path) -> None:
    """The marker of a former run of the same daemon is no other's."""
    Host(tmp_path, "a", run=1).look()
    again = Host(tmp_path, "a", run=2)
    look = again.tenancy.look()
    assert look == Look("owner", again.now + SURE_S, None)
    assert set(again.looks(60)) == {"owner"}


def test_a_copied_state_folder_does_not_make_a_second_owner(tmp_path: Path) -> None:
    """The same ledger on another host has to wait like any other daemon."""
    Host(tmp_path, "a").look()
    assert Host(tmp_path, "bb", ledger="a").look() == "spare"


def test_a_clean_end_is_followed_without_delay(tmp_path: Path) -> None:
    """The marker stays, released, and tells whose work lies there."""
    a, b = Host(tmp_path, "a"), Host(tmp_path, "bb")
    a.look()
    b.look()
    a.tenancy.release()
    look = b.tenancy.look()
    assert look.standing == "claiming"
    assert look.other is not None
    assert look.other.ledger == ledger_of("a")
    assert b.looks(2 * BEAT_S) == ["claiming", "owner"]


@pytest.mark.parametrize("names", [("a", "bb"), ("bb", "a")])
def test_a_spare_that_ends_leaves_the_marker_alone(tmp_path: Path, names: tuple[str, str]) -> None:
    """Only the owner can release it."""
    a, b = (Host(tmp_path, name) for name in names)
    a.look()
    b.look()
    before = (tmp_path / MARKER).read_bytes()
    b.tenancy.release()
    assert (tmp_path / MARKER).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [MARKER]


ENDLESS = b'{"owner": "a", "ledger": "a", "host": "a", "beat": 1e999, "released": false}'


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[]", b"nonsense", b'{"owner": 1, "beat": "x"}', ENDLESS, b"[" * 600, b"\xff\xfe"]
)
def test_a_marker_without_sense_is_an_unknown_daemons(tmp_path: Path, text: bytes) -> None:
    """It is watched like any other, and taken over when nobody writes to it."""
    (tmp_path / MARKER).write_bytes(text)
    a = Host(tmp_path, "a")
    assert a.tenancy.look().other == Marker(UNKNOWN, UNKNOWN, "an unknown host", zlib.crc32(text[:512]))
    assert {a.look(), *a.looks(STALE_S - BEAT_S)} == {"spare"}
    assert a.looks(3 * BEAT_S) == ["claiming", "claiming", "owner"]


@pytest.mark.parametrize("ledger", ["", "0", "voicekiln", "../x", "ABCDEF01"])
def test_a_marker_names_no_other_files_than_a_daemons(tmp_path: Path, ledger: str) -> None:
    """The temporary files of the ledger that it names are cleared away; an empty name would be everybody's."""
    (tmp_path / MARKER).write_text(json.dumps(asdict(Marker("x", ledger, "x", 0, released=True))))
    look = Host(tmp_path, "a").tenancy.look()
    assert look.other is not None
    assert look.other.ledger == UNKNOWN


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
@pytest.mark.requirement(20)
def test_what_is_no_file_is_not_followed_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    """A link to somebody's file in the marker's place: an error, and the file is not touched."""
    precious = tmp_path / "precious"
    precious.write_text("mine")
    marker = tmp_path / MARKER
    if kind == "link":
        marker.symlink_to(precious)
    elif kind == "folder":
        marker.mkdir()
    else:
        os.mkfifo(marker)
    with pytest.raises(OSError, match=r".+"):
        Host(tmp_path, "a").look()
    assert precious.read_text() == "mine"


def test_an_absent_outbox_is_said_so(tmp_path: Path) -> None:
    """Nothing is made in its place."""
    with pytest.raises(ShareAwayError):
        Host(tmp_path / "gone", "a").look()
    with pytest.raises(ShareAwayError):
        Host(tmp_path / "gone", "a").tenancy.release()
    with pytest.raises(ShareAwayError):
        owner.other_owner(tmp_path / "gone", [])
    assert list(tmp_path.iterdir()) == []


# --- what others rely on ---------------------------------------------------------------------------------------------


def test_daemons_of_other_versions_look_for_the_same_files() -> None:
    """Names and length of the marker are the same for ever, or two versions would not see each other."""
    assert FILES == (MARKER, QUESTION) == (".~voicekiln.owner.part", ".~voicekiln.question.part")


def test_the_marker_can_be_read_by_all_and_keeps_its_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the umask, and it is on the disk before the daemon relies on it."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    old = os.umask(0o077)
    try:
        Host(tmp_path, "a").look()
        Host(tmp_path, "a", run=2).look()
    finally:
        os.umask(old)
    found = (tmp_path / MARKER).stat()
    assert (found.st_mode & 0o7777, found.st_size) == (0o644, 512)
    assert len(synced) == 2


def test_the_clock_goes_on_while_the_machine_sleeps() -> None:
    """A lease that was slept through has run out."""
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= owner.clock() <= time.clock_gettime(time.CLOCK_BOOTTIME)


def test_a_look_tells_until_when_it_holds_and_of_whom_it_speaks(tmp_path: Path) -> None:
    """Only an owner is sure of anything after its look."""
    a, b = Host(tmp_path, "a"), Host(tmp_path, "bb")
    assert a.tenancy.look() == Look("owner", a.now + SURE_S, None)
    marker = Marker("a-1", ledger_of("a"), "a", 0)
    assert b.tenancy.look() == Look("spare", b.now, marker)
    b.now += STALE_S
    assert b.tenancy.look() == Look("claiming", b.now, marker)
    b.now += BEAT_S
    assert b.tenancy.look() == Look("claiming", b.now, None)


def test_what_another_program_wrote_is_read_as_text_and_number(tmp_path: Path) -> None:
    """A released marker is one that says `true` and nothing like it."""
    (tmp_path / MARKER).write_text('{"owner": 1, "ledger": 12345678, "host": 3, "beat": "7", "released": 1}')
    assert Host(tmp_path, "a").tenancy.look().other == Marker("1", "12345678", "3", 7)


# --- in the moment ---------------------------------------------------------------------------------------------------


def test_who_comes_a_moment_late_with_the_first_marker_is_no_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one wrote it between the look and the writing; its marker stays."""
    a, b = Host(tmp_path, "a"), Host(tmp_path, "bb")
    a.look()
    before = (tmp_path / MARKER).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(owner, "_read", lambda _: None)
        assert b.tenancy.look() == Look("claiming", b.now, None)
    assert (tmp_path / MARKER).read_bytes() == before
    assert b.look(BEAT_S) == "spare"


def test_a_first_marker_that_finds_no_room_is_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty one would be an unknown daemon's, and make everybody wait."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    a = Host(tmp_path, "a")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            a.look()
    assert list(tmp_path.iterdir()) == []
    assert a.look() == "owner"


def test_a_share_that_sets_the_rights_itself_takes_the_marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SMB answers EPERM to chmod."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no")

    monkeypatch.setattr(os, "fchmod", refuse)
    assert Host(tmp_path, "a").look() == "owner"


def test_another_users_marker_is_replaced_where_it_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon of another host may have another number."""
    a, b, opened = Host(tmp_path, "a"), Host(tmp_path, "bb"), os.open
    a.look()
    a.tenancy.release()

    def refusing(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == MARKER and flags & os.O_WRONLY and not flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refusing)
    assert b.looks(3 * BEAT_S) == ["claiming", "claiming", "owner"]
    assert json.loads((tmp_path / MARKER).read_text())["owner"] == "bb-1"


def test_a_former_owner_that_comes_back_is_watched_from_then_on(tmp_path: Path) -> None:
    """That it was silent once, before it was replaced, is no reason not to wait for it."""
    a, b = Host(tmp_path, "a"), Host(tmp_path, "bb")
    a.look()
    before = (tmp_path / MARKER).read_bytes()
    b.looks(STALE_S)
    assert b.looks(3 * BEAT_S) == ["claiming", "claiming", "owner"]
    (tmp_path / MARKER).write_bytes(before)
    assert set(b.looks(STALE_S)) == {"spare"}


@pytest.mark.parametrize("kind", ["link", "pipe"])
@pytest.mark.requirement(20)
def test_what_is_put_in_its_place_at_once_is_not_written_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Between the look and the writing; no pipe is waited for."""
    a, precious, marker = Host(tmp_path, "a"), tmp_path / "precious", tmp_path / MARKER
    precious.write_text("mine")
    if kind == "link":
        marker.symlink_to(precious)
    else:
        os.mkfifo(marker)
    monkeypatch.setattr(owner, "_read", lambda _: Marker("b-1", ledger_of("b"), "b", 3, released=True))
    with pytest.raises(OSError, match=r".+"):
        a.look()
    assert precious.read_text() == "mine"


def test_a_spare_that_was_not_asked_for_a_while_takes_over_as_well(tmp_path: Path) -> None:
    """A machine that slept, or a share that did not answer: longer than needed is long enough."""
    a, b = Host(tmp_path, "a"), Host(tmp_path, "bb")
    a.look()
    assert b.look() == "spare"
    assert b.look(10 * STALE_S) == "claiming"


def test_an_end_before_the_first_look_leaves_nothing(tmp_path: Path) -> None:
    """No marker is made only to be released."""
    Host(tmp_path, "a").tenancy.release()
    assert list(tmp_path.iterdir()) == []


def test_another_daemons_marker_is_told_without_asking(tmp_path: Path) -> None:
    """Neither a former run's of the same ledger nor one that says that its daemon has ended."""
    assert owner.other_owner(tmp_path, []) is None
    a = Host(tmp_path, "a")
    a.look()
    assert owner.other_owner(tmp_path, ["a-0", "a-2"]) == Marker("a-1", ledger_of("a"), "a", 0)
    assert owner.other_owner(tmp_path, ["a-0", "a-1"]) is None
    assert [path.name for path in tmp_path.iterdir()] == [MARKER]
    a.tenancy.release()
    assert owner.other_owner(tmp_path, []) is None


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    """Of owners, spares and those who take over: there is a look every few seconds, for months."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counted only
    a, b = Host(tmp_path, "a"), Host(tmp_path, "bb")
    for _ in range(3):
        a.look()
        b.look()
    a.tenancy.release()
    b.looks(3 * BEAT_S)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 - counted only
