"""An ONNX file of a voice, anybody's, as a client has it: opened, fed through the face it shows, listened to.

Runs in the caged worker only: a file from a stranger may do anything to the libraries that read it. It is given to
ONNX Runtime as bytes, so that no other file can be named in it.

Noise is made comparable without touching what the file computes: the numbers that its random nodes draw become
outputs beside the audio, and whoever compares can replay them. `silent` is a copy in which they draw zeros.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray
from onnx import TensorProto, helper

from voicekiln.convert.graph import ports
from voicekiln.convert.verify import ORT_ERRORS, open_session
from voicekiln.errors import plain
from voicekiln.job import Port
from voicekiln.judge.face import FRAME_AXES, Face, Role, UnfitError, recognise
from voicekiln.judge.randomness import Draw, draws, fatal, is_hidden, silent

PROVIDER: Final = "CPUExecutionProvider"
HEAD: Final = 24
"""Frames left out at the beginning by a face that can: fewer, and the usual exports of it do not run."""
_NODE: Final = re.compile(r"running (\w+) node\. Name:'([^']*)'")
_NOISE: Final = re.compile(
    r"^(.*Status Message: |\[ONNXRuntimeError\] : \d+ : \w+ : (Exception during \w+: )?)(/\S+:\d+ \S.*?\) )?"
)
"""What stands before the message itself: codes, places in the source."""
WEIGHT: Final = 16
"""Numbers from which on a constant counts as a weight."""
MAX_BYTES: Final = 2**31 - 1
"""Of a file that ONNX can hold in one piece."""
PICKLED: Final = b"\x80\x02"
ZIPPED: Final = b"PK\x03\x04"
HEAD_BYTES: Final = 300
"""How checkpoints begin, those before PyTorch 1.6 and later ones, whose first entry is `NAME/data.pkl`."""
IN_ORDER: Final = "The ONNX comes first: voicekiln verify MODEL.onnx --against VOICE.pth"

_TYPES: Final = frozenset(helper.get_all_tensor_dtypes())
_TROUBLES: Final = (*ORT_ERRORS, RuntimeError, ValueError)
"""What is raised by ONNX Runtime, and by its way into Python where that has no word for a type."""

_QUIETLY: Final = onnxruntime.RunOptions()
_QUIETLY.log_severity_level = 4  # fatal; lesser trouble is raised, and told where it belongs

Floats = NDArray[np.float32]


class RunError(Exception):
    """ONNX Runtime could not run the file on this input, or what came out is no sound; the text says why."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a voice is told to say."""

    features: Floats
    """(frames, width)"""
    f0: Floats
    """Hz, 0 where unvoiced, (frames,)."""
    pitch: NDArray[np.int64]
    """Coarse, (frames,)."""
    noise: Floats
    """Of the prior, scaled, (channels, frames)."""
    speaker: int = 0

    @property
    def frames(self) -> int:
        """How long it is."""
        return len(self.features)


@dataclass(frozen=True, slots=True)
class Heard:
    """What came out."""

    audio: Floats
    """(samples,)"""
    drawn: tuple[Floats, ...]
    """The standard normal numbers behind each normal draw, without axes of one."""


def open_client(path: Path) -> Client:
    """Read an ONNX file and recognise its face.

    Raises:
        UnfitError: if it is no ONNX file in one piece, or shows no face that is known.
        OSError, MemoryError: if the machine fails.
    """
    if path.stat().st_size > MAX_BYTES:
        raise UnfitError("It is larger than 2 GB, which no ONNX file in one piece is.")
    data = path.read_bytes()
    if data.startswith(PICKLED) or (data.startswith(ZIPPED) and b"/data.pkl" in data[:HEAD_BYTES]):
        raise UnfitError("This is a PyTorch checkpoint; the ONNX file belongs here.", IN_ORDER)
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError) as error:
        raise UnfitError("It is no ONNX file, or it is damaged.") from error
    if not model.graph.node or not model.graph.output:
        raise UnfitError("It is no ONNX file, or there is nothing in it to run.")
    for tensor in _tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            raise UnfitError("Its numbers lie in another file beside it; make one file of the two first.")
        if tensor.data_type not in _TYPES:
            raise UnfitError("It is damaged: it holds numbers of a type that there is not.")
    given = {tensor.name for tensor in model.graph.initializer}
    try:
        inputs = ports(value for value in model.graph.input if value.name not in given)
    except (KeyError, ValueError, TypeError) as error:
        raise UnfitError("One of its inputs is of a type that no voice has.") from error
    cleaned = [
        Port(plain(p.name, 60), p.dtype, tuple(a if isinstance(a, int) else "?" for a in p.axes)) for p in inputs
    ]
    if [port.name for port in cleaned] != [port.name for port in inputs]:
        raise UnfitError("The names of its inputs are no names.")
    return Client(model, recognise(cleaned))


