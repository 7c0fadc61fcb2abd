"""A stranger's file becomes tensors and plain data of bounded size, or a refusal; never code, never a crash."""

from __future__ import annotations

import collections
import fractions
import os
import pickle
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from convert.small_checkpoints import (
    Pickled,
    around,
    legacy_around,
    saved,
    table,
    tensor,
    text,
    voice,
    weights,
    written,
)
from voicekiln.convert.checkpoint import Checkpoint, open_checkpoint
from voicekiln.convert.data import MAX_DEPTH
from voicekiln.errors import (
    BadNumbers,
    Contradiction,
    Damaged,
    NotACheckpoint,
    NoWeights,
    Refusal,
    UnsafePickle,
)
from voicekiln.families.base import TensorInfo


def opened(tmp_path: Path, thing: object, *, legacy: bool = False) -> Checkpoint:
    """Save the thing with PyTorch and open it."""
    return open_checkpoint(written(tmp_path / "voice.pth", saved(thing, legacy=legacy)))


def refusal(tmp_path: Path, data: bytes) -> Refusal:
    """Return the refusal of a file with these bytes."""
    with pytest.raises(Refusal) as caught:
        open_checkpoint(written(tmp_path / "voice.pth", data))
    return caught.value


@pytest.mark.parametrize("legacy", [False, True])
def test_weights_arrive_bit_for_bit(tmp_path: Path, *, legacy: bool) -> None:
    """Both forms give the tensors under their names, in the file's own precision."""
    checkpoint = opened(tmp_path, voice(), legacy=legacy)
    assert checkpoint.tensors.keys() == weights().keys()
    assert all(torch.equal(checkpoint.tensors[name], wanted) for name, wanted in weights().items())
    assert checkpoint.outline.tensors["dec.ups.0.weight_v"] == TensorInfo((6, 2, 3), "float16")


def test_the_rest_is_plain_data(tmp_path: Path) -> None:
    """Metadata comes along as numbers, texts, lists and tables, and the keys are listed."""
    outline = opened(
        tmp_path, voice(params={"rate": 0.5, 3: (1, None, True)}, optimizer={"state": {0: torch.ones(2)}})
    ).outline
    assert outline.tensor_key == "weight"
    assert outline.keys == ("weight", "config", "info", "sr", "f0", "params", "optimizer")
    assert outline.rest == {
        "config": [513, [3, 7], "1", 40000],
        "info": "9epoch",
        "sr": "40k",
        "f0": 1,
        "params": {"rate": 0.5, "3": [1, None, True]},
    }


def test_metadata_can_be_written_as_json(tmp_path: Path) -> None:
    """What no JSON file can hold is made text or left out: infinity, surrogates, long numbers, deep nesting."""
    deep: Any = 1
    for _ in range(MAX_DEPTH + 1):
        deep = [deep]
    rest = opened(tmp_path, voice(a=float("inf"), b="x\ud800\ny", c=2**70, d=deep, e="x" * 10**6)).outline.rest
    assert rest["a"] == "inf"
    assert rest["b"] == "x\N{REPLACEMENT CHARACTER} y"
    assert not {"c", "d", "e"} & rest.keys()


def test_a_metadata_bomb_is_left_out(tmp_path: Path) -> None:
    """A table that holds itself a thousandfold is small in the file and endless to walk; it is not walked."""
    bomb: Any = ["x"] * 30
    for _ in range(MAX_DEPTH - 2):
        bomb = [bomb] * 30
    assert "bomb" not in opened(tmp_path, voice(bomb=bomb)).outline.rest


@pytest.mark.parametrize("key", ["weight", "model", "state_dict", "generator", "net_g"])
def test_tensors_are_found_where_tools_put_them(tmp_path: Path, key: str) -> None:
    """The top-level key is told, so that a family can tell a training checkpoint from a voice."""
    checkpoint = opened(tmp_path, {"epoch": 3, key: collections.OrderedDict(weights())})
    assert checkpoint.outline.tensor_key == key
    assert checkpoint.outline.rest == {"epoch": 3}


