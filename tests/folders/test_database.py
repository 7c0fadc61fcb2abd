"""The ledger's file: what is wrong with it, and what to do about that."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from voicekiln.errors import LedgerDamagedError, LedgerError, LedgerStuckError
from voicekiln.folders.database import Database, set_aside
from voicekiln.folders.tables import LAYOUT


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a file with tables and a fact in it."""
    with Database(tmp_path / "ledger.sqlite") as made:
        made.set_fact("colour", "red")
    return tmp_path / "ledger.sqlite"


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()


def test_what_was_kept_is_there_again(path: Path) -> None:
    """Facts, and the mark of this ledger."""
    with Database(path) as first, Database(path) as second:
        first.must_be_sound()
        assert (first.fact("colour"), first.fact("shape")) == ("red", None)
        assert len(first.instance) == 8
        assert first.instance == second.instance
        first.set_fact("colour", None)
        assert second.fact("colour") is None


def test_changes_come_as_a_whole_or_not_at_all(path: Path) -> None:
    """An exception takes all of them back, also those of a change within the change."""
    with Database(path) as ledger:
        with pytest.raises(ZeroDivisionError), ledger.together():  # noqa: PT012 - two changes, then the failure
            ledger.set_fact("colour", "blue")
            ledger.set_fact("shape", "round")
            1 / 0  # noqa: B018 - the failure
        assert (ledger.fact("colour"), ledger.fact("shape")) == ("red", None)


@pytest.mark.parametrize("content", [b"no database at all" * 500, b"SQLite format 3\0" + b"\xff" * 5000])
def test_what_is_no_database_is_damage(path: Path, content: bytes) -> None:
    """Found when it is opened."""
    path.write_bytes(content)
    with pytest.raises(LedgerDamagedError):
        Database(path)


def test_a_newer_layout_is_said_so(path: Path) -> None:
    """An older version cannot know what it means."""
    change(path, f"PRAGMA user_version = {LAYOUT + 1}")
    with pytest.raises(LedgerDamagedError, match=f"another version.*{LAYOUT + 1}"):
        Database(path)


def test_a_missing_table_is_damage(path: Path) -> None:
    """Found when it is asked."""
    change(path, "DROP TABLE facts")
    with Database(path) as ledger, pytest.raises(LedgerDamagedError, match="no such table"):
        ledger.fact("colour")


def test_a_page_of_zeros_is_found_by_looking_at_all(path: Path) -> None:
    """Which is what `must_be_sound` does: nothing else ever reads that page."""
    with closing(sqlite3.connect(path)) as whole:
        [(page,)] = whole.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'voices_by_key'")
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\0" * 4096)
    with Database(path) as ledger, pytest.raises(LedgerDamagedError, match="damaged"):
        ledger.must_be_sound()


def test_a_ledger_that_somebody_holds_is_waited_for(path: Path) -> None:
    """Busy, full or not answering: it passes, and is no damage."""
    with Database(path) as ledger, closing(sqlite3.connect(path, isolation_level=None)) as other:
        ledger._db.execute("PRAGMA busy_timeout = 0")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(LedgerStuckError, match="locked"):
            ledger.set_fact("colour", "green")
        other.execute("ROLLBACK")
        ledger.set_fact("colour", "green")


def test_a_defect_of_ours_is_no_damage(path: Path) -> None:
    """Nobody's ledger is moved aside for a slip in a question."""
    with Database(path) as ledger, pytest.raises(LedgerError) as caught:
        ledger._ask("SELEKT")
    assert not isinstance(caught.value, LedgerDamagedError | LedgerStuckError)


def test_each_lost_ledger_is_kept_under_a_name_of_its_own(tmp_path: Path) -> None:
    """With all that SQLite keeps beside it."""
    path = tmp_path / "ledger.sqlite"
    kept = []
    for content in ("one", "two"):
        path.write_text(content)
        path.with_name(f"{path.name}-wal").write_text(f"{content} wal")
        kept.append(set_aside(path))
    assert [p.read_text() for p in kept] == ["one", "two"]
    assert [p.with_name(f"{p.name}-wal").read_text() for p in kept] == ["one wal", "two wal"]
    assert not path.exists()


def test_a_ledger_that_cannot_be_moved_is_told(tmp_path: Path) -> None:
    """Then a person has to see to it."""
    (tmp_path / "ledger.sqlite").mkdir()
    (tmp_path / "ledger.sqlite" / "x").touch()
    (tmp_path / "ledger.sqlite.aside1-wal").mkdir()
    (tmp_path / "ledger.sqlite-wal").touch()
    with pytest.raises(LedgerError, match="cannot be moved aside"):
        set_aside(tmp_path / "ledger.sqlite")
