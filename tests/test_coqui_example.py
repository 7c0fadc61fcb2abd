"""A folder with YourTTS and its speaker encoder, through the running daemon: `examples/coqui_vits.py` reads a text."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
import wave
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import reference_voices
from running import Daemon

FILES = {"model_file.pth": "coqui-yourtts", "model_se.pth": "coqui-speaker-encoder"}
LANGUAGES = {"en": 0, "fr-fr": 1, "pt-br": 2}
NAMES = ("female-en-5", "female-en-5\n", "male-en-2")
"""Two of them differ in what nobody sees, as the released ones do."""
EXAMPLE = Path(__file__).parents[1] / "examples/coqui_vits.py"


def vectors() -> dict[str, dict[str, Any]]:
    """Return what stands in speakers.json: a clip of each, in the order of their names."""
    drawn = np.random.default_rng(7).standard_normal((len(NAMES), 512)).round(4)
    return {
        f"{name}/{number}.wav": {"name": name, "embedding": vector.tolist()}
        for number, (name, vector) in enumerate(zip(NAMES, drawn, strict=True))
    }


@pytest.fixture(scope="module")
def outbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Drop all of it at once, wait, and return the folder in the outbox."""
    made = tmp_path_factory.mktemp("made")
    with Daemon(tmp_path_factory.mktemp("daemon")) as daemon:
        daemon.until(daemon.inbox.is_dir)
        for name, reference in FILES.items():
            torch.save(reference_voices.checkpoint(reference), made / name)
        (made / "speakers.json").write_text(json.dumps(vectors()))
        (made / "language_ids.json").write_text(json.dumps(LANGUAGES))
        for path in sorted(made.iterdir(), reverse=True):
            daemon.drop(path, f"anna/{path.name}")
        for name in FILES:
            daemon.until_there(f"anna/{Path(name).stem}.json")
        daemon.until_there("anna/bundle.json")
        yield daemon.outbox / "anna"


def feed(outbox: Path) -> dict[str, Any]:
    """Return what the voice's sidecar says on how to feed it."""
    told: dict[str, Any] = json.loads((outbox / "model_file.json").read_text())["feed"]
    return told


def started(outbox: Path, out: Path, *told: str | Path) -> subprocess.CompletedProcess[str]:
    """Let the example read in a program that can load neither torch nor anything of ours."""
    forbidden = "import sys; sys.modules['torch'] = sys.modules['voicekiln'] = None; import runpy; "
    code = f"{forbidden}sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    words = [EXAMPLE, outbox / "model_file.json", "Hello, you.", "--out", out, *told]
    return subprocess.run(
        [sys.executable, "-c", code, *words], check=False, capture_output=True, text=True, timeout=300
    )


def read(outbox: Path, out: Path, *told: str | Path) -> tuple[int, np.ndarray]:
    """Return the rate and the samples of what it reads."""
    started(outbox, out, *told).check_returncode()
    with wave.open(str(out)) as file:
        return file.getframerate(), np.frombuffer(file.readframes(file.getnframes()), "<i2")


def of_the_example(name: str) -> Callable[..., Any]:
    """Return a function of the example."""
    found: Callable[..., Any] = runpy.run_path(str(EXAMPLE))[name]
    return found


@pytest.mark.parametrize(("text", "number"), [("Hello, you.", 0), ("Ça va? Não,  obrigado!\n", 1)])
def test_the_sidecar_is_enough_to_find_the_tokens_of_a_text(outbox: Path, text: str, number: int) -> None:
    """They are those of Coqui's own tokenizer, the doubled comma among them."""
    wanted = reference_voices.arrays("coqui-yourtts")[number]["tokens"]
    assert np.array_equal(of_the_example("tokens")(text, feed(outbox)), wanted)


def test_symbols_that_cannot_be_shown_are_read_too(capsys: pytest.CaptureFixture[str]) -> None:
    """They stand in a table of their own; what no table has is left out, and that is said."""
    told: dict[str, Any] = {
        "tokens": {"a": 1, "b": 2},
        "tokens_by_code_point": {"200d": 3},
        "blank": 9,
        "add_blank": False,
        "cleaner": "basic_cleaners",
        "use_phonemes": False,
    }
    tokens = of_the_example("tokens")
    assert tokens("A\u200dxb", told).tolist() == [[1, 3, 2]]
    assert capsys.readouterr().err == "left out, as the voice does not know them: x\n"
    assert tokens("ab", told | {"add_blank": True}).tolist() == [[9, 1, 9, 2, 9]]
    assert tokens("ab", told | {"add_blank": True, "use_eos_bos": True, "bos": 7, "eos": 8}).tolist() == [
        [7, 9, 1, 9, 2, 9, 8]
    ]
    with pytest.raises(SystemExit, match="nothing in this text"):
        tokens("AB", told | {"cleaner": "no_cleaners"})


