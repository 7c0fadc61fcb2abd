"""All hostile files of the tables, as a stranger would send them, for tests of whole worker processes."""

from __future__ import annotations

from collections.abc import Iterator

from convert.small_checkpoints import around, saved
from convert.test_hostile_archives import LIES
from convert.test_hostile_pickles import FEW, TABLE, stream
from tiny_voices import tiny


def hostile_files() -> Iterator[tuple[str, bytes]]:
    """Yield the name and the bytes of each; pickles are now in the one form of a checkpoint and now in the other."""
    for at, (name, (opcodes, _)) in enumerate(TABLE.items()):
        yield name, stream(opcodes) if at % 2 else around(opcodes, s0=FEW)
    for name, (made, _) in LIES.items():
        yield name, made() if callable(made) else made


def far_reaching() -> bytes:
    """Return a small voice whose dilations, of which no weight tells, ask for a reach of billions of samples."""
    return saved(tiny(block_kernels=(1001, 5), dilations=((60_000, 60_000), (1, 2))))
