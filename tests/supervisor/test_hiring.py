"""Hiring: a worker for every GPU, or for every core, and what the machine has for them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from voicekiln.settings import Settings
from voicekiln.supervisor.hiring import MAX_WORKERS, Machine, devices, hire, rooms

GB = 10**9

Make = Callable[..., Machine]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Return what makes a machine of twelve cores and eight GB free, in which each file given has the text given."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)))

    def make(files: dict[str, str] | None = None) -> Machine:
        told = {"proc/meminfo": meminfo(8 * GB), "proc/self/cgroup": "0::/a.slice/b.service\n"} | (files or {})
        for name, text in told.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return Machine(tmp_path)

    return make


def meminfo(available: int) -> str:
    return f"MemTotal:       24684092 kB\nMemAvailable:   {available // 1024} kB\nHugePages_Total:       0\n"


def group(path: str = "", **files: str) -> dict[str, str]:
    """Return the files of a control group; `cpu_max` stands for `cpu.max`."""
    return {f"sys/fs/cgroup{path}/{name.replace('_', '.')}": f"{text}\n" for name, text in files.items()}


UNLIMITED = {"memory_max": "max", "memory_high": "max", "memory_current": str(3 * GB), "cpu_max": "max 100000"}


def test_one_worker_per_gpu(machine: Make) -> None:
    """The driver's folder has an entry for each, and cores do not matter."""
    gpus = {f"proc/driver/nvidia/gpus/0000:0{number}:00.0/information": "Model: ..." for number in (1, 2)}
    assert devices("auto", machine(gpus)) == ("cuda:0", "cuda:1")
    assert devices("cpu", machine(gpus)) == ("cpu",) * MAX_WORKERS


@pytest.mark.parametrize(("quota", "workers"), [("300000", 3), ("50000", 1), ("max", MAX_WORKERS)])
def test_one_worker_per_core_where_there_is_no_gpu(machine: Make, quota: str, workers: int) -> None:
    """At most eight; each looks for a GPU all the same, and says itself why there is none."""
    assert devices("auto", machine(group(cpu_max=f"{quota} 100000"))) == ("auto",) * workers


def test_nobody_is_started_before_there_is_work(tmp_path: Path) -> None:
    """An idle machine holds no torch in memory."""
    worker = hire(Settings.in_folder(tmp_path).worker, "cpu", rooms(Settings.in_folder(tmp_path)), lambda: None)
    assert not worker.busy
    assert worker.ready is None
    assert worker.close(0.1) == []


def test_this_machine_has_a_core_and_memory() -> None:
    """The kernel's own files are read, whatever they say here."""
    assert 1 <= Machine().cores() <= len(os.sched_getaffinity(0))
    assert Machine().free_bytes() > 0


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 12),
        (group("/a.slice/b.service", **UNLIMITED), 12),
        (group("/a.slice/b.service", cpu_max="250000 100000"), 3),
        (group("/a.slice", cpu_max="200000 100000") | group("/a.slice/b.service", cpu_max="400000 100000"), 2),
        (group(cpu_max="150000 100000"), 2),
        (group(cpu_max="10000 100000"), 1),
        (group(cpu_max="9900000 100000"), 12),
        (group("/other.slice", cpu_max="100000 100000"), 12),
    ],
    ids=[
        "no group",
        "no limit",
        "own",
        "of the slice",
        "a container's",
        "a sliver",
        "more than there are",
        "another's",
    ],
)
def test_cores_are_those_that_we_may_use(machine: Make, files: dict[str, str], cores: int) -> None:
    """The fewest that the affinity or a quota on any of our groups leaves, a part of one counted as one."""
    assert machine(files).cores() == cores


CACHE = f"anon 700000000\nactive_file {GB}\ninactive_file {GB}\n"


@pytest.mark.parametrize(
    ("files", "free"),
    [
        (group("/a.slice/b.service", **UNLIMITED), 8.0),
        (group("/a.slice/b.service", **(UNLIMITED | {"memory_max": str(4 * GB)})), 1.0),
        (group("/a.slice/b.service", **(UNLIMITED | {"memory_high": str(5 * GB)})), 2.0),
        (
            group("/a.slice", **(UNLIMITED | {"memory_max": str(4 * GB)})) | group("/a.slice/b.service", **UNLIMITED),
            1.0,
        ),
        (group(**(UNLIMITED | {"memory_max": str(4 * GB)}), memory_stat=CACHE), 3.0),
        (group(**(UNLIMITED | {"memory_high": str(2 * GB)})), 0.0),
        (group(**(UNLIMITED | {"memory_max": str(64 * GB)})), 8.0),
        (group("/b.service", **(UNLIMITED | {"memory_max": "0"})), 8.0),
        ({"proc/meminfo": "MemTotal: 24684092 kB\n"}, 0.0),
        ({"proc/self/cgroup": "4:memory:/a\n1:cpu:/\n"} | group(**(UNLIMITED | {"memory_max": str(4 * GB)})), 1.0),
        ({"proc/self/cgroup": "0::/../../\udcff\n".encode(errors="replace").decode()}, 8.0),
    ],
    ids=[
        *("no limit", "own limit", "a soft limit", "of the slice", "the cache gives way", "more taken than allowed"),
        *("more than there is", "another's", "unknown", "of version 1 beside", "an odd path"),
    ],
)
def test_memory_is_what_machine_and_groups_leave(machine: Make, files: dict[str, str], free: float) -> None:
    """In GB: the least of what is available and what each limit on any of our groups leaves; never too much."""
    assert machine(files).free_bytes() / GB == pytest.approx(free, abs=1e-3)
