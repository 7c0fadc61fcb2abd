"""The sample voice is a valid checkpoint that a newcomer can drop into the inbox."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import tiny_voices
from families.contract import Built, run
from outlines import outline, tensors
from plain_export import network
from voicekiln.families import choose, sample


def test_the_sample_is_a_voice_that_sounds(tmp_path: Path) -> None:
    """An RVC v2 voice at 40 kHz with f0 in half precision, neither silent nor clipped."""
    target = tmp_path / "voice.pth"
    sample.write_sample(target, seed=7)
    assert [path.name for path in tmp_path.iterdir()] == ["voice.pth"]
    voice = torch.load(target, weights_only=True)
    seen = outline(voice)
    family, claim = choose(seen)
    shown = {key: claim.model[key] for key in ("version", "sample_rate", "f0", "speakers", "weights", "checkpoint")}
    assert list(shown.values()) == ["v2", 40_000, True, 109, "half", "voice"]
    assert (claim.notes, len(voice["weight"]), len(voice["config"])) == ((), 457, 18)
    exportable = family.build(claim, seen)
    built = Built(exportable, network(exportable, tensors(voice)))
    audio = run(built, exportable.sample(40, np.random.default_rng(0)))
    assert 0.02 < audio.std() < 0.7
    assert np.abs(audio).max() < 1


def test_equal_seeds_give_equal_voices() -> None:
    """And others others."""
    first, again, other = (tiny_voices.tiny(seed=seed)["weight"] for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["emb_g.weight"], other["emb_g.weight"])


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("f0", [True, False])
def test_the_outline_is_that_of_the_voice(version: str, *, f0: bool) -> None:
    """It is drawn without a number, and a family sees the same network in it."""
    settings = tiny_voices.settings(version, f0=f0)
    drawn = sample.outline(settings)
    real = outline(sample.checkpoint(settings, seed=0))
    (family, mine), (_, theirs) = choose(drawn), choose(real)
    assert (mine.settings, mine.notes) == (theirs.settings, theirs.notes) == (settings, ())
    assert family.build(mine, drawn).graph_key == family.build(theirs, real).graph_key
    assert (drawn.rest, drawn.keys, drawn.tensor_key) == (real.rest, real.keys, real.tensor_key)


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
