"""The metrics get out, whole and in time, and whatever hangs or fails on their way, the voices do not notice."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from kiln import HeldHands, Kiln, PromptHands
from voicekiln.metrics import Meter
from voicekiln.settings import Metrics
from voicekiln.supervisor.exporting import EVERY_S, IDLE_S, Exporter, write


class Counted(PromptHands):
    """Hands that know when they were used."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._now = clock
        self.times: list[float] = []

    def do(self, what: str, work: Callable[[], Any], done: Callable[[Any], None], failed: Any) -> None:
        self.times.append(self._now())
        super().do(what, work, done, failed)


class Exporting(Kiln):
    """A daemon with metrics in a file."""

    def start(self) -> None:
        super().start()
        self.writers = self.writer()
        self.service.attendants.append(Exporter(self.service.common, self.service.gauges, Meter(), self.writers))

    def writer(self) -> Any:
        return Counted(lambda: self.mono)

    @property
    def text(self) -> str:
        assert self.settings.metrics.textfile is not None
        return self.settings.metrics.textfile.read_text()


class Hanging(Exporting):
    """The same with a folder that does not answer."""

    def writer(self) -> Any:
        return HeldHands()


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    built: list[Kiln] = []
    (tmp_path / "node").mkdir()

    def make(kind: type[Exporting] = Exporting) -> Exporting:
        built.append(kind(tmp_path, metrics=Metrics(textfile=tmp_path / "node" / "voicekiln.prom")))
        return built[-1]  # type: ignore[return-value]  # of that kind

    yield make
    for kiln in built:
        kiln.close()


def gaps(times: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(times)]


def test_without_work_there_is_a_heartbeat_a_minute(build: Callable[..., Any]) -> None:
    """Disks may sleep; a monitor sees all the same that the daemon lives."""
    kiln = build()
    kiln.run(120)
    kiln.writers.times.clear()
    kiln.run(600)
    assert 9 <= len(kiln.writers.times) <= 11
    assert all(IDLE_S <= gap <= IDLE_S + EVERY_S + 1 for gap in gaps(kiln.writers.times))


def test_with_work_the_file_is_written_every_quarter_of_a_minute(build: Callable[..., Any]) -> None:
    """However much happens in between."""
    kiln = build()
    for number in range(30):
        kiln.drop(f"{number}.pth")
        kiln.run(4)
    kiln.run(30)
    assert all(gap >= EVERY_S for gap in gaps(kiln.writers.times))
    assert len(kiln.writers.times) >= 120 / (EVERY_S + 6)
    assert 'voicekiln_conversions_total{outcome="converted"} 30.0' in kiln.text


def test_a_folder_that_hangs_holds_up_nobody(build: Callable[..., Any]) -> None:
    """Voices are published, the loop goes on, and no second write is begun."""
    kiln = build(Hanging)
    kiln.drop("a.pth")
    kiln.run(300)
    assert kiln.results() == {"a.onnx", "a.json"}
    assert len(kiln.writers.held) == 1


def test_a_folder_that_is_gone_is_told_of_once(build: Callable[..., Any]) -> None:
    """The work goes on; when the folder is back, so is the file, and that is told, too."""
    kiln = build()
    kiln.run(30)
    away = (kiln.at / "node").rename(kiln.at / "elsewhere")
    kiln.drop("a.pth")
    kiln.run(120)
    assert kiln.results() == {"a.onnx", "a.json"}
    [line] = kiln.log.of("metrics.failed")
    assert (line["what"], line["reason"]) == ("textfile", "No such file or directory")
    away.rename(kiln.at / "node")
    kiln.run(120)
    assert len(kiln.log.of("metrics.work")) == 1
    assert 'voicekiln_conversions_total{outcome="converted"} 1.0' in kiln.text


def test_a_clean_stop_says_so(build: Callable[..., Any]) -> None:
    """The file stays: not up, the counts, and nothing that would be wrong by tomorrow."""
    kiln = build()
    kiln.drop("a.pth")
    kiln.run(60)
    assert "voicekiln_up 1.0" in kiln.text
    kiln.service.stop()
    assert "voicekiln_up 0.0" in kiln.text
    assert "voicekiln_heartbeat_timestamp_seconds" in kiln.text
    assert 'voicekiln_conversions_total{outcome="converted"} 1.0' in kiln.text
    for word in ("voices", "share_up", "oldest_waiting", "workers{", "free_bytes", "active", "last_scan"):
        assert f"voicekiln_{word}" not in kiln.text


def test_after_a_crash_the_heartbeat_grows_old(build: Callable[..., Any]) -> None:
    """The file is the last word of a daemon that was killed; the next one begins anew at zero."""
    kiln = build()
    kiln.drop("a.pth")
    kiln.run(60)
    before = kiln.text
    kiln.crash()
    assert kiln.text == before
    kiln.run(30)
    assert 'voicekiln_conversions_total{outcome="converted"} 0.0' in kiln.text
    assert 'voicekiln_voices{state="done"} 1.0' in kiln.text


def test_the_file_is_readable_for_all_whatever_the_umask(tmp_path: Path) -> None:
    """node_exporter is another user, and the service's umask is strict."""
    before = os.umask(0o077)
    try:
        write(tmp_path / "a.prom", b"x 1\n")
    finally:
        os.umask(before)
    assert (tmp_path / "a.prom").stat().st_mode & 0o777 == 0o644


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole, and alone."""
    write(tmp_path / "a.prom", b"x 1\n")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fchmod", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "a.prom", b"x 2\n")
    assert [path.name for path in tmp_path.iterdir()] == ["a.prom"]
    assert (tmp_path / "a.prom").read_bytes() == b"x 1\n"


def test_what_crashes_leave_is_one_file_that_nobody_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hidden, not called .prom, and taken up by the next write."""

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    for _ in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", killed)
            with pytest.raises(Killed):
                write(tmp_path / "a.prom", b"x 1\n")
    [left] = tmp_path.iterdir()
    assert left.name.startswith(".")
    assert left.suffix != ".prom"
    write(tmp_path / "a.prom", b"x 2\n")
    assert [path.name for path in tmp_path.iterdir()] == ["a.prom"]


def test_a_link_in_its_way_is_not_followed(tmp_path: Path) -> None:
    """Who may write to that folder cannot have another file overwritten."""
    (tmp_path / "precious").write_text("mine")
    (tmp_path / ".~a.prom.part").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic"):
        write(tmp_path / "a.prom", b"x 1\n")
    (tmp_path / "a.prom").symlink_to(tmp_path / "precious")
    write(tmp_path / "a.prom", b"x 1\n")
    assert (tmp_path / "precious").read_text() == "mine"
