"""The commands, as a person types them; the worker behind them is the real one."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from dataclasses import asdict
from pathlib import Path

import onnx
import pytest
import torch

from kiln import Kiln
from tiny_sovits import write_tiny as write_sovits
from tiny_voices import write_tiny
from voicekiln.cli import BAD_CONFIG, NOT_DONE, OK, main
from voicekiln.folders.owner import MARKER, Marker
from voicekiln.folders.voices import State
from voicekiln.loop import only_daemon
from voicekiln.oneoff import Desk
from voicekiln.settings import Settings

DAY = 86400.0


@pytest.fixture
def kiln(tmp_path: Path) -> Kiln:
    """A state folder with one voice done and one refused, and no daemon at work."""
    kiln = Kiln(tmp_path)
    kiln.drop("good.pth")
    kiln.drop("half.pth", b"PK\x03\x04")
    kiln.run(400)
    (tmp_path / "config.yaml").touch()
    return kiln


@pytest.fixture(autouse=True)
def _caches_of_this_test_alone(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what commands without a configuration keep away from the user's own folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("caches")))


def command(kiln: Kiln, *words: str) -> int:
    return main([words[0], "--config", str(kiln.at / "config.yaml"), *words[1:]])


def test_convert_needs_no_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The result lies beside the file, each stage is told, a bad file among good ones spoils only the status."""
    good, bad = write_tiny(tmp_path / "good.pth"), tmp_path / "bad.pth"
    bad.write_text("<html>404</html>")
    assert main(["convert", str(bad), str(good), "--precision", "both"]) == NOT_DONE
    told = capsys.readouterr()
    assert {"good.onnx", "good.fp16.onnx", "good.json"} <= {path.name for path in tmp_path.iterdir()}
    assert [line.split()[1] for line in told.out.splitlines() if line.endswith("...")][:3] == [
        "load",
        "load",
        "template",
    ]
    assert "web page" in told.err
    assert "download" in told.err


def test_templates_are_made_listed_and_cleared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a first voice made is listed, with its network and precision; clearing says how many there were."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert main(["convert", str(write_tiny(tmp_path / "a.pth")), "--precision", "both"]) == OK
    capsys.readouterr()
    assert main(["templates", "list"]) == OK
    first, *rest = capsys.readouterr().out.splitlines()
    assert "2 kept" in first
    assert [line.split()[0] for line in rest] == ["ready", "ready"]
    assert all("RVC v2, 40000 Hz, f0" in line for line in rest)
    assert main(["templates", "clear"]) == OK
    assert "2 removed" in capsys.readouterr().out
    assert not list((tmp_path / "caches").rglob("*.template"))


def test_templates_that_cannot_be_kept_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`build` that built nothing says why and is no success."""
    (tmp_path / "caches").write_text("a file where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert main(["templates", "build"]) == NOT_DONE
    assert "could not be kept: Not a directory" in capsys.readouterr().err


def test_convert_leaves_foreign_files_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An ONNX of somebody else's beside the file is not overwritten; a result of our own is."""
    voice = write_tiny(tmp_path / "a.pth")
    (tmp_path / "a.onnx").write_bytes(b"precious")
    assert main(["convert", str(voice)]) == NOT_DONE
    assert "already is a a.onnx" in capsys.readouterr().err
    assert (tmp_path / "a.onnx").read_bytes() == b"precious"
    assert main(["convert", str(voice), "--out", str(tmp_path / "out")]) == OK
    assert main(["convert", str(voice), "--out", str(tmp_path / "out"), "--precision", "fp16"]) == OK
    assert json.loads((tmp_path / "out/a.json").read_text())["onnx"][0]["precision"] == "fp16"


def test_convert_takes_recipes_from_a_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A recipe by name; one that does not exist is a mistake that lists those that do."""
    voice = write_tiny(tmp_path / "a.pth")
    config = tmp_path / "c.yaml"
    config.write_text("recipes: {modern: {opset: 18}}\n")
    assert main(["convert", str(voice), "--config", str(config), "--recipe", "modern"]) == OK
    assert onnx.load(tmp_path / "a.onnx").opset_import[0].version == 18
    assert main(["convert", str(voice), "--config", str(config), "--recipe", "odd"]) == NOT_DONE
    assert capsys.readouterr().err == "There is no recipe odd, only default, modern.\n"
    assert main(["convert", str(voice), "--recipe", "odd"]) == NOT_DONE
    assert "odd, only default, fp16, both; those of your configuration with --config" in capsys.readouterr().err


def test_inspect_says_what_a_file_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For people as lines, for programs as JSON."""
    voice = write_tiny(tmp_path / "a.pth", version="v1", f0=False)
    assert main(["inspect", str(voice)]) == OK
    assert "sample rate" in capsys.readouterr().out
    assert main(["inspect", str(voice), "--json"]) == OK
    model = json.loads(capsys.readouterr().out)["model"]
    assert (model["family"], model["version"], model["f0"], model["speakers"]) == ("rvc", "v1", False, 2)


