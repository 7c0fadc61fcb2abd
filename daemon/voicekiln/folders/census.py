"""What a status page asks of the ledger: a few of each kind, and sums over all.

Read by the hands, on a connection of their own, while the loop writes on its own: in a ledger of a million rows no
question here walks over all of them, but thousands of rows are too many for the loop to wait for. All answers are of
one moment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from voicekiln.folders.ledger import Ledger
from voicekiln.folders.rows import voice_in
from voicekiln.folders.tables import TURN, WAITING
from voicekiln.folders.voices import State, Voice


@dataclass(frozen=True, slots=True)
class Sums:
    """Over all voices whose result is published, and all files in the outbox."""

    bytes_in: int
    """Of the sources."""
    bytes_out: int
    mean_seconds: float | None
    """Of a conversion; None before the first that is known."""


class Census(Ledger):
    """See the module."""

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Give all answers as they were at the first question."""
        self._ask("BEGIN")
        try:
            yield
        finally:
            self._ask("ROLLBACK")

    def sums(self) -> Sums:
        """Return what all of them come to."""
        [row] = self._ask("SELECT * FROM totals")
        mean = row["took_ms"] / row["timed"] / 1000 if row["timed"] else None
        return Sums(row["bytes_in"], row["bytes_out"], mean)

    def newest(self, state: State, most: int) -> Iterator[Voice]:
        """Give the voices in a state that were published last, the last one first."""
        sql = "SELECT * FROM voices WHERE state = ? ORDER BY finished DESC LIMIT ?"
        return map(voice_in, self._each(sql, (state, most)))

    def put_off(self, most: int) -> Iterator[Voice]:
        """Give the voices that wait for a time, the next one first."""
        sql = "SELECT * FROM voices WHERE next_try IS NOT NULL ORDER BY next_try LIMIT ?"
        return map(voice_in, self._each(sql, (most,)))

    def in_turn(self, state: State, most: int) -> Iterator[Voice]:
        """Give the voices in a state that wait for their turn only, as `Ledger.first` has them."""
        sql = f"SELECT * FROM voices WHERE state = ? AND {WAITING} ORDER BY {TURN}, id LIMIT ?"  # noqa: S608 - ours
        return map(voice_in, self._each(sql, (state, most)))


def shares(most: int, wanted: Sequence[int]) -> list[int]:
    """Return how many of each kind are listed where there is room for `most`.

    Equal parts for all, and what one of them does not need for the others.
    """
    given = [0] * len(wanted)
    by_size = sorted(range(len(wanted)), key=lambda which: wanted[which])
    for place, which in enumerate(by_size):
        given[which] = min(wanted[which], most // (len(wanted) - place))
        most -= given[which]
    return given
