"""A step that is repeated as often as an input says: plain Python in PyTorch, one `Loop` in ONNX.

The exporter records what happens once. So it is shown one step, between two marks that mean nothing in ONNX;
`convert.loop` makes the body of a `Loop` of what lies between them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch

DOMAIN: Final = "voicekiln"
ENTER: Final = f"{DOMAIN}::Enter"
LEAVE: Final = f"{DOMAIN}::Leave"

Step = Callable[..., tuple[torch.Tensor, ...]]
"""`step(number, *state)` returns the next state; `number` is an int64 without axes that counts from 0."""


def repeat(times: torch.Tensor, step: Step, *state: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the state after so many steps.

    Args:
        times: int64 without axes, 1 or more.
        step: reads what it likes from outside, and changes nothing there.
        state: float32 tensors, whose shapes stay.
    """
    if torch.onnx.is_in_onnx_export():
        number, *inside = _Enter.apply(times, *state)  # type: ignore[no-untyped-call]  # torch's own
        left: tuple[torch.Tensor, ...] = _Leave.apply(*step(number, *inside))  # type: ignore[no-untyped-call]  # as above
        return left
    for number in range(int(times)):
        state = step(torch.tensor(number), *state)
    return state


class _Enter(torch.autograd.Function):
    """Where a step begins: the number of steps and the state come in, the step's number and its state go on."""

    @staticmethod
    def forward(_: Any, times: torch.Tensor, *state: torch.Tensor) -> tuple[torch.Tensor, ...]:  # noqa: ANN401 - torch's
        return torch.zeros_like(times), *(each.clone() for each in state)

    @staticmethod
    def symbolic(graph: Any, times: Any, *state: Any) -> Any:  # noqa: ANN401 - TorchScript's
        return _marked(graph, ENTER, times, *state)


class _Leave(torch.autograd.Function):
    """Where it ends: the next state."""

    @staticmethod
    def forward(_: Any, *state: torch.Tensor) -> tuple[torch.Tensor, ...]:  # noqa: ANN401 - torch's
        return tuple(each.clone() for each in state)

    @staticmethod
    def symbolic(graph: Any, *state: Any) -> Any:  # noqa: ANN401 - TorchScript's
        return _marked(graph, LEAVE, *state)


def _marked(graph: Any, mark: str, *values: Any) -> Any:  # noqa: ANN401 - TorchScript's
    """Return as many values of the same types as go in."""
    outputs = graph.op(mark, *values, outputs=len(values))
    for output, value in zip(outputs, values, strict=True):
        output.setType(value.type())
    return outputs
