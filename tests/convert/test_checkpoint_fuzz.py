"""Whatever happens to a checkpoint's bytes on the way, the answer is weights or a refusal, never another exception."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convert.small_checkpoints import archive, members, saved, voice, weights, written
from voicekiln.convert.checkpoint import open_checkpoint
from voicekiln.errors import Refusal

ZIP = saved(voice(params={"a": [1, 2.5]}))
LEGACY = saved(voice(params={"a": [1, 2.5]}), legacy=True)
PARTS = members(ZIP)
TABLE = next(name for name in PARTS if name.endswith("/data.pkl"))

EDITS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=3), st.integers(0, 4)), max_size=5)
"""Edits: where in the file (as a share of it), what is put there, how many bytes that replaces."""

FUZZ = settings(
    max_examples=250,
    deadline=None,
    derandomize=True,  # the same files in every run; more of them belong into a longer run by hand
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # one folder for all examples is as good
)


def edited(data: bytes, edits: list[tuple[float, bytes, int]]) -> bytes:
    """Return the bytes with the edits done in their order."""
    for share, new, replaced in edits:
        at = int(share * len(data))
        data = data[:at] + new + data[at + replaced :]
    return data


def answer(path: Path, data: bytes) -> None:
    """Open the file; what is neither weights nor a refusal fails the test."""
    try:
        checkpoint = open_checkpoint(written(path, data))
    except Refusal:
        return
    assert all(bool(torch.isfinite(t).all()) for t in checkpoint.tensors.values())
    assert sum(t.numel() for t in checkpoint.tensors.values()) <= len(data)


@FUZZ
@given(edits=EDITS)
def test_a_garbled_archive_is_answered(tmp_path: Path, edits: list[tuple[float, bytes, int]]) -> None:
    """Bytes of a modern file are changed, lost and added."""
    answer(tmp_path / "voice.pth", edited(ZIP, edits))


@FUZZ
@given(edits=EDITS)
def test_a_garbled_stream_is_answered(tmp_path: Path, edits: list[tuple[float, bytes, int]]) -> None:
    """Bytes of an older file are changed, lost and added; it has no checksums."""
    answer(tmp_path / "voice.pth", edited(LEGACY, edits))


@FUZZ
@given(edits=EDITS)
def test_a_garbled_table_with_right_checksums_is_answered(
    tmp_path: Path, edits: list[tuple[float, bytes, int]]
) -> None:
    """The pickle inside is changed by someone who mends the checksums."""
    answer(tmp_path / "voice.pth", archive(PARTS | {TABLE: edited(PARTS[TABLE], edits)}))


@FUZZ
@given(
    data=st.binary(max_size=64),
    prefix=st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", LEGACY[:60], b"{", b"\x08\x08"]),
)
def test_any_bytes_are_answered(tmp_path: Path, data: bytes, prefix: bytes) -> None:
    """A few bytes of any kind, with and without a promising beginning."""
    answer(tmp_path / "voice.pth", prefix + data)


@pytest.mark.parametrize("legacy", [False, True])
def test_every_single_byte_lost_is_answered(tmp_path: Path, *, legacy: bool) -> None:
    """Each byte of the table of contents is left out once."""
    data = saved({"weight": {"a": weights()["emb_g.weight"]}}, legacy=legacy)
    for at in range(0, len(data), 1 if legacy else 3):
        answer(tmp_path / "voice.pth", data[:at] + data[at + 1 :])
