"""`python -m benchmarks.scaling`: the tables of docs/scaling.md, from figures 14 to 19 in results.json.

Each bound is a rate that was measured by itself; how fast all of it is, is the smallest of them. The document says what
that leaves out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

from benchmarks.cluster import GIGABIT_MB, HERE, RESULT_MB, SIZES, SOURCE_MB, named
from benchmarks.waiting import PLACES

RESULTS = Path(__file__).with_name("results.json")
DOCUMENT = Path(__file__).parents[1] / "docs" / "scaling.md"
BEGIN, END = "<!-- tables: python -m benchmarks.scaling -->", "<!-- end of tables -->"
GIGABITS = (1, 2.5, 10, 25)
CONVERSIONS_S = (1.5, 10.0, 60.0)
"""What a place needs for a voice, without its bytes."""
VOICES = {"small, 2 and 4 MB": (2, 4), "half, 55 and 55 MB": (55, 55), "single, 55 and 110 MB": (55, 110)}
"""The megabytes of source and result."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What the figures say, in seconds of one voice unless a name says otherwise."""

    engine: float
    scheduler: float
    line: float
    """CPU time of the daemon for a job without bytes."""
    out_a_mb: float
    back_a_mb: float
    """CPU time of the daemon for bytes."""
    send_a_mb: float
    fetch_a_mb: float
    """That a place waits for them, on loopback."""
    copy: tuple[float, float]
    publish: tuple[float, float]
    """Of next to no bytes, and of a megabyte."""
    turn: dict[int, float]
    """Of the daemon's loop when a voice ends, by the number of places that are busy."""

    @classmethod
    def of(cls, medians: dict[str, float]) -> Self:
        """Read the figures by their names.

        Raises:
            KeyError: if one was not taken.
        """

        def find(*words: str) -> float:
            for what, median in medians.items():
                if all(word in what for word in words):
                    return median
            raise KeyError(" ".join(words))

        source, result = f"a source of {SOURCE_MB} MB, TCP", f"a result of {RESULT_MB} MB, TCP"
        copy, publish = find("copying a small"), find("publishing a small")
        return cls(
            engine=find("TCP: what the cluster adds") / 1000,
            scheduler=find("of 16: CPU of the scheduler") / 1000,
            line=find("of 16: CPU of the daemon") / 1000,
            out_a_mb=find(f"{source}: CPU") / 1000,
            back_a_mb=find(f"{result}: CPU") / 1000,
            send_a_mb=medians[source] / SOURCE_MB,
            fetch_a_mb=medians[result] / RESULT_MB,
            copy=(copy, (find("copying a usual") - copy) / SOURCE_MB),
            publish=(publish, (find("publishing a usual") - publish) / RESULT_MB),
            turn={places: find(f" {places} places", "with a voice's end") / 1000 for places in PLACES},
        )

    def bounds(self, places: int, source_mb: float, result_mb: float, gigabits: float) -> dict[str, float]:
        """Return how many voices a second each part of the whole can pass on."""
        files = self.copy[0] + self.copy[1] * source_mb + self.publish[0] + self.publish[1] * result_mb
        line = self.line + self.out_a_mb * source_mb + self.back_a_mb * result_mb
        return {
            "scheduler": 1 / self.scheduler,
            "line": 1 / line,
            "card": gigabits * GIGABIT_MB / (source_mb + result_mb),
            "files": 1 / (files + self.turn_s(places)),
        }

    def turn_s(self, places: int) -> float:
        """Return what a turn of the loop takes; in a straight line between the numbers of places that were measured."""
        below = max((known for known in PLACES if known <= places), default=PLACES[0])
        above = min((known for known in PLACES if known > below), default=PLACES[-1])
        if places <= below or below == above:
            return self.turn[below]
        part = (places - below) / (above - below)
        return self.turn[below] + part * (self.turn[above] - self.turn[below])

    def rate(self, places: int, conversion_s: float, source_mb: float, result_mb: float) -> float:
        """Return the voices a second that so many places do, with a card of 10 Gbit/s."""
        bounds = self.bounds(places, source_mb, result_mb, 10)
        return min(places / self.place_s(conversion_s, source_mb, result_mb), *bounds.values())

    def place_s(self, conversion_s: float, source_mb: float, result_mb: float) -> float:
        """Return for how long a voice has a place."""
        return conversion_s + self.engine + self.send_a_mb * source_mb + self.fetch_a_mb * result_mb


