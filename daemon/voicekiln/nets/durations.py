"""How long each token is spoken: the two duration predictors of VITS (Kim et al. 2021), as they are used in speech.

The plain one finds them by convolutions. The stochastic one turns noise into them, two numbers per token, by a flow
whose steps move one of the two along a spline. It runs backwards, so that what was the first spline in training comes
last; it moves only the number that is then thrown away, and is left out as in the original. Both predictors give the
logarithm of the number of frames.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the field's own name for it

from voicekiln.nets import spline
from voicekiln.nets.attention import LayerNorm

GLOW_EPSILON = 1e-4
"""Added to the variance in Glow-TTS' layer norm."""


class GlowLayerNorm(nn.Module):
    """Layer norm over the channels of (1, channels, tokens) as Glow-TTS (Kim et al. 2020) has it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.gamma = nn.Parameter(torch.ones(1, channels, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalised channels."""
        normed = F.layer_norm(x.transpose(1, -1), (self.channels,), eps=GLOW_EPSILON)
        return normed.transpose(1, -1) * self.gamma + self.beta


class DurationPredictor(nn.Module):
    """The plain predictor: two convolutions, each with a ReLU and a norm."""

    def __init__(  # noqa: PLR0913 - the architecture's own numbers
        self, channels: int, inner: int, kernel: int, gin_channels: int, language_channels: int, *, glow_norm: bool
    ) -> None:
        """Lay out the layers.

        Args:
            channels: Of what the text encoder says.
            inner: Between the convolutions.
            kernel: Width of the convolutions, odd.
            gin_channels: Of the speaker; 0 if it is not told.
            language_channels: Of the language; 0 if it is not told.
            glow_norm: Whether the norms are those of Glow-TTS, as in Coqui; else those of VITS.
        """
        super().__init__()
        norm = GlowLayerNorm if glow_norm else LayerNorm
        self.conv_1 = nn.Conv1d(channels, inner, kernel, padding=kernel // 2)
        self.norm_1 = norm(inner)
        self.conv_2 = nn.Conv1d(inner, inner, kernel, padding=kernel // 2)
        self.norm_2 = norm(inner)
        self.proj = nn.Conv1d(inner, 1, 1)
        self.cond = nn.Conv1d(gin_channels, channels, 1) if gin_channels else None
        self.cond_lang = nn.Conv1d(language_channels, channels, 1) if language_channels else None

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor, g: torch.Tensor | None, language: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the logarithm of each token's frames, (1, 1, tokens), 0 beyond the mask.

        Args:
            x: What the text encoder says, (1, channels, tokens).
            mask: 1 or 0 as (tokens,).
            g: The speaker, (1, gin_channels, 1), if it is told.
            language: (1, language_channels, 1), if it is told.
        """
        x = _told(_told(x, self.cond, g), self.cond_lang, language)
        x = self.norm_1(torch.relu(self.conv_1(x * mask)))
        x = self.norm_2(torch.relu(self.conv_2(x * mask)))
        return self.proj(x) * mask  # type: ignore[no-any-return]


class DDSConv(nn.Module):
    """Dilated and depth-separable convolutions, each layer added to its input."""

    def __init__(self, channels: int, kernel: int, layers: int) -> None:
        super().__init__()
        self.convs_sep = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, padding=reach * (kernel // 2), dilation=reach, groups=channels)
            for reach in (kernel**layer for layer in range(layers))
        )
        self.convs_1x1 = nn.ModuleList(nn.Conv1d(channels, channels, 1) for _ in range(layers))
        self.norms_1 = nn.ModuleList(LayerNorm(channels) for _ in range(layers))
        self.norms_2 = nn.ModuleList(LayerNorm(channels) for _ in range(layers))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return (1, channels, tokens), anything beyond the mask, which is 1 or 0 as (tokens,)."""
        layers = zip(self.convs_sep, self.norms_1, self.convs_1x1, self.norms_2, strict=True)
        for conv_sep, norm_1, conv_1x1, norm_2 in layers:
            y = F.gelu(norm_1(conv_sep(x * mask)))
            x = x + F.gelu(norm_2(conv_1x1(y)))
        return x


class ConvFlow(nn.Module):
    """Moves the second of two channels along a spline, whose knots the first channel and the text say."""

    def __init__(self, inner: int, kernel: int, layers: int, bins: int) -> None:
        super().__init__()
        self.bins, self.scale = bins, math.sqrt(inner)
        self.pre = nn.Conv1d(1, inner, 1)
        self.convs = DDSConv(inner, kernel, layers)
        self.proj = nn.Conv1d(inner, 3 * bins - 1, 1)

    def forward(self, z: torch.Tensor, mask: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Return (1, 2, tokens), the step undone.

        Args:
            z: (1, 2, tokens).
            mask: 1 or 0 as (tokens,).
            text: (1, inner, tokens).
        """
        kept, moved = torch.split(z, 1, dim=1)
        knots = self.proj(self.convs(self.pre(kept) + text, mask))
        widths, heights, derivatives = torch.split(knots, [self.bins, self.bins, self.bins - 1], dim=1)
        moved = spline.inverse(moved, widths / self.scale, heights / self.scale, derivatives, self.bins)
        return torch.cat([kept, moved], dim=1)


class ElementwiseAffine(nn.Module):
    """Scales and shifts each of two channels."""

    def __init__(self) -> None:
        super().__init__()
        self.translation = nn.Parameter(torch.zeros(2, 1))
        self.log_scale = nn.Parameter(torch.zeros(2, 1))

    def forward(self, z: torch.Tensor, *_others: torch.Tensor) -> torch.Tensor:
        """Return (1, 2, tokens), the step undone."""
        return (z - self.translation) * torch.exp(-self.log_scale)


class StochasticDurationPredictor(nn.Module):
    """The stochastic predictor: a flow from two numbers of noise per token, of which the first becomes the duration.

    The steps keep the numbers that they have in training, where 0 is the affine one and 1 the one that is left out.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - the architecture's eight numbers
        self,
        channels: int,
        inner: int,
        kernel: int,
        layers: int,
        flows: int,
        bins: int,
        gin_channels: int,
        language_channels: int,
    ) -> None:
        """Lay out the layers.

        Args:
            channels: Of what the text encoder says.
            inner: Between all convolutions.
            kernel: Width of the depth-separable convolutions, odd; to the power of the layer, their dilation.
            layers: Of depth-separable convolutions, before the flow and in each of its steps.
            flows: Steps with a spline, the one that is left out included.
            bins: Of a spline.
            gin_channels: Of the speaker; 0 if it is not told.
            language_channels: Of the language; 0 if it is not told.
        """
        super().__init__()
        self.pre = nn.Conv1d(channels, inner, 1)
        self.convs = DDSConv(inner, kernel, layers)
        self.proj = nn.Conv1d(inner, inner, 1)
        self.flows = nn.ModuleDict({"0": ElementwiseAffine()})
        self.flows.update({str(step): ConvFlow(inner, kernel, layers, bins) for step in range(2, flows + 1)})
        self.cond = nn.Conv1d(gin_channels, inner, 1) if gin_channels else None
        self.cond_lang = nn.Conv1d(language_channels, inner, 1) if language_channels else None

    def forward(
        self,
        x: torch.Tensor,
        mask: torch.Tensor,
        noise: torch.Tensor,
        g: torch.Tensor | None,
        language: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return the logarithm of each token's frames, (1, 1, tokens), 0 beyond the mask.

        Args:
            x: What the text encoder says, (1, channels, tokens).
            mask: 1 or 0 as (tokens,).
            noise: Already scaled, (1, 2, tokens).
            g: The speaker, (1, gin_channels, 1), if it is told.
            language: (1, language_channels, 1), if it is told.
        """
        x = _told(_told(self.pre(x), self.cond, g), self.cond_lang, language)
        text = self.proj(self.convs(x, mask))
        z = noise
        for step in reversed(list(self.flows.values())):
            z = step(torch.flip(z, [1]), mask, text)
        return z[:, :1] * mask


def _told(x: torch.Tensor, cond: nn.Module | None, who: torch.Tensor | None) -> torch.Tensor:
    """Return (1, channels, tokens) with what `cond` says of the speaker or language added, if it is told."""
    return x if cond is None else x + cond(who)
