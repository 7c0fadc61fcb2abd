"""What lies in an outbox and stands in the log when nothing was lost and nothing published twice."""

from __future__ import annotations

from collections import Counter

from running import Daemon


def published_once(daemon: Daemon, *names: str) -> dict[str, int]:
    """Check that each of these voices, and no other, was published once; return at which attempt.

    The log is that of all lives of the daemon; its line comes after the files.
    """
    daemon.until_there(*(f"{name}.json" for name in names))
    daemon.until(lambda: len(daemon.events("job.finished")) >= len(names) and not daemon.litter())
    finished = daemon.events("job.finished")
    assert Counter(line["file"] for line in finished) == Counter(f"{name}.pth" for name in names)
    assert {line["outcome"] for line in finished} == {"converted"}
    assert list(daemon.outbox.glob("*.error.json")) == []
    return {line["file"].removesuffix(".pth"): line["attempt"] for line in finished}
