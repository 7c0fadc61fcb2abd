"""Measures contestants in turn within one run, because machines are noisy and only ratios of neighbours are worth much.

Contestants work in processes that stay warm. A round measures each of them once, in an order that moves on by one
each time; a ratio is taken within a round, and its median over the rounds is what is reported, with the lowest and
the highest. The best of anything is never picked.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self
from unittest.mock import patch

from voicekiln.families.sample import write_sample

PATIENCE_S = 600.0
"""After this a measurement that has not ended has failed."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one piece of work."""

    wall: float
    cpu: float
    """Seconds; `cpu` of the process and the children that it has waited for."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure should be."""

    sign: Literal["<=", ">="]
    value: float


@dataclass(frozen=True, slots=True)
class Figure:
    """A line of the table."""

    number: int
    what: str
    values: Sequence[float]
    """One per round."""
    unit: str = "times"
    target: Target | None = None
    behind: str = ""
    """What a ratio was made of."""

    @property
    def median(self) -> float:
        """The figure itself."""
        return statistics.median(self.values)

    @property
    def met(self) -> bool | None:
        """Whether it is what it should be; None if nobody said what."""
        if self.target is None:
            return None
        return self.median <= self.target.value if self.target.sign == "<=" else self.median >= self.target.value

    def as_json(self) -> dict[str, Any]:
        """Return all that there is to it."""
        return asdict(self) | {
            "median": self.median,
            "low": min(self.values),
            "high": max(self.values),
            "met": self.met,
        }


class Room:
    """A folder on a real disk for one run, and the voices in it."""

    def __init__(self, folder: Path, *, quick: bool) -> None:
        self.folder = folder
        self.templates = folder / "templates"
        """For the conversions outside a daemon."""
        self.quick = quick
        self.rounds = 3 if quick else 7

    def voice(self, seed: int) -> Path:
        """Return an RVC v2 voice at 40 kHz with f0, made when it is first asked for."""
        path = self.folder / f"voice-{seed}.pth"
        if not path.exists():
            write_sample(path, seed)
        return path

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Give an empty folder, and remove it with all that is in it then."""
        folder = self.folder / "scratch"
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


class Seat:
    """A process that does what it is told; use it as a context. Work and arguments are pickled."""

    def __init__(self, **environment: str) -> None:
        """`environment` is set in that process in addition to what is set here."""
        self._environment = environment

    def __enter__(self) -> Self:
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        with patch.dict(os.environ, self._environment):
            self.ask(os.getpid)  # starts it
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def ask(self, work: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401 - whatever the work returns
        """Return what a call in that process returns."""
        return self._pool.submit(work, *arguments).result(PATIENCE_S)

    def cost(self, work: Callable[..., object], *arguments: object) -> Cost:
        """Return what a call costs that process."""
        cost: Cost = self.ask(_cost, work, *arguments)
        return cost


def _cost(work: Callable[..., object], *arguments: object) -> Cost:
    cpu, wall = _cpu_s(), time.perf_counter()
    work(*arguments)
    return Cost(time.perf_counter() - wall, _cpu_s() - cpu)


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


@dataclass(frozen=True, slots=True)
class Contestant:
    """Work for a seat: called with an empty folder, which is removed afterwards, and then with the arguments."""

    seat: Seat
    work: Callable[..., object]
    arguments: tuple[object, ...]


def take_turns(room: Room, contestants: Mapping[str, Contestant], rounds: int) -> dict[str, list[Cost]]:
    """Measure each contestant once a round, after one round that does not count."""
    names = list(contestants)
    costs: dict[str, list[Cost]] = {name: [] for name in names}
    for turn in range(-1, rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            who = contestants[name]
            with room.scratch() as folder:
                os.sync()  # nobody pays for what the one before left to be written
                cost = who.seat.cost(who.work, folder, *who.arguments)
            if turn >= 0:
                costs[name].append(cost)
    return costs


def ratios(number: int, what: str, over: Sequence[Cost], under: Sequence[Cost], target: Target | None) -> list[Figure]:
    """Return the ratio of two contestants' costs, in wall clock and in CPU time."""
    found = []
    for kind in ("wall", "cpu"):
        above, below = ([getattr(cost, kind) for cost in costs] for costs in (over, under))
        values = [a / b for a, b in zip(above, below, strict=True)]
        behind = f"{statistics.median(above):.3f} s / {statistics.median(below):.3f} s"
        found.append(Figure(number, f"{what}, {kind}", values, target=target, behind=behind))
    return found
