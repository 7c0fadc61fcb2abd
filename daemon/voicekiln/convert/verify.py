"""Does the file on disk sound like the network? The one question that decides whether a voice is published.

The very bytes that will be published run in ONNX Runtime beside the PyTorch network in float32, at lengths that
were never traced, on plausible inputs with an unvoiced gap, with the noise on. Noise agrees because it is drawn
again: a one-node model with the file's own noise node, run as often and in the same order, gives the same numbers
on the same provider, and the network's `Noise` modules replay them. What a network predicts and then adds up (f0) is
compared, and the rest follows from the file's prediction on both sides. What it predicts and then rounds to a length
(durations of speech) may once in a great while come out one longer; then all is compared once more, on other inputs.
Every comparison is written so that NaN fails, and a reference that is silent fails too: nothing can be heard in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from voicekiln.convert.graph import BadGraphError
from voicekiln.convert.picture import draw
from voicekiln.convert.threads import threads
from voicekiln.errors import NotFaithful
from voicekiln.families.base import Exportable
from voicekiln.job import Fidelity, Port, Precision, Verify

LENGTHS: Final[Mapping[Verify, tuple[int, ...]]] = {"full": (40, 97), "quick": (25, 29), "off": ()}
"""Frames. None is the traced length, all are longer than what relative attention sees, and the two of a level have no
common factor that a frozen size could hide behind. The network's time is nearly all that a verification takes."""

BEST_DB: Final = 200.0
"""What equal outputs count as; float32 cannot tell more."""

Arrays = Mapping[str, NDArray[Any]]

Draw = Callable[[tuple[int, ...]], torch.Tensor]
"""Draws standard normal noise of a shape."""

