"""A voice made to speak: prepared features and pitch through an ONNX file, and the sound into a WAV file.

What is long is said in pieces of half a minute, because attention takes memory by the square of the length. A piece
is cut where nothing is voiced if there is such a place near, and is given a second on either side that is thrown away
again. That is how RVC itself treats a long recording.
"""

from __future__ import annotations

import os
import tokenize
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from voicekiln.families.rvc_feed import coarse
from voicekiln.families.rvc_settings import FRAMES_PER_S
from voicekiln.job import Enter, Speech
from voicekiln.judge.client import Client, Floats, RunError, Said, open_client
from voicekiln.judge.face import UnfitError
from voicekiln.judge.label import sample_rate
from voicekiln.nets.rvc import RND_SCALE

PIECE: Final = 30 * FRAMES_PER_S
"""Frames of the longest piece."""
AROUND: Final = FRAMES_PER_S
"""Frames on either side of a piece; at least as many as some faces leave out."""
SEARCHED: Final = 5 * FRAMES_PER_S
"""Frames at the end of a piece in which a place to cut is looked for."""
CHANNELS: Final = 192
"""Of the noise, where the file does not say."""
MAX_FRAMES: Final = 3600 * FRAMES_PER_S
RESHAPING: Final = frozenset({"Cast", "Identity", "Squeeze", "Unsqueeze", "Reshape", "Flatten"})
"""What may be done to a speaker before it is looked up, and the first of it to the table."""
SLACK: Final = 3
"""Frames by which features and f0 may differ in length, as they do where each was made by a tool of its own."""
MAX_HZ: Final = 20_000.0
_BROKEN_NPY: Final = (ValueError, OverflowError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError)
"""What NumPy raises on files that are none of its own. Their head is read as a literal of Python's, whose parser bounds
what is nested by memory errors, too."""


