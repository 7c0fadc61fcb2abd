"""What pulls a voice's features towards those that it was trained on: cluster centres (k-means), or the features.

Which numbers are nearest is decided in float64. In float32 two runtimes may take different ones where it is a close
call, for each adds up in an order of its own; a file would then differ from its network by a whole centre. Graphics
cards that shorten float32 (TF32) would take wrong ones without a close call.
"""

from __future__ import annotations

import torch
from torch import nn

from voicekiln.nets.loop import repeat

NEIGHBOURS = 8
"""Vectors that are mixed, as in so-vits-svc."""
FAR = torch.finfo(torch.float32).max
"""The squared distance of a neighbour that there is not, as in faiss."""
NEAR = 1e-30
"""Squared distances below that count as that: a vector that is met exactly would else be divided by zero."""


class Rows(nn.Module):
    """The tables of several speakers, one after the other."""

    def __init__(self, counts: tuple[int, ...], width: int) -> None:
        """`counts` says how many rows each of the speakers has."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(sum(counts), width))
        # A constant of the graph, and no number that a checkpoint sets.
        self.begins = torch.tensor([sum(counts[:speaker]) for speaker in range(len(counts) + 1)], device="cpu")

    def begin(self, sid: torch.Tensor | None) -> torch.Tensor:
        """Return the first row of a speaker, int64 without axes; None stands for the only one."""
        return self.begins[0] if sid is None else self.begins[sid[0]]

    def forward(self, sid: torch.Tensor | None) -> torch.Tensor:
        """Return a speaker's rows, (rows, width)."""
        if sid is None:
            return self.weight
        return self.weight[self.begins[sid[0]] : self.begins[sid[0] + 1]]


def nearest(features: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Return which row of a table is nearest to each of the features, (frames,); the first of several.

    Of |c - C|^2 = |c|^2 - 2 (c C - |C|^2 / 2), only what is in brackets differs from row to row.
    """
    rows = table.double()
    scores: torch.Tensor = features.double() @ rows.T - (rows * rows).sum(1) / 2
    return scores.argmax(dim=1)


class KMeans(nn.Module):
    """Moves features towards the nearest of a speaker's cluster centres."""

    def __init__(self, counts: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.centres = Rows(counts, width)

    def forward(self, c: torch.Tensor, ratio: torch.Tensor, sid: torch.Tensor | None = None) -> torch.Tensor:
        """Return the features moved, (1, frames, width).

        Args:
            c: features, (1, frames, width).
            ratio: how far, (1): 0 leaves them where they are, 1 puts them on the centre.
            sid: the speaker, (1); None if there is but one.
        """
        centres: torch.Tensor = self.centres(sid)
        return ratio * centres[nearest(c[0], centres)].unsqueeze(0) + (1 - ratio) * c


class FeatureIndex(nn.Module):
    """Moves features towards the nearest of a speaker's training features, as faiss finds them in the nearest list."""

    def __init__(self, vectors: tuple[int, ...], lists: tuple[int, ...], width: int) -> None:
        """`vectors` and `lists` say how many each of the speakers has."""
        super().__init__()
        self.vectors = Rows(vectors, width)
        """Those of the first list first, and so on."""
        self.centroids = Rows(lists, width)
        self.starts = Rows(tuple(count + 1 for count in lists), 1)
        """At which of the speaker's vectors each list begins, and where the last one ends."""

    def forward(self, c: torch.Tensor, ratio: torch.Tensor, sid: torch.Tensor | None = None) -> torch.Tensor:
        """Return the features moved; arguments and result as in `KMeans`. Where a list is empty they stay."""
        picked, far = self._neighbours(c[0], sid)  # (frames, neighbours) each
        shares = (far[:, :1] / far) ** 2  # of the nearest it is 1, so nothing overflows
        shares = (shares / shares.sum(1, keepdim=True)).float().unsqueeze(2)
        mixed = (self.vectors.weight[picked] * shares).sum(1)
        found = torch.where(far[:, :1] < FAR, mixed, c[0]).view_as(c)  # ONNX forgets shapes in a loop
        return ratio * found + (1 - ratio) * c

    def _neighbours(self, features: torch.Tensor, sid: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rows of the nearest vectors in the nearest list, and their squared distances in float64."""
        first, starts = self.vectors.begin(sid), self.starts(sid)[:, 0].long()
        lists = nearest(features, self.centroids(sid))
        begins, ends = (first + starts[at].clamp(min=0) for at in (lists, lists + 1))
        frames = torch._shape_as_tensor(features)[0]  # noqa: SLF001 - a length that the exporter keeps
        numbers = torch.arange(frames).unsqueeze(1)  # type: ignore[call-overload]  # it takes lengths of this kind, too

        def search(frame: torch.Tensor, picked: torch.Tensor, far: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            begin, end = begins[frame], ends[frame]
            apart = self.vectors.weight[begin:end].double() - features[frame].double()
            padding = torch.full((NEIGHBOURS,), FAR, dtype=torch.float64)  # a list may have fewer
            distances = torch.cat([(apart * apart).sum(1), padding])
            found = torch.topk(distances, NEIGHBOURS, largest=False)
            rows = torch.where(found.values < FAR, begin + found.indices, 0)
            here = numbers == frame
            return torch.where(here, rows.float(), picked), torch.where(here, found.values.float(), far)

        empty = torch.zeros_like(features[:, :1]).expand(-1, NEIGHBOURS)
        picked, far = repeat(frames, search, empty, empty)
        return picked.long(), far.double().clamp(min=NEAR)


class Whole(nn.Module):
    """A network as its own submodule, which can be told to stay in float32 as submodules are."""

    def __init__(self, clusters: nn.Module) -> None:
        super().__init__()
        self.clusters = clusters

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return what the network does."""
        moved: torch.Tensor = self.clusters(*inputs)
        return moved
