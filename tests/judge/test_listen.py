"""A voice made to speak: what comes out is the voice, long or short, and what cannot be said is told in words."""

from __future__ import annotations

import wave
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from foreign_exports import FORKED, RVC, VIETNAMESE, W_OKADA, changed, export, voice
from voicekiln.families.rvc_feed import coarse, glide
from voicekiln.job import Speech
from voicekiln.judge import listen as module
from voicekiln.judge.client import Said
from voicekiln.judge.face import UnfitError
from voicekiln.judge.listen import listen
from voicekiln.nets.rvc import RND_SCALE

RATE = 40_000


@pytest.fixture
def speech(tmp_path: Path) -> Speech:
    """Return a wish with a right file, features and f0 of 60 frames."""
    keep(tmp_path / "m.onnx", export(voice()))
    np.save(tmp_path / "f.npy", features(60))
    np.save(tmp_path / "g.npy", glide(60))
    return Speech(tmp_path / "m.onnx", tmp_path / "f.npy", tmp_path / "g.npy", tmp_path / "o.wav", 0, 0, RATE, None)


def keep(path: Path, model: onnx.ModelProto) -> None:
    path.write_bytes(model.SerializeToString())


def features(frames: int) -> NDArray[np.float32]:
    return np.random.default_rng(frames).standard_normal((frames, 768), dtype=np.float32)


