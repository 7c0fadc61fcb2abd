"""The door for strangers' files: `torch.load(weights_only=True)`, after a look at the frame, and nothing else ever.

But for a feature index, which is not PyTorch's and not loaded at all (see `feature_index`).

What comes out is data whose size is bounded by the file's: plain tensors, each with bytes of its own in the file,
and plain metadata of sane depth. Everything that goes wrong here is an answer to the person (`Refusal`); only a
machine that fails (`OSError`, `MemoryError`) is not. Accepted: a pickle can still be built to keep torch busy for
a long time; the deadline of the stage ends that.
"""

from __future__ import annotations

import errno
import re
import warnings
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from voicekiln.convert import arrays, companions, d_vectors
from voicekiln.convert.data import NotPlainError, plain_data
from voicekiln.convert.feature_index import open_index
from voicekiln.convert.glance import Form, glance
from voicekiln.errors import BadNumbers, Contradiction, Damaged, NotACheckpoint, NoWeights, Refusal, UnsafePickle, plain
from voicekiln.families.base import Outline, TensorInfo
from voicekiln.families.companions import is_table
from voicekiln.nets import weight_norm

TENSOR_KEYS: Final = ("weight", "model", "state_dict", "generator")
"""Where voices keep their tensors, in the order in which they are looked for."""

MAX_TENSORS: Final = 20_000

_DTYPES: Final = {
    torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool,
}  # fmt: skip
_NAMED_GLOBAL = re.compile(r"GLOBAL (\S+) ")
_ASKED_BYTES = re.compile(r"can't allocate memory: you tried to allocate ([0-9]{1,30}) bytes")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened checkpoint; its tensors may be mapped from the file, which must stay as it is."""

    outline: Outline
    tensors: Mapping[str, torch.Tensor]
    """Those of the outline, by the same names, and those of `DVectors`; on the CPU, in the file's own precision."""


