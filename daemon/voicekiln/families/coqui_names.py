"""What files call a VITS voice's tensors, and what our networks call them.

Two tools train the same network and name its parts differently: Coqui, whose names are ours but for two, and the
original VITS, whose layout the MMS voices have as well. In the original every other step of a flow is a flip, which has
no tensors and yet a number; of the flow itself our networks count so, too, of the duration predictor's they do not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from typing import Literal

Layout = Literal["coqui", "vits"]
"""Coqui's, or that of the original VITS."""

MARKS: dict[Layout, tuple[str, str]] = {
    "coqui": ("text_encoder.emb.weight", "waveform_decoder."),
    "vits": ("enc_p.emb.weight", "dp."),
}
"""A tensor that has to be there, and what the name of another one begins with. RVC and so-vits-svc have
`enc_p` as well, but no symbols go into theirs."""

TRAINING_ONLY = (
    "disc.",
    "speaker_encoder.",
    "audio_transform",
    "audio_resampler.",
    "duration_predictor.post_",
    "dp.post_",
)
"""What names begin with of tensors that nothing here needs: discriminator, loss, the resampling of what is trained on,
and the way back of the durations. With the posterior encoder, which only training needs for speech, voices are
converted."""

_PARTS = {
    "enc_p.": "text_encoder.",
    "enc_q.": "posterior_encoder.",
    "dp.": "duration_predictor.",
    "dec.": "waveform_decoder.",
}
_AFFINE = {
    "dp.flows.0.m": "duration_predictor.flows.0.translation",
    "dp.flows.0.logs": "duration_predictor.flows.0.log_scale",
}
_COUPLING = re.compile(r"flow\.flows\.([0-9]{1,3})\.")
_OF_A_SPEAKER = re.compile(r"(dp|dec)\.cond\.|(flow|enc_q)\..*\.cond_layer\.")
"""The layers that take a speaker."""
_STEP = re.compile(r"dp\.flows\.([0-9]{1,3})\.")


def layout(names: Iterable[str]) -> Layout | None:
    """Return whose names these are; None if they are no VITS voice's that reads text."""
    there = frozenset(names)
    return next((mine for mine in MARKS if _has(there, *MARKS[mine])), None)


def canonical(names: Iterable[str]) -> dict[str, str]:
    """Return by a file's names of tensors the networks' names, less those that only training needs.

    Without a table of speakers the original has nobody to tell its layers for them, and never uses those.

    A name that is none of a voice's stands for itself, so that it is found to be superfluous. Two names may stand for
    one tensor only in a file that contradicts itself.

    Args:
        names: of either layout, weight norm in its older spelling or folded.
    """
    named = frozenset(names)
    original = layout(named) == "vits"
    rename: Callable[[str], str] = _from_original if original else _from_coqui
    used = {name for name in named if not name.startswith(TRAINING_ONLY)}
    if original and "emb_g.weight" not in named:
        used = {name for name in used if not _OF_A_SPEAKER.match(name)}
    return {name: rename(name) for name in sorted(used)}


def _has(names: Collection[str], tensor: str, beginning: str) -> bool:
    return tensor in names and any(name.startswith(beginning) for name in names)


def _from_coqui(name: str) -> str:
    if match := _COUPLING.match(name):
        return f"flow.flows.{2 * int(match[1])}.{name[match.end() :]}"
    theirs = "waveform_decoder.cond_layer."
    return f"waveform_decoder.cond.{name.removeprefix(theirs)}" if name.startswith(theirs) else name


def _from_original(name: str) -> str:
    if (match := _STEP.match(name)) and int(match[1]):
        step, flip = divmod(int(match[1]) + 1, 2)
        return name if flip else f"duration_predictor.flows.{step}.{name[match.end() :]}"
    part = next((part for part in _PARTS if name.startswith(part)), "")
    return _AFFINE.get(name) or _PARTS.get(part, "") + name.removeprefix(part)
