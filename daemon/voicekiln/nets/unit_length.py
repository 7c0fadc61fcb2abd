"""Vectors brought to the length of 1: a d-vector says whose voice it is by its direction alone."""

from __future__ import annotations

import torch

SHORTEST = 1e-12
"""No vector is taken for shorter, so that one of zeros stays what it is; as in the originals."""


def unit_length(vectors: torch.Tensor) -> torch.Tensor:
    """Return (batch, width) in the same shape."""
    # Not by PyTorch's own function: the exporter stretches the length for it, and loses the width.
    return vectors / torch.clamp(torch.linalg.vector_norm(vectors, dim=1, keepdim=True), min=SHORTEST)