def open_checkpoint(path: Path, beside: Mapping[str, Path | None] = companions.NOTHING) -> Checkpoint:
    """Load the file and check all that can be checked without knowing what voice it is.

    `beside` says where its companions lie, see `companions.read` and `d_vectors.read`.

    Raises:
        Refusal: if it is no checkpoint, is damaged or hostile, holds no weights or weights that are not finite.
        OSError, MemoryError: if the machine fails, which is not the file's fault.
    """
    found = _contents(path)
    _check_numbers(found.tensors)
    tensors = {weight_norm.older_spelling(name): tensor.detach() for name, tensor in found.tensors.items()}
    if len(tensors) < len(found.tensors):
        raise Contradiction(what="it has the weight norm of one layer twice, in both spellings")
    tables = {name: copy for name, copy in beside.items() if is_table(name)}
    told = d_vectors.read(tables, _pickled, tensors)
    texts = {name: copy for name, copy in beside.items() if name not in tables}
    outline = Outline(
        tensors={name: TensorInfo(tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in tensors.items()},
        rest=found.rest,
        tensor_key=found.tensor_key,
        keys=tuple(plain(key, 100) for key in found.keys),
        beside=companions.read(texts) | told.values,
    )
    return Checkpoint(outline, tensors | told.tensors)


def _pickled(path: Path) -> Any:  # noqa: ANN401 - whatever the file holds
    """Return what is in a file that is no voice but came from PyTorch as well; raises as `open_checkpoint`."""
    if (form := glance(path)) not in ("zip", "legacy"):
        raise NotACheckpoint(what="it holds something else than PyTorch's tensors")
    return _load(path, form)


@dataclass(frozen=True, slots=True)
class _Contents:
    """What is in a file; the fields are those of `Outline`."""

    tensors: Mapping[str, torch.Tensor]
    rest: Mapping[str, Any]
    tensor_key: str | None
    keys: Iterable[str]


def _contents(path: Path) -> _Contents:
    """Open the file as what it is, and check that its tensors are no larger; raises as `open_checkpoint`."""
    if (form := glance(path)) == "index":
        indexes = open_index(path)
        named = {f"{who}/{what}": torch.from_numpy(x) for who, index in indexes.items() for what, x in index.arrays()}
        return _Contents(named, {who: {"probes": index.probes} for who, index in indexes.items()}, None, indexes)
    whole = _load(path, form)
    if not isinstance(whole, dict):
        raise NotACheckpoint(what=f"it holds a single {type(whole).__name__}, not a table of weights")
    entries = {key: value for key, value in dict.items(whole) if isinstance(key, str)}
    tensor_key: str | None = None
    if form == "arrays":
        named, rest = arrays.taken_apart(entries)
    else:
        tensor_key, named = _find_tensors(entries)
        rest = _plain_entries(entries)
    _check_memory(named, path.stat().st_size)
    return _Contents(named, rest, tensor_key, entries)


def _load(path: Path, form: Form) -> Any:  # noqa: ANN401 - whatever the file holds
    """Call torch.load and turn whatever it raises into a refusal."""
    more = arrays.allowed() if form == "arrays" else []
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(more):
            # torch warns of its own storage classes and of odd but valid pickles; the person is told by refusals.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=form == "zip")
    except MemoryError:
        raise
    except Exception as error:
        # A stranger's bytes: torch raises whatever its parsers happen to raise.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # a disk that fails; positions that a broken file made up are EINVAL
        asked = _ASKED_BYTES.search(str(error))
        if asked is not None and int(asked[1]) <= path.stat().st_size:
            raise MemoryError(str(error)[:300]) from error  # an honest wish, and the machine is full
        raise _explain(str(error)) from error


def _explain(message: str) -> Refusal:
    """Return the refusal for a message of torch.load."""
    name = _NAMED_GLOBAL.search(message)
    if name is not None:
        return UnsafePickle(wants=plain(name[1], 80))
    return Damaged(what="PyTorch cannot read it")


def _find_tensors(entries: dict[str, Any]) -> tuple[str | None, dict[str, torch.Tensor]]:
    """Return where the model's tensors lie and the tensors.

    Raises:
        NoWeights: if there are none.
        Contradiction: if something else lies among them.
    """
    top = {name: value for name, value in entries.items() if isinstance(value, torch.Tensor)}
    found = {key: value for key, value in entries.items() if isinstance(value, dict) and _has_tensors(value)}
    for key in (*TENSOR_KEYS, *sorted(found, key=lambda key: -len(found[key]))):
        if key in found and len(found[key]) >= len(top):
            return key, _only_tensors(found[key])
    if not top:
        raise NoWeights(keys=", ".join(plain(key, 40) for key in list(entries)[:6]) or "nothing at all")
    return None, top


def _has_tensors(value: dict[Any, Any]) -> bool:
    return any(isinstance(item, torch.Tensor) for item in dict.values(value))


def _only_tensors(value: dict[Any, Any]) -> dict[str, torch.Tensor]:
    for name, item in dict.items(value):
        if not (isinstance(name, str) and isinstance(item, torch.Tensor)):
            shown = name[:80] if isinstance(name, str) else f"under a {type(name).__name__}"
            raise Contradiction(what=f"among the weights is something that is no tensor ({plain(shown)})")
    return dict(dict.items(value))


def _check_memory(tensors: Mapping[str, torch.Tensor], file_bytes: int) -> None:
    """Refuse tensors that are of a kind that no voice has, or that stand for more numbers than the file holds."""
    if len(tensors) > MAX_TENSORS:
        raise Contradiction(what=f"it has {len(tensors)} tensors")
    total = 0
    seen = set()
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or not _is_plain(tensor):
            raise NotACheckpoint(what=f"its tensor {plain(name, 80)} is of a kind that no voice has ({tensor.dtype})")
        needed = tensor.numel() * tensor.element_size()
        view = _view(tensor)
        total += 0 if view in seen else needed  # parts of a network that share their weights are saved as one
        seen.add(view)
        if needed > tensor.untyped_storage().nbytes() or total > file_bytes:
            raise Contradiction(what=f"its tensor {plain(name, 80)} stands for more numbers than the file holds")


def _is_plain(tensor: torch.Tensor) -> bool:
    """Say whether its bytes are its numbers: a file may also ask for their negatives."""
    return tensor.dtype in _DTYPES and not tensor.is_neg()


def _view(tensor: torch.Tensor) -> tuple[Hashable, ...]:
    """Return what two tensors have in common that are the same numbers in memory."""
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()


def _check_numbers(tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse NaN and infinity, also what is infinite in float32.

    The least and the largest number tell of both (NaN is passed on), in a tenth of the time of looking at each.
    Numbers that bear many names are looked at once: a small file could else ask for weeks of it.
    """
    bad: dict[str, int] = {}
    seen = set()
    for name, tensor in tensors.items():
        if _view(tensor) in seen:
            continue
        seen.add(_view(tensor))
        if tensor.is_floating_point() and tensor.numel() and not all(map(_is_finite, torch.aminmax(tensor))):
            bad[name] = tensor.numel() - int(torch.isfinite(tensor.float()).sum())
    if bad:
        raise BadNumbers(count=sum(bad.values()), tensor=plain(next(iter(bad)), 100))


def _is_finite(number: torch.Tensor) -> bool:
    return bool(torch.isfinite(number.float()))


def _plain_entries(entries: dict[str, Any]) -> dict[str, Any]:
    """Return the top-level entries that are plain data, copied; others are left out."""
    rest = {}
    for key, value in entries.items():
        try:
            rest[key] = plain_data(value)
        except NotPlainError:
            continue
    return rest
