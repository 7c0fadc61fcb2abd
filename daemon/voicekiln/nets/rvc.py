"""RVC's voice conversion network, inference only: VITS (Kim et al. 2021) with speech features in place of text.

Module names are the checkpoint's own, so that a key can be found by searching. Clients differ in the names that they
feed and in who draws the prior's noise: each kind of client has a face here, a class with the same weights. The noise
is an input, already scaled, or drawn inside; the other randomness is the source's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the field's own name for it

from voicekiln.nets.attention import Encoder
from voicekiln.nets.embedding import embedding
from voicekiln.nets.flow import ResidualCouplingBlock
from voicekiln.nets.hifigan import Generator
from voicekiln.nets.noise import Noise

PITCHES = 256
"""Rows of the pitch embedding: 0 is never fed, 1 is unvoiced or lowest, 255 highest."""
RND_SCALE = 0.66666
"""Standard deviation of the noise that the original adds to the prior, as a part of the prior's own."""


class TextEncoder(nn.Module):
    """Mean and log deviation of the prior, from speech features and coarse pitch."""

    def __init__(self, encoder: Encoder, features: int, hidden: int, channels: int, *, pitch: bool) -> None:
        super().__init__()
        self.hidden, self.channels = hidden, channels
        self.emb_phone = nn.Linear(features, hidden)
        if pitch:
            self.emb_pitch = embedding(PITCHES, hidden)
        self.encoder = encoder
        self.proj = nn.Conv1d(hidden, 2 * channels, 1)

    def forward(
        self, phone: torch.Tensor, mask: torch.Tensor, pitch: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and log deviation, each (1, channels, frames); the same for all frames beyond the mask.

        Args:
            phone: (1, frames, features).
            mask: 1 or 0 as (frames,).
            pitch: 1 .. 255 as (1, frames), for voices with f0.
        """
        x = self.emb_phone(phone)
        if pitch is not None:
            x = x + self.emb_pitch(pitch)
        x = F.leaky_relu(x * math.sqrt(self.hidden), 0.1).transpose(1, 2)  # (1, hidden, frames)
        mean, log_deviation = torch.split(self.proj(self.encoder(x, mask)), self.channels, dim=1)
        return mean, log_deviation


class Synthesizer(nn.Module):
    """The whole voice, one utterance at a time: the batch axis is there for the clients, and its size is 1."""

    def __init__(
        self, enc_p: TextEncoder, flow: ResidualCouplingBlock, dec: Generator, speakers: int, gin_channels: int
    ) -> None:
        super().__init__()
        self.enc_p = enc_p
        self.flow = flow
        self.dec = dec
        self.emb_g = embedding(speakers, gin_channels)

    def speak(
        self,
        phone: torch.Tensor,
        phone_lengths: torch.Tensor,
        ds: torch.Tensor,
        draw: Callable[[torch.Tensor], torch.Tensor],
        pitch: Sequence[torch.Tensor] = (),
    ) -> torch.Tensor:
        """Return audio, (1, 1, samples); see the subclasses for the inputs.

        `draw` returns the prior's noise, scaled, in the shape of what it is given: (1, channels, frames).
        """
        coarse, f0 = pitch or (None, None)
        places = torch.arange(phone.shape[1], device=phone.device)
        mask = (places < phone_lengths).to(phone.dtype)
        g = self.emb_g(ds).unsqueeze(-1)  # (1, gin_channels, 1)
        mean, log_deviation = self.enc_p(phone, mask, coarse)
        z_p = (mean + torch.exp(log_deviation) * draw(mean)) * mask
        return self.dec(self.flow(z_p, mask, g), g, f0)  # type: ignore[no-any-return]


class PitchedSynthesizer(Synthesizer):
    """A voice that is told the pitch (f0)."""

    def forward(  # noqa: PLR0913, PLR0917 - the six inputs that clients know, in their order
        self,
        phone: torch.Tensor,
        phone_lengths: torch.Tensor,
        pitch: torch.Tensor,
        pitchf: torch.Tensor,
        ds: torch.Tensor,
        rnd: torch.Tensor,
    ) -> torch.Tensor:
        """Return audio within -1 .. 1, (1, 1, samples).

        Args:
            phone: Speech features, (1, frames, 256 or 768).
            phone_lengths: How many of the frames count, (1,).
            pitch: Coarse pitch 1 .. 255, (1, frames).
            pitchf: f0 in Hz, 0 where unvoiced, (1, frames).
            ds: Speaker, (1,).
            rnd: Normal noise with the wanted deviation (the original's is 0.66666), (1, channels, frames).
        """
        return self.speak(phone, phone_lengths, ds, lambda _: rnd, (pitch, pitchf))


class PlainSynthesizer(Synthesizer):
    """A voice without f0: the decoder finds the pitch in the features."""

    def forward(
        self, phone: torch.Tensor, phone_lengths: torch.Tensor, ds: torch.Tensor, rnd: torch.Tensor
    ) -> torch.Tensor:
        """Return audio within -1 .. 1, (1, 1, samples); inputs as in `PitchedSynthesizer`."""
        return self.speak(phone, phone_lengths, ds, lambda _: rnd)


class LiveSynthesizer(Synthesizer):
    """A voice for w-okada's live voice changer: it draws all of its noise itself and gives a mere row of samples."""

    def __init__(
        self, enc_p: TextEncoder, flow: ResidualCouplingBlock, dec: Generator, speakers: int, gin_channels: int
    ) -> None:
        super().__init__(enc_p, flow, dec, speakers, gin_channels)
        self.noise = Noise()

    def speak_live(
        self, feats: torch.Tensor, p_len: torch.Tensor, sid: torch.Tensor, pitch: Sequence[torch.Tensor] = ()
    ) -> torch.Tensor:
        """Return audio within -1 .. 1, (samples,); inputs as in `PitchedSynthesizer`, under that client's names."""
        audio = self.speak(feats, p_len, sid, lambda mean: self.noise(mean) * RND_SCALE, pitch)
        return audio.reshape(-1).clamp(-1.0, 1.0)


class LivePitchedSynthesizer(LiveSynthesizer):
    """With f0."""

    def forward(
        self,
        feats: torch.Tensor,
        p_len: torch.Tensor,
        pitch: torch.Tensor,
        pitchf: torch.Tensor,
        sid: torch.Tensor,
    ) -> torch.Tensor:
        """See `speak_live`."""
        return self.speak_live(feats, p_len, sid, (pitch, pitchf))


class LivePlainSynthesizer(LiveSynthesizer):
    """Without f0."""

    def forward(self, feats: torch.Tensor, p_len: torch.Tensor, sid: torch.Tensor) -> torch.Tensor:
        """See `speak_live`."""
        return self.speak_live(feats, p_len, sid)
