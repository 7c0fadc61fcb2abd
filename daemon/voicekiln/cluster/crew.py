"""Those whom the dispatch gives voices to, as many as the cluster has places for, and two more.

What waits beyond that waits in the ledger and not in the scheduler. The two more are there as soon as the scheduler is:
a cluster that grows with its work has to see some first. Without a scheduler nobody is there and the voices wait, or,
if the configuration says so, the workers of this host do them until it is back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, overload

from distributed import Security

from voicekiln.cluster.connection import Here
from voicekiln.cluster.keeper import DaskKeeper
from voicekiln.cluster.letters import Terms
from voicekiln.cluster.line import UNANSWERED, Line
from voicekiln.page.board import Cluster
from voicekiln.settings import Settings
from voicekiln.supervisor.common import Log
from voicekiln.supervisor.hiring import HERE, Machine
from voicekiln.worker.keeper import Keeper

MARGIN = 2

AWAY_S = 30.0
"""So long a scheduler may be away before this host takes its part; its workers need as long to load their libraries."""


class Crew(Sequence[Keeper]):
    """See the module. Its length changes; who is beyond it has at most a voice to end. A `ClusterAttendant`, too."""

    def __init__(self, line: Line, terms: Terms, wake: Callable[[], None], local: Sequence[Keeper], log: Log) -> None:
        """`local` are this host's workers, none if they shall not help."""
        self._line = line
        self._log = log
        self._told: str | None = UNANSWERED
        """The last trouble that the log was told of."""
        self._local = local
        self._terms = terms
        self._wake = wake
        self._hired: list[Keeper] = []
        self._away_since: float | None = time.monotonic()
        self.machine: Machine = _Elsewhere(self)

    @classmethod
    def of(cls, settings: Settings, ledger: str, wake: Callable[[], None], local: Sequence[Keeper], log: Log) -> Crew:
        """Return the crew of a configuration; `ledger` marks this daemon's jobs among others'."""
        worker = settings.worker
        terms = Terms(worker.device, asdict(worker.deadlines), worker.idle, worker.memory)
        helpers = local if settings.workers.fallback == "local" else ()
        return cls(line_to(settings, ledger, wake, len(local)), terms, wake, helpers, log)

    @property
    def helped(self) -> bool:
        """Whether this host's workers have taken over."""
        return bool(self._local) and self._away_since is not None and time.monotonic() - self._away_since > AWAY_S

    def trouble(self) -> str | None:
        """Return what keeps the cluster from its work, for people."""
        trouble = self._line.trouble
        if trouble is None and not self._line.places:
            return "the cluster has no workers"
        return f"{trouble}; this host's own workers do the work" if trouble and self.helped else trouble

    def facts(self) -> Cluster:
        """Return what people shall see of it."""
        return Cluster(str(self._line.scheduler), self._line.places, self._line.dashboard)

    def hear(self, event: str, facts: Mapping[str, Any]) -> None:
        """See `Attendant`; nothing of it matters here."""

    def step(self) -> float:
        """Note whether the scheduler is there, and tell the log; return when that will make a difference."""
        if not self._line.unsure and (trouble := self.trouble()) != self._told:
            self._told = trouble
            if trouble is None:
                self._log.info("cluster.ready", scheduler=str(self._line.scheduler), places=self._line.places)
            else:
                self._log.warning("cluster.troubled", reason=trouble)
        if self._line.connected:
            self._away_since = None
        elif self._away_since is None:
            self._away_since = time.monotonic()
        if self._away_since is None or self.helped or not self._local:
            return float("inf")
        return self._away_since + AWAY_S

    def close(self) -> None:
        """Hang up."""
        self._line.close()

    def __len__(self) -> int:
        return len(self._now())

    def __iter__(self) -> Iterator[Keeper]:
        return iter(self._now())

    @overload
    def __getitem__(self, index: int) -> Keeper: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Keeper]: ...
    def __getitem__(self, index: int | slice) -> Keeper | Sequence[Keeper]:
        return self._now()[index]

    def _now(self) -> Sequence[Keeper]:
        if not self._line.connected:
            return self._local if self.helped else ()
        if self._line.unusable:
            return ()
        wanted = self._line.places + MARGIN
        while len(self._hired) < wanted:
            self._hired.append(DaskKeeper(self._line, self._terms, self._wake))
        return self._hired[:wanted]


def line_to(settings: Settings, ledger: str, wake: Callable[[], None], places: int) -> Line:
    """Return the line to a configuration's scheduler, see `Line`; one of our own gets so many `places`."""
    workers = settings.workers
    assert workers.scheduler is not None  # noqa: S101 - the fences have looked
    scheduler: str | Here = workers.scheduler
    if scheduler == "local":
        scheduler = Here(places, HERE.gpus() if settings.worker.device != "cpu" else 0)
    security = None
    if workers.scheduler.startswith("tls"):
        security = Security(
            tls_ca_file=str(workers.ca),
            tls_client_cert=str(workers.cert),
            tls_client_key=str(workers.key),
            require_encryption=True,
        )
    return Line(scheduler, security, ledger, wake, workers.spool)


class _Elsewhere(Machine):
    """Cores and memory of other hosts, where Dask sees to them; of this one, while it helps."""

    def __init__(self, crew: Crew) -> None:
        super().__init__()
        self._crew = crew

    def cores(self) -> int:
        """See `Machine`; on another host a Dask worker knows better."""
        return super().cores() if self._crew.helped else 1

    def free_bytes(self) -> float:
        """See `Machine`."""
        return super().free_bytes() if self._crew.helped else 1e18  # infinity cannot be divided by what a worker takes