@pytest.mark.parametrize(
    ("told", "number"),
    [
        ({"cleaner": "multilingual_cleaners", "use_phonemes": False}, 1),
        ({"cleaner": "english_cleaners", "use_phonemes": False}, 1),
        ({"cleaner": "english_cleaners2"}, 2),
        ({"cleaner": "chinese_mandarin_cleaners", "use_phonemes": False}, 2),
        ({"cleaner": "multilingual_phoneme_cleaners"}, 2),
        ({"cleaner": "english_cleaners", "use_phonemes": True}, 2),
        ({}, 2),
    ],
)
def test_capital_letters_become_small_where_the_cleaner_makes_them_so(told: dict[str, Any], number: int) -> None:
    """Not those of a voice without a cleaner, nor phonemes, of which a capital is another one."""
    assert of_the_example("tokens")("A", {"tokens": {"a": 1, "A": 2}} | told).tolist() == [[number]]


def test_a_beginning_and_an_end_that_are_no_symbols_are_left_out() -> None:
    """A config may ask for both and name neither."""
    assert of_the_example("tokens")("a", {"tokens": {"a": 1}, "use_eos_bos": True}).tolist() == [[1]]


def test_speakers_are_found_by_what_they_are_called(outbox: Path) -> None:
    """Of two that look the same the first is meant, and the other one has its name written out."""
    speakers, chosen = feed(outbox)["speakers"], of_the_example("chosen")
    names = (None, "female-en-5", "female-en-5\\n", "male-en-2", "1")
    assert [chosen(speakers, 3, name, "speaker") for name in names] == [0, 0, 1, 2, 1]


@pytest.mark.parametrize("name", ["nobody", "3"])
def test_whom_there_is_instead_is_said(outbox: Path, name: str) -> None:
    """In the order of the rows, whose numbers tell those apart who look the same."""
    speakers, chosen = feed(outbox)["speakers"], of_the_example("chosen")
    with pytest.raises(SystemExit) as said:
        chosen(speakers, 3, name, "speaker")
    there = "0 female-en-5, 1 female-en-5, 2 male-en-2"
    assert str(said.value) == f"there is no speaker {name} among 3, counted from 0: {there}"


def test_speakers_whom_nobody_names_are_numbers() -> None:
    """There are as many as the sidecar says, and a voice of which some have names takes the others' numbers, too."""
    chosen = of_the_example("chosen")
    assert [chosen([], 5, name, "speaker") for name in (None, "0", "4")] == [0, 0, 4]
    assert chosen([{"id": 3, "name": "p225"}], 5, "4", "speaker") == 4
    for count, name in ((5, "5"), (0, "0")):
        with pytest.raises(SystemExit, match=f"no speaker {name} among {count}, counted from 0: nobody names them"):
            chosen([], count, name, "speaker")
    assert chosen([], 0, None, "speaker") == 0


def test_the_clip_of_somebody_becomes_the_d_vector_that_coqui_finds(outbox: Path, tmp_path: Path) -> None:
    """A long one, one of a single window, and one that is shorter than a window."""
    with np.load(reference_voices.FOLDER / "coqui-speaker-encoder.npz") as arrays:
        for number in range(3):
            clip = tmp_path / f"{number}.wav"
            save(clip, arrays[f"{number}.waveform"])
            as_it_is = 10 * np.log10(np.mean((arrays[f"{number}.waveform"] * 32768).astype("<i2").astype(float) ** 2))
            heard = partial(of_the_example("heard"), clip, outbox / "model_se.speaker_encoder.onnx")
            got = heard(as_it_is - 20 * np.log10(32768))
            assert np.abs(got - arrays[f"{number}.d_vector_mean"]).max() <= 1e-5


