"""Tables of rows that are looked up by number: speakers, pitches."""

from __future__ import annotations

import torch
from torch import nn


def embedding(rows: int, channels: int) -> nn.Embedding:
    """Return a table without numbers.

    `nn.Embedding` draws some; on the meta device that loads torch's compiler, which takes a second and wants to make
    folders.
    """
    table: nn.Embedding = nn.Embedding.from_pretrained(torch.empty(rows, channels))  # type: ignore[no-untyped-call]
    return table