def test_inspect_refuses_with_code_and_hint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that wants to run code is named as such, and nothing of it is run."""

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path}/harm",)

    torch.save({"weight": Evil()}, tmp_path / "a.pth")
    assert main(["inspect", str(tmp_path / "a.pth"), "--json"]) == NOT_DONE
    assert json.loads(capsys.readouterr().out)["code"] == "unsafe-pickle"
    assert not (tmp_path / "harm").exists()
    assert main(["inspect", str(tmp_path / "absent.pth")]) == NOT_DONE


def test_sample_writes_a_voice_that_inspect_knows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A newcomer without a voice can try everything."""
    assert main(["sample", str(tmp_path / "new folder")]) == OK
    assert main(["inspect", str(tmp_path / "new folder/sample.pth"), "--json"]) == OK
    told = capsys.readouterr().out
    model = json.loads(told[told.index("{") :])["model"]
    assert (model["version"], model["sample_rate"], model["f0"]) == ("v2", 40000, True)


def test_status_lists_every_file(kiln: Kiln, capsys: pytest.CaptureFixture[str]) -> None:
    """State, reason and what is known, for people and for programs."""
    assert command(kiln, "status") == OK
    told = capsys.readouterr().out
    assert "does not run" in told
    assert "good.pth" in told
    assert "refused" in told
    assert command(kiln, "status", "--json") == OK
    files = {row["file"]: row for row in json.loads(capsys.readouterr().out)["files"]}
    assert (files["half.pth"]["state"], files["half.pth"]["code"]) == ("refused", "damaged")


@pytest.mark.requirement(18)
def test_health_is_an_exit_status_with_a_reason(kiln: Kiln, capsys: pytest.CaptureFixture[str]) -> None:
    """For a monitor: nothing runs; all is well; a share is away; it is back."""
    assert command(kiln, "health") == NOT_DONE
    assert "does not run" in capsys.readouterr().out
    with only_daemon(kiln.settings.state):
        assert command(kiln, "health") == OK
        kiln.inbox.rename(kiln.at / "away")
        kiln.run(30)
        assert command(kiln, "health") == NOT_DONE
        assert "inbox away" in capsys.readouterr().out
        (kiln.at / "away").rename(kiln.inbox)
        kiln.run(30)
        assert command(kiln, "health") == OK


@pytest.mark.requirement(18)
def test_retry_and_forget(kiln: Kiln, capsys: pytest.CaptureFixture[str]) -> None:
    """Names as status shows them; an unknown one is told and spoils only the status."""
    assert command(kiln, "retry", "half.pth", "unknown.pth") == NOT_DONE
    assert "unknown.pth: not known" in capsys.readouterr().err
    assert kiln.voice("half.pth").state is State.SETTLING
    assert command(kiln, "forget", "good.pth") == OK
    assert [voice.relpath.name for voice in kiln.ledger.voices()] == ["half.pth"]
    assert (kiln.outbox / "good.onnx").exists()


