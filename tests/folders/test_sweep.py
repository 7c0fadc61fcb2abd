"""Sweeping: ages from the ledger, bytes as recorded, nothing of anybody else's."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from endings import converted, onnx_bytes
from voicekiln import steps, words
from voicekiln.errors import Damaged, ShareAwayError
from voicekiln.folders import sidecar
from voicekiln.folders.files import open_folder, sha256_at
from voicekiln.folders.ledger import Ledger
from voicekiln.folders.outbox import Delivery, Rights, publish
from voicekiln.folders.sweep import Ground, Lives, Plan, Swept, carry_out, collected, note
from voicekiln.folders.voices import Class, Item, Place, State
from voicekiln.job import INTERFACES, FileStamp, Job, Recipe, Refused
from voicekiln.steps import Step

DAY = 86400.0
WEEK = Lives(sources=7 * DAY, results=7 * DAY, refusals=7 * DAY)
NEVER = Lives(None, None, None)


BOTH = Recipe("both", ("fp32", "fp16"))


class House:
    """An inbox, an outbox and a ledger with voices that were converted or refused at time 0."""

    def __init__(self, at: Path) -> None:
        self.inbox, self.outbox = at / "inbox", at / "outbox"
        for folder in (self.inbox, self.outbox, at / "staging"):
            folder.mkdir()
        self.staging = at / "staging"
        self.ledger = Ledger(at / "ledger")

    def voice(self, name: str, *, good: bool = True, state: State | None = None, recipe: Recipe = BOTH) -> None:
        path = self.inbox / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"weights of {name}".encode())
        relpath, stamp = PurePosixPath(name), FileStamp.of(path.stat())
        row = self.ledger.sight(relpath, "default", stamp, at=0.0)
        job = Job("job", path, self.staging, sha(path), recipe)
        self.ledger.spooled(row.id, stamp, job.sha256, job.recipe, name, "job")
        ending = converted(job) if good else Refused(Damaged(what="x"))
        self.ledger.ended(row.id, ending)
        if state is not None:
            return
        origin = sidecar.Origin(relpath, job.sha256, stamp.size, 0.0)
        base = relpath.with_suffix("")
        if isinstance(ending, Refused):
            pieces = [sidecar.refusal(origin, ending.refusal, base, 0.0, words.of("en"))]
        else:
            sources = {f.sha256: self.staging / f.name for f in ending.conversion.files}
            pieces = sidecar.result(origin, ending.conversion, job.recipe, base, sources, 0.0)
        files = publish(self.outbox, Delivery(pieces, (), {}, "token"), Rights())
        self.ledger.published(row.id, files, [], at=1e9)

    def plan(self, lives: Lives, now: float, share: float = 1.0) -> Plan:
        return Plan(self.ledger, lives, share, now)

    def sweep(self, lives: Lives, now: float, share: float = 1.0, *, inodes: bool = True) -> list[str]:
        removed, plan = [], self.plan(lives, now, share)
        while items := plan.next(500):
            swept = self.carry_out(items, inodes=inodes)
            note(self.ledger, swept)
            plan.passed([done.item for done in swept])
            removed += [str(path) for done in swept for path in done.removed]
        return removed

    def carry_out(self, items: list[Item], *, inodes: bool = True, enough: bool = False) -> list[Swept]:
        return carry_out(items, Ground(self.inbox, inodes), Ground(self.outbox, inodes), lambda: enough)

    def files(self) -> set[str]:
        return {str(p.relative_to(self.inbox.parent)) for top in (self.inbox, self.outbox) for p in top.rglob("*.*")}


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.ledger.close()


def test_what_has_served_its_time_goes_and_nothing_earlier(house: House) -> None:
    """Just before seven days nothing is due, just after all three files of a result and the source are."""
    house.voice("a.pth")
    assert house.sweep(WEEK, 7 * DAY - 1) == []
    assert set(house.sweep(WEEK, 7 * DAY + 1)) == {"a.json", "a.onnx", "a.fp16.onnx", "a.pth"}
    assert house.files() == set()


@pytest.mark.requirement(6)
def test_the_sidecar_goes_first(house: House) -> None:
    """At no moment a sidecar lies there whose ONNX is gone."""
    house.voice("a.pth")
    assert house.sweep(replace(WEEK, sources=None), 8 * DAY)[0] == "a.json"


@pytest.mark.requirement(6)
@pytest.mark.parametrize("mtime", [0.0, 4e9, 1.7e9])
def test_time_stamps_of_files_say_nothing(house: House, mtime: float) -> None:
    """A file of 1970 or 2106 lives as long as the ledger says, from its publication on."""
    house.voice("a.pth")
    for path in (house.inbox / "a.pth", *house.outbox.iterdir()):
        os.utime(path, (mtime, mtime))
    assert house.sweep(WEEK, 7 * DAY - 1) == []
    assert len(house.sweep(WEEK, 7 * DAY + 1)) == 4


def test_never_is_never(house: House) -> None:
    """A class without a time to live stays for ever."""
    house.voice("a.pth")
    house.voice("b.pth", good=False)
    assert house.sweep(NEVER, 1e12) == []


def test_a_clock_that_went_back_sweeps_nothing(house: House) -> None:
    """What was published in the future is not old."""
    house.voice("a.pth")
    assert house.sweep(WEEK, -10 * 365 * DAY) == []


def test_a_refused_source_is_never_removed(house: House) -> None:
    """Only the refusal goes; the person's file was never converted and stays."""
    house.voice("bad.pth", good=False)
    assert house.sweep(WEEK, 8 * DAY) == ["bad.error.json"]
    assert (house.inbox / "bad.pth").exists()


