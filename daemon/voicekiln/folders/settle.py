"""Which files have been left alone long enough to be looked at.

Quiet is measured between our own observations, on the monotonic clock: the time stamps of a share come from another
clock, and sync tools set them back. A scan of a slow share takes its time, so a stamp counts from the end of the
scan that first saw it to the beginning of the last one. Being quiet is necessary and not sufficient; `complete` has
the proof. That is why one quiet time does for all file systems: what a slow share delivers in bits fails its proof,
however long the pause, and only files without a proof wait for longer. Pure: no file, no clock of its own. Files that
lie there at the start wait like new ones. Whether an event or the time led to a look makes no difference here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from voicekiln.job import FileStamp


@dataclass(frozen=True, slots=True)
class _Watched:
    stamp: FileStamp
    since_s: float
    """The end of the scan that first saw this stamp."""


class Settler:
    """Remembers for each file since when it has not changed."""

    def __init__(self, quiet_s: float) -> None:
        self.quiet_s = quiet_s
        self._watched: dict[PurePosixPath, _Watched] = {}
        self._seen_s = float("-inf")
        self._next_due_s: dict[float, float | None] = {}
        """By quiet time; asked for at every tick, while thousands may be waiting."""

    def observe(
        self, files: Mapping[PurePosixPath, FileStamp], began_s: float, ended_s: float | None = None
    ) -> dict[PurePosixPath, FileStamp]:
        """Take note of what a scan saw; return the files that are settled, with their stamps, in the scan's order.

        Files that the scan did not see are forgotten: if they come back, they wait anew. Without `ended_s` the scan
        took no time.
        """
        new_since_s = began_s if ended_s is None else ended_s
        self._seen_s = began_s
        self._next_due_s.clear()
        before, self._watched = self._watched, {}
        for relpath, stamp in files.items():
            known = before.get(relpath)
            same = known is not None and known.stamp == stamp
            self._watched[relpath] = known if known and same else _Watched(stamp, new_since_s)
        return {relpath: stamp for relpath, stamp in files.items() if self.quiet(relpath, self.quiet_s)}

    def quiet(self, relpath: PurePosixPath, quiet_s: float) -> bool:
        """Return whether the file was seen unchanged over at least `quiet_s`."""
        due_s = self.due(relpath, quiet_s)
        return due_s is not None and self._seen_s >= due_s

    def due(self, relpath: PurePosixPath, quiet_s: float) -> float | None:
        """Return the monotonic time from which a scan can find this file quiet for `quiet_s`; None if unknown."""
        known = self._watched.get(relpath)
        return known.since_s + quiet_s if known else None

    def next_due(self) -> float | None:
        """Return the monotonic time from which a scan can find the next file settled; None if none is waiting."""
        if self.quiet_s not in self._next_due_s:
            waiting = (w.since_s + self.quiet_s for w in self._watched.values())
            self._next_due_s[self.quiet_s] = min((due_s for due_s in waiting if due_s > self._seen_s), default=None)
        return self._next_due_s[self.quiet_s]

    def restart(self, relpath: PurePosixPath, now_s: float) -> None:
        """Let the file wait anew: a closer look found it changed although its stamp in the scan was the same."""
        known = self._watched.get(relpath)
        if known is not None:
            self._watched[relpath] = _Watched(known.stamp, now_s)
            self._next_due_s.clear()