def main() -> None:
    """Put the tables into the document, in the place of those that it has."""
    results = json.loads(RESULTS.read_text())
    medians = {figure["what"]: figure["median"] for figure in results["figures"]}
    measured = Measured.of(medians)
    lines = [
        _conditions(results),
        "",
        *_seen(medians),
        "",
        *_constants(measured),
        "",
        *_rates(measured),
        "",
        *_knees(measured),
    ]
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text("\n".join([before + BEGIN, *lines, END + after]))


def _conditions(results: dict[str, Any]) -> str:
    machine, quick = results["machine"], ", quick, so not to be quoted" if results["quick"] else ""
    where = f"{machine['processor']}, {machine['cores']} cores, {machine['file_system']}, no GPU"
    return f"Measured {results['began'][:10]} on {where}, load before {machine['load_before']:.1f}{quick}."


def _seen(medians: dict[str, float]) -> Iterator[str]:
    """Give the table of what so many Dask workers of one place did here."""
    yield from _head("on this machine", ["empty jobs a second", "thin voices, times this host's workers"])
    for workers in SIZES:
        empty, thin = medians[f"empty jobs, {named(workers)} of 1"], medians[f"{named(workers)} / {HERE}"]
        yield _row(named(workers), [empty, thin])


def _constants(measured: Measured) -> Iterator[str]:
    """Give the table of what was measured."""
    m = measured
    yield from _head("measured", ["ms"])
    yield _row("`engine`: what a job waits for the cluster", [1000 * m.engine])
    yield _row("`scheduler`: its CPU time for a job", [1000 * m.scheduler])
    yield _row("`line`: the daemon's CPU time for a job without bytes", [1000 * m.line])
    yield _row("`out`, `back`: the daemon's CPU time for a MB of a source", [1000 * m.out_a_mb])
    yield _row("... and of a result", [1000 * m.back_a_mb])
    yield _row("`send`, `fetch`: what a place waits for a MB of a source", [1000 * m.send_a_mb])
    yield _row("... and of a result", [1000 * m.fetch_a_mb])
    for what, (once, each) in {"copy": m.copy, "publish": m.publish}.items():
        yield _row(f"`{what}`: for a voice", [1000 * once])
        yield _row("... and for a MB of it", [1000 * each])
    for places, turn in m.turn.items():
        yield _row(f"`turn`: of the loop when a voice ends and {places} places are busy", [1000 * turn])


def _rates(measured: Measured) -> Iterator[str]:
    """Give the table of the bounds."""
    files = [f"files, {places} places busy" for places in PLACES]
    cards = [f"card, {gigabits:g} Gbit/s" for gigabits in GIGABITS]
    yield from _head("at most, voices a second", ["scheduler", "line", *files, *cards])
    for what, (source, result) in VOICES.items():
        bounds = measured.bounds(PLACES[0], source, result, 1)
        of_files = [measured.bounds(places, source, result, 1)["files"] for places in PLACES]
        of_cards = [gigabits * bounds["card"] for gigabits in GIGABITS]
        yield _row(what, [bounds["scheduler"], bounds["line"], *of_files, *of_cards])


def _knees(measured: Measured) -> Iterator[str]:
    """Give the table of what so many places do, and of how many of them do most."""
    yield from _head("voices a second", [*(f"{places} places" for places in PLACES), "most", "with places"])
    for what, (source, result) in VOICES.items():
        for conversion_s in CONVERSIONS_S:
            busy = [measured.rate(places, conversion_s, source, result) for places in range(1, PLACES[-1] + 1)]
            knee = max(range(len(busy)), key=busy.__getitem__)
            rates = [*accumulate(busy, max)]  # places that no copy comes for stay empty and cost next to nothing
            yield _row(
                f"{what}, {conversion_s:g} s", [*(rates[places - 1] for places in PLACES), rates[knee], knee + 1]
            )


def _head(first: str, names: Sequence[str]) -> Iterator[str]:
    yield f"| {first} | {' | '.join(names)} |"
    yield "|---|" + "---:|" * len(names)


def _row(first: str, numbers: Sequence[float]) -> str:
    return f"| {first} | {' | '.join(map(_number, numbers))} |"


def _number(value: float) -> str:
    return f"{value:.2g}" if value < 100 else f"{value:.0f}"  # noqa: PLR2004 - two digits are all that is known


if __name__ == "__main__":
    main()