def test_nothing_in_work_is_touched(house: House) -> None:
    """A voice that waits for its publication has neither source nor older results removed."""
    house.voice("a.pth", state=State.CONVERTED)
    assert house.sweep(WEEK, 8 * DAY) == []


@pytest.mark.requirement(6)
def test_what_somebody_changed_is_theirs(house: House) -> None:
    """A replaced source or ONNX of the same size stays; a sidecar that stays keeps its files."""
    house.voice("a.pth")
    house.voice("b.pth")
    house.voice("c.pth")
    (house.inbox / "a.pth").write_bytes(b"WEIGHTS of a.pth")
    (house.outbox / "b.onnx").write_bytes(b"mine")
    (house.outbox / "c.json").write_bytes(b"{}")
    house.sweep(WEEK, 8 * DAY)
    assert house.files() == {"inbox/a.pth", "outbox/b.onnx", "outbox/c.json", "outbox/c.onnx", "outbox/c.fp16.onnx"}
    assert house.sweep(WEEK, 9 * DAY) == []


def test_foreign_files_are_not_even_looked_at(house: House) -> None:
    """What the ledger does not know stays, whatever its name and age."""
    house.voice("a.pth")
    for name in ("inbox/old.pth", "outbox/old.onnx", "outbox/old.json", "outbox/.~x.token.part"):
        path = house.inbox.parent / name
        path.write_bytes(b"x")
        os.utime(path, (0, 0))
    house.sweep(WEEK, 8 * DAY)
    assert house.files() == {"inbox/old.pth", "outbox/old.onnx", "outbox/old.json", "outbox/.~x.token.part"}


def test_a_link_in_place_of_a_result_is_not_followed(house: House) -> None:
    """A link under our name stays, and so does what it leads to."""
    house.voice("a.pth")
    precious = house.inbox.parent / "precious"
    precious.write_bytes((house.outbox / "a.onnx").read_bytes())
    (house.outbox / "a.onnx").unlink()
    (house.outbox / "a.onnx").symlink_to(precious)
    house.sweep(WEEK, 8 * DAY)
    assert precious.exists()
    assert (house.outbox / "a.onnx").is_symlink()
    assert house.plan(WEEK, 8 * DAY).next(500) == []  # it is somebody else's now


@pytest.mark.requirement(6)
def test_at_most_a_share_goes_at_once_oldest_first(house: House) -> None:
    """The rest is held back and said; the next sweep goes on."""
    for number in range(10):
        house.voice(f"{number}.pth")
    planned = house.plan(WEEK, 8 * DAY, 0.25)
    going = planned.next(500)
    assert sum(len(item.files) for item in going) <= 0.25 * 40
    planned.passed(going)
    assert planned.next(500) == []
    assert planned.held_back() == 20 - len(going)
    house.sweep(WEEK, 8 * DAY, 0.25)
    assert house.plan(WEEK, 8 * DAY, 0.25).next(500) != going