def test_a_soft_clip_is_the_same_person(outbox: Path, tmp_path: Path) -> None:
    """Coqui makes clips equally loud first; the encoder alone would hear somebody else."""
    with np.load(reference_voices.FOLDER / "coqui-speaker-encoder.npz") as arrays:
        sound = arrays["1.waveform"]
    encoder, vectors = outbox / "model_se.speaker_encoder.onnx", []
    for gain in (1.0, 0.1):
        save(tmp_path / "clip.wav", gain * sound / np.abs(sound).max() * 0.9)
        vectors.append(of_the_example("heard")(tmp_path / "clip.wav", encoder))
    assert np.abs(vectors[0] - vectors[1]).max() <= 5e-3
    softly = of_the_example("heard")(tmp_path / "clip.wav", encoder, -75.0)
    assert np.abs(vectors[0] - softly).max() > 1e-2


def save(path: Path, waveform: np.ndarray, rate: int = 16000) -> None:
    """Write 16 bits."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((waveform.ravel() * 32768).astype("<i2").tobytes())


def test_the_example_reads(outbox: Path, tmp_path: Path) -> None:
    """A person's WAV file comes out, the same for the same seed; speaker, language and speed are heard."""
    told = feed(outbox)
    rate, first = read(outbox, tmp_path / "a.wav")
    assert (rate, first.size % told["hop"]) == (16000, 0)
    assert 100 < np.abs(first).max() < 32768
    assert np.array_equal(first, read(outbox, tmp_path / "b.wav", "--speaker", "female-en-5", "--language", "en")[1])
    others = (("--speaker", "male-en-2"), ("--language", "pt-br"), ("--seed", "1"), ("--speed", "0.5"))
    sounds = [read(outbox, tmp_path / "c.wav", *other)[1] for other in others]
    assert all(not np.array_equal(first, sound) for sound in sounds)
    assert sounds[-1].size > 1.5 * first.size


def test_the_example_reads_as_somebody_in_a_clip(outbox: Path, tmp_path: Path) -> None:
    """All three networks one after the other."""
    with np.load(reference_voices.FOLDER / "coqui-speaker-encoder.npz") as arrays:
        save(tmp_path / "clip.wav", arrays["1.waveform"])
    hears = ("--clip", tmp_path / "clip.wav", "--speaker-encoder", outbox / "model_se.speaker_encoder.onnx")
    rate, samples = read(outbox, tmp_path / "a.wav", *hears)
    assert rate == 16000
    assert 100 < np.abs(samples).max() < 32768
    assert not np.array_equal(samples, read(outbox, tmp_path / "b.wav")[1])


def test_mistakes_are_told_in_a_sentence(outbox: Path, tmp_path: Path) -> None:
    """Whatever was asked for that is not there, or does not do, ends the program with status 1, and without a trace."""
    clips = {"short.wav": (100, 16000), "fast.wav": (9000, 22050), "good.wav": (9000, 16000)}
    for name, (count, rate) in clips.items():
        save(tmp_path / name, np.zeros(count), rate)
    (tmp_path / "text.wav").write_text("no sound")
    hears = outbox / "model_se.speaker_encoder.onnx"
    mistakes: list[tuple[str, ...]] = [
        ("--speaker", "7"),
        ("--speaker", "nobody"),
        ("--language", "9"),
        ("--language", "nowhere"),
    ]
    for name in (*clips, "text.wav", "gone.wav"):
        encoder = outbox / "gone.onnx" if name == "good.wav" else hears
        mistakes.append(("--clip", str(tmp_path / name), "--speaker-encoder", str(encoder)))
    for mistake in mistakes:
        ended = started(outbox, tmp_path / "a.wav", *mistake)
        assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1), ended.stderr
        assert not (tmp_path / "a.wav").exists()


def test_one_file_says_how_the_parts_plug_together(outbox: Path) -> None:
    """It names files that are there, and the rule by which durations are counted."""
    body = json.loads((outbox / "bundle.json").read_text())
    assert [step["step"] for step in body["chain"]] == ["speaker_encoder", "encoder", "decoder"]
    took = body["chain"][2]["inputs"]
    assert took["durations"]["from"] == "encoder.w"
    assert took["durations"]["rule"] == "min(ceil(w * length_scale), 1000)"
    assert took["d_vector"]["from"] == body["chain"][1]["inputs"]["d_vector"]["from"] == "speaker_encoder.d_vector"
    assert (body["disagreements"], body["sample_rate"], body["hop"]) == ([], 16000, 256)
    named = {name for name in json.dumps(body).split('"') if name.endswith((".onnx", ".npy"))}
    assert all((outbox / name).is_file() for name in named)


def test_the_example_is_short() -> None:
    """Whoever reads it wants to see the way, not a program."""
    assert len(EXAMPLE.read_text().splitlines()) < 150
