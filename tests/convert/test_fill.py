"""What is streamed is, byte for byte, what `onnx` writes for the whole model, and no voice is ever held whole."""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper

from voicekiln.convert import fill as fill_module
from voicekiln.convert.fill import MAX_BYTES, Filled, fill
from voicekiln.convert.graph import BadGraphError

Weights = Mapping[str, torch.Tensor]

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LARGEST_HALF = 65504


def declared(shapes: Mapping[str, tuple[int, ...]], data_type: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """Return a model with weights of these shapes, without numbers."""
    weights = [TensorProto(name=name, dims=shape, data_type=data_type) for name, shape in shapes.items()]
    node = helper.make_node("Identity", ["x"], ["y"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    return helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:], weights))


def whole(model: onnx.ModelProto, weights: Weights, facts: Mapping[str, str]) -> bytes:
    """Return what `onnx` writes for the model with its numbers, which NumPy has rounded."""
    full = onnx.ModelProto()
    full.CopyFrom(model)
    for tensor in full.graph.initializer:
        tensor.raw_data = rounded(weights[tensor.name], tensor.data_type).tobytes()
    del full.metadata_props[:]
    helper.set_model_props(full, dict(sorted(facts.items())))
    return bytes(full.SerializeToString(deterministic=True))


def rounded(tensor: torch.Tensor, data_type: int) -> NDArray[Any]:
    """Return numbers in float32 or, from there, as the nearest half numbers."""
    numbers: NDArray[Any] = tensor.float().numpy()
    if data_type == TensorProto.FLOAT16:
        numbers = np.clip(numbers, -LARGEST_HALF, LARGEST_HALF).astype(np.float16)
    return numbers


def filled(tmp_path: Path, model: onnx.ModelProto, weights: Weights, facts: Mapping[str, str] | None = None) -> bytes:
    """Return the bytes that are streamed; what is said of them is true."""
    path = tmp_path / "voice.onnx"
    made = fill(model, weights.__getitem__, facts or {}, path)
    data = path.read_bytes()
    assert made == Filled(hashlib.sha256(data).hexdigest(), len(data))
    return data