def test_one_item_may_always_go(house: House) -> None:
    """However small the share, a folder with one voice is swept in the end."""
    house.voice("a.pth")
    assert len(house.plan(WEEK, 8 * DAY, 0.01).next(500)) == 1


def test_an_absent_root_stops_the_sweep(house: House) -> None:
    """A share that went away loses no row of the ledger."""
    house.voice("a.pth")
    items = house.plan(WEEK, 8 * DAY).next(500)
    house.outbox.rename(house.outbox.parent / "away")
    house.inbox.rename(house.inbox.parent / "away too")
    with pytest.raises(ShareAwayError):
        house.carry_out(items)


def test_what_is_gone_already_counts_as_removed(house: House) -> None:
    """Somebody who collected the result has done the sweeper's work."""
    house.voice("sub/a.pth")
    for path in (house.outbox / "sub").iterdir():
        path.unlink()
    (house.outbox / "sub").rmdir()
    assert set(house.sweep(replace(WEEK, sources=None), 8 * DAY)) == {"sub/a.json", "sub/a.onnx", "sub/a.fp16.onnx"}


# --- without reading -------------------------------------------------------------------------------------------------


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read, as they are."""
    names: list[str] = []

    def noting(folder: int, name: str, sizes: Collection[int]) -> tuple[str, os.stat_result] | None:
        names.append(name)
        return sha256_at(folder, name, sizes)

    monkeypatch.setattr("voicekiln.folders.sweep.sha256_at", noting)
    return names


@pytest.mark.requirement(6)
@pytest.mark.parametrize("inodes", [True, False])
def test_what_nobody_touched_is_removed_unread(house: House, read: list[str], *, inodes: bool) -> None:
    """Fifty thousand results of 55 MB each would be 2.7 TB to read; their stamps tell every change as well."""
    house.voice("a.pth")
    house.voice("sub/b.pth", good=False)
    grounds = Ground(house.inbox, inodes), Ground(house.outbox, inodes)
    swept = carry_out(house.plan(WEEK, 8 * DAY).next(500), *grounds)
    assert sum(len(done.removed) for done in swept) == 5
    assert house.files() == {"inbox/sub/b.pth"}
    assert read == []


def test_a_share_that_makes_its_inodes_up_is_not_taken_at_its_word(house: House, read: list[str]) -> None:
    """After a remount the same files have other numbers; the rest of their stamps tells enough."""
    house.voice("a.pth")
    items = [
        replace(item, files=tuple(replace(f, stamp=replace(f.stamp, ino=4711)) for f in item.files if f.stamp))
        for item in house.plan(WEEK, 8 * DAY).next(500)
    ]
    assert sum(len(done.removed) for done in house.carry_out(items, inodes=False)) == 4
    assert read == []


@pytest.mark.requirement(6)
def test_what_was_touched_is_read_before_it_goes(house: House, read: list[str]) -> None:
    """A new time stamp alone makes nobody's file of it."""
    house.voice("a.pth")
    os.utime(house.outbox / "a.onnx")
    assert len(house.sweep(WEEK, 8 * DAY)) == 4
    assert read == ["a.onnx"]


@pytest.mark.requirement(6)
@pytest.mark.parametrize("inodes", [True, False])
def test_another_file_of_the_same_size_and_date_is_not_ours(house: House, *, inodes: bool) -> None:
    """Neither one written into nor one put in its place with the old time stamp restored."""
    house.voice("a.pth")
    house.voice("b.pth")
    for name in ("a.onnx", "b.onnx"):
        path, before = house.outbox / name, (house.outbox / name).stat()
        foreign = bytes(reversed(path.read_bytes()))
        if name == "b.onnx":
            path.unlink()
        path.write_bytes(foreign)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    house.sweep(WEEK, 8 * DAY, inodes=inodes)
    assert house.files() == {"outbox/a.onnx", "outbox/b.onnx"}


