"""The sample voice is a valid checkpoint that a newcomer can drop into the inbox."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import tiny_voices
from families.contract import run
from outlines import outline
from voicekiln.families import choose, sample


def test_the_sample_is_a_voice_that_sounds(tmp_path: Path) -> None:
    """An RVC v2 voice at 40 kHz with f0 in half precision, neither silent nor clipped."""
    target = tmp_path / "voice.pth"
    sample.write_sample(target, seed=7)
    assert [path.name for path in tmp_path.iterdir()] == ["voice.pth"]
    voice = torch.load(target, weights_only=True)
    family, claim = choose(outline(voice))
    shown = {key: claim.model[key] for key in ("version", "sample_rate", "f0", "speakers", "weights", "checkpoint")}
    assert list(shown.values()) == ["v2", 40_000, True, 109, "half", "voice"]
    assert (claim.notes, len(voice["weight"]), len(voice["config"])) == ((), 457, 18)
    exportable = family.build(claim, voice["weight"])
    audio = run(exportable, exportable.sample(40, np.random.default_rng(0)))
    assert 0.02 < audio.std() < 0.7
    assert np.abs(audio).max() < 1


def test_equal_seeds_give_equal_voices() -> None:
    """And others others."""
    first, again, other = (tiny_voices.tiny(seed=seed)["weight"] for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["emb_g.weight"], other["emb_g.weight"])


def test_a_failure_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file appears at once or not at all."""
    target = tmp_path / "voice.pth"
    target.write_bytes(b"older")

    def fail(*_: object) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="no space"):
        sample.write_sample(target, seed=0)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"older"]
