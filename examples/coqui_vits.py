r"""Let a Coqui VITS voice or YourTTS read a text, with NumPy and ONNX Runtime alone.

The files are those that voicekiln makes: of a voice its sidecar with encoder and decoder, of model_se.pth the speaker
encoder. Who speaks is one of the voice's own speakers, or whoever is heard in a clip (WAV, 16 bits, 16 kHz).

    python coqui_vits.py model_file.json "Hello, you." --language en --speaker female-en-5 --out hello.wav
    python coqui_vits.py model_file.json "Hello, you." --language en --out hello.wav \
        --clip somebody.wav --speaker-encoder model_se.speaker_encoder.onnx

Numbers and abbreviations have to be spelled out; a voice that reads phonemes is given those of its phonemizer.
"""

from __future__ import annotations

import argparse
import json
import sys
import wave
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

Array = NDArray[Any]
HEARD_HZ, RMS_DB, WINDOW, WINDOWS, SHORTEST = 16_000, -27.0, 40_000, 10, 257
"""What the speaker encoder hears: windows of 2.5 s, spread evenly over the clip, or all of a shorter one."""
AS_WRITTEN = (None, "no_cleaners", "phoneme_cleaners", "multilingual_phoneme_cleaners", "chinese_mandarin_cleaners")
"""Cleaners that leave capital letters as they are; the others make them small."""


def run(path: Path, fed: Mapping[str, Array | None]) -> list[Array]:
    """Return the outputs of a file. What it does not want is not fed; what it wants has to be there."""
    if not path.is_file():
        raise SystemExit(f"there is no file {path}")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wanted = [each.name for each in session.get_inputs()]
    if missing := [name for name in wanted if fed.get(name) is None]:
        raise SystemExit(f"{path} wants {', '.join(missing)}, which is not given")
    return list(session.run(None, {name: fed[name] for name in wanted}))


def graph(folder: Path, sidecar: Mapping[str, Any], part: str) -> Path:
    """Return the file of one of the voice's networks; in full precision if it is there."""
    found = {file["precision"]: file["name"] for file in sidecar["onnx"] if file["interface"] == part}
    if not found:
        raise SystemExit(f"the voice was made without its {part}; its recipe has to ask for interface: rvc")
    return folder / str(found.get("fp32", found.get("fp16")))


def tokens(text: str, feed: Mapping[str, Any]) -> Array:
    """Return the text as the voice's own numbers, (1, tokens)."""
    table: dict[str, int] = dict(feed.get("tokens", {}))
    for points, number in feed.get("tokens_by_code_point", {}).items():  # symbols that cannot be shown
        table["".join(chr(int(point, 16)) for point in points.split("+"))] = number
    as_written = feed.get("use_phonemes", True) or feed.get("cleaner") in AS_WRITTEN
    text = " ".join((text if as_written else text.lower()).split())
    if unknown := sorted({letter for letter in text if letter not in table}):
        sys.stderr.write(f"left out, as the voice does not know them: {' '.join(unknown)}\n")
    found = [table[letter] for letter in text if letter in table]
    if not found:
        raise SystemExit("there is nothing in this text that the voice could read")
    if feed.get("add_blank") and "blank" in feed:
        found = [feed["blank"], *(each for number in found for each in (number, feed["blank"]))]
    if feed.get("use_eos_bos") and "bos" in feed and "eos" in feed:
        found = [feed["bos"], *found, feed["eos"]]
    return np.array([found], np.int64)


def chosen(listed: Sequence[Mapping[str, Any]], count: int, name: str | None, what: str) -> int:
    """Return the number of one of so many speakers or languages by name, `raw` form or number; else of the first."""
    numbered = {int(each.get("id", each.get("row"))): each for each in listed}
    called = [number for number, each in numbered.items() if name in (None, each.get("name"), each.get("raw"))]
    if called or name is None:
        return (called or [0])[0]
    if name.isdecimal() and int(name) < count:
        return int(name)
    there = ", ".join(f"{number} {each.get('name', '')}" for number, each in numbered.items())
    raise SystemExit(f"there is no {what} {name} among {count}, counted from 0: {there or 'nobody names them'}")


