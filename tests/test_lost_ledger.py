"""A ledger that is damaged, from another version or no ledger at all: said, kept aside, filled from the outbox."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from kiln import voice_bytes
from quick_worker import PRELUDE
from running import Daemon
from voicekiln.loop import LEDGER

SOON = "\nfrom voicekiln.folders import owner\nfrom voicekiln.supervisor import ownership\n"
SOON += "ownership.BEAT_S, owner.STALE_S = 0.2, 1.2\n"
SOON += "from voicekiln import loop\nloop.LEDGER_RETRY_S = 0.2\n"


def nonsense(path: Path) -> None:
    path.write_bytes(b"this is no database at all" * 100)


def a_hole(path: Path) -> None:
    """Zeros over the pages behind the first one, as a disk leaves them after a power cut."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\0" * (size - 4096))


def cut(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")


def a_table_short(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE files")


def a_row_of_nonsense(path: Path) -> None:
    """SQLite keeps no checksums: a flipped bit within a value is a value to it."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        [(stamp,)] = db.execute("SELECT stamp FROM voices WHERE id = 2")
    content, flipped = path.read_bytes(), stamp.replace("]", "}")
    assert stamp.encode() in content
    path.write_bytes(content.replace(stamp.encode(), flipped.encode()))


def gone(path: Path) -> None:
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


DAMAGES = [nonsense, a_hole, cut, newer, a_table_short, a_row_of_nonsense, gone]


@pytest.mark.requirement(7)
@pytest.mark.parametrize("damage", DAMAGES)
def test_nothing_is_converted_again_for_a_ledger_that_is_lost(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """The results stay as they are and are known again; the old ledger is kept beside the new one."""
    (tmp_path / "inbox" / "deep").mkdir(parents=True)
    names = ["a", "b", "deep/c"]
    with Daemon(tmp_path, prelude=PRELUDE + SOON) as first:
        for name in names:
            (first.inbox / f"{name}.pth").write_bytes(voice_bytes(name))
        first.until_there(*(f"{name}.json" for name in names))
        first.until(lambda: len(first.events("job.finished")) == 3)
        results = [first.outbox / f"{name}{ending}" for name in names for ending in (".onnx", ".json")]
        before = {path: path.read_bytes() for path in results}
    damage(first.state / LEDGER)
    with Daemon(tmp_path, prelude=PRELUDE + SOON) as second:
        second.until(lambda: len(second.events("file.unchanged")) == 3)
        (second.inbox / "new.pth").write_bytes(voice_bytes("new"))
        second.until_there("new.json")
        assert all(path.read_bytes() == content for path, content in before.items())
        assert len(second.events("job.started")) == 4
    told = second.events("ledger.replaced")
    assert len(told) == (0 if damage is gone else 1)
    for line in told:
        assert "another version" in line["reason"] or "damaged" in line["reason"]
        assert (second.state / line["kept_as"]).exists()


def test_damage_in_the_midst_of_work_ends_in_a_new_ledger(tmp_path: Path) -> None:
    """The daemon notices at its next word to the ledger, begins anew, and goes on with what it finds."""
    (tmp_path / "inbox").mkdir()
    with Daemon(tmp_path, prelude=PRELUDE + SOON) as daemon:
        (daemon.inbox / "a.pth").write_bytes(voice_bytes("a"))
        daemon.until(lambda: len(daemon.events("job.finished")) == 1)
        with closing(sqlite3.connect(daemon.state / LEDGER)) as db:
            db.execute("PRAGMA writable_schema = ON")
            db.execute("DELETE FROM sqlite_master WHERE name = 'files'")
        (daemon.inbox / "b.pth").write_bytes(voice_bytes("b"))
        daemon.until_there("b.json")
        assert len(daemon.events("job.started")) <= 3


NOTED = """
import sys
from voicekiln.folders.database import Database
sound = Database.must_be_sound
def noted(ledger):
    print("read as a whole", file=sys.stderr, flush=True)
    sound(ledger)
Database.must_be_sound = noted
"""


def test_a_ledger_is_read_as_a_whole_only_after_an_end_that_was_not_clean(tmp_path: Path) -> None:
    """A large one on a slow disk would keep each start waiting for minutes."""
    (tmp_path / "inbox").mkdir()
    read, ends = [], [signal.SIGTERM, signal.SIGKILL, signal.SIGTERM, signal.SIGTERM]
    for number, end in enumerate(ends, 1):
        with Daemon(tmp_path, prelude=PRELUDE + NOTED + SOON) as daemon:
            daemon.until(lambda daemon=daemon, number=number: len(daemon.events("service.ready")) == number)  # type: ignore[misc]
            daemon.process.send_signal(end)
            daemon.process.wait(60)
        read.append(daemon.log.read_text().count("read as a whole"))
    assert read == [1, 1, 2, 2]  # the first is new
