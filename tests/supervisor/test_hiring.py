"""Hiring: a worker for every GPU, or one for the CPU."""

from __future__ import annotations

from pathlib import Path

from voicekiln.settings import Settings
from voicekiln.supervisor.hiring import devices, hire


def test_one_worker_per_gpu(tmp_path: Path) -> None:
    """The driver's folder has an entry for each."""
    for bus in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / bus).mkdir()
    assert devices("auto", str(tmp_path)) == ("cuda:0", "cuda:1")
    assert devices("cpu", str(tmp_path)) == ("cpu",)


def test_one_worker_where_there_is_no_gpu(tmp_path: Path) -> None:
    """It looks for a GPU all the same, and says itself why there is none."""
    assert devices("auto", str(tmp_path / "absent")) == ("auto",)


def test_nobody_is_started_before_there_is_work(tmp_path: Path) -> None:
    """An idle machine holds no torch in memory."""
    worker = hire(Settings.in_folder(tmp_path).worker, "cpu", lambda: None)
    assert not worker.busy
    assert worker.ready is None
    assert worker.close(0.1) == []
