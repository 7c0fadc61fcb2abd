"""Weight norm is folded into the tensors before they are loaded: w = g * v / ||v|| (Salimans and Kingma 2016).

The networks here therefore hold plain convolutions, and a graph made from them has one initializer per weight and
none that was computed from others. RVC and its relatives normalise over all axes but the first, in transposed
convolutions too.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

_SPELLINGS = {
    ".parametrizations.weight.original0": ".weight_g",
    ".parametrizations.weight.original1": ".weight_v",
}


def older_spelling(name: str) -> str:
    """Return a tensor's name with weight norm spelt as before torch's parametrizations: `weight_g`, `weight_v`."""
    for newer, older in _SPELLINGS.items():
        if name.endswith(newer):
            return name.removesuffix(newer) + older
    return name


def fold(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors in float32 with each pair `weight_g`, `weight_v` replaced by its `weight`, in either spelling.

    All of the result is float32, tensors that were so already are passed on as they are. The norm is summed in
    float64: it costs nothing and leaves no rounding to argue about. A row of zeros in `weight_v` gives NaN, as it
    does in the original.

    Raises:
        KeyError: if one of a pair lacks the other.
    """
    spelt = {older_spelling(name): tensor for name, tensor in tensors.items()}
    folded: dict[str, torch.Tensor] = {}
    for name, tensor in spelt.items():
        if name.endswith(".weight_v"):
            stem = name.removesuffix("_v")
            folded[stem] = _folded(spelt[f"{stem}_g"], tensor)
        elif name.endswith(".weight_g"):
            spelt[name.removesuffix("_g") + "_v"]  # raises where it is missing
        else:
            folded[name] = tensor.float()
    return folded


def _folded(g: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    v = v.float()
    norm = torch.linalg.vector_norm(v, dim=tuple(range(1, v.ndim)), keepdim=True, dtype=torch.float64)
    scale: torch.Tensor = (g.double() / norm).float()
    return v * scale
