"""The one door for randomness inside a network.

Every random number is drawn by a `Noise` module, so that a verifier can find the draws by their path, silence or
replay them, and compare two runs of the same network. Exported, it is one `RandomNormalLike`.
"""

from __future__ import annotations

import torch
from torch import nn


class Noise(nn.Module):
    """Standard normal numbers in the shape of a given tensor."""

    replay: torch.Tensor | None
    """If set, it is returned in place of fresh numbers; it must have the wanted shape. Never export with it set."""

    def __init__(self) -> None:
        super().__init__()
        self.replay = None

    def forward(self, like: torch.Tensor) -> torch.Tensor:
        """Return the numbers, in the shape and dtype of `like`."""
        return torch.randn_like(like) if self.replay is None else self.replay