def drawn(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Return numbers of all magnitudes that the type has, a few of them zero."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape) * 10.0 ** rng.integers(-9, 7, shape) * rng.integers(0, 5, shape).clip(0, 1)
    largest = torch.finfo(dtype).max
    return torch.from_numpy(np.asarray(values)).clamp(-largest, largest).to(dtype)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
tensors = st.tuples(
    st.lists(st.integers(1, 7), max_size=4).map(tuple),
    st.sampled_from([TensorProto.FLOAT, TensorProto.FLOAT16]),
    st.sampled_from(DTYPES),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    weights=st.dictionaries(texts, tensors, max_size=6),
    facts=st.dictionaries(texts, texts, max_size=4),
    around=st.fixed_dictionaries({}, optional=dict.fromkeys(("producer_name", "domain", "doc_string"), texts)),
    name=texts,
)
def test_the_bytes_are_onnxs_own(
    tmp_path: Path,
    weights: dict[str, tuple[tuple[int, ...], int, torch.dtype]],
    facts: dict[str, str],
    around: dict[str, str],
    name: str,
) -> None:
    """Whatever the names, shapes, types and facts are, and whatever else stands in the model."""
    model = declared({})
    for key, (shape, data_type, _) in weights.items():
        model.graph.initializer.add(name=key, dims=shape, data_type=data_type)
    for key, text in around.items():
        setattr(model, key, text)
    model.graph.name = model.graph.doc_string = name
    helper.set_model_props(model, {"older": "fact"})
    numbers = {key: drawn(shape, dtype, at) for at, (key, (shape, _, dtype)) in enumerate(weights.items())}
    assert filled(tmp_path, model, numbers, facts) == whole(model, numbers, facts)


@pytest.mark.parametrize("size", [1, 31, 32, 127, 128, 4095, 4096, 16_384, 2**16, 2**19, 2**21 + 1])
def test_lengths_of_every_size_are_written_right(tmp_path: Path, size: int) -> None:
    """Lengths take one to four bytes before the numbers, and more is written than is buffered."""
    model = declared({"small": (3,), "large": (size,), "n" * 200: (2, 2)})
    numbers = {tensor.name: drawn(tuple(tensor.dims)) for tensor in model.graph.initializer}
    assert filled(tmp_path, model, numbers) == whole(model, numbers, {})


def test_equal_arguments_give_equal_bytes(tmp_path: Path) -> None:
    """In whatever order the facts come; the model is left as it was."""
    model = declared({"a": (3, 2)})
    before = model.SerializeToString(deterministic=True)
    numbers = {"a": drawn((3, 2))}
    first = filled(tmp_path, model, numbers, {"a": "1", "b": "2"})
    assert filled(tmp_path, model, numbers, {"b": "2", "a": "1"}) == first
    assert model.SerializeToString(deterministic=True) == before


def test_weights_are_written_as_they_lie(tmp_path: Path) -> None:
    """A transposed view has the numbers of its own order, not those of the memory behind it."""
    model = declared({"a": (3, 5)})
    view = drawn((5, 3)).t()
    assert not view.is_contiguous()
    assert filled(tmp_path, model, {"a": view}) == whole(model, {"a": view.contiguous()}, {})


def test_an_axis_of_one_may_be_missing(tmp_path: Path) -> None:
    """Checkpoints have one axis less than the decoder's convolutions."""
    model = declared({"conv": (4, 2, 1, 3), "linear": (1, 1)})
    numbers = {"conv": drawn((4, 2, 3)), "linear": drawn(())}
    assert filled(tmp_path, model, numbers) == whole(model, numbers, {})


@pytest.mark.parametrize("shape", [(3, 2), (2, 2), (2, 4), (6,), (), (2, 3, 2), (3, 1, 2)])
def test_another_shape_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Also where the count of numbers would be right: they would lie in the wrong places."""
    with pytest.raises(BadGraphError, match=r"w has the shape .* \[2, 3\] is wanted"):
        filled(tmp_path, declared({"w": (2, 3)}), {"w": torch.zeros(shape)})


HALVES = (
    (0.0, 0.0), (-0.0, -0.0), (1.0, 1.0),
    (65504.0, 65504.0), (65519.0, 65504.0), (65520.0, 65504.0), (1e6, 65504.0), (-1e6, -65504.0), (3e38, 65504.0),
    (2**-24, 2**-24), (2**-25, 0.0), (2**-25 * 1.01, 2**-24), (3 * 2**-25, 2**-23), (1e-9, 0.0), (-1e-9, -0.0),
    (1 + 2**-11, 1.0), (1 + 3 * 2**-11, 1 + 2**-9), (1 + 2**-11 + 2**-20, 1 + 2**-10), (2049.0, 2048.0),
    (2051.0, 2052.0), (-2049.0, -2048.0), (65536.0, 65504.0), (2.0**100, 65504.0), (-(2.0**17), -65504.0),
    (2**-26, 0.0), (-(2**-30), -0.0),
)  # fmt: skip
"""Numbers with the half numbers that they become: the nearest, of two equally near ones the even."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_halves_are_the_nearest_numbers_that_half_precision_has(tmp_path: Path, dtype: torch.dtype) -> None:
    """Ties go to the even one, tiny ones to zero and not away from it, too large ones to the largest."""
    values, wanted = (torch.tensor(column, dtype=torch.float64) for column in zip(*HALVES, strict=True))
    kept = values.to(dtype).double() == values.float().double()  # bfloat16 has few of them
    assert int(kept.sum()) > 6
    model = declared({"w": (int(kept.sum()),)}, TensorProto.FLOAT16)
    data = filled(tmp_path, model, {"w": values[kept].to(dtype)})
    [tensor] = onnx.load_from_string(data).graph.initializer
    assert tensor.raw_data == wanted[kept].numpy().astype(np.float16).tobytes()


def test_a_half_file_has_the_float32_files_numbers_rounded(tmp_path: Path) -> None:
    """A double that float32 would round up to a tie is rounded twice: the two files tell of one voice."""
    double = torch.tensor([1 + 2**-11 + 2**-30], dtype=torch.float64)
    data = filled(tmp_path, declared({"w": (1,)}, TensorProto.FLOAT16), {"w": double})
    [half] = onnx.load_from_string(data).graph.initializer
    assert half.raw_data == np.float32(double.item()).astype(np.float16).tobytes()


def test_half_numbers_pass_as_they_are(tmp_path: Path) -> None:
    """Every one of them, in either precision, the largest and the smallest included."""
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.float16)
    finite = every[every.isfinite()]
    for data_type, dtype in ((TensorProto.FLOAT16, np.float16), (TensorProto.FLOAT, np.float32)):
        model = declared({"w": (len(finite),)}, data_type)
        [tensor] = onnx.load_from_string(filled(tmp_path, model, {"w": finite})).graph.initializer
        assert tensor.raw_data == finite.numpy().astype(dtype).tobytes()