def test_tensors_at_the_top_level_are_found(tmp_path: Path) -> None:
    """A bare state dict has no key."""
    checkpoint = opened(tmp_path, collections.OrderedDict(weights()))
    assert checkpoint.outline.tensor_key is None
    assert checkpoint.tensors.keys() == weights().keys()


def test_a_modules_own_state_is_read(tmp_path: Path) -> None:
    """What `module.state_dict()` returns carries remarks of PyTorch's own, which are no obstacle."""
    layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(2, 3, 3))
    state = torch.nn.ModuleDict({"post": layer}).state_dict()
    checkpoint = opened(tmp_path, {"model": state, "learning_rate": 1e-4})
    assert set(checkpoint.tensors) == {
        "post.bias",
        "post.weight_g",
        "post.weight_v",
    }  # the older spelling, whatever the file has


def test_parameters_lose_their_gradients(tmp_path: Path) -> None:
    """Trained parameters are weights like any other."""
    checkpoint = opened(tmp_path, {"model": {"a": torch.nn.Parameter(torch.ones(3))}})
    assert not checkpoint.tensors["a"].requires_grad


def test_both_spellings_at_once_contradict_each_other(tmp_path: Path) -> None:
    """One layer cannot have two weight norms."""
    twice = {"a.weight_g": torch.ones(2), "a.parametrizations.weight.original0": torch.ones(2)}
    assert isinstance(refusal(tmp_path, saved({"weight": twice})), Contradiction)


def test_something_else_among_the_weights_is_named(tmp_path: Path) -> None:
    """A merged file with a stray entry is a contradiction, not a crash later."""
    found = refusal(tmp_path, saved(voice(weight=weights() | {"note": "x"})))
    assert isinstance(found, Contradiction)
    assert "note" in found.text


