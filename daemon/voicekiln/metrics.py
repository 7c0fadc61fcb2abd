"""What Prometheus is told: counts of what happened, and how things stand. The only door to prometheus_client.

Loaded only where metrics are switched on. All labels have a fixed, small set of values - no file names, nothing that a
worker says -, so that nobody can flood a monitor through the inbox. Each label is there from the start with a zero:
what appears with its first one is, to `increase()`, no increase. Counts begin at zero at every start, which Prometheus
understands as a reset; the ledger keeps no copy of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, Summary, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from voicekiln import __version__
from voicekiln.errors import REFUSALS
from voicekiln.job import STAGES
from voicekiln.supervisor.exporting import Gauges

SHARES = ("inbox", "outbox")
SWEPT = ("sources", "results", "refusals")
BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class Meter:
    """Counts and shows. The loop's thread writes, others may ask for `text` at any time."""

    def __init__(self) -> None:
        # For the whole process, and nobody else in it counts: their times of birth would double the number of lines.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library's omission
        self.heard = 0
        """How many events have changed a count."""
        registry = self._registry = CollectorRegistry()

        def counter(name: str, help_: str, label: str = "", values: tuple[str, ...] = ()) -> Counter:
            made = Counter(f"voicekiln_{name}", help_, [label] if label else [], registry=registry)
            for value in values:
                made.labels(value)
            return made

        self._standing = _Standing()
        registry.register(self._standing)
        self._conversions = counter(
            "conversions",
            "Voices that came to an end: converted, copied (the content was converted before) or refused.",
            "outcome",
            ("converted", "copied", "refused"),
        )
        self._refusals = counter("refusals", "Refusals published, by code.", "code", tuple(REFUSALS))
        self._losses = counter("worker_losses", "Attempts that came to nothing because the worker died or hung.")
        self._files = counter("published_files", "ONNX files published.")
        self._bytes = counter("published_bytes", "Bytes of ONNX files published.")
        self._swept_files = counter("swept_files", "Files removed because their time had come.", "of", SWEPT)
        self._swept_bytes = counter(
            "swept_bytes", "Bytes of the files removed because their time had come.", "of", SWEPT
        )
        self._notices = counter(
            "notices",
            "Refusals to tell of by notify.command: it did, it failed, or there were too many.",
            "outcome",
            ("done", "failed", "dropped"),
        )
        self._seconds = Histogram(
            "voicekiln_conversion_seconds",
            "How long a worker took for a voice, all stages together.",
            buckets=BUCKETS_S,
            registry=registry,
        )
        self._stages = Summary(
            "voicekiln_stage_seconds", "How long a worker took for a voice, by stage.", ["stage"], registry=registry
        )
        for stage in STAGES:
            self._stages.labels(stage)

    def hear(self, event: str, facts: Mapping[str, Any]) -> None:
        """Count an event of the log."""
        match event:
            case "job.finished":
                self._finished(facts)
            case "refusal.published":
                self._refused(facts)
            case "worker.lost":
                self._losses.inc()
            case "file.swept":
                self._swept_files.labels(facts["of"]).inc(facts["files"])
                self._swept_bytes.labels(facts["of"]).inc(facts["bytes"])
            case "notice.finished":
                self._notices.labels("done" if facts["status"] == 0 else "failed").inc()
            case "notices.dropped":
                self._notices.labels("dropped").inc(facts["count"])
            case _:
                return
        self.heard += 1

    def see(self, gauges: Gauges | None, wall: float) -> None:
        """Note how things stand at `wall`; None where nothing stands any more, because the daemon ends."""
        self._standing.seen = gauges, wall

    def text(self) -> bytes:
        """Return all of it in the format of Prometheus 0.0.4."""
        return generate_latest(self._registry)

    def _finished(self, facts: Mapping[str, Any]) -> None:
        if facts["outcome"] == "refused":
            self._conversions.labels("refused").inc()
            self._refused(facts)
            return
        self._files.inc(len(facts["bytes"]))
        self._bytes.inc(sum(facts["bytes"].values()))
        if facts["outcome"] == "copied":  # the times are those of the voice that it is a copy of
            self._conversions.labels("copied").inc()
            return
        self._conversions.labels("converted").inc()
        seconds = {stage: facts["seconds"][stage] for stage in STAGES if stage in facts["seconds"]}
        self._seconds.observe(sum(seconds.values()))
        for stage, taken in seconds.items():
            self._stages.labels(stage).observe(taken)

    def _refused(self, facts: Mapping[str, Any]) -> None:
        self._refusals.labels(facts["code"]).inc()


class _Standing(Collector):
    """How things stood at the last look. Not the library's gauges: what is not known has to be absent, not old."""

    def __init__(self) -> None:
        self.seen: tuple[Gauges | None, float] | None = None
        """None before the first look. Replaced as a whole, so that another thread never reads half of it."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """See the library."""
        yield _by("build_info", "The version that runs; always 1.", "version", {__version__: 1})
        if (seen := self.seen) is None:
            return
        gauges, wall = seen
        yield _gauge(
            "up",
            "1 while the daemon runs; 0 after a clean stop. See the heartbeat for any other end.",
            gauges is not None,
        )
        yield _gauge("heartbeat_timestamp_seconds", "When the loop last looked around.", wall)
        if gauges is not None:
            yield from _now(gauges, wall)


def _now(gauges: Gauges, wall: float) -> Iterator[GaugeMetricFamily]:
    yield _gauge("active", "1 if this daemon works on the outbox, 0 if it stands by.", gauges.active)
    yield _gauge("troubles", "What keeps the work from going on, as the command health counts it.", gauges.troubles)
    shares = {share: float(share not in gauges.away) for share in SHARES}
    yield _by("share_up", "1 if the share could be reached when it was last needed.", "share", shares)
    yield _by("voices", "Voices known, by state.", "state", gauges.voices)
    age_s = 0.0 if gauges.waiting_since is None else max(0.0, wall - gauges.waiting_since)
    yield _gauge(
        "oldest_waiting_age_seconds",
        "For how long the oldest of all unfinished voices has waited; 0 if there is none.",
        age_s,
    )
    if gauges.last_scan is not None:
        yield _gauge("last_scan_timestamp_seconds", "When the inbox was last looked through.", gauges.last_scan)
    busy = {"busy": gauges.busy, "idle": gauges.workers - gauges.busy}
    yield _by("workers", "Places for a worker, by whether a voice is there.", "state", busy)
    if gauges.free:
        yield _by("free_bytes", "Room for files, at the last look.", "folder", gauges.free)


def _gauge(name: str, help_: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"voicekiln_{name}", help_, value)


def _by(name: str, help_: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"voicekiln_{name}", help_, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