def eight_days_on(kiln: Kiln, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a command find what the daemon left that went on for so long."""
    kiln.ledger.pass_time(kiln.mono + 8 * DAY, kiln.wall + 8 * DAY)
    monkeypatch.setattr("voicekiln.loop.time.time", lambda: kiln.wall + 8 * DAY)


def test_a_dry_sweep_only_tells(
    kiln: Kiln, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would go is listed with its age; without --dry-run it goes."""
    (kiln.at / "config.yaml").write_text("sweep: {max_share: 100%}\n")
    kiln.service.stop()
    eight_days_on(kiln, monkeypatch)
    assert command(kiln, "sweep", "--dry-run") == OK
    told = capsys.readouterr().out
    assert "would remove outbox/good.onnx (results, 8.0d old)" in told
    assert "half.pth" not in told
    assert (kiln.outbox / "good.onnx").exists()
    assert command(kiln, "sweep") == OK
    assert not (kiln.outbox / "good.onnx").exists()
    assert not (kiln.inbox / "good.pth").exists()
    assert (kiln.inbox / "half.pth").exists()
    assert command(kiln, "sweep") == OK
    assert "Nothing is due for removal" in capsys.readouterr().out


def test_nothing_is_swept_under_another_daemons_hands(
    kiln: Kiln, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outbox is another host's now; what this ledger says of it is old."""
    (kiln.at / "config.yaml").write_text("sweep: {max_share: 100%}\n")
    kiln.service.stop()
    eight_days_on(kiln, monkeypatch)
    (kiln.outbox / MARKER).write_text(json.dumps(asdict(Marker("x", "0123abcd", "elsewhere", 7))))
    assert command(kiln, "sweep") == NOT_DONE
    assert "voicekiln on elsewhere works on the outbox" in capsys.readouterr().err
    assert (kiln.outbox / "good.onnx").exists()


def test_a_sweep_leaves_sources_in_synced_folders(
    kiln: Kiln, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removing there would remove on the person's own computer."""
    (kiln.inbox / ".stfolder").mkdir()
    eight_days_on(kiln, monkeypatch)
    command(kiln, "sweep", "--dry-run")
    assert "good.pth" not in capsys.readouterr().out


def test_check_says_what_was_understood(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Folders, file systems, how it watches, recipes, device and providers."""
    (tmp_path / "config.yaml").write_text("settle: {quiet: 9s}\nworker: {device: cpu}\n")
    assert main(["check", "--config", str(tmp_path / "config.yaml")]) == OK
    told = capsys.readouterr().out
    for word in ("inbox", "by events", "recipe  fp16", "sweep   every 6h", "CPUExecutionProvider", "torch 2.13"):
        assert word in told


def test_all_mistakes_of_a_configuration_are_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 78 and a line for each, with its dotted key."""
    (tmp_path / "config.yaml").write_text("settle: {quite: 9s}\nsweep: {every: soon}\n")
    assert main(["run", "--config", str(tmp_path / "config.yaml")]) == BAD_CONFIG
    told = capsys.readouterr().err
    assert "settle.quite" in told
    assert "quiet" in told
    assert "sweep.every" in told


def test_a_configuration_that_is_not_there_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With its path once and how to name another; one that cannot be read says its path once, too."""
    path = tmp_path / "gone.yaml"
    assert main(["status", "--config", str(path)]) == BAD_CONFIG
    assert capsys.readouterr().err == f"There is no configuration {path}; name yours with --config FILE.\n"
    path.write_text("a: [")
    assert main(["status", "--config", str(path)]) == BAD_CONFIG
    assert capsys.readouterr().err.count(str(path)) == 1


def test_inspect_looks_beside_the_file_that_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where both are links into some cache, in which they have other names."""
    cache, names = tmp_path / "cache", tmp_path / "names"
    for folder in (cache, names):
        folder.mkdir()
    write_sovits(cache / "1").with_name("config.json").rename(cache / "2")
    for name, of in (("G_1000.pth", "1"), ("config.json", "2"), ("G_1000.json", "nowhere")):
        (names / name).symlink_to(cache / of)
    assert main(["inspect", "--json", str(names / "G_1000.pth")]) == OK
    assert json.loads(capsys.readouterr().out)["model"]["companions"] == ["config.json"]


def test_without_a_ledger_there_is_nothing_to_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`status` before the first `run` says so, and makes nothing."""
    (tmp_path / "config.yaml").touch()
    assert main(["status", "--config", str(tmp_path / "config.yaml")]) == BAD_CONFIG
    assert "has never run" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_command_that_is_told_to_end_leaves_no_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has copied may be gigabytes; SIGTERM, as at a logout, clears it away, and then means what it meant."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = signal.getsignal(signal.SIGTERM)
    desk = Desk(Settings.in_folder(tmp_path), tmp_path / "templates")
    assert list(tmp_path.glob("voicekiln-*"))
    with pytest.raises(SystemExit, match="143"), desk:
        os.kill(os.getpid(), signal.SIGTERM)
    assert list(tmp_path.glob("voicekiln-*")) == []
    assert signal.getsignal(signal.SIGTERM) is before
