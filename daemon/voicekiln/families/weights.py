"""How each weight of a network is got from a checkpoint's tensors: a rule per weight, read one at a time.

A voice is never held whole in float32: whoever writes or loads weights asks for them one by one, and each comes out
of the mapped file when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch

from voicekiln.errors import BadNumbers, Contradiction
from voicekiln.nets.weight_norm import norm_scale


@dataclass(frozen=True, slots=True)
class AsIs:
    """The weight is a tensor of the checkpoint."""

    name: str


@dataclass(frozen=True, slots=True)
class Folded:
    """The weight is g * v / ||v||: weight norm, folded (see `nets.weight_norm`)."""

    g: str
    v: str


@dataclass(frozen=True, slots=True)
class Joined:
    """The weight is several tensors, each got by a rule of its own, one after the other along their first axis."""

    each: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Schedule:
    """The weight is a tensor of the checkpoint, one number for each time of a diffusion, all between 0 and 1."""

    name: str
    falling: bool
    """Whether each is less than the one before; else none is."""


@dataclass(frozen=True, slots=True)
class Computed:
    """The weight is computed from tensors of the checkpoint (a batch norm in use), settings (a filter bank) or both."""

    function: Callable[..., torch.Tensor]
    """Is called with the tensors, then with the arguments; equal ones give equal numbers."""
    names: tuple[str, ...] = ()
    """Of the tensors. If the numbers come out not finite, the last of them is to blame."""
    arguments: tuple[float, ...] = ()


Rule = AsIs | Folded | Joined | Schedule | Computed


def rules(names: Iterable[str]) -> dict[str, Rule]:
    """Return the rule for each weight of a network whose checkpoint has tensors of these names.

    Args:
        names: weight norm in its older spelling, each `weight_g` with its `weight_v`.
    """
    found: dict[str, Rule] = {}
    for name in names:
        if name.endswith(".weight_v"):
            stem = name.removesuffix("_v")
            found[stem] = Folded(f"{stem}_g", name)
        elif not name.endswith(".weight_g"):
            found[name] = AsIs(name)
    return found


def read(rule: Rule, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the weight: float32 if it had to be computed, else in the file's own precision and perhaps mapped from it.

    Raises:
        BadNumbers: if numbers that are not finite come of it (rows of zeros, a variance below zero).
        Contradiction: if a schedule is none.
        KeyError: if the tensors are not those that the rules were made for.
    """
    match rule:
        case AsIs(name):
            return tensors[name]
        case Folded(g, v):
            # No number of the product is larger than one of g, so its scale alone has to be looked at.
            scale = norm_scale(tensors[g], tensors[v])
            _check_finite(scale, v)
            return tensors[v].float().mul(scale)
        case Joined(each):
            return torch.cat([read(one, tensors) for one in each])
        case Schedule(name, falling):
            numbers = tensors[name]
            steps = numbers.diff()
            ordered = steps < 0 if falling else steps >= 0
            if not ((numbers > 0) & (numbers < 1)).all() or not ordered.all():
                way = "falling" if falling else "rising"
                raise Contradiction(what=f"{name} is no schedule: its numbers are not {way} between 0 and 1")
            return numbers
        case Computed(function, names, arguments):
            made = function(*(tensors[name] for name in names), *arguments)
            if names:  # what settings alone give is finite
                _check_finite(made, names[-1])
            return made


def _check_finite(numbers: torch.Tensor, tensor: str) -> None:
    if bad := int((~numbers.isfinite()).sum()):
        raise BadNumbers(count=bad, tensor=tensor)