def never(name: str) -> torch.Tensor:
    """Fail: no weight should be asked for."""
    raise AssertionError(name)


def test_a_file_too_large_for_onnx_is_refused_at_once(tmp_path: Path) -> None:
    """Two gigabytes: no weight is read and nothing is written."""
    path = tmp_path / "voice.onnx"
    with pytest.raises(BadGraphError, match="too large"):
        fill(declared({"w": (2**16, 2**13)}), never, {}, path)
    assert not path.exists() or path.stat().st_size == 0
    assert MAX_BYTES == 2**31 - 1


def test_the_limit_holds_for_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the byte, and with the metadata behind the graph."""
    model, facts = declared({"w": (50,)}), {"a": "fact" * 50}
    size = len(whole(model, {"w": drawn((50,))}, facts))
    monkeypatch.setattr(fill_module, "MAX_BYTES", size)
    assert len(filled(tmp_path, model, {"w": drawn((50,))}, facts)) == size
    monkeypatch.setattr(fill_module, "MAX_BYTES", size - 1)
    with pytest.raises(BadGraphError, match=f"a file of {size} bytes"):
        filled(tmp_path, model, {"w": drawn((50,))}, facts)


class Source:
    """Hands out large weights, and knows at each time how many of them somebody still holds."""

    def __init__(self, path: Path, dtype: torch.dtype, size: int) -> None:
        self.path, self.dtype, self.size = path, dtype, size
        self.handed: list[weakref.ref[NDArray[Any]]] = []
        self.asked: list[str] = []
        self.most_held = self.most_unwritten = 0

    def __call__(self, name: str) -> torch.Tensor:
        held = sum(one() is not None for one in self.handed)
        self.most_held = max(self.most_held, held)
        before = 4 * self.size * len(self.asked)
        self.most_unwritten = max(self.most_unwritten, before - self.path.stat().st_size)
        self.asked.append(name)
        numbers = np.zeros(self.size, np.float32 if self.dtype == torch.float32 else np.float16)
        self.handed.append(weakref.ref(numbers))
        return torch.from_numpy(numbers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_large_voice_is_never_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """Weights are asked for one by one, in order; by then all before the last are gone, and lie in the file."""
    size, names = 2**18, [f"w{at}" for at in range(24)]  # 1 MB each
    source = Source(tmp_path / "voice.onnx", dtype, size)
    converted: list[weakref.ref[Any]] = []
    real = fill_module._bytes

    def watched(tensor: torch.Tensor, wanted: torch.dtype) -> memoryview:
        assert sum(one() is not None for one in converted) <= 1
        numbers = real(tensor, wanted)
        converted.append(weakref.ref(numbers.obj))
        return numbers

    monkeypatch.setattr(fill_module, "_bytes", watched)
    made = fill(declared(dict.fromkeys(names, (size,))), source, {}, source.path)
    assert made.bytes > 24 * 2**20
    assert source.asked == names
    assert source.most_held <= 1
    assert source.most_unwritten <= 2**20


def test_the_file_is_synced_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left in a buffer at that time."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    made = fill(declared({"w": (50,)}), {"w": drawn((50,))}.__getitem__, {"a": "b"}, tmp_path / "voice.onnx")
    assert synced == [made.bytes]


class GoneError(Exception):
    """What a weight may raise."""


@pytest.mark.parametrize("at", range(4))
def test_a_failure_in_the_middle_leaves_no_file_that_passes_for_whole(tmp_path: Path, at: int) -> None:
    """Whatever a weight raises comes through, and what was written by then is no model."""
    path = tmp_path / "voice.onnx"
    model = declared({f"w{i}": (2**16,) for i in range(4)})
    path.write_bytes(whole(model, {f"w{i}": drawn((2**16,)) for i in range(4)}, {}))

    def weight(name: str) -> torch.Tensor:
        if name == f"w{at}":
            raise GoneError
        return drawn((2**16,))

    with pytest.raises(GoneError):
        fill(model, weight, {}, path)
    with pytest.raises(Exception, match="parsing"):
        onnx.load(path)


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    """The error is the system's own."""
    assert tmp_path
    with pytest.raises(OSError, match="No space left"):
        fill(declared({"w": (2**18,)}), lambda _: drawn((2**18,)), {}, Path("/dev/full"))