def heard(clip: Path, speaker_encoder: Path, rms_db: float = RMS_DB) -> Array:
    """Return the d-vector, (1, width), of whoever speaks in a clip: the mean over windows of it, once as loud."""
    try:
        with wave.open(str(clip)) as file:
            kind, data = file.getparams()[:3], file.readframes(file.getnframes())
    except (OSError, EOFError, wave.Error):
        raise SystemExit(f"{clip} is not there, or is no WAV file") from None
    if kind != (1, 2, HEARD_HZ) or len(data) < 2 * SHORTEST:
        raise SystemExit(f"{clip} has to have one channel, 16 bits, {HEARD_HZ} Hz and at least {SHORTEST} samples")
    samples = np.frombuffer(data, "<i2").astype(np.float32) / 32768
    samples *= 10 ** (rms_db / 20) / max(float(np.sqrt(np.mean(samples**2))), 1e-9)
    length = min(WINDOW, samples.size)
    starts = np.linspace(0, samples.size - length, WINDOWS).astype(int)
    [vectors] = run(speaker_encoder, {"waveform": np.stack([samples[start : start + length] for start in starts])})
    return np.asarray(vectors.mean(axis=0, keepdims=True))  # not brought back to length 1


def speak(folder: Path, sidecar: Mapping[str, Any], options: argparse.Namespace) -> Array:
    """Return the samples, within -1 to 1."""
    feed, rng = sidecar["feed"], np.random.default_rng(options.seed)
    read, languages = tokens(options.text, feed), feed.get("languages", [])
    who = chosen(feed.get("speakers", []), sidecar["model"]["speakers"], options.speaker, "speaker")
    language = chosen(languages, len(languages) or 1, options.language, "language")
    fed: dict[str, Array | None] = {"tokens": read, "token_lengths": np.array([read.shape[1]])}
    fed |= {"speaker_id": np.array([who]), "language_id": np.array([language])}
    if options.clip is not None:
        fed["d_vector"] = heard(options.clip, options.speaker_encoder)
    elif vectors := [file["name"] for file in sidecar.get("data", []) if file["data"] == "d_vectors"]:
        fed["d_vector"] = np.load(folder / vectors[0])[[who]]

    scales = feed["scales"]
    drawn = rng.standard_normal((1, 2, read.shape[1]), dtype=np.float32)
    fed["dp_noise"] = drawn * np.float32(scales["noise_scale_dp"])
    m_p, logs_p, w = run(graph(folder, sidecar, "encoder"), fed)
    durations = np.minimum(np.ceil(w[0] * np.float32(scales["length_scale"] / options.speed)), 1000).astype(np.int64)
    frames = max(int(durations.sum()), 1)
    noise = rng.standard_normal((1, m_p.shape[1], frames), dtype=np.float32) * np.float32(scales["noise_scale"])
    fed |= {"m_p": m_p, "logs_p": logs_p, "durations": durations, "noise": noise}
    return run(graph(folder, sidecar, "decoder"), fed)[0].ravel()


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("sidecar", type=Path, help="the voice's .json, beside its ONNX files")
    parser.add_argument("text")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--speaker", help="by name or number (default: the first)")
    parser.add_argument("--language", help="by name or number (default: the first)")
    parser.add_argument("--clip", type=Path, help="of whoever shall seem to speak")
    parser.add_argument("--speaker-encoder", type=Path)
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if (options.clip is None) != (options.speaker_encoder is None):
        parser.error("--clip and --speaker-encoder belong together")
    sidecar = json.loads(options.sidecar.read_text(encoding="utf-8"))
    samples, rate = speak(options.sidecar.parent, sidecar, options), sidecar["feed"]["sample_rate"]
    with wave.open(str(options.out), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", "not compressed"))
        file.writeframes(np.rint(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    sys.stdout.write(f"{options.out}: {samples.size / rate:.2f} s\n")


if __name__ == "__main__":
    main()
