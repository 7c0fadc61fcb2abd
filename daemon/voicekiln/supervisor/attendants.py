"""What goes along with the work without being part of it: the metrics, the notices, the line to a cluster.

They hear every event of the log, whatever its level. The events are the account that voicekiln gives of itself, so who
counts them or passes them on needs no hooks in the parts that work, and cannot come between them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from voicekiln.page.board import Cluster
from voicekiln.supervisor.common import Log


class Attendant(Protocol):
    """Goes along with the loop. Its methods never wait, and what goes wrong with it is no reason to stop the work."""

    def hear(self, event: str, facts: Mapping[str, Any]) -> None:
        """Take note of an event, and no more than that: it is told in the midst of the work."""
        ...

    def step(self) -> float:
        """Do what is due; return the monotonic time of the next call. Called at every tick."""
        ...

    def close(self) -> None:
        """End, within seconds."""
        ...


class ClusterAttendant(Attendant, Protocol):
    """Workers elsewhere."""

    def facts(self) -> Cluster:
        """Return what people shall see of it."""
        ...

    def trouble(self) -> str | None:
        """Return what keeps it from its work, for people."""
        ...


class Overheard:
    """A log that others listen to."""

    def __init__(self, log: Log, ears: Sequence[Attendant]) -> None:
        """`ears` may grow later."""
        self._log = log
        self._ears = ears

    def debug(self, event: str, **facts: Any) -> None:  # noqa: ANN401 - as the Log's
        """See `Log`, and so for the next ones."""
        self._log.debug(event, **facts)
        self._tell(event, facts)

    def info(self, event: str, **facts: Any) -> None:  # noqa: ANN401, D102 - as above
        self._log.info(event, **facts)
        self._tell(event, facts)

    def warning(self, event: str, **facts: Any) -> None:  # noqa: ANN401, D102 - as above
        self._log.warning(event, **facts)
        self._tell(event, facts)

    def error(self, event: str, **facts: Any) -> None:  # noqa: ANN401, D102 - as above
        self._log.error(event, **facts)
        self._tell(event, facts)

    def _tell(self, event: str, facts: Mapping[str, Any]) -> None:
        for ear in self._ears:
            ear.hear(event, facts)