@pytest.mark.parametrize(
    ("thing", "what"),
    [
        ({"optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}, "epoch": 3}, "optimizer, epoch"),
        ({"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1}]}, "state, param_groups"),
        ({}, "nothing at all"),
        ({"weight": {}}, "weight"),
    ],
)
def test_a_file_without_a_model_says_what_it_has(tmp_path: Path, thing: object, what: str) -> None:
    """An optimizer alone is no voice."""
    found = refusal(tmp_path, saved(thing))
    assert isinstance(found, NoWeights)
    assert found.found["keys"] == what


@pytest.mark.parametrize("thing", [[torch.ones(2)], torch.ones(2), "text", 3, None])
def test_a_file_that_is_no_table_is_no_checkpoint(tmp_path: Path, thing: object) -> None:
    """A single tensor or a list is refused by what it is."""
    assert isinstance(refusal(tmp_path, saved(thing)), NotACheckpoint)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_numbers_that_are_not_finite_are_counted(tmp_path: Path, dtype: torch.dtype, bad: float) -> None:
    """The first tensor is named; whole numbers cannot be wrong in this way."""
    broken = torch.ones(6, dtype=dtype)
    broken[2:4] = bad
    parts = weights() | {"enc_p.proj.bias": broken, "later": broken.clone(), "steps": torch.ones(2, dtype=torch.int64)}
    found = refusal(tmp_path, saved(voice(weight=parts)))
    assert isinstance(found, BadNumbers)
    assert found.found == {"count": 4, "tensor": "enc_p.proj.bias"}


def test_what_is_infinite_in_float32_counts_as_infinite(tmp_path: Path) -> None:
    """A double that single precision cannot hold would become infinite on the way."""
    assert isinstance(refusal(tmp_path, saved({"weight": {"a": torch.tensor([1e300]).double() * 1e10}})), BadNumbers)
    large = torch.tensor([1e300], dtype=torch.float64)
    assert isinstance(refusal(tmp_path, saved({"weight": {"a": large}})), BadNumbers)


def test_shared_weights_are_no_trick(tmp_path: Path) -> None:
    """Parts of a network that share their weights are saved once and counted once."""
    shared = torch.randn(300)
    assert len(opened(tmp_path, {"model": {f"flow.{i}": shared for i in range(50)}}).tensors) == 50


def test_numbers_that_bear_many_names_are_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file could else ask for weeks: twenty thousand names for the same gigabyte."""
    shared, looks = torch.randn(300), []
    data = saved({"model": {f"flow.{i}": shared for i in range(50)} | {"half": shared[:150], "other": torch.ones(3)}})
    real = torch.aminmax

    def look(tensor: torch.Tensor) -> Any:
        looks.append(tensor.numel())
        return real(tensor)

    monkeypatch.setattr(torch, "aminmax", look)
    open_checkpoint(written(tmp_path / "voice.pth", data))
    assert looks == [300, 150, 3]


HOSTILE: dict[str, tuple[object, str]] = {
    "os.system": (Pickled(os.system, ("touch {canary}",)), "posix.system"),
    "eval": (Pickled(eval, ("open('{canary}', 'w')",)), "eval"),
    "getattr": (Pickled(getattr, (3, "real")), "builtins.getattr"),
    "torch.hub.load": (Pickled(torch.hub.load, ("someone/repo", "model")), "torch.hub.load"),
    "torch.load": (Pickled(torch.load, ("/etc/hostname",)), "torch.serialization.load"),
    "numpy": (Pickled(np.zeros, (3,)), "numpy"),
    "a class of its own": (fractions.Fraction(1, 3), "fractions.Fraction"),
    "subprocess": (Pickled(subprocess.Popen, (["touch", "{canary}"],)), "subprocess.Popen"),
    "a whole module": (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
}


@pytest.mark.requirement(20)
@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("legacy", [False, True])
def test_code_is_named_and_never_run(tmp_path: Path, name: str, *, legacy: bool) -> None:
    """Whatever a pickle wants to import is named in the refusal, and nothing of it happens."""
    thing, wants = HOSTILE[name]
    canary = tmp_path / "canary"
    if isinstance(thing, Pickled):
        function, arguments = thing.call
        thing = Pickled(function, tuple(a.format(canary=canary) if isinstance(a, str) else a for a in arguments))
    found = refusal(tmp_path, saved(voice(info=thing), legacy=legacy))
    assert isinstance(found, UnsafePickle)
    assert wants in str(found.found["wants"])
    assert not canary.exists()


def opcodes_of_a_call(module: str, name: str, arguments: bytes) -> bytes:
    """Return a table of contents that calls something and calls that the weights."""
    return b"\x80\x02}" + text("weight") + f"c{module}\n{name}\n".encode() + arguments + b"Rs."


NEST = b"(" + b"K\x01" + b"\x85" * 5000 + b"t"

ODD: dict[str, bytes] = {
    "gigabytes by bytearray": opcodes_of_a_call("builtins", "bytearray", b"(J\xff\xff\xff\x7ft"),
    "doubling by codec": opcodes_of_a_call("_codecs", "encode", b"(" + text("ab") + text("hex") + b"t"),
    "an empty tensor of any size": opcodes_of_a_call("torch", "FloatTensor", b"(J\xff\xff\xff\x7ft"),
    "a tensor without bytes": opcodes_of_a_call(
        "torch._utils", "_rebuild_meta_tensor_no_storage", b"(ctorch\nfloat32\n(K\x02t(K\x01t\x89t"
    ),
    "a subclass": opcodes_of_a_call("torch._tensor", "_rebuild_from_type_v2", NEST),
    "a stack that does not add up": b"\x80\x02}us.",
    "a memo that was never written": b"\x80\x02h\x05.",
    "no end": b"\x80\x02}" + text("weight"),
    "a length beyond the file": b"\x80\x02X\xff\xff\xff\x7fabc.",
    "a persistent id of its own": b"\x80\x02" + text("me") + b"Q.",
    "a storage of another kind": b"\x80\x02(" + text("module") + text("a") * 4 + b"tQ.",
    "a negative storage": table(a=tensor("FloatStorage", "0", -4, (4,), (1,))),
    "a build on a number": b"\x80\x02K\x01}b.",
    "a build on a size": b"\x80\x02ctorch\nSize\n(tR}" + text("x") + b"K\x01sb.",
    "a table that hides its own methods": b"\x80\x02ccollections\nOrderedDict\n)R}" + text("items") + b"K\x01sb.",
    "keys that take for ever": b"\x80\x02}" + b"K\x01" + b"2\x86" * 64 + b"K\x01s.",
    "keys that take for ever, in torch's opcodes": b"\x80\x02}" + b"K\x01\x85" + b"q\x01h\x01\x86" * 64 + b"K\x01s.",
    "a name that takes for ever to write down": b"\x80\x02K\x01\x85" + b"q\x01h\x01\x86" * 64 + b"h\x01\x93.",
    "a part whose name takes for ever to write down": b"\x80\x02K\x01\x85"
    + b"q\x01h\x01\x86" * 64
    + b"("
    + text("storage")
    + b"ctorch\nFloatStorage\n"
    + b"h\x01"
    + text("cpu")
    + b"K\x01tQ.",
    "nothing": b"",
    "rubbish": b"\x80\x02" + bytes(range(256)),
}


@pytest.mark.requirement(20)
@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("legacy", [False, True])
def test_odd_pickles_end_as_refusals(tmp_path: Path, name: str, *, legacy: bool) -> None:
    """Nothing that is written by hand into a pickle comes out as anything but a refusal."""
    data = legacy_around(ODD[name]) if legacy else around(ODD[name])
    assert isinstance(refusal(tmp_path, data), NotACheckpoint | Damaged | UnsafePickle | NoWeights)


FEW = np.arange(4, dtype=np.float32).tobytes()

TRICKS: dict[str, bytes] = {
    "stretched": around(table(a=tensor("FloatStorage", "0", 4, (1_000_000, 4), (0, 1))), s0=FEW),
    "overlapping": around(
        table(**{f"t{i}": tensor("FloatStorage", "0", 1000, (900,), (1,), first=i) for i in range(50)}),
        s0=bytes(4000),
    ),
    "beyond its part": around(table(a=tensor("FloatStorage", "0", 4, (400,), (1,))), s0=FEW),
    "a part too short": around(table(a=tensor("FloatStorage", "0", 400, (400,), (1,))), s0=FEW),
    "a part that is missing": around(table(a=tensor("FloatStorage", "1", 4, (4,), (1,))), s0=FEW),
    "two sizes of one part": around(
        table(a=tensor("FloatStorage", "0", 4, (4,), (1,)), b=tensor("HalfStorage", "0", 4, (4,), (1,))), s0=FEW
    ),
    "a negative size": around(table(a=tensor("FloatStorage", "0", 4, (-4,), (1,))), s0=FEW),
    "legacy, a part that nobody fills": legacy_around(table(a=tensor("FloatStorage", "0", 4, (4,), (1,)))),
}  # fmt: skip


@pytest.mark.requirement(20)
@pytest.mark.parametrize("name", TRICKS)
def test_no_tensor_is_larger_than_its_bytes(tmp_path: Path, name: str) -> None:
    """A few bytes cannot stand for gigabytes, nor for memory that nobody filled."""
    assert isinstance(refusal(tmp_path, TRICKS[name]), Contradiction | Damaged)


def test_no_tensor_reaches_into_the_next_part(tmp_path: Path) -> None:
    """The file is mapped into memory, so a part that claims too much would go on with its neighbour's bytes."""
    first = table(a=tensor("FloatStorage", "0", 400, (400,), (1,)))
    found = refusal(tmp_path, around(first, s0=FEW, s1=bytes(8000)))
    assert "not as long as its table of contents says" in found.text


def test_the_hand_made_archive_is_sound_without_the_trick(tmp_path: Path) -> None:
    """The same parts without the trick open: the tricks are what is refused."""
    path = written(tmp_path / "v.pth", around(table(a=tensor("FloatStorage", "0", 4, (2, 2), (2, 1))), s0=FEW))
    assert open_checkpoint(path).tensors["a"].tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    "odd",
    [
        torch.ones(3, dtype=torch.complex64),
        torch.eye(3).to_sparse(),
        torch.ones(3, device="meta"),
        torch.ones(3).to(torch.uint16),
        torch.ones(3).to(torch.float8_e4m3fn),
    ],
    ids=["complex", "sparse", "meta", "uint16", "float8"],
)
def test_tensors_of_other_kinds_are_refused(tmp_path: Path, odd: torch.Tensor) -> None:
    """A voice has dense, real numbers in memory."""
    assert isinstance(refusal(tmp_path, saved({"weight": {"a": odd}})), NotACheckpoint)


def test_a_quantised_tensor_is_refused(tmp_path: Path) -> None:
    """Quantised weights are named as what they are, not as harmful."""
    rebuild = opcodes_of_a_call("torch._utils", "_rebuild_qtensor", b"(t")
    assert isinstance(refusal(tmp_path, around(rebuild)), NotACheckpoint)


def test_a_disk_that_fails_is_not_the_files_fault(tmp_path: Path) -> None:
    """A missing or unreadable file is an OSError, which is tried again."""
    with pytest.raises(FileNotFoundError):
        open_checkpoint(tmp_path / "gone.pth")
    with pytest.raises(IsADirectoryError):
        open_checkpoint(tmp_path)


def test_memory_that_runs_out_is_not_the_files_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal is final, so a full machine must not lead to one."""

    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(torch, "load", full)
    with pytest.raises(MemoryError):
        open_checkpoint(written(tmp_path / "v.pth", saved(voice())))


@pytest.mark.parametrize(("asked", "wanted"), [(64, MemoryError), (2**40, Damaged)])
def test_memory_that_torch_cannot_get_is_the_files_fault_only_if_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: int, wanted: type[Exception]
) -> None:
    """PyTorch tells of it in words: as many bytes as the file has are an honest wish, more are not."""

    def full(*_: object, **__: object) -> None:
        raise RuntimeError(f"DefaultCPUAllocator: can't allocate memory: you tried to allocate {asked} bytes. Error 12")

    monkeypatch.setattr(torch, "load", full)
    with pytest.raises(wanted):
        open_checkpoint(written(tmp_path / "v.pth", saved(voice())))


def test_torch_is_only_ever_asked_for_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one call that could run code is the safe one, and its answer is the last word where ours lets pass."""
    asked: list[dict[str, Any]] = []
    real = torch.load

    def load(*args: Any, **options: Any) -> Any:
        asked.append(options)
        return real(*args, **options)

    monkeypatch.setattr(torch, "load", load)
    opened(tmp_path, voice())
    opened(tmp_path, voice(), legacy=True)
    assert [(o["weights_only"], o["map_location"], o["mmap"]) for o in asked] == [
        (True, "cpu", True),
        (True, "cpu", False),
    ]


@pytest.mark.parametrize(
    "raised",
    [
        pickle.UnpicklingError("Unsupported global: GLOBAL a.b was not an allowed global"),
        RuntimeError("PytorchStreamReader failed"),
        KeyError("x"),
        AttributeError("y"),
        EOFError(),
        OSError(22, "Invalid argument"),
        RecursionError(),
        AssertionError(),
    ],
)
def test_whatever_torch_raises_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception) -> None:
    """Behind our own look, PyTorch's complaints of any type are answers to the person too."""

    def load(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(torch, "load", load)
    found = refusal(tmp_path, saved(voice()))
    assert found.found == ({"wants": "a.b"} if isinstance(found, UnsafePickle) else {"what": "PyTorch cannot read it"})
