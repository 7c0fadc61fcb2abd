"""Reading what another daemon, or a ledger that was lost, has left in the outbox, before anything new is begun.

Otherwise everything would be converted again, under names that are taken. Piece by piece, so that the loop goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from voicekiln.errors import ShareAwayError, plain
from voicekiln.folders.adopt import found_in
from voicekiln.folders.names import folds
from voicekiln.folders.voices import Found, key_of
from voicekiln.supervisor.common import Common
from voicekiln.supervisor.ownership import Ownership

AT_ONCE = 200
"""Sidecars that are read, or entered into the ledger, in one go."""


class Adoption:
    """See the module."""

    def __init__(self, common: Common, ownership: Ownership) -> None:
        self._common = common
        self._ownership = ownership
        self._left: Iterator[Found] | None = None
        self._reading = False
        self._adopted = 0

    @property
    def under_way(self) -> bool:
        """Whether the ledger does not hold yet what lies in the outbox."""
        return self._ownership.follows

    def forget(self) -> None:
        """Begin with the first folder next time: another daemon may have worked there meanwhile."""
        self._left = None

    def step(self) -> None:
        """Read on; for the owner of the outbox."""
        if self._reading or "outbox" in self._common.away:
            return
        self._reading = True
        if self._left is None:
            self._left, self._adopted = found_in(self._common.settings.outbox, self._common.name_max), 0
        left = self._left
        self._common.hands.do("reading the outbox", lambda: self._read(left), self._enter, self._failed)

    def _read(self, left: Iterator[Found]) -> list[Found]:
        self._common.homes.check("outbox")
        return list(islice(left, AT_ONCE))

    def _enter(self, some: list[Found]) -> None:
        self._reading = False
        if self._left is None:  # forgotten meanwhile
            return
        if not some:
            self._left = None
            self._ownership.known()
            self._common.log.info("outbox.read", adopted=self._adopted)
            return
        with self._common.ledger.together():
            self._adopted += sum(self._adopt(found) for found in some)

    def _adopt(self, found: Found) -> bool:
        # It need not be made by our own version.
        key = None if found.recipe is None else key_of(found.sha256, found.recipe, found.beside)
        return self._common.ledger.adopt(found, key, folds(found.base), self._common.now.wall)

    def _failed(self, error: Exception) -> None:
        """Begin anew when the outbox is there again."""
        self._reading, self._left = False, None
        self._common.heard(error)
        if not isinstance(error, ShareAwayError):
            self._common.log.warning("outbox.unread", reason=plain(str(error)))
