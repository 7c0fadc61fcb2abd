"""Sweeping: ages from the ledger, bytes as recorded, nothing of anybody else's."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from endings import converted, onnx_bytes
from voicekiln.errors import Damaged, ShareAwayError
from voicekiln.folders import sidecar
from voicekiln.folders.ledger import Ledger
from voicekiln.folders.outbox import Delivery, Rights, publish
from voicekiln.folders.sweep import Lives, carry_out, note, plan
from voicekiln.folders.voices import State
from voicekiln.job import FileStamp, Job, Recipe, Refused

DAY = 86400.0
WEEK = Lives(sources=7 * DAY, results=7 * DAY, refusals=7 * DAY)
NEVER = Lives(None, None, None)


class House:
    """An inbox, an outbox and a ledger with voices that were converted or refused at time 0."""

    def __init__(self, at: Path) -> None:
        self.inbox, self.outbox = at / "inbox", at / "outbox"
        for folder in (self.inbox, self.outbox, at / "staging"):
            folder.mkdir()
        self.staging = at / "staging"
        self.ledger = Ledger(at / "ledger")

    def voice(self, name: str, *, good: bool = True, state: State | None = None) -> None:
        path = self.inbox / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"weights of {name}".encode())
        relpath, stamp = PurePosixPath(name), FileStamp.of(path.stat())
        row = self.ledger.sight(relpath, "default", stamp, at=0.0)
        job = Job("job", path, self.staging, sha(path), Recipe("both", ("fp32", "fp16")))
        self.ledger.spooled(row.id, stamp, job.sha256, job.recipe, name, "job")
        ending = converted(job) if good else Refused(Damaged(what="x"))
        self.ledger.ended(row.id, ending)
        if state is not None:
            return
        origin = sidecar.Origin(relpath, job.sha256, stamp.size, 0.0)
        base = relpath.with_suffix("")
        if isinstance(ending, Refused):
            pieces = [sidecar.refusal(origin, ending.refusal, base, 0.0)]
        else:
            sources = {f.sha256: self.staging / f.name for f in ending.conversion.files}
            pieces = sidecar.result(origin, ending.conversion, job.recipe, base, sources, 0.0)
        files = publish(self.outbox, Delivery(pieces, (), {}, "token"), Rights())
        self.ledger.published(row.id, files, [], at=0.0)

    def sweep(self, lives: Lives, now: float, share: float = 1.0) -> list[str]:
        removed = []
        for item in plan(self.ledger, lives, share, now).items:
            swept = carry_out(item, self.inbox, self.outbox)
            note(self.ledger, swept)
            removed += [str(path) for path in swept.removed]
        return removed

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


def test_the_sidecar_goes_first(house: House) -> None:
    """At no moment a sidecar lies there whose ONNX is gone."""
    house.voice("a.pth")
    assert house.sweep(replace(WEEK, sources=None), 8 * DAY)[0] == "a.json"


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


def test_at_most_a_share_goes_at_once_oldest_first(house: House) -> None:
    """The rest is held back and said; the next sweep goes on."""
    for number in range(10):
        house.voice(f"{number}.pth")
    planned = plan(house.ledger, WEEK, 0.25, 8 * DAY)
    assert (sum(len(item.files) for item in planned.items), planned.held_back) == (8, 16)
    assert len(house.sweep(WEEK, 8 * DAY, 0.25)) > 0
    assert plan(house.ledger, WEEK, 0.25, 8 * DAY).items != planned.items


def test_one_item_may_always_go(house: House) -> None:
    """However small the share, a folder with one voice is swept in the end."""
    house.voice("a.pth")
    assert len(plan(house.ledger, WEEK, 0.01, 8 * DAY).items) == 1


def test_an_absent_root_stops_the_sweep(house: House) -> None:
    """A share that went away loses no row of the ledger."""
    house.voice("a.pth")
    item = plan(house.ledger, WEEK, 1.0, 8 * DAY).items[0]
    house.outbox.rename(house.outbox.parent / "away")
    house.inbox.rename(house.inbox.parent / "away too")
    with pytest.raises(ShareAwayError):
        carry_out(item, house.inbox, house.outbox)


def test_what_is_gone_already_counts_as_removed(house: House) -> None:
    """Somebody who collected the result has done the sweeper's work."""
    house.voice("sub/a.pth")
    for path in (house.outbox / "sub").iterdir():
        path.unlink()
    (house.outbox / "sub").rmdir()
    assert set(house.sweep(replace(WEEK, sources=None), 8 * DAY)) == {"sub/a.json", "sub/a.onnx", "sub/a.fp16.onnx"}


def test_the_hand_made_ending_differs_by_precision() -> None:
    """The two ONNX files of these tests cannot be taken for each other."""
    job = Job("j", Path("s"), Path("t"), "aa", Recipe("r"))
    assert onnx_bytes(job, "fp32") != onnx_bytes(job, "fp16")