def listen(speech: Speech, entered: Enter) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Write the sound to `speech.target`; return facts about it (JSON values) and what was assumed.

    Raises:
        UnfitError: if the file, the features or the f0 are not what they should be, or do not fit each other.
        OSError, MemoryError: if the machine fails.
    """
    entered("load")
    client = open_client(speech.model)
    said, notes = _said(client, speech)
    onnxruntime.set_seed(speech.seed)  # for what the file draws itself, unless it has seeds of its own
    rate = speech.rate or sample_rate(client.metadata) or speech.rate_beside
    pieces = list(_cut(said))
    if rate is None:
        _demand_rate(client, said)
    if len(pieces) > 1:
        longest = max(last - first for first, last in pieces) / FRAMES_PER_S
        notes.append(f"It was said in {len(pieces)} pieces of up to {longest:.1f} s.")
    sounds = []
    for at, (first, last) in enumerate(pieces, start=1):
        entered("verify", at, len(pieces))
        sounds.append(_say(client, said, first, last))
    audio = np.concatenate(sounds)
    if len(audio) * FRAMES_PER_S != rate * said.frames:
        would_be = len(audio) * FRAMES_PER_S / said.frames
        notes.append(f"It gives {would_be:g} samples a second, not the {rate} that it is played with.")
    return _write(audio, rate, speech.target) | {"pieces": len(pieces), "face": client.face.title}, tuple(notes)


def _demand_rate(client: Client, said: Said) -> NoReturn:
    """Ask for the sample rate, with what a short run tells of it."""
    frames = min(said.frames, FRAMES_PER_S)
    rate = len(_say(client, said, 0, frames)) * FRAMES_PER_S // frames
    raise UnfitError(
        "The file does not say its sample rate, and no sidecar beside it does.",
        f"Name it with --rate; it gives as many samples a second as {rate} Hz has.",
    )


def _said(client: Client, speech: Speech) -> tuple[Said, list[str]]:
    """Return what is to be said, and what was assumed about it."""
    notes: list[str] = []
    features = _array(speech.features, "the features", 2)
    if (width := client.face.width("features")) not in (None, features.shape[1]):
        raise UnfitError(f"The features are {features.shape[1]} wide, the file takes {width}.")
    if client.face.has("f0"):
        if speech.f0 is None:
            raise UnfitError("The file takes a pitch.", "Give it one with --f0.")
        f0 = _array(speech.f0, "the f0", 1)
        if f0.min() < 0 or f0.max() > MAX_HZ:
            raise UnfitError("The f0 has numbers below 0 or above 20000: it has to be in Hz, 0 where unvoiced.")
        features, f0 = _as_long(features, f0, notes)
    else:
        f0 = np.zeros(len(features), np.float32)
        if speech.f0 is not None:
            notes.append("The file takes no pitch; the f0 was left aside.")
        notes.append("The features were taken for 100 a second; most encoders give 50, each of which is used twice.")
    if len(features) > MAX_FRAMES:
        raise UnfitError(f"That is more than the {MAX_FRAMES // FRAMES_PER_S // 60} minutes that can be said at once.")
    speakers = _speakers(client)
    if speakers is not None and not 0 <= speech.speaker < speakers:
        there_are = "only the speaker 0" if speakers == 1 else f"the speakers 0 to {speakers - 1}"
        raise UnfitError(f"This voice has {there_are}; {speech.speaker} is none of them.", "Name one with --speaker.")
    if speech.speaker and not client.face.has("speaker"):
        notes.append("The file takes no speaker.")
    channels = client.face.width("noise") or CHANNELS
    noise = np.random.default_rng(speech.seed).standard_normal((channels, len(features)), dtype=np.float32)
    return Said(features, f0, coarse(f0), noise * np.float32(RND_SCALE), speech.speaker), notes


def _speakers(client: Client) -> int | None:
    """Return how many there are, by the rows of the table in which the file looks them up; None if none is found."""
    if not client.face.has("speaker"):
        return None
    same = {client.face.roles["speaker"].name}
    shapes = {name: tuple(tensor.dims) for name, tensor in client.constants.items()}
    for node in client.model.graph.node:
        if node.op_type in RESHAPING and node.input and node.output:
            if node.input[0] in same:
                same.add(node.output[0])
            elif node.input[0] in shapes:
                shapes[node.output[0]] = shapes[node.input[0]]
        elif node.op_type == "Gather" and len(node.input) > 1 and node.input[1] in same:
            table = shapes.get(node.input[0], ())
            if len(table) > 1:
                return int(table[0])
    return None


def _as_long(features: Floats, f0: Floats, notes: list[str]) -> tuple[Floats, Floats]:
    """Return both at 100 frames a second and of one length."""
    if abs(2 * len(features) - len(f0)) <= SLACK < abs(len(features) - len(f0)):
        features = np.repeat(features, 2, axis=0)
        notes.append("The features are 50 a second; each was used twice.")
    frames = min(len(features), len(f0))
    if abs(len(features) - len(f0)) > SLACK:
        raise UnfitError(
            f"The features have {len(features)} frames, the f0 has {len(f0)}.",
            "The f0 has to be as long (100 frames a second), or twice as long (features at 50).",
        )
    if len(features) != len(f0):
        notes.append(f"Of {max(len(features), len(f0))} frames the last were cut off, as only {frames} have both.")
    return features[:frames], f0[:frames]


def _array(path: Path, what: str, rank: int) -> Floats:
    """Read a `.npy` of numbers; one that holds pickled objects is not opened."""
    try:
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")  # no larger than the file, whatever it claims
    except _BROKEN_NPY as error:
        pickled = "Python objects" in str(error)
        why = "hold Python objects, which may hide a program" if pickled else "are no .npy file, or a damaged one"
        raise UnfitError(f"{what.capitalize()} {why}.", "Save them with numpy.save, as an array of float32.") from error
    while array.ndim > rank and array.shape[0] == 1:
        array = array[0]
    if array.dtype.kind not in "fiu" or array.ndim != rank or not array.size:
        wanted = "(frames, width)" if rank > 1 else "(frames,)"
        raise UnfitError(
            f"{what.capitalize()} are {array.dtype} of the shape {array.shape}; wanted are numbers {wanted}."
        )
    with np.errstate(over="ignore"):
        numbers: Floats = np.ascontiguousarray(array, np.float32)
    if bad := int((~np.isfinite(numbers)).sum()):
        raise UnfitError(f"{bad} of the numbers in {what} are NaN or infinite.")
    return numbers


def _cut(said: Said) -> Iterator[tuple[int, int]]:
    """Yield first and last frame of each piece; where nothing is voiced is a good place to cut."""
    first = 0
    while said.frames - first > PIECE:
        last = first + PIECE
        unvoiced = np.flatnonzero(said.f0[last - SEARCHED : last] == 0) + last - SEARCHED
        last = int(unvoiced[len(unvoiced) // 2]) if len(unvoiced) else last
        yield first, last
        first = last
    yield first, said.frames


def _say(client: Client, said: Said, first: int, last: int) -> Floats:
    """Return the sound of a piece, cut out of a longer one."""
    begin, end = max(0, first - AROUND), min(said.frames, last + AROUND)
    lead = max(0, client.head() - (first - begin))  # a face that leaves out frames is given some before the first
    longer = Said(
        features=_led(said.features[begin:end], lead),
        f0=_led(said.f0[begin:end], lead),
        pitch=_led(said.pitch[begin:end], lead),
        noise=_led(said.noise[:, begin:end].T, lead).T,
        speaker=said.speaker,
    )
    try:
        audio = client.run(longer).audio
    except RunError as error:
        raise UnfitError(
            f"The file does not run on {longer.frames} frames: {error}",
            "If it was made by another tool, voicekiln verify says more.",
        ) from error
    if not np.isfinite(audio).all():
        raise UnfitError("What the file gives is not finite (NaN or infinity).")
    hop, rest = divmod(len(audio), longer.frames - client.head())
    if rest or not hop:
        raise UnfitError(f"The file gives {len(audio)} samples for {longer.frames} frames, which is no whole hop.")
    skipped = first - begin + lead - client.head()
    return audio[skipped * hop : (skipped + last - first) * hop]


def _led(frames: NDArray[Any], lead: int) -> NDArray[Any]:
    """Return frames with the first one repeated before it."""
    return np.concatenate([frames[:1].repeat(lead, 0), frames])


def _write(audio: Floats, rate: int, target: Path) -> dict[str, Any]:
    """Write 16-bit mono; return facts about the sound."""
    clipped = int((np.abs(audio) > 1).sum())
    numbers = np.rint(np.clip(audio, -1, 1) * 32767).astype("<i2")
    with target.open("wb") as file:
        with wave.open(file, "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(rate)
            out.writeframes(numbers.tobytes())
        file.flush()
        os.fsync(file.fileno())
    level = float(np.sqrt(np.mean(audio.astype(np.float64) ** 2)))
    return {
        "seconds": round(len(audio) / rate, 3),
        "sample_rate": rate,
        "samples": len(audio),
        "clipped": clipped,
        "peak": round(float(np.max(np.abs(audio))), 4),
        "level_db": round(20 * float(np.log10(level)), 1) if level else None,
    }