def _tensors(message: Any) -> Iterator[onnx.TensorProto]:  # noqa: ANN401 - any part of a model
    """Yield all tensors, wherever they may hide: in a node, in the body of a branch, in a function."""
    if isinstance(message, TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in (value,) if isinstance(value, Message) else value:
                yield from _tensors(part)


class Client:
    """See the module."""

    def __init__(self, model: onnx.ModelProto, face: Face) -> None:
        self.model, self.face = model, face

    @cached_property
    def hidden_noise(self) -> bool:
        """Whether it draws numbers that nobody can listen to."""
        return is_hidden(self.model)

    @cached_property
    def constants(self) -> dict[str, onnx.TensorProto]:
        """All weights and long constants by name."""
        found = {tensor.name: tensor for tensor in self.model.graph.initializer}
        for node in self.model.graph.node:
            if node.op_type == "Constant":
                found.update((node.output[0], a.t) for a in node.attribute if a.HasField("t"))
        return {name: tensor for name, tensor in found.items() if math.prod(tensor.dims) >= WEIGHT}

    @cached_property
    def weight_type(self) -> str:
        """The type of most weights, as NumPy names it."""
        counts: dict[int, int] = {}
        for tensor in self.constants.values():
            counts[tensor.data_type] = counts.get(tensor.data_type, 0) + math.prod(tensor.dims)
        counts.pop(TensorProto.INT64, None)  # they count and index
        if not counts:
            return "none"
        return str(helper.tensor_dtype_to_np_dtype(max(counts, key=lambda kind: counts[kind])))

    @property
    def metadata(self) -> dict[str, str]:
        """What the file says of itself."""
        return {entry.key: entry.value for entry in self.model.metadata_props}

    def head(self) -> int:
        """Return how many frames at the beginning give no sound."""
        return HEAD if self.face.has("head") else 0

    def as_fed(self, said: Said) -> Said:
        """Return what arrives: numbers that the file takes in half precision are rounded before anybody is asked."""
        rounded = {
            field: getattr(said, field).astype(self.face.roles[role].dtype).astype(np.float32)
            for field, role in _FLOATS.items()
            if role in self.face.roles
        }
        return replace(said, **rounded)

    def run(self, said: Said) -> Heard:
        """Return what the file makes of it.

        Raises:
            RunError: if it cannot be run so, or gives no sound.
            MemoryError: if ONNX Runtime finds too little of it.
        """
        feed = {port.name: self._input(role, port, said) for role, port in self.face.roles.items()}
        try:
            audio, *drawn = self._session.run(None, feed, _QUIETLY)
        except _TROUBLES as error:
            raise _explained(error) from error
        if not isinstance(audio, np.ndarray):
            raise RunError("its output is no tensor, so it is no sound")
        if audio.size != max(audio.shape, default=0) or audio.dtype.kind not in "fiu":
            raise RunError(
                f"its output has the shape {list(audio.shape)} and the type {audio.dtype}, which is no sound"
            )
        with np.errstate(over="ignore"):
            sound = audio.reshape(-1).astype(np.float32)
        return Heard(sound, tuple(draw.standard(numbers) for draw, numbers in zip(self._listened, drawn, strict=True)))

    def silent(self) -> Client:
        """Return a copy whose random nodes draw nothing but their mean."""
        return Client(silent(self.model), self.face)

    @cached_property
    def _listened(self) -> tuple[Draw, ...]:
        return tuple(draw for draw in draws(self.model.graph) if draw.normal)

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        if says := fatal(self.model):
            raise RunError(says)
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        del model.graph.output[1:]
        model.graph.output.extend(onnx.ValueInfoProto(name=draw.output) for draw in self._listened)
        try:
            return open_session(model.SerializeToString(), PROVIDER)
        except _TROUBLES as error:
            raise _explained(error) from error

    def _input(self, role: Role, port: Port, said: Said) -> NDArray[Any]:
        left = said.frames - self.head()
        value: Any = {
            "features": said.features[None],
            "lengths": [said.frames],
            "pitch": said.pitch[None],
            "f0": said.f0[None],
            "speaker": [said.speaker],
            "noise": said.noise[None],
            "rate": [1.0],
            "head": [self.head()],
            "returned": [left],
            "formant": [left],
        }[role]
        array = np.asarray(value).astype(port.dtype)
        return array if role in FRAME_AXES else array.reshape((1,) * len(port.axes))


_FLOATS: Final[dict[str, Role]] = {"features": "features", "f0": "f0", "noise": "noise"}


def _explained(error: Exception) -> Exception:
    """Return what to raise for an error of ONNX Runtime's."""
    if "alloc" in str(error).lower() or "out of memory" in str(error).lower():
        return MemoryError(str(error)[:300])
    text = plain(str(error).strip())
    node = _NODE.search(text)
    where = f" at its {node[1]} node {node[2][:60]}" if node else ""
    return RunError(f"ONNX Runtime stops{where}: {plain(_NOISE.sub('', text), 240)}")
