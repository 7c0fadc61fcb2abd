"""Batch norm (Ioffe and Szegedy 2015) as it is in use: a factor and a summand for each channel.

A checkpoint has four numbers a channel, of which two remain as the weights are read. So the exporter finds no batch
norm in the graph, which it would merge into the convolution before it, and half precision has no variances to hold.
"""

from __future__ import annotations

import torch
from torch import nn

EPSILON = 1e-5
"""Is added to each variance, as in training."""


class BatchNorm(nn.Module):
    """Each channel of (batch, channels, ...) by its factor, plus its summand."""

    def __init__(self, channels: int, axes: int) -> None:
        """Lay out the numbers; `axes` says how many follow that of the channels."""
        super().__init__()
        self.affine = nn.Parameter(torch.empty(2, channels, *(1,) * axes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the channels in the same shape."""
        factor, summand = torch.split(self.affine, 1)
        return x * factor + summand


def affine(weight: torch.Tensor, bias: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """Return the factors and the summands, (2, channels) in float32, computed in float64; each argument is (channels,).

    A variance below zero gives NaN, as it does in the original.
    """
    factor = weight.double() / torch.sqrt(variance.double() + EPSILON)
    return torch.stack([factor, bias.double() - mean.double() * factor]).float()
