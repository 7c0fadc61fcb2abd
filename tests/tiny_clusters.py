"""Small cluster centres and feature indexes, made in code, as their tools save them and as a family sees them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import reference_voices

WIDTH = 6
REAL_INDEX = Path(__file__).parent / "reference" / "faiss-index.pkl"
"""What faiss itself has pickled: two speakers' indexes, of 300 and 60 vectors in 6 and 5 lists. Beside it, for each of
them, features, what so-vits-svc's formula makes of faiss's own search for them, and faiss's own vectors."""


def centres(seed: int = 0, dtype: str = "float32", /, **counts: int) -> dict[str, dict[str, Any]]:
    """Return what so-vits-svc hands to `torch.save`, with so many centres for each speaker."""
    rng = np.random.default_rng(seed)
    return {
        name: {
            "n_features_in_": WIDTH,
            "_n_threads": 8,
            "cluster_centers_": rng.standard_normal((count, WIDTH)).astype(dtype),
        }
        for name, count in counts.items()
    }


def reference_centres() -> dict[str, dict[str, Any]]:
    """Return the reference's."""
    tensors, rest = reference_voices.tensors("sovits-kmeans"), reference_voices.spec("sovits-kmeans")["rest"]
    return {
        name: {**plain, "cluster_centers_": tensors[f"{name}/cluster_centers_"].numpy()} for name, plain in rest.items()
    }


def flat(tables: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return centres as a family sees them."""
    found: dict[str, Any] = {}
    for name, entries in tables.items():
        found[name] = {key: value for key, value in entries.items() if not isinstance(value, np.ndarray)}
        found[f"{name}/cluster_centers_"] = torch.from_numpy(entries["cluster_centers_"])
    return found


def index(seed: int = 0, /, **sizes: Sequence[int]) -> dict[str, Any]:
    """Return a feature index as a family sees it; `sizes` are those of each speaker's lists."""
    rng = np.random.default_rng(seed)
    found: dict[str, Any] = {}
    for name, lists in sizes.items():
        key, count = name.removeprefix("s"), sum(lists)
        found[key] = {"probes": 1}
        found[f"{key}/centroids"] = torch.from_numpy(rng.standard_normal((len(lists), WIDTH), dtype=np.float32))
        found[f"{key}/vectors"] = torch.from_numpy(rng.standard_normal((count, WIDTH), dtype=np.float32))
        found[f"{key}/lists"] = torch.from_numpy(np.repeat(np.arange(len(lists)), lists))
        found[f"{key}/starts"] = torch.tensor([0, *np.cumsum(lists)])
    return found


def faiss(vectors: Sequence[NDArray[np.float32]], centroids: NDArray[np.float32], *, sparse: bool = False) -> bytes:
    """Return the bytes that faiss makes of an index with these vectors in its lists."""
    width, count = centroids.shape[1], sum(map(len, vectors))
    sizes = [len(each) for each in vectors]
    said = [number for pair in enumerate(sizes) if pair[1] for number in pair] if sparse else sizes

    def header(rows: int) -> bytes:
        return struct.pack("<iqqqBi", width, rows, 2**20, 2**20, 1, 1)

    return b"".join((
        b"IwFl" + header(count) + struct.pack("<QQ", len(vectors), 1),
        b"IxF2" + header(len(vectors)) + struct.pack("<Q", centroids.size) + centroids.tobytes(),
        struct.pack("<BQ", 0, 0),
        b"ilar" + struct.pack("<QQ", len(vectors), 4 * width),
        (b"sprs" if sparse else b"full") + struct.pack("<Q", len(said)) + np.array(said, "<i8").tobytes(),
        *(each.tobytes() + np.arange(len(each)).tobytes() for each in vectors),
    ))  # fmt: skip


def pickled(**indexes: bytes) -> bytes:
    """Return the pickle of indexes by speaker, as Python writes it."""
    stub = b"\x8c\x0ffaiss.swigfaiss\x8c\x0cIndexIVFFlat\x93)\x81}\x8c\x04this"
    each = (
        b"K" + bytes([int(name.removeprefix("s"))]) + stub + b"B" + struct.pack("<I", len(data)) + data + b"sb"
        for name, data in indexes.items()
    )
    return b"\x80\x04}(" + b"".join(each) + b"u."
