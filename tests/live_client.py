"""What w-okada's voice changer (v1) does with an ONNX file, from its metadata to a chunk of sound, in our own words.

The server's parts that a file meets, one after the other: a slot is filled from the metadata, or from what the server
assumes if there is none; an inferencer is chosen by the slot; it feeds by name, in the type of the first input; the
version of the metadata says of which rank the answer is. The speech encoder and the pitch come ready made.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

Floats = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Slot:
    """What the client remembers of a model."""

    model_type: str
    sampling_rate: int
    f0: bool
    emb_channels: int
    emb_output_layer: int
    use_final_proj: bool
    embedder: str
    version: str
    deprecated: bool


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """Return a session as the client opens it on a machine without a GPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def slot_of(path: Path) -> Slot:
    """Fill a slot from the file's metadata; whatever is wrong with it, an old voice of 48 kHz is assumed."""
    told = open_session(path).get_modelmeta().custom_metadata_map
    try:
        facts = json.loads(told["metadata"])
        channels, f0 = facts["embChannels"], facts["f0"]
        two = channels == 768
        return Slot(
            model_type=("onnxRVC" if f0 else "onnxRVCNono"),
            sampling_rate=facts["samplingRate"],
            f0=f0,
            emb_channels=channels,
            emb_output_layer=facts.get("embOutputLayer", 9),
            use_final_proj=not two,
            embedder=facts.get("embedder", "hubert_base"),
            version=facts["version"],
            deprecated=False,
        )
    except (KeyError, ValueError, TypeError):
        return Slot("onnxRVC", 48_000, True, 256, 9, True, "hubert_base", "1", True)  # noqa: FBT003 - as above


class Inferencer:
    """Runs the model of a slot."""

    def __init__(self, path: Path, slot: Slot) -> None:
        self.slot = slot
        self.session = open_session(path)
        self.is_half = self.session.get_inputs()[0].type != "tensor(float)"

    def infer(self, feats: Floats, pitch: Floats | None, pitchf: Floats | None, sid: int) -> Floats:
        """Return the audio of some frames, as a row of samples."""
        feed: dict[str, Floats] = {
            "feats": feats.astype(np.float16 if self.is_half else np.float32),
            "p_len": np.array([feats.shape[1]], np.int64),
            "sid": np.array([sid], np.int64),
        }
        if self.slot.f0:
            assert pitch is not None
            assert pitchf is not None
            feed |= {"pitch": pitch.astype(np.int64), "pitchf": pitchf.astype(np.float32)}
        audio = np.asarray(self.session.run(["audio"], feed)[0])
        return audio if self._gives_a_row() else audio[0, 0]

    def _gives_a_row(self) -> bool:
        if not self.slot.f0:
            return self.slot.version == "2.1"
        return self.slot.version in ({"2.1"} if self.slot.emb_channels == 256 else {"2.1", "2.2"})


@dataclass
class Microphone:
    """A voice that is changed while it speaks: chunks come in, each is run with some of what was before it."""

    inferencer: Inferencer
    hop: int
    extra_frames: int = 30

    def speak(self, features: Floats, pitch: Floats | None, pitchf: Floats | None, chunk: int) -> Floats:
        """Return the sound of all chunks, without what each was given for its beginning."""
        out = []
        for start in range(0, features.shape[1], chunk):
            begin, end = max(0, start - self.extra_frames), min(start + chunk, features.shape[1])
            some = [None if a is None else a[:, begin:end] for a in (features, pitch, pitchf)]
            assert some[0] is not None
            audio = self.inferencer.infer(some[0], some[1], some[2], sid=0)
            assert audio.ndim == 1
            out.append(audio[-(end - start) * self.hop :])
        return np.concatenate(out)