def heard(speech: Speech) -> tuple[NDArray[np.float64], dict[str, Any], tuple[str, ...]]:
    """Return the sound in the WAV file, the facts and the notes."""
    facts, notes = listen(speech, lambda *_: None)
    with wave.open(str(speech.target)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        assert file.getframerate() == facts["sample_rate"]
        numbers = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    assert len(numbers) == facts["samples"]
    return numbers / 32767, facts, notes


def original(f: NDArray[np.float32], g: NDArray[np.float32], speaker: int = 0, seed: int = 0) -> NDArray[np.float32]:
    """Return what the voice says, its source without noise."""
    noise = np.random.default_rng(seed).standard_normal((voice().settings.channels, len(f)), dtype=np.float32)
    return voice().say(Said(f, g, coarse(g), noise * np.float32(RND_SCALE), speaker))


def hushed(names: tuple[str, ...] = RVC) -> onnx.ModelProto:
    """Return a file whose source draws no noise, so that its sound can be told beforehand."""

    def hush(net: Any) -> None:
        net.dec.m_source.l_sin_gen.noise.forward = lambda like: like * 0

    return export(voice(), names, network=changed(voice(), hush), scale=0.0)


def test_what_is_heard_is_the_voice(speech: Speech) -> None:
    """The very samples, but for what 16 bits round: speaker, pitch and scaled noise are fed as they should."""
    keep(speech.model, hushed())
    for speaker, seed in ((0, 0), (1, 7)):
        audio, facts, notes = heard(replace(speech, speaker=speaker, seed=seed))
        wanted = original(features(60), glide(60), speaker, seed)
        assert np.max(np.abs(audio - wanted)) < 2 / 32767
        assert (facts["seconds"], facts["pieces"], notes) == (0.6, 1, ())
        assert facts["peak"] == pytest.approx(np.max(np.abs(wanted)), abs=1e-3)


@pytest.mark.parametrize("names", [RVC, W_OKADA, FORKED, VIETNAMESE])
@pytest.mark.parametrize("speaker", [2, 500, -1])
def test_a_speaker_that_there_is_not_is_told(speech: Speech, names: tuple[str, ...], speaker: int) -> None:
    """With those that there are, whatever the exporter does to the number first; the last of them speaks."""
    keep(speech.model, export(voice(), names, rank=1))
    with pytest.raises(UnfitError, match=rf"This voice has the speakers 0 to 1; {speaker} is none of them"):
        heard(replace(speech, speaker=speaker))
    assert heard(replace(speech, speaker=1))[1]["samples"] == 60 * 400


@pytest.mark.parametrize("names", [W_OKADA, FORKED, VIETNAMESE])
def test_any_known_face_can_speak(speech: Speech, names: tuple[str, ...]) -> None:
    """Also one that leaves out frames at the beginning: none are missing in the end."""
    keep(speech.model, export(voice(), names, rank=1))
    audio, facts, _ = heard(speech)
    assert len(audio) == 60 * 400
    assert facts["level_db"] > -40
    assert np.std(audio[:400]) > 0


def test_a_face_that_leaves_out_frames_says_the_same(speech: Speech) -> None:
    """What it is given before the first frame changes little beyond the beginning."""
    keep(speech.model, hushed(W_OKADA))
    plain, _, _ = heard(speech)
    keep(speech.model, hushed(FORKED))
    forked, _, _ = heard(speech)
    assert plain.shape == forked.shape
    later = slice(30 * 400, None)
    assert np.corrcoef(np.abs(plain[later]), np.abs(forked[later]))[0, 1] > 0.2


def test_the_noise_inside_has_the_seed_as_well(speech: Speech) -> None:
    """Two runs with one seed are equal, with another they are not."""
    keep(speech.model, export(voice(), W_OKADA, rank=1))
    first, again, other = (heard(replace(speech, seed=seed))[0] for seed in (5, 5, 6))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_voice_without_f0_needs_none(speech: Speech) -> None:
    """One that is given all the same is left aside, and that is said."""
    keep(speech.model, export(voice(f0=False), [name for name in RVC if not name.startswith("pitch")]))
    audio, _, notes = heard(replace(speech, f0=None))
    assert np.std(audio) > 0
    assert any("100 a second" in note for note in notes)
    assert any("left aside" in note for note in heard(speech)[2])


@pytest.mark.parametrize(
    ("frames", "words"), [(60, ""), (62, "the last were cut off"), (30, "each was used twice"), (29, "used twice")]
)
def test_features_at_half_the_rate_are_used_twice(speech: Speech, frames: int, words: str) -> None:
    """By how long the f0 is; a frame or two more or less are nothing."""
    np.save(speech.features, features(frames)[None])
    audio, _, notes = heard(speech)
    assert len(audio) == min(60, frames if frames >= 60 else 2 * frames) * 400
    assert words in " ".join(notes)


def test_each_feature_is_used_twice_in_a_row(speech: Speech) -> None:
    """Not the whole of them one time after the other."""
    keep(speech.model, hushed())
    np.save(speech.features, features(30))
    audio, _, _ = heard(speech)
    assert np.max(np.abs(audio - original(np.repeat(features(30), 2, axis=0), glide(60)))) < 2 / 32767


@pytest.mark.parametrize("frames", [1, 2])
def test_a_moment_can_be_said(speech: Speech, frames: int) -> None:
    """Nothing is too short."""
    np.save(speech.features, features(frames))
    np.save(speech.f0, np.full(frames, 220.0))  # type: ignore[arg-type]
    assert len(heard(speech)[0]) == frames * 400


@pytest.mark.parametrize("gap", [True, False])
def test_what_is_long_is_said_in_pieces(speech: Speech, gap: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001 - a column
    """Cut where nothing is voiced if it can be; all samples come, each step is told, and the seams fit the whole."""
    monkeypatch.setattr(module, "PIECE", 200)
    monkeypatch.setattr(module, "SEARCHED", 50)
    f, g = features(500), np.full(500, 200.0, np.float32)  # 200 Hz: each frame has whole turns, so that pieces agree
    if gap:
        g[170:180] = g[345:355] = 0
    np.save(speech.features, f)
    np.save(speech.f0, g)  # type: ignore[arg-type]
    keep(speech.model, hushed())
    steps: list[tuple[Any, ...]] = []
    facts, notes = listen(speech, lambda *entered: steps.append(entered))
    count = facts["pieces"]
    assert count == 3
    assert steps == [("load",), *(("verify", at, count) for at in range(1, count + 1))]
    assert f"{count} pieces of up to" in notes[0]
    cuts = [last for _, last in module._cut(Said(f, g, coarse(g), f.T))]
    assert cuts == ([175, 350, 500] if gap else [200, 400, 500])
    with wave.open(str(speech.target)) as file:
        audio = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32767
    whole = original(f, g)
    assert len(audio) == len(whole)
    assert np.mean((audio - whole) ** 2) < 0.05 * np.var(whole)


def test_a_loud_voice_is_clipped_and_counted(speech: Speech) -> None:
    """Instead of turning over."""

    def louder(net: Any) -> None:
        real = net.dec.forward
        net.dec.forward = lambda *given: 3 * real(*given)

    keep(speech.model, export(voice(), network=changed(voice(), louder)))
    audio, facts, _ = heard(speech)
    assert facts["clipped"] > 100
    assert facts["peak"] > 1
    assert np.max(np.abs(audio)) == 1


def test_the_rate_is_the_files_then_the_sidecars(speech: Speech) -> None:
    """What the person says comes before both; one that does not fit what comes out is said."""
    model = export(voice())
    keep(speech.model, model)
    assert heard(replace(speech, rate=None, rate_beside=RATE))[1]["sample_rate"] == RATE
    model.metadata_props.add(key="sample_rate", value="48000")
    keep(speech.model, model)
    _, facts, notes = heard(replace(speech, rate=None, rate_beside=RATE))
    assert facts["sample_rate"] == 48_000
    assert "40000 samples a second, not the 48000" in notes[0]
    assert heard(speech)[1]["sample_rate"] == RATE


def test_a_rate_that_nobody_says_is_asked_for(speech: Speech) -> None:
    """With what it should be."""
    with pytest.raises(UnfitError, match="sample rate") as caught:
        listen(replace(speech, rate=None), lambda *_: None)
    assert "--rate" in caught.value.hint
    assert "40000 Hz" in caught.value.hint
    assert not speech.target.exists()


def bad_number(array: NDArray[Any], value: float) -> NDArray[Any]:
    array = array.copy()
    array[5] = value
    return array


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "NaN in the features": ({"features": bad_number(features(60), np.nan)}, "768 of the numbers in the features"),
    "infinity in the f0": ({"f0": bad_number(glide(60), np.inf)}, "1 of the numbers in the f0"),
    "numbers too large for float32": ({"f0": bad_number(glide(60).astype(np.float64), 1e300)}, "in the f0"),
    "a width of another voice": ({"features": features(60)[:, :256]}, "256 wide, the file takes 768"),
    "three axes": ({"features": np.zeros((2, 60, 768), np.float32)}, "(2, 60, 768)"),
    "complex numbers": ({"features": np.zeros((60, 768), np.complex64)}, "complex64"),
    "nothing": ({"features": np.zeros((0, 768), np.float32)}, "(0, 768)"),
    "a negative f0": ({"f0": -glide(60)}, "in Hz"),
    "another length": ({"f0": glide(90)}, "have 60 frames, the f0 has 90"),
    "Python objects": ({"f0": np.array([{}], dtype=object)}, "Python objects"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_said_is_told(speech: Speech, what: str) -> None:
    """In plain words, and nothing is written."""
    arrays, words = BAD[what]
    for name, array in arrays.items():
        np.save(getattr(speech, name), array, allow_pickle=True)
    with pytest.raises(UnfitError) as caught:
        listen(speech, lambda *_: None)
    assert words in str(caught.value)
    assert not speech.target.exists()


def headed(head: str) -> bytes:
    """Return a `.npy` file with this head and nothing else."""
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text",
        b"\x93NUMPY\x01\x00",
        headed("{" * 118),
        headed("-" * 9000 + "1"),
        headed("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 768)}"),
        headed("{'descr': '<f4', 'fortran_order': False, 'shape': (60, 768)}"),
    ],
    ids=["empty", "text", "cut", "braces", "minus", "huge", "short"],
)
def test_what_is_no_array_is_told(speech: Speech, data: bytes) -> None:
    """Whatever NumPy thinks of it."""
    speech.features.write_bytes(data)
    with pytest.raises(UnfitError, match=r"no \.npy file"):
        listen(speech, lambda *_: None)


def test_a_missing_f0_is_asked_for(speech: Speech) -> None:
    """Where the file takes one."""
    with pytest.raises(UnfitError, match="takes a pitch") as caught:
        listen(replace(speech, f0=None), lambda *_: None)
    assert "--f0" in caught.value.hint


def test_a_file_that_stops_or_gives_nonsense_is_told(speech: Speech) -> None:
    """A frozen length, numbers that are none."""
    keep(speech.model, export(voice(), fixed=True))
    with pytest.raises(UnfitError, match="does not run on 60 frames"):
        listen(speech, lambda *_: None)

    def spoil(net: Any) -> None:
        net.dec.conv_pre.bias[0] = float("nan")

    keep(speech.model, export(voice(), network=changed(voice(), spoil)))
    with pytest.raises(UnfitError, match="not finite"):
        listen(speech, lambda *_: None)
