"""so-vits-svc's voice conversion network, inference only: VITS (Kim et al. 2021) for singing.

Module names are the checkpoint's own, so that a key can be found by searching. Speech features come at their own rate;
`mel2ph` says which of them each frame has. All frames that come in count, one utterance at a time. The prior's noise is
an input, already scaled; the other randomness is the source's.

Each face is a class with the same weights: the pitch is given, or predicted from what is given.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from voicekiln.nets.attention import Encoder
from voicekiln.nets.embedding import embedding
from voicekiln.nets.f0_decoder import F0Decoder
from voicekiln.nets.flow import ResidualCouplingBlock
from voicekiln.nets.hifigan import Generator
from voicekiln.nets.rvc import PITCHES

HARMONICS = 8
"""Overtones of the source."""
LOWEST, HIGHEST = (1127 * math.log(1 + hz / 700) for hz in (50, 1100))
"""Mel of the pitches that have rows 1 and 255 of the pitch embedding."""


def coarse(f0: torch.Tensor) -> torch.Tensor:
    """Return the row of the pitch embedding for f0 in Hz: 1 (unvoiced or lowest) .. 255, evenly spaced in mel.

    Above the highest pitch, 4.0 stays with row 255 and 4.1 falls to row 0, which is never fed in training; here it is
    255 for both.
    """
    mel = 1127 * torch.log(1 + f0 / 700)
    row = (mel - LOWEST) * ((PITCHES - 2) / (HIGHEST - LOWEST)) + 1
    # Bounded last: what is no number becomes some whole number, and there is a row for each of these.
    return torch.clamp(torch.round(row).long(), 1, PITCHES - 1)


class TextEncoder(nn.Module):
    """Mean and log deviation of the prior, from the features' embedding and coarse pitch."""

    def __init__(self, encoder: Encoder, hidden: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.f0_emb = embedding(PITCHES, hidden)
        self.enc_ = encoder
        self.proj = nn.Conv1d(hidden, 2 * channels, 1)

    def forward(self, x: torch.Tensor, mask: torch.Tensor, pitch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and log deviation, each (1, channels, frames).

        Args:
            x: (1, hidden, frames).
            mask: 1 or 0 as (frames,).
            pitch: 1 .. 255 as (1, frames).
        """
        x = x + self.f0_emb(pitch).transpose(1, 2)
        mean, log_deviation = torch.split(self.proj(self.enc_(x, mask)), self.channels, dim=1)
        return mean, log_deviation


class Synthesizer(nn.Module):
    """A voice that sings the pitch that it is given."""

    def __init__(  # noqa: PLR0913 - the network's parts
        self,
        *,
        enc_p: TextEncoder,
        flow: ResidualCouplingBlock,
        dec: Generator,
        ssl_dim: int,
        hidden: int,
        speakers: int,
        gin_channels: int,
        vol: bool,
        mix: bool,
    ) -> None:
        """Put the parts together; `vol`: the loudness is an input, `mix`: `sid` is a share of each speaker."""
        super().__init__()
        self.mix = mix
        self.emb_g = embedding(speakers, gin_channels)
        self.pre = nn.Conv1d(ssl_dim, hidden, 5, padding=2)
        self.enc_p = enc_p
        self.flow = flow
        self.dec = dec
        self.emb_uv = embedding(2, hidden)
        if vol:
            self.emb_vol = nn.Linear(1, hidden)

    def forward(  # noqa: PLR0913, PLR0917 - the inputs that clients know, in their order
        self,
        c: torch.Tensor,
        f0: torch.Tensor,
        mel2ph: torch.Tensor,
        uv: torch.Tensor,
        noise: torch.Tensor,
        sid: torch.Tensor,
        vol: torch.Tensor | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Return audio within -1 .. 1, (1, 1, samples).

        Args:
            c: Speech features, (1, units, ssl_dim).
            f0: In Hz, 0 where unvoiced, (1, frames).
            mel2ph: Which feature each frame has, counted from 1, (1, frames); 0 is a row of zeros.
            uv: 1 where voiced, else 0, (1, frames).
            noise: Normal noise with the wanted deviation (the original's is 0.4), (1, channels, frames).
            sid: Speaker, (1,), or the share of each in each frame, (frames, speakers).
            vol: Loudness, (1, frames), for voices that know it.
        """
        g = self.speaker(sid)
        return self.sing(self.embed(c, mel2ph, uv, vol), f0, noise, g)

    def speaker(self, sid: torch.Tensor) -> torch.Tensor:
        """Return (1, gin_channels, 1) or, for shares in each frame, (1, gin_channels, frames)."""
        if self.mix:
            return (sid @ self.emb_g.weight).transpose(0, 1).unsqueeze(0)
        return self.emb_g(sid).unsqueeze(-1)  # type: ignore[no-any-return]

    def embed(self, c: torch.Tensor, mel2ph: torch.Tensor, uv: torch.Tensor, vol: torch.Tensor | None) -> torch.Tensor:
        """Return what is known of each frame but for pitch and speaker, (1, hidden, frames)."""
        which = mel2ph.reshape(-1)
        stretched = torch.index_select(c, 1, torch.clamp(which - 1, min=0))  # (1, frames, ssl_dim)
        stretched = stretched.transpose(1, 2) * (which > 0).to(c.dtype)
        x: torch.Tensor = self.pre(stretched) + self.emb_uv(uv.long()).transpose(1, 2)
        return x if vol is None else x + self.emb_vol(vol.unsqueeze(-1)).transpose(1, 2)

    def sing(self, x: torch.Tensor, f0: torch.Tensor, noise: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        """Return the audio of what `embed` returned, at a pitch and by a speaker."""
        mask = torch.ones_like(f0.reshape(-1))
        mean, log_deviation = self.enc_p(x, mask, coarse(f0))
        z_p = mean + torch.exp(log_deviation) * noise
        return self.dec(self.flow(z_p, mask, g), g, f0)  # type: ignore[no-any-return]


class PredictingSynthesizer(Synthesizer):
    """A voice that sings a melody of its own and is given the pitch as a hint."""

    def __init__(self, f0_decoder: F0Decoder, **parts: Any) -> None:  # noqa: ANN401 - they have their types one class above
        super().__init__(**parts)
        self.f0_decoder = f0_decoder
        self.predicted = nn.Identity()

    def forward(  # noqa: PLR0913, PLR0917 - see `Synthesizer`
        self,
        c: torch.Tensor,
        f0: torch.Tensor,
        mel2ph: torch.Tensor,
        uv: torch.Tensor,
        noise: torch.Tensor,
        sid: torch.Tensor,
        vol: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return audio and the pitch that it has, in Hz as (1, frames); inputs as in `Synthesizer`.

        The pitch passes through `predicted`, so that a verifier can compare it and put another in its place.
        """
        g = self.speaker(sid)
        x = self.embed(c, mel2ph, uv, vol)
        sung = self.predicted(self.f0_decoder(x, f0, uv, g))
        return self.sing(x, sung, noise, g), sung
