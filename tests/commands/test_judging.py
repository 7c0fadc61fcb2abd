"""The commands verify and listen, as a person types them; the worker behind them is the real one, in its cage."""

from __future__ import annotations

import errno
import json
import os
import sys
import wave
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
import pytest
import torch

from foreign_exports import changed, export, voice
from tiny_voices import write_tiny
from voicekiln import oneoff
from voicekiln.cli import NOT_DONE, OK, main
from voicekiln.commands import judging
from voicekiln.commands.judging import drawing
from voicekiln.folders.names import temp_name


@pytest.fixture(autouse=True)
def _caches_of_this_test_alone(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what commands without a configuration keep away from the user's own folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("caches")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a voice, its right export, and features and f0 to say."""
    write_tiny(tmp_path / "v.pth")
    (tmp_path / "right.onnx").write_bytes(export(voice()).SerializeToString())
    np.save(tmp_path / "f.npy", np.random.default_rng(0).standard_normal((30, 768), dtype=np.float32))
    np.save(tmp_path / "g.npy", np.full(60, 220.0, np.float32))
    return tmp_path


def verify(folder: Path, name: str, *words: str) -> int:
    return main(["verify", str(folder / name), "--against", str(folder / "v.pth"), *words])


def listen(folder: Path, *words: str, name: str = "right.onnx") -> int:
    given = ["--features", str(folder / "f.npy"), "--f0", str(folder / "g.npy"), "-o", str(folder / "out.wav")]
    return main(["listen", str(folder / name), *given, *words])


def quieter(folder: Path) -> None:
    """Lay a faulty file into the folder."""

    def fault(net: object) -> None:
        decoder = net.dec  # type: ignore[attr-defined]
        real = decoder.forward
        decoder.forward = lambda *given: 0.5 * real(*given)

    (folder / "quieter.onnx").write_bytes(export(voice(), network=changed(voice(), fault)).SerializeToString())


def test_a_faithful_file_is_told_with_its_figures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each length, one that sums up, exit status 0; no drawing where nobody watches."""
    assert verify(folder, "right.onnx") == OK
    told = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[1] for line in told if line.endswith(" ...")][1:] == [
        "verify 1 of 2 ...",
        "verify 2 of 2 ...",
    ]
    rows = [line.split() for line in told if line.endswith("faithful")]
    assert [row[:3] for row in rows] == [["40", "0.40", "0"], ["97", "0.97", "1"]]
    assert told[-1].startswith("Faithful: ")
    assert "RVC-WebUI" in "\n".join(told)
    assert "█" not in "\n".join(told)


def test_a_faulty_file_is_told_with_what_is_wrong(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For people with the evidence, for programs as JSON and nothing else; exit status 1."""
    quieter(folder)
    assert verify(folder, "quieter.onnx") == NOT_DONE
    told = capsys.readouterr().out
    assert "Not faithful" in told
    assert "- Its output is multiplied by 0.5." in told
    assert told.count("Its output is multiplied") == 1
    stages = [line.split(": ")[1] for line in told.splitlines() if line.endswith(" ...")]
    assert stages == ["load ...", "verify 1 of 2 ...", "verify 2 of 2 ...", "find out why ..."]
    assert "Measured: with that undone it agrees at" in told
    assert verify(folder, "quieter.onnx", "--json") == NOT_DONE
    found = json.loads(capsys.readouterr().out)
    assert found["faithful"] is False
    assert [finding["code"] for finding in found["findings"]] == ["scaled"]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("junk.onnx", b"<html>404</html>", "no ONNX file"),
        ("empty.onnx", b"", "0 bytes"),
        ("gone.onnx", None, "No such"),
    ],
)
def test_what_is_no_onnx_file_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, data: bytes | None, words: str
) -> None:
    """A person's slip is answered in words."""
    if data is not None:
        (folder / name).write_bytes(data)
    assert verify(folder, name) == NOT_DONE
    assert words in capsys.readouterr().err
    assert listen(folder, name=name) == NOT_DONE
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("legacy", [False, True])
def test_a_checkpoint_where_the_onnx_belongs_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str], *, legacy: bool
) -> None:
    """With the order of the two, in either format of PyTorch's."""
    torch.save({"weight": {}}, folder / "swapped.pth", _use_new_zipfile_serialization=not legacy)
    for ask in (partial(verify, folder, "swapped.pth"), partial(listen, folder, name="swapped.pth")):
        assert ask() == NOT_DONE
        told = capsys.readouterr().err
        assert "This is a PyTorch checkpoint" in told
        assert "verify MODEL.onnx --against VOICE.pth" in told


