"""The file in which the ledger lies: opened, changed as a whole or not at all, and what can be wrong with it.

The only door to sqlite3. The tables are in `tables`, what stands in them is `ledger`'s. SQLite finds out most damage by
itself; a row that says nothing sensible is damage too (`decoded`).
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import wraps
from itertools import chain, count
from pathlib import Path
from typing import ParamSpec, Self, TypeVar

from voicekiln.errors import LedgerDamagedError, LedgerError, LedgerStuckError
from voicekiln.folders.tables import LAYOUT, STEPS
from voicekiln.steps import Step, passed

Row = sqlite3.Row
P = ParamSpec("P")
T = TypeVar("T")


class Database:
    """See the module."""

    def __init__(self, path: Path) -> None:
        """Open or create it, with the tables of this version.

        Raises:
            LedgerStuckError: if the disk is full or does not answer.
            LedgerDamagedError: if the file is no ledger, is damaged, or was written by another version.
            LedgerError: if it cannot be opened.
        """
        self.path = path
        self._of_facts = 0
        try:
            self._open(path)
        except sqlite3.Error as error:
            raise _trouble(error) from error

    def _open(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, timeout=10, check_same_thread=False)
        self._db.row_factory = sqlite3.Row
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            self._db.execute(f"PRAGMA {pragma}")
        layout = self._db.execute("PRAGMA user_version").fetchone()[0]
        if layout > LAYOUT:
            self.close()
            raise LedgerDamagedError(f"the ledger was written by another version of voicekiln (layout {layout})")
        if layout < LAYOUT:
            self._build(STEPS[layout:])

    def _build(self, steps: Sequence[Sequence[str]]) -> None:
        with self.together():
            for statement in chain.from_iterable(steps):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version={LAYOUT}")
            if self.fact("instance") is None:
                self.set_fact("instance", secrets.token_hex(4))

    def must_be_sound(self) -> None:
        """Read the whole file, as nothing else ever does.

        Raises:
            LedgerDamagedError: if something in it is not as SQLite has written it.
            LedgerStuckError: if the disk does not answer.
        """
        [row] = self._ask("PRAGMA quick_check(1)")
        if row[0] != "ok":
            raise LedgerDamagedError(f"the ledger is damaged: {row[0]}")

    def close(self) -> None:
        """Close the database; the object is of no use afterwards."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Make all changes within one: all of them are on disk afterwards, or none after a failure."""
        if self._db.in_transaction:
            yield
            return
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.DatabaseError as error:
            raise _trouble(error) from error
        passed(Step.COMMITTED)

    @property
    def instance(self) -> str:
        """Eight hex digits that mark the temporary files of this ledger's daemon, and no other's."""
        return self.fact("instance") or ""

    def fact(self, name: str) -> str | None:
        """Return what `set_fact` kept."""
        row = self._ask_one("SELECT value FROM facts WHERE name = ?", (name,))
        return None if row is None else str(row["value"])

    def set_fact(self, name: str, value: str | None) -> None:
        """Keep a fact about the daemon as a whole; None removes it."""
        before = self._db.total_changes
        with self.together():
            self._db.execute("DELETE FROM facts WHERE name = ?", (name,))
            if value is not None:
                self._db.execute("INSERT INTO facts VALUES (?, ?)", (name, value))
        self._of_facts += self._db.total_changes - before

    @property
    def revision(self) -> tuple[int, int]:
        """Another value after every change: our own, but for those of facts, and anybody else's."""
        [row] = self._ask("PRAGMA data_version")
        return self._db.total_changes - self._of_facts, int(row[0])

    def _ask(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise _trouble(error) from error

    def _each(self, sql: str, values: Sequence[object] = ()) -> Generator[Row, None, None]:
        """Give rows as they are read; those of thousands of voices would fill the memory."""
        try:
            with closing(self._db.execute(sql, values)) as rows:
                yield from rows
        except sqlite3.DatabaseError as error:
            raise _trouble(error) from error

    def _ask_one(self, sql: str, values: Sequence[object]) -> Row | None:
        return next(iter(self._ask(sql, values)), None)


def decoded(read: Callable[P, T]) -> Callable[P, T]:
    """Let a function that reads rows say that the ledger is damaged where it cannot."""

    @wraps(read)
    def reads(*arguments: P.args, **named: P.kwargs) -> T:
        try:
            return read(*arguments, **named)
        except (ValueError, TypeError, KeyError) as error:
            raise LedgerDamagedError(f"the ledger is damaged: a row says {error}") from error

    return reads


def set_aside(path: Path) -> Path:
    """Rename a ledger that is of no use, with what belongs to it, so that a new one can begin; return its new name.

    Raises:
        LedgerError: if that cannot be done.
    """
    kept = next(p for n in count(1) if not (p := path.with_name(f"{path.name}.aside{n}")).exists())
    try:
        for ending in ("-wal", "-shm", ""):
            with suppress(FileNotFoundError):
                path.with_name(path.name + ending).rename(kept.with_name(kept.name + ending))
    except OSError as error:
        raise LedgerError(f"the ledger cannot be moved aside: {error.strerror}") from error
    return kept


def _trouble(error: sqlite3.Error) -> LedgerError:
    """Return what a person has to know: whether to wait (a full disk) or to do something."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    missing = code == sqlite3.SQLITE_ERROR and str(error).startswith("no such")  # a table, a column
    if missing or code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return LedgerDamagedError(f"the ledger is damaged: {error}")
    passing = (
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_CANTOPEN,
    )
    return (LedgerStuckError if code in passing else LedgerError)(f"the ledger cannot be used: {error}")
