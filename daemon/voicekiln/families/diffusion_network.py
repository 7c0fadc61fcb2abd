"""The networks of a shallow diffusion model from its settings, and the tensors that its checkpoint has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn

from voicekiln.families.tensors import Shape
from voicekiln.job import Part
from voicekiln.nets.denoiser import Denoiser
from voicekiln.nets.diffusion import (
    AlphaPart,
    ConditionPart,
    DenoiserPart,
    MelPart,
    ShallowDiffusion,
    StepPart,
)

DENOISER = "decoder.denoise_fn."
BUFFERS = (
    "decoder.betas",
    "decoder.alphas_cumprod",
    "decoder.alphas_cumprod_prev",
    "decoder.sqrt_alphas_cumprod",
    "decoder.sqrt_one_minus_alphas_cumprod",
    "decoder.log_one_minus_alphas_cumprod",
    "decoder.sqrt_recip_alphas_cumprod",
    "decoder.sqrt_recipm1_alphas_cumprod",
    "decoder.posterior_variance",
    "decoder.posterior_log_variance_clipped",
    "decoder.posterior_mean_coef1",
    "decoder.posterior_mean_coef2",
)
"""The schedule, a number for each time; all of it follows from the first two, which alone are used."""
LIMITS = ("decoder.spec_min", "decoder.spec_max")
SHIFT = "aug_shift_embed.weight"
"""For a training on shifted pitch; of no use afterwards. It need not be there."""
PARTS: tuple[Part, ...] = ("diffusion", "encoder", "denoise", "pred", "after", "alpha")
"""The whole, and the five pieces that so-vits-svc's and Diffusion-SVC's exporters make of it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All that the networks are built from; equal settings, equal graphs."""

    width: int
    """Of the speech features."""
    hidden: int
    """Of the condition."""
    channels: int
    """Of the denoiser."""
    layers: int
    mels: int
    limits: int
    """Ranges that mels are brought to -1 .. 1 from: one for all bands, or one for each."""
    speakers: int
    timesteps: int
    k_step_max: int
    """Times, counted from the cleanest, that the denoiser has learnt: it goes no deeper."""


@lru_cache(maxsize=32)
def network(settings: Settings, part: Part) -> nn.Module:
    """Return one of `PARTS`, in eval mode and without numbers: its parameters lie on torch's meta device.

    It is shared; copy it before giving it any.
    """
    with torch.device("meta"):
        made = _made(settings, part)
    return made.eval().requires_grad_(requires_grad=False)


def _made(settings: Settings, part: Part) -> nn.Module:
    s = settings
    limits = (1, 1, s.limits)
    match part:
        case "encoder":
            return ConditionPart(s.width, s.hidden, s.speakers)
        case "denoise":
            return DenoiserPart(Denoiser(s.mels, s.hidden, s.channels, s.layers))
        case "pred":
            return StepPart(s.timesteps)
        case "after":
            return MelPart(limits)
        case "alpha":
            return AlphaPart(s.timesteps)
        case _:
            times = (s.timesteps,)
            numbers: dict[str, Shape] = {"betas": times, "alphas_cumprod": times}
            numbers |= {"spec_min": limits, "spec_max": limits}
            denoiser = Denoiser(s.mels, s.hidden, s.channels, s.layers)
            return ShallowDiffusion(s.width, s.hidden, s.speakers, denoiser, numbers, s.k_step_max)


@lru_cache(maxsize=16)
def expected(settings: Settings) -> Mapping[str, Shape]:
    """Return name and shape of every tensor that a checkpoint of these settings must have."""
    used = {name: tuple(tensor.shape) for name, tensor in network(settings, "diffusion").state_dict().items()}
    return used | dict.fromkeys(BUFFERS, (settings.timesteps,))