def test_known_inputs_are_lines(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One for each client, indented, where those of the file are unknown."""
    right = onnx.load_model(folder / "right.onnx")
    for node in right.graph.node:
        node.input[:] = ["mel" if name == "rnd" else name for name in node.input]
    right.graph.input[-1].name = "mel"
    del right.graph.input[0]
    (folder / "odd.onnx").write_bytes(right.SerializeToString())
    assert verify(folder, "odd.onnx") == NOT_DONE
    lines = capsys.readouterr().err.splitlines()
    assert "    w-okada: feats, p_len, pitch, pitchf, sid" in lines


def test_a_checkpoint_that_is_refused_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With its own message and hint, also as JSON."""
    (folder / "v.pth").write_text("<html>404</html>")
    assert verify(folder, "right.onnx") == NOT_DONE
    assert "web page" in capsys.readouterr().err
    assert verify(folder, "right.onnx", "--json") == NOT_DONE
    assert "web page" in json.loads(capsys.readouterr().out)["trouble"]


def test_a_drawing_is_made_where_somebody_watches(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below the judgement."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert verify(folder, "right.onnx") == OK
    told = capsys.readouterr().out
    assert told.index("Faithful") < told.index("Level in dB over 0.97 s")
    assert told.count("│") == 8


def test_the_drawing_shows_sound_above_error() -> None:
    """Twenty decibels a line, half a line is half a block; what is not finite is a question mark."""
    levels = {"seconds": 1.0, "signal_db": [0, -15, -25, None], "error_db": [-200, -125, -5, -3]}
    lines = list(drawing(levels))
    assert len(lines) == 9
    assert lines[1] == "   -20 │█▄▒?"
    assert lines[2] == "   -40 │██▒?"
    assert [line[-3] for line in lines[6:8]] == ["█", "▒"]


def test_a_voice_speaks_into_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The stages are told, then what came out; an older file is replaced and nothing is left beside it."""
    (folder / "out.wav").write_bytes(b"older")
    (folder / "played.wav").hardlink_to(folder / "out.wav")
    before = set(folder.iterdir())
    assert listen(folder, "--rate", "40000", "--speaker", "1", "--seed", "3") == OK
    told = capsys.readouterr().out
    assert "right.onnx: speak 1 of 1 ..." in told
    assert "out.wav: 0.6 s at 40000 Hz" in told
    assert "used twice" in told
    with wave.open(str(folder / "out.wav")) as file:
        assert file.getparams()[:4] == (1, 2, 40_000, 24_000)
        assert np.frombuffer(file.readframes(24_000), "<i2").std() > 100
    assert set(folder.iterdir()) == before
    assert (folder / "played.wav").read_bytes() == b"older"  # it was replaced, not written into


def test_a_full_disk_leaves_the_older_file(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it fills up in the midst of writing."""
    (folder / "out.wav").write_bytes(b"older")
    before = set(folder.iterdir())

    def half(source: BinaryIO, file: BinaryIO) -> None:
        file.write(source.read(100))
        raise OSError(errno.ENOSPC, "No space left on device", "out.wav")

    monkeypatch.setattr(oneoff.shutil, "copyfileobj", half)  # type: ignore[attr-defined]
    assert listen(folder, "--rate", "40000") == NOT_DONE
    assert "No space left" in capsys.readouterr().err
    assert (folder / "out.wav").read_bytes() == b"older"
    assert set(folder.iterdir()) == before


def test_what_cannot_be_said_leaves_the_older_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is half written."""
    (folder / "out.wav").write_bytes(b"older")
    before = set(folder.iterdir())
    assert listen(folder) == NOT_DONE
    told = capsys.readouterr().err
    assert "does not say its sample rate" in told
    assert "--rate" in told
    assert (folder / "out.wav").read_bytes() == b"older"
    assert set(folder.iterdir()) == before


def test_a_place_that_cannot_be_written_to_is_told_before_the_work(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder, or one that is not there."""
    (folder / "out.wav").mkdir()
    assert listen(folder, "--rate", "40000") == NOT_DONE
    told = capsys.readouterr()
    assert "cannot be written" in told.err
    assert told.out == ""


@pytest.mark.parametrize("name", ["right.onnx", "f.npy", "./g.npy"])
def test_what_is_read_is_not_written_over(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """A slip that would cost the voice, or what it was to say."""
    before = (folder / name).read_bytes()
    assert listen(folder, "--rate", "40000", "-o", f"{folder}/{name}") == NOT_DONE
    assert "would be lost" in capsys.readouterr().err
    assert (folder / name).read_bytes() == before


def test_nobodys_link_is_written_through(folder: Path) -> None:
    """Whoever else may write into the folder cannot lead the sound over a file of the person's."""
    (folder / "kept.txt").write_text("kept")
    (folder / temp_name("out.wav", oneoff._JOB)).symlink_to(folder / "kept.txt")
    assert listen(folder, "--rate", "40000") == OK
    assert (folder / "kept.txt").read_text() == "kept"
    assert (folder / "out.wav").read_bytes()[:4] == b"RIFF"


def test_a_pipe_beside_a_voice_is_not_waited_for(tmp_path: Path) -> None:
    """It is no sidecar."""
    os.mkfifo(tmp_path / "a.json")
    assert judging._rate_beside(tmp_path / "a.onnx") is None


def sidecar(name: str, rate: object) -> str:
    return json.dumps({"feed": {"sample_rate": rate}, "onnx": [{"name": name}]})


@pytest.mark.parametrize(
    ("model", "beside", "text", "rate"),
    [
        ("a.onnx", "a.json", sidecar("a.onnx", 48_000), 48_000),
        ("a.fp16.onnx", "a.json", sidecar("a.fp16.onnx", 32_000), 32_000),
        ("a.w-okada.fp16.onnx", "a.json", sidecar("a.w-okada.fp16.onnx", 32_000), 32_000),
        ("a.onnx", "a.json", sidecar("b.onnx", 48_000), None),
        ("a.onnx", "a.json", sidecar("a.onnx", "48k"), None),
        ("a.onnx", "a.json", sidecar("a.onnx", True), None),  # noqa: FBT003 - JSON
        ("a.onnx", "a.json", "[" * 100_000, None),
        ("a.onnx", "a.json", "{}", None),
        ("a.onnx", "b.json", sidecar("a.onnx", 48_000), None),
    ],
)
def test_a_sidecar_tells_the_rate_of_its_own_file_only(
    tmp_path: Path, model: str, beside: str, text: str, rate: int | None
) -> None:
    """Whatever else lies there says nothing."""
    (tmp_path / beside).write_text(text)
    assert judging._rate_beside(tmp_path / model) == rate


@pytest.mark.parametrize(
    "words", [["--rate", "0"], ["--rate", "fast"], ["--speaker", "-1"], ["--seed", "9999999999"], ["--seed", "²"]]
)
def test_numbers_that_cannot_be_are_slips_of_the_pen(
    folder: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Told by the parser, before anything is started."""
    with pytest.raises(SystemExit) as ended:
        listen(folder, *words)
    assert ended.value.code == 2
    assert words[0] in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_listen_replaces_plain_files_only(folder: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    """A device under the name, /dev/null above all, would be lost for the whole machine."""
    out = folder / "out.wav"
    if kind == "link":
        out.symlink_to(folder / "elsewhere.wav")
    else:
        os.mkfifo(out)
    before = out.lstat()
    assert listen(folder) == NOT_DONE
    assert "name a plain file" in capsys.readouterr().err
    assert (out.lstat().st_ino, out.lstat().st_mode) == (before.st_ino, before.st_mode)
