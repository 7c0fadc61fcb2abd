"""Clusters that would be open to strangers, or could not be reached."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from distributed import Security

from voicekiln.cluster import fences
from voicekiln.settings import Workers


def found(workers: Workers) -> list[str]:
    """Return the settings in which there is a problem."""
    return [line.partition(":")[0] for line in fences.problems(workers)]


@pytest.fixture
def sound(tmp_path: Path) -> Workers:
    """Return a cluster with certificates as they should be."""
    made = Security.temporary()
    files = {"ca": made.tls_ca_file, "cert": made.tls_client_cert, "key": made.tls_client_key}
    for name, content in files.items():
        (tmp_path / name).write_text(str(content))
    return Workers("dask", "tls://gpu1:8786", ca=tmp_path / "ca", cert=tmp_path / "cert", key=tmp_path / "key")


@pytest.mark.parametrize(
    "scheduler", ["tcp://127.0.0.1:8786", "tcp://localhost:8786", "tcp://[::1]:8786", "tcp://127.8.8.8:1", "local"]
)
def test_a_scheduler_on_this_machine_may_be_plain(scheduler: str) -> None:
    """Nobody else hears what goes there."""
    assert found(Workers("dask", scheduler)) == []


@pytest.mark.parametrize("host", ["gpu1", "10.0.0.8", "127.0.0.1.example", "localhost.example", "[fe80::1]", "0x7f.1"])
def test_a_scheduler_elsewhere_has_to_be_encrypted(host: str) -> None:
    """Who reaches it runs programs here; unless the person says that nobody does."""
    plain = Workers("dask", f"tcp://{host}:8786")
    assert found(plain) == ["workers.scheduler"]
    assert found(replace(plain, plain_tcp=True)) == []


def test_tls_needs_its_certificates(sound: Workers) -> None:
    """All three."""
    assert found(sound) == []
    assert found(Workers("dask", "tls://gpu1:8786", ca=sound.ca)) == ["workers.cert", "workers.key"]


def test_what_cannot_be_read_is_told(sound: Workers, tmp_path: Path) -> None:
    """With the reason: a file that is not there, a folder."""
    [problem] = fences.problems(replace(sound, key=tmp_path / "other"))
    assert problem == f"workers.key: {tmp_path}/other cannot be read (no such file or directory)"
    [problem] = fences.problems(replace(sound, ca=tmp_path))
    assert problem == f"workers.ca: {tmp_path} cannot be read (is a directory)"


def test_certificates_that_are_none_are_told(sound: Workers, tmp_path: Path) -> None:
    """Before Dask tries them, which says it in the words of a library: swapped, of two hosts, empty."""
    assert found(replace(sound, cert=sound.key, key=sound.cert)) == ["workers.key"]
    assert found(replace(sound, ca=sound.key)) == ["workers.ca"]
    (tmp_path / "key").write_text(str(Security.temporary().tls_client_key))
    [problem] = fences.problems(sound)
    assert problem.startswith("workers.key: does not go with workers.cert (key values mismatch)")
    (tmp_path / "ca").write_text("")
    assert found(sound) == ["workers.ca", "workers.key"]


def test_a_cluster_needs_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """And Dask."""
    assert found(Workers("dask")) == ["workers.scheduler"]
    monkeypatch.setattr(fences, "find_spec", lambda _: None)
    assert found(Workers("dask", "tcp://localhost:1")) == ["workers.engine"]


def test_a_scheduler_that_nobody_asks_is_a_problem() -> None:
    """Somebody has forgotten the other half."""
    assert found(Workers(scheduler="tls://gpu1:8786")) == ["workers.scheduler"]
    assert found(Workers()) == []