@pytest.mark.parametrize("inodes", [True, False])
def test_a_file_without_a_stamp_is_read(house: House, read: list[str], *, inodes: bool) -> None:
    """As those of an older ledger are, and those that a share gave another inode after their publication."""
    house.voice("a.pth")
    items = house.plan(WEEK, 8 * DAY).next(500)
    bare = [replace(item, files=tuple(replace(file, stamp=None) for file in item.files)) for item in items]
    [first] = house.carry_out(bare, inodes=inodes)
    assert len(first.removed) == len(read) > 0


def test_another_inode_alone_is_reason_to_read(house: House, read: list[str]) -> None:
    """Where inodes are to be relied on."""
    house.voice("a.pth", good=False)
    [item] = house.plan(WEEK, 8 * DAY).next(500)
    files = tuple(replace(file, stamp=file.stamp and replace(file.stamp, ino=4711)) for file in item.files)
    [done] = house.carry_out([replace(item, files=files)])
    assert (len(done.removed), read) == (1, ["a.error.json"])


@pytest.mark.requirement(6)
@pytest.mark.parametrize("stamp_of", ["link", "target"])
def test_a_link_is_not_removed_whatever_its_stamp(house: House, stamp_of: str) -> None:
    """Neither one that seems to be what was recorded, nor one to a file that is."""
    house.voice("a.pth", good=False)
    path, elsewhere = house.outbox / "a.error.json", house.outbox / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    [item] = house.plan(WEEK, 8 * DAY).next(500)
    stamp = FileStamp.of(path.lstat() if stamp_of == "link" else elsewhere.stat())
    [done] = house.carry_out([replace(item, files=(replace(item.files[0], stamp=stamp),))])
    assert done.kept == ((PurePosixPath("a.error.json"), "somebody put something else there"),)
    assert path.is_symlink()


