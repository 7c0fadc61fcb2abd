"""Weight norm is folded as the weights are read: w = g * v / ||v|| (Salimans and Kingma 2016).

The networks here therefore hold plain convolutions, and a graph made from them has one initializer per weight and
none that was computed from others. RVC and its relatives normalise over all axes but the first, in transposed
convolutions too.
"""

from __future__ import annotations

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


def norm_scale(g: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Return g / ||v|| in float32, in the shape of `g`; the weight is v times that.

    The norm is summed in float64: it costs nothing and leaves no rounding to argue about. A row of zeros in `v` gives
    NaN or infinity, as it does in the original.
    """
    norm = torch.linalg.vector_norm(v.float(), dim=tuple(range(1, v.ndim)), keepdim=True, dtype=torch.float64)
    scale: torch.Tensor = g.double() / norm
    return scale.float()
