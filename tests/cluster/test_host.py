"""What voicekiln has in a Dask worker, without Dask: which run is given which GPU, and which place."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from distributed import Worker as DaskWorker

from stub_worker import convert
from voicekiln.cluster.host import GPU, Host
from voicekiln.cluster.letters import Terms, Ticket
from voicekiln.cluster.place import Place
from voicekiln.worker.wire import encode

TERMS = Terms("auto", {}, 1.0, 1)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """Return that of a Dask worker with two GPUs."""
    loop = asyncio.new_event_loop()
    (tmp_path / "dask" / "worker").mkdir(parents=True)
    worker = SimpleNamespace(
        loop=SimpleNamespace(asyncio_loop=loop),
        local_directory=str(tmp_path / "dask" / "worker"),
        state=SimpleNamespace(total_resources={GPU: 2}, nthreads=8),
        handlers={},
    )
    yield Host(cast("DaskWorker", worker))
    loop.close()


def devices(host: Host, at: Path, *terms: Terms) -> list[str]:
    """Return where jobs run that are there at once, each under its own terms."""
    request = encode(convert(at))
    with ExitStack() as stack:
        for number, each in enumerate(terms):
            stack.enter_context(host.run(Ticket(f"{number}", "test", request, each)))
        return [stay.place.terms.device for stay in host._runs.values()]


def test_side_by_side_each_has_a_gpu_of_its_own(host: Host, tmp_path: Path) -> None:
    """Also where daemons with different configurations share the cluster."""
    other = replace(TERMS, memory_bytes=2)
    assert devices(host, tmp_path, TERMS, TERMS) == ["cuda:0", "cuda:1"]
    assert devices(host, tmp_path, TERMS, other) == ["cuda:0", "cuda:1"]
    assert devices(host, tmp_path, other, TERMS) == ["cuda:0", "cuda:1"]


def test_a_place_is_used_again(host: Host, tmp_path: Path) -> None:
    """Under the same terms; its process may still be up."""
    for _ in range(3):
        devices(host, tmp_path, TERMS, TERMS)
    assert len(host._places) == 2


def test_a_place_that_broke_is_not_used_again(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No job would ever begin there."""
    devices(host, tmp_path, TERMS)
    monkeypatch.setattr(Place, "broken", property(lambda _: True))
    devices(host, tmp_path, TERMS)
    assert len(host._places) == 2


def test_a_device_that_was_chosen_is_kept(host: Host, tmp_path: Path) -> None:
    """Somebody has said so in the configuration."""
    assert devices(host, tmp_path, replace(TERMS, device="cuda:1"), replace(TERMS, device="cpu")) == ["cuda:1", "cpu"]