@pytest.mark.requirement(6)
def test_a_file_that_changes_while_it_is_read_stays(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash was ours a moment ago, what lies there now may not be."""
    house.voice("a.pth", good=False)
    path = house.outbox / "a.error.json"
    os.utime(path, (1, 1))

    def reading(folder: int, name: str, sizes: Collection[int]) -> tuple[str, os.stat_result] | None:
        found = sha256_at(folder, name, sizes)
        path.rename(house.outbox / "before")
        path.symlink_to("before")
        return found

    monkeypatch.setattr("voicekiln.folders.sweep.sha256_at", reading)
    [done] = house.carry_out(house.plan(WEEK, 8 * DAY).next(500))
    assert done.kept == ((PurePosixPath("a.error.json"), "somebody is changing it"),)
    assert path.is_symlink()


def test_a_file_that_goes_while_it_is_looked_at_counts_as_removed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else was quicker by a moment."""
    house.voice("a.pth", good=False)
    os.utime(house.outbox / "a.error.json", (1, 1))
    monkeypatch.setattr("voicekiln.folders.sweep.sha256_at", lambda *_: None)
    [done] = house.carry_out(house.plan(WEEK, 8 * DAY).next(500))
    assert (done.removed, done.kept, done.trouble) == ((PurePosixPath("a.error.json"),), (), None)


def test_what_stays_is_told_with_its_reason(house: House) -> None:
    """The sidecar, and for its sake what it tells of; of a changed ONNX file alone, nothing else."""
    house.voice("a.pth")
    house.voice("b.pth")
    (house.outbox / "a.json").write_bytes(b"{}")
    (house.outbox / "b.fp16.onnx").write_bytes(b"mine")
    planned = house.plan(replace(WEEK, sources=None), 8 * DAY)
    kept: dict[str, str] = {}
    removed: set[str] = set()
    while items := planned.next(500):
        swept = house.carry_out(items)
        planned.passed([done.item for done in swept])
        kept |= {str(path): why for done in swept for path, why in done.kept}
        removed |= {str(path) for done in swept for path in done.removed}
    stays = "its sidecar stays"
    assert kept == {
        "a.json": "somebody changed it",
        "a.onnx": stays,
        "a.fp16.onnx": stays,
        "b.fp16.onnx": "somebody changed it",
    }
    assert removed == {"b.json", "b.onnx"}


def test_a_source_that_stays_is_still_known(house: House) -> None:
    """Somebody put another voice there; the row is about its name, and its results are ours."""
    house.voice("a.pth")
    (house.inbox / "a.pth").write_bytes(b"another one")
    house.sweep(replace(WEEK, results=None), 8 * DAY)
    row = house.ledger.voice(PurePosixPath("a.pth"))
    assert row is not None
    assert row.source == "there"


# --- in pieces -------------------------------------------------------------------------------------------------------


def test_a_piece_ends_when_there_was_time_enough(house: House) -> None:
    """But never before something was done; the next one goes on behind it."""
    for number in range(3):
        house.voice(f"{number}.pth")
    planned = house.plan(WEEK, 8 * DAY)
    seen = []
    while items := planned.next(500):
        [done] = house.carry_out(items, enough=True)
        planned.passed([done.item])
        seen.append(done.item)
    assert len(seen) == len(set(seen)) == 6
    assert house.files() == set()


def test_what_has_to_be_read_is_a_piece_of_its_own(house: House) -> None:
    """Copies and publications wait for one voice at most, and not for thousands."""
    for number in range(4):
        house.voice(f"{number}.pth", good=False)
    os.utime(house.outbox / "2.error.json")
    planned, pieces = house.plan(WEEK, 8 * DAY), []
    while items := planned.next(500):
        swept = house.carry_out(items)
        planned.passed([done.item for done in swept])
        pieces.append(len(swept))
    assert pieces == [2, 1, 1]


def test_sidecars_are_gone_for_good_before_any_onnx_goes(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """All sidecars of a piece, then the folder flushed, then all else, then the folder flushed: twice, not per file."""
    for number in range(3):
        house.voice(f"{number}.pth")
    done: list[str] = []
    unlink = os.unlink

    def noting(name: str, *, dir_fd: int) -> None:
        done.append(Path(name).suffix)
        unlink(name, dir_fd=dir_fd)

    monkeypatch.setattr("voicekiln.folders.sweep.os.unlink", noting)
    monkeypatch.setattr("voicekiln.folders.sweep.sync_folder", lambda _: done.append("flushed"))
    house.carry_out(house.plan(replace(WEEK, sources=None), 8 * DAY).next(500))
    assert done == [".json"] * 3 + ["flushed"] + [".onnx"] * 6 + ["flushed"]


def test_a_crash_between_sidecar_and_onnx_is_made_good(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the ledger was not told of is found gone the next time."""
    for number in range(3):
        house.voice(f"{number}.pth")
    with monkeypatch.context() as patch:
        patch.setattr("voicekiln.folders.sweep.sync_folder", _pull_the_plug)
        with pytest.raises(KeyboardInterrupt):
            house.carry_out(house.plan(WEEK, 8 * DAY).next(500))
    house.sweep(WEEK, 8 * DAY)
    assert house.files() == set()
    assert house.ledger.voices() == []


def _pull_the_plug(_: int) -> None:
    raise KeyboardInterrupt


def test_a_folder_that_may_not_be_written_keeps_its_own_only(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its trouble is told, its row stays for the next sweep, and all others go."""
    for name in ("a.pth", "stuck/b.pth", "c.pth"):
        house.voice(name)
    unlink = os.unlink

    def stuck(name: str, *, dir_fd: int) -> None:
        if name.startswith("b."):
            raise PermissionError(errno.EACCES, "Permission denied")
        unlink(name, dir_fd=dir_fd)

    with monkeypatch.context() as patch:
        patch.setattr("voicekiln.folders.sweep.os.unlink", stuck)
        planned = house.plan(WEEK, 8 * DAY)
        swept = house.carry_out(planned.next(500))
        planned.passed([done.item for done in swept])
        note(house.ledger, swept)
        assert planned.next(500) == []
    assert {done.item.files[0].path.name for done in swept if done.trouble} == {"b.json", "b.pth"}
    assert house.files() == {
        "inbox/stuck/b.pth",
        "outbox/stuck/b.json",
        "outbox/stuck/b.onnx",
        "outbox/stuck/b.fp16.onnx",
    }
    assert len(house.sweep(WEEK, 8 * DAY)) == 4


def test_the_plan_asks_for_no_more_than_a_piece(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a million files that are due, a piece is in memory."""
    for number in range(12):
        house.voice(f"{number}.pth")
    given: list[int] = []
    aged = house.ledger.aged

    def noting(of: Class, until: float, after: Place, most: int) -> list[Item]:
        found = aged(of, until, after, most)
        given.append(len(found))
        return found

    monkeypatch.setattr(house.ledger, "aged", noting)
    planned = house.plan(WEEK, 8 * DAY)
    while items := planned.next(5):
        planned.passed(items[:3])
    assert max(given) == 5


def test_a_source_below_a_synced_folder_is_passed_over(house: House) -> None:
    """Those behind it still get their turn, and those below it are not counted as held back."""
    for number in range(7):
        house.voice(f"synced/{number}.pth")
    house.voice("z.pth")
    planned = Plan(house.ledger, replace(WEEK, results=None), 1.0, 8 * DAY, [PurePosixPath("synced")])
    assert [str(item.files[0].path) for item in planned.next(2)] == ["z.pth"]


def test_sources_below_a_synced_folder_are_no_reason_to_say_more_is_due(house: House) -> None:
    """They never go, so only what else there is counts; results of theirs go like any other."""
    house.voice("synced/a.pth")
    house.voice("b.pth", good=False)
    planned = Plan(house.ledger, WEEK, 1.0, 8 * DAY, [PurePosixPath("synced")])
    assert planned.held_back() == 2
    assert [item.of for item in planned.next(500)] == ["results", "refusals"]
    assert Plan(house.ledger, WEEK, 1.0, 8 * DAY).held_back() == 3


def test_the_oldest_goes_first_whatever_it_is(house: House) -> None:
    """Source, result or refusal; and its age is what the ledger's clock says."""
    for day, name in enumerate(("a.pth", "b.pth", "c.pth")):
        house.ledger.clock = day * DAY
        house.voice(name, good=name != "b.pth")
    planned = house.plan(WEEK, 10 * DAY)
    items = planned.next(500)
    assert [planned.age_s(item) / DAY for item in items] == [10, 10, 9, 8, 8]


def test_a_share_that_is_just_filled_is_filled(house: House) -> None:
    """Two refusals of eight files are a quarter."""
    for number in range(8):
        house.voice(f"{number}.pth", good=False)
    planned = house.plan(WEEK, 8 * DAY, 0.25)
    assert len(planned.next(500)) == 2


def test_many_folders_are_not_open_at_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """One at a time, and none afterwards: a process may have a thousand descriptors."""
    for number in range(8):
        house.voice(f"{number}/a.pth", good=False)
    before, at_work = len(os.listdir("/proc/self/fd")), []  # noqa: PTH208 - counted only

    def counting(_: Step) -> None:
        at_work.append(len(os.listdir("/proc/self/fd")))  # noqa: PTH208 - as above

    monkeypatch.setattr(steps, "on_passed", counting)
    assert len(house.carry_out(house.plan(WEEK, 8 * DAY).next(500))) == 8
    assert at_work == [before + 1] * 8
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 - as above


def test_a_folder_is_opened_once_for_all_that_lies_in_it(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each opening of a folder on a share is a few round trips."""
    for name in ("1.pth", "2.pth", "3.pth"):
        house.voice(name, good=False)
    opened: list[Path] = []

    def opening(root: Path, parent: PurePosixPath) -> AbstractContextManager[int]:
        opened.append(root / parent)
        return open_folder(root, parent)

    monkeypatch.setattr("voicekiln.folders.sweep.open_folder", opening)
    assert len(house.carry_out(house.plan(WEEK, 8 * DAY).next(500))) == 3
    assert opened == [house.outbox]


def test_a_folder_is_used_again_after_another_was_not_there(house: House) -> None:
    """What was open before must not be taken for open still."""
    for name in ("1.pth", "gone/2.pth", "3.pth"):
        house.voice(name, good=False)
    (house.outbox / "gone" / "2.error.json").unlink()
    (house.outbox / "gone").rmdir()
    swept = house.carry_out(house.plan(WEEK, 8 * DAY).next(500))
    assert [(len(done.removed), done.trouble) for done in swept] == [(1, None)] * 3
    assert house.files() == {"inbox/1.pth", "inbox/gone/2.pth", "inbox/3.pth"}


def test_only_folders_that_changed_are_flushed_and_one_that_went_is_none(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for what goes first and once for the rest, each where something went; others are flushed all the same."""
    house.voice("a/bad.pth", good=False)
    house.voice("b/bad.pth", good=False)
    house.voice("good.pth")
    items = house.plan(replace(WEEK, sources=None), 8 * DAY).next(500)
    flushed: list[str] = []
    unlink = os.unlink

    def unlinking(name: str, *, dir_fd: int) -> None:
        unlink(name, dir_fd=dir_fd)
        if Path(f"/proc/self/fd/{dir_fd}").readlink().name == "a":
            (house.outbox / "a").rmdir()

    monkeypatch.setattr("voicekiln.folders.sweep.os.unlink", unlinking)
    monkeypatch.setattr(
        "voicekiln.folders.sweep.sync_folder",
        lambda folder: flushed.append(Path(f"/proc/self/fd/{folder}").readlink().name),
    )
    house.carry_out(items)
    assert sorted(flushed[:2]) == ["b", "outbox"]
    assert flushed[2:] == ["outbox"]


def test_what_is_gone_holds_up_nobody(house: House, read: list[str]) -> None:
    """There is nothing to read, so it goes with the others in one piece."""
    for number in range(3):
        house.voice(f"{number}.pth", good=False)
    (house.outbox / "1.error.json").unlink()
    assert len(house.carry_out(house.plan(WEEK, 8 * DAY).next(500))) == 3
    assert read == []


def test_a_piece_ends_before_what_cannot_be_looked_at(house: House) -> None:
    """A link in place of its folder; it is a piece of its own, given up as somebody else's."""
    for name in ("1.pth", "shut/2.pth", "3.pth"):
        house.voice(name, good=False)
    (house.outbox / "shut").rename(house.outbox / "elsewhere")
    (house.outbox / "shut").symlink_to("elsewhere")
    planned, pieces = house.plan(WEEK, 8 * DAY), []
    while items := planned.next(500):
        swept = house.carry_out(items)
        planned.passed([done.item for done in swept])
        pieces.append([len(done.kept) for done in swept])
    assert pieces == [[0], [1], [0]]
    assert (house.outbox / "elsewhere" / "2.error.json").exists()


@pytest.mark.requirement(5)
def test_a_sidecar_that_cannot_go_keeps_its_files(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its trouble is, it tells of them still; all of them go the next time."""
    house.voice("a.pth")
    unlink = os.unlink

    def stuck(name: str, *, dir_fd: int) -> None:
        if name == "a.json":
            raise PermissionError(errno.EACCES, "Permission denied")
        unlink(name, dir_fd=dir_fd)

    with monkeypatch.context() as patch:
        patch.setattr("voicekiln.folders.sweep.os.unlink", stuck)
        [done] = house.carry_out(house.plan(replace(WEEK, sources=None), 8 * DAY).next(500))
    assert (done.removed, done.kept) == ((), ())
    assert done.trouble is not None
    assert house.files() >= {"outbox/a.json", "outbox/a.onnx", "outbox/a.fp16.onnx"}


def test_a_trouble_with_one_file_ends_the_item(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files behind it are tried again with it, and not now."""
    house.voice("a.pth")
    tried: list[str] = []

    def stuck(name: str, **_: int) -> None:
        tried.append(name)
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("voicekiln.folders.sweep.os.unlink", stuck)
    house.carry_out(house.plan(replace(WEEK, sources=None), 8 * DAY).next(500))
    assert tried == ["a.json"]


def test_a_piece_is_noted_at_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """One flush of the ledger for hundreds of items."""
    for number in range(5):
        house.voice(f"{number}.pth", good=False)
    swept = house.carry_out(house.plan(WEEK, 8 * DAY).next(500))
    seen: list[Step] = []
    monkeypatch.setattr(steps, "on_passed", seen.append)
    note(house.ledger, swept)
    assert seen == [Step.COMMITTED]


# --- collected by somebody -------------------------------------------------------------------------------------------


def test_voices_of_which_nothing_lies_there_are_told(house: House) -> None:
    """Neither one with a file left, nor one in a folder that cannot be read."""
    for name in ("gone.pth", "half.pth", "shut/a.pth", "no folder/b.pth"):
        house.voice(name)
        row = house.ledger.voice(PurePosixPath(name))
        assert row is not None
        house.ledger.vanished(row.id)
    for path in (*house.outbox.glob("gone.*"), house.outbox / "half.json", *house.outbox.glob("no folder/*")):
        path.unlink()
    (house.outbox / "no folder").rmdir()
    (house.outbox / "shut").rename(house.outbox / "elsewhere")
    (house.outbox / "shut").symlink_to("elsewhere")
    voices = house.ledger.left(0, 500)
    looked, gone = collected(voices, house.outbox, lambda: False)
    assert looked == 4
    assert {file.path.stem for voice in gone for file in voice.files if file.kind == "sidecar"} == {"gone", "b"}
    assert collected(voices, house.outbox, lambda: True) == (1, voices[:1])
    assert collected([], house.outbox, lambda: True) == (0, [])


def test_a_link_that_leads_nowhere_is_there(house: House) -> None:
    """Somebody put it in place of our file; it is not ours to say that it is gone."""
    house.voice("a.pth", good=False)
    house.ledger.vanished(1)
    (house.outbox / "a.error.json").unlink()
    (house.outbox / "a.error.json").symlink_to("nowhere")
    assert collected(house.ledger.left(0, 500), house.outbox, lambda: True) == (1, [])


def test_an_absent_outbox_has_lost_nothing(house: House) -> None:
    """No voice is forgotten for it."""
    house.voice("a.pth")
    house.ledger.vanished(1)
    house.outbox.rename(house.outbox.parent / "away")
    with pytest.raises(ShareAwayError):
        collected(house.ledger.left(0, 500), house.outbox, lambda: False)


def test_the_hand_made_ending_differs_by_precision() -> None:
    """The two ONNX files of these tests cannot be taken for each other."""
    job = Job("j", Path("s"), Path("t"), "aa", Recipe("r"))
    assert onnx_bytes(job, "fp32") != onnx_bytes(job, "fp16")


def faces(house: House, name: str) -> Path:
    """Convert a voice with all faces; return the folder that MoeVoiceStudio's lies in."""
    house.voice(name, recipe=Recipe("live", ("fp32", "fp16"), interfaces=INTERFACES))
    return house.outbox / PurePosixPath(name).with_suffix(".moevs")


def test_the_folders_of_a_result_go_with_it(house: House) -> None:
    """And no other, however empty it is; the sidecar still goes first."""
    folder = faces(house, "sub/a.pth")
    assert len(list(folder.rglob("*.*"))) == 4
    (house.outbox / "sub/mine").mkdir()
    assert house.sweep(replace(WEEK, sources=None), 8 * DAY)[0] == "sub/a.json"
    assert sorted(str(path.relative_to(house.outbox)) for path in house.outbox.rglob("*")) == ["sub", "sub/mine"]


def test_what_somebody_has_put_into_the_folder_of_a_result_stays_with_the_folder(house: House) -> None:
    """Only what is empty is removed."""
    folder = faces(house, "a.pth")
    (folder / "a-fp16" / "mine.txt").write_text("mine")
    house.sweep(WEEK, 8 * DAY)
    assert {str(path.relative_to(folder)) for path in folder.rglob("*")} == {"a-fp16", "a-fp16/mine.txt"}


def test_a_folder_that_a_killed_daemon_left_goes_with_the_next_sweep(house: House) -> None:
    """Its files were removed and the ledger does not know yet."""
    folder = faces(house, "a.pth")
    for path in [*house.outbox.rglob("*.json"), *house.outbox.rglob("*.onnx")]:
        path.unlink()
    house.sweep(WEEK, 8 * DAY)
    assert not folder.exists()


def test_a_link_in_the_place_of_the_folder_of_a_result_leads_nowhere(house: House, tmp_path: Path) -> None:
    """What lies behind it stays, and so does the link."""
    folder = faces(house, "a.pth")
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    house.sweep(WEEK, 8 * DAY)
    assert folder.is_symlink()
    assert len(list((tmp_path / "elsewhere").rglob("*.*"))) == 4
