"""Whether this daemon is the one that may write to the outbox, asked of the owner marker every few seconds.

The marker has a pair of hands of its own, so that a long copy does not keep questions from being answered. Nothing is
begun before the first look is over. A daemon that stands by looks at the marker and at nothing else; one that cannot
reach it (the outbox is away or full) goes on with what needs no outbox, and publishes when it can be sure again. Who
follows another daemon then reads in the outbox first what that one has done (`adoption`).
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable

from voicekiln.errors import NotOwnerError, ShareAwayError, plain
from voicekiln.folders.owner import BEAT_S, UNKNOWN, Look, Marker, Standing, Tenancy, clock
from voicekiln.supervisor.common import Common
from voicekiln.supervisor.hands import Hands

RUNS = "runs"
"""Fact in the ledger: the owners that this daemon has been, the last one last."""
KEPT_RUNS = 8

OUTBOX_KNOWN = "outbox known"
"""Fact in the ledger: it holds all that lies in the outbox; gone as soon as another daemon works there."""


class Ownership:
    """See the module."""

    def __init__(
        self, common: Common, pulse: Hands, host: str | None = None, clock: Callable[[], float] = clock
    ) -> None:
        """`pulse` are hands that do nothing else; `host` is this machine's name, `clock` as in `owner`."""
        self._common = common
        self._pulse = pulse
        self._clock = clock
        name = plain(host or socket.gethostname(), 60).encode("ascii", "replace").decode()
        me = Marker(secrets.token_hex(8), common.ledger.instance, name, beat=0)
        runs = (common.ledger.fact(RUNS) or "").split()
        common.ledger.set_fact(RUNS, " ".join([*runs[1 - KEPT_RUNS :], me.owner]))
        self._tenancy = Tenancy(common.settings.outbox, me, runs, clock)
        self._due = float("-inf")
        self._looking = False
        self._sure_until = float("-inf")
        self._standing: Standing | None = None
        self._asked = False
        self._other: Marker | None = None
        self.former = frozenset({common.ledger.instance})
        """The ledgers whose daemons may have left temporary files in the outbox."""
        self._reason: str | None = None

    @property
    def sure(self) -> bool:
        """Whether the outbox may be written to now; cheap, and true from any thread."""
        return self._clock() < self._sure_until

    @property
    def waits(self) -> bool:
        """Whether this daemon has to leave the shares alone: another works there, or that is not known yet."""
        return not self._asked or self._standing in ("claiming", "spare")

    @property
    def follows(self) -> bool:
        """Whether what lies in the outbox has still to be read."""
        return self._common.ledger.fact(OUTBOX_KNOWN) is None

    def known(self) -> None:
        """Note that it was read."""
        self._common.ledger.set_fact(OUTBOX_KNOWN, "yes")

    def must_be_sure(self) -> None:
        """To be called before each change of a share.

        Raises:
            NotOwnerError: if another daemon may have taken over.
        """
        if not self.sure:
            raise NotOwnerError("it is not sure that no other voicekiln works on the outbox")

    def step(self) -> None:
        """Take what the last look has shown; look again if it is time."""
        self._pulse.collect()
        if self._looking or self._common.now.mono < self._due:
            return
        self._looking = True
        self._due = self._common.now.mono + BEAT_S
        self._pulse.do("looking at the owner marker", self._look, self._looked, self._failed)

    def due(self) -> float:
        """Return the monotonic time of the next look."""
        return float("inf") if self._looking else self._due

    def told(self) -> str | None:
        """Return the clause for the status; None while there is nothing to say."""
        host = self._other.host if self._other else "another host"
        match self._standing:
            case "spare":
                return f"standing by: voicekiln on {plain(host)} works on the outbox"
            case "claiming":
                return "taking over the outbox, which takes some seconds"
        return None

    def trouble(self) -> str | None:
        """Return the clause that says why nothing is published although this daemon should; None if all is well."""
        stuck = self._pulse.stuck()
        if stuck is not None:
            return f"still {stuck}"
        if self._reason is not None and not self.sure and "outbox" not in self._common.away:
            return f"publishing nothing: {self._reason}"
        return None

    def release(self, wait_s: float) -> bool:
        """Let a spare take over at once, when nothing of ours is under way any more; False if the share hangs."""
        if self._standing == "owner":  # whether it still is, the marker says
            self._pulse.do("releasing the outbox", self._tenancy.release, lambda _: None, lambda _: None)
        self._sure_until = float("-inf")
        return self._pulse.close(wait_s)

    def _look(self) -> Look:
        self._common.homes.check("outbox")  # not into the empty folder beneath a mount point
        return self._tenancy.look()

    def _looked(self, look: Look) -> None:
        self._looking = False
        self._common.share_is("outbox", None)
        before, self._standing = self._standing, look.standing
        self._sure_until, self._asked, self._reason = look.sure_until, True, None
        if look.other is not None:
            self._other = look.other
            self.former |= {look.other.ledger} - {UNKNOWN}
            self._common.ledger.set_fact(OUTBOX_KNOWN, None)
        if look.standing != before:
            self._tell(look.standing, before)

    def _failed(self, error: Exception) -> None:
        """Whatever it is, somebody who stands by goes on standing by, and the owner is sure for some seconds more."""
        self._looking, self._asked = False, True
        self._common.heard(error)
        reason = plain(getattr(error, "strerror", None) or str(error))
        if reason != self._reason and not isinstance(error, ShareAwayError):
            self._common.log.warning("owner.unknown", reason=reason)
        self._reason = reason

    def _tell(self, standing: Standing, before: Standing | None) -> None:
        other = self._other.host if self._other else None
        if standing == "spare":
            self._common.log.warning("owner.other", host=other, reason="another voicekiln works on the outbox")
        elif standing == "owner" and before is not None:
            self._common.log.warning("owner.taken_over", host=other)