ORT_ERRORS: Final = tuple(
    getattr(onnxruntime.capi.onnxruntime_pybind11_state, name)
    for name in ("Fail", "RuntimeException", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented")
)
"""What ONNX Runtime raises when it cannot load or run a file; they have no class in common but Exception."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How one run differs from its reference."""

    snr_db: float
    """Of the AC part; NaN if there is a NaN on either side, minus infinity if the reference is silent."""
    max_abs: float


@dataclass(frozen=True, slots=True)
class Original:
    """What a file has to sound like."""

    exportable: Exportable
    network: torch.nn.Module
    """The PyTorch network with the voice's weights."""
    noises: Sequence[onnx.NodeProto]
    """The nodes that draw random numbers in the file, in their order."""


def verify(  # noqa: PLR0913, PLR0917 - what is compared with what, and how
    path: Path,
    voice: Original,
    precision: Precision,
    providers: Sequence[str],
    lengths: Sequence[int],
    show: Callable[[str], object] = lambda _: None,
) -> tuple[Fidelity, ...]:
    """Return how closely the file agrees with the network, for each provider.

    Args:
        path: the finished file; what is read is what lies on disk.
        voice: what it was made from.
        precision: decides how close is close enough.
        providers: ONNX Runtime's names of those to run on.
        lengths: frames, each of them run.
        show: gets the picture (see `picture`) of the longest run on the first provider, if that was faithful.

    Raises:
        NotFaithful: if the two differ by more than the family allows for that precision, the file does not run, or
            it has another interface.
        BadGraphError: if ONNX Runtime does not use the provider.
        MemoryError: if ONNX Runtime finds too little of it.
    """
    # Side by side, each with half of the threads: both are slow to share one piece of work among many.
    with ThreadPoolExecutor(1) as beside, threads(max(1, torch.get_num_threads() // 2)):
        found: list[Fidelity] = []
        for provider in providers:
            trial = _Trial(path, voice, precision, provider, beside)
            try:
                differences = trial.differences(lengths)
            except _OtherLengthError:
                # From the start: from here on the two would draw different noise, having drawn unequally much.
                trial = _Trial(path, voice, precision, provider, beside, again=True)
                differences = trial.differences(lengths)
            found.append(trial.judge(differences))
            if len(found) == 1:
                show(draw(*trial.longest))
        return tuple(found)


def difference(reference: NDArray[Any], got: NDArray[Any]) -> Difference:
    """Compare two outputs of equal shape; the reference's mean is no signal."""
    exact = reference.astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinity is handled below
        error = got.astype(np.float64) - exact
        signal, noise = float(np.var(exact)), float(np.mean(error**2))
    return Difference(_decibels(signal, noise), float(np.max(np.abs(error))))


def _decibels(signal: float, noise: float) -> float:
    if math.isnan(signal) or math.isnan(noise):
        return math.nan
    if signal == 0 or math.isinf(noise):
        return -math.inf
    return min(BEST_DB, 10 * math.log10(signal / noise)) if noise > 0 else BEST_DB


def open_session(model: Path | bytes, provider: str) -> onnxruntime.InferenceSession:
    """Return a session that really runs on `provider`.

    Raises:
        BadGraphError: if ONNX Runtime left the provider out.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; the rest goes to stderr, where nobody looks
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # its threads wait while PyTorch's work
    # TF32 has ten bits; the comparison is with float32.
    settings = {"use_tf32": "0"} if provider == "CUDAExecutionProvider" else {}
    source = model if isinstance(model, bytes) else str(model)
    session = onnxruntime.InferenceSession(source, options, providers=[(provider, settings)])
    if provider not in session.get_providers():
        raise BadGraphError(f"ONNX Runtime does not use {provider}")
    return session


class _Trial:
    """One file on one provider, beside the network."""

    def __init__(  # noqa: PLR0913 - what `verify` is told, and for which time
        self,
        path: Path,
        voice: Original,
        precision: Precision,
        provider: str,
        beside: Executor,
        *,
        again: bool = False,
    ) -> None:
        """Open the file.

        `beside` is the one thread in which ONNX Runtime opens and runs it. `again` says that this is the second trial,
        on other inputs, in which a rounded length that differs is no accident any more: two that agree to the last
        digits round apart a few times in a thousand voices, one that is wrong does so every time.
        """
        self.again = again
        self.voice, self.exportable = voice, voice.exportable
        self.precision, self.provider = precision, provider
        self.wanted_db = self.exportable.wanted_db[precision]
        self.beside = beside
        self.longest: tuple[NDArray[Any], NDArray[Any]] = np.zeros(0), np.zeros(0)
        """The first outputs of the longest run so far, the network's and the file's."""
        self.opening = beside.submit(self._open, path)
        with self._running(0):
            self.sources = [_noise_source(node, provider) for node in voice.noises]

    def differences(self, lengths: Sequence[int]) -> dict[int, Difference]:
        """Return the worst difference at each length."""
        return {frames: self._compare(frames) for frames in lengths}

    def _compare(self, frames: int) -> Difference:
        """Run both at one length and return the worst difference among the outputs."""
        inputs = self.exportable.sample(frames, np.random.default_rng((frames, 1) if self.again else frames))
        running = self.beside.submit(self._run, inputs)
        wanted = _ask_network(self.voice, inputs, self.sources, self._predictions(running, frames))
        with self._running(0):
            self.opening.result()
        with self._running(frames):
            got = running.result()
        if any(a.shape != b.shape or a.dtype != b.dtype for a, b in zip(wanted, got, strict=True)):
            if self.exportable.rounds and not self.again:
                raise _OtherLengthError
            raise self._unfaithful("no", frames)
        if wanted[0].size > self.longest[0].size:
            self.longest = wanted[0], got[0]
        found = [difference(a, b) for a, b in zip(wanted, got, strict=True)]
        # NumPy's minimum and maximum of anything and NaN are NaN; Python's depend on the order.
        return Difference(float(np.min([d.snr_db for d in found])), float(np.max([d.max_abs for d in found])))

    def _open(self, path: Path) -> onnxruntime.InferenceSession:
        session = open_session(path, self.provider)
        _check_ports(session, self.exportable)
        return session

    def _run(self, inputs: Arrays) -> list[NDArray[Any]]:
        """Return the file's outputs; in the thread that has opened it before."""
        feed = {port.name: inputs[port.name] for port in self.exportable.inputs}
        wanted = [port.name for port in self.exportable.outputs]
        outputs: list[NDArray[Any]] = self.opening.result().run(wanted, feed)
        return outputs

    def _predictions(self, running: Future[list[NDArray[Any]]], frames: int) -> Arrays:
        """Return the file's outputs by name, if the network has to go on with some of them; it waits for them."""
        if not self.exportable.replays:
            return {}
        with self._running(frames):
            names = [port.name for port in self.exportable.outputs]
            return dict(zip(names, running.result(), strict=True))

    def judge(self, differences: Mapping[int, Difference]) -> Fidelity:
        """Return the worst of the lengths, or raise `NotFaithful` for it."""
        for frames, found in differences.items():
            if not (found.snr_db >= self.wanted_db and found.max_abs < math.inf):  # so written, NaN is refused
                raise self._unfaithful(round(found.snr_db, 1) if math.isfinite(found.snr_db) else "no", frames)
        return Fidelity(
            provider=self.provider,
            frames=tuple(differences),
            snr_db=round(min(d.snr_db for d in differences.values()), 2),
            max_abs=max(d.max_abs for d in differences.values()),
            wanted_db=self.wanted_db,
        )

    @contextmanager
    def _running(self, frames: int) -> Iterator[None]:
        """Turn ONNX Runtime's complaints about the file into `NotFaithful`, but not those about memory."""
        try:
            yield
        except _OtherPortsError as error:
            raise self._unfaithful("no", frames) from error
        except ORT_ERRORS as error:
            if "alloc" in str(error).lower() or "out of memory" in str(error).lower():
                # Graphics memory is held by other programs as a rule; main memory is this file's affair.
                full = MemoryError if self.provider == "CPUExecutionProvider" else torch.OutOfMemoryError
                raise full(str(error)[:300]) from error
            raise self._unfaithful("no", frames) from error

    def _unfaithful(self, snr_db: float | str, frames: int) -> NotFaithful:
        return NotFaithful(
            precision=self.precision,
            snr_db=snr_db,
            frames=frames,
            provider=self.provider,
            wanted_db=self.wanted_db,
        )


class _OtherLengthError(Exception):
    """The two sides are not equally long, in a network that rounds a length (`Exportable.rounds`), for the first time.

    By itself that is no proof of anything: of two predictions of 3.0000001 and 2.9999999 frames one becomes 4, the
    other 3. What was drawn is of no use then, as nothing after that frame can be compared.
    """


class _OtherPortsError(Exception):
    """The file has another interface than the network."""


def _check_ports(session: onnxruntime.InferenceSession, exportable: Exportable) -> None:
    """The session shows the interface that was asked for."""
    for found, wanted in ((session.get_inputs(), exportable.inputs), (session.get_outputs(), exportable.outputs)):
        seen = tuple(Port(arg.name, _DTYPES.get(arg.type, arg.type), tuple(arg.shape)) for arg in found)
        if seen != tuple(wanted):
            raise _OtherPortsError(f"the file has {seen}, wanted are {wanted}")


_DTYPES: Final = {"tensor(float)": "float32", "tensor(int64)": "int64"}


def _noise_source(node: onnx.NodeProto, provider: str) -> Draw:
    """Return a function that draws, call by call, the standard normal noise that the file's node should draw.

    Only the seed is taken from the file: a node with another mean or scale then differs, as it should.
    """
    seed = next(attribute.f for attribute in node.attribute if attribute.name == "seed")
    alone = onnx.helper.make_node("RandomNormalLike", ["like"], ["noise"], dtype=onnx.TensorProto.FLOAT, seed=seed)
    float32 = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [alone],
        "noise",
        [onnx.helper.make_tensor_value_info("like", float32, None)],
        [onnx.helper.make_tensor_value_info("noise", float32, None)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    session = open_session(model.SerializeToString(), provider)

    def draw(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.from_numpy(session.run(None, {"like": np.zeros(shape, np.float32)})[0])

    return draw


def _ask_network(voice: Original, inputs: Arrays, sources: Sequence[Draw], predictions: Arrays) -> list[NDArray[Any]]:
    """Return the outputs of the PyTorch network on the same noise, and on the file's own `predictions`."""
    arguments = [torch.from_numpy(inputs[port.name]) for port in voice.exportable.inputs]
    with torch.inference_mode(), _replaying(voice, sources), _going_on_with(voice, predictions) as own:
        outputs = voice.network(*arguments)
    found = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
    named = zip([port.name for port in voice.exportable.outputs], found, strict=True)
    return [own.get(name, tensor).numpy() for name, tensor in named]


@contextmanager
def _going_on_with(voice: Original, predictions: Arrays) -> Iterator[dict[str, torch.Tensor]]:
    """Let the network go on with the file's predictions; yield what becomes its own, by the outputs' names."""
    own: dict[str, torch.Tensor] = {}

    def prepare(name: str) -> Callable[[Any, Any, torch.Tensor], torch.Tensor]:
        def exchange(_module: Any, _arguments: Any, result: torch.Tensor) -> torch.Tensor:  # noqa: ANN401 - torch's
            own[name] = result
            given = torch.from_numpy(predictions[name])
            return given if given.shape == result.shape else result  # another shape is told of afterwards

        return exchange

    hooks = [
        voice.network.get_submodule(path).register_forward_hook(prepare(name))
        for path, name in voice.exportable.replays.items()
    ]
    try:
        yield own
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _replaying(voice: Original, sources: Sequence[Draw]) -> Iterator[None]:
    """Let the network's `Noise` modules give what `sources` draw; the shapes are known when they are called."""
    modules: list[Any] = [voice.network.get_submodule(path) for path in voice.exportable.noises]

    def prepare(draw: Draw) -> Callable[[Any, tuple[torch.Tensor, ...]], None]:
        def replay(module: Any, arguments: tuple[torch.Tensor, ...]) -> None:  # noqa: ANN401 - a Noise
            module.replay = draw(tuple(arguments[0].shape))

        return replay

    hooks = [module.register_forward_pre_hook(prepare(draw)) for module, draw in zip(modules, sources, strict=True)]
    try:
        yield
    finally:
        for module, hook in zip(modules, hooks, strict=True):
            hook.remove()
            module.replay = None
