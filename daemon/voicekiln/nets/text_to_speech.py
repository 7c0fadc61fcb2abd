"""VITS as it was made: from text to speech (Kim et al. 2021), for one speaker or many, in one language or several.

Where that differs from the paper it is YourTTS (Casanova et al. 2022): languages, and speakers known by a d-vector.
Module names are Coqui's, but for two: between the flow's couplings are flips, and the decoder calls its speaker `cond`.
One utterance at a time; all randomness is an input, already scaled, but for the face whose clients want it inside.

Each face is a class with as much of the voice as it needs. Which inputs it has depends on the voice: those in brackets
are there only where the voice knows of such a thing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import torch
from torch import nn

from voicekiln.nets.alignment import Prior, align, whole_frames
from voicekiln.nets.attention import Encoder
from voicekiln.nets.durations import DurationPredictor, StochasticDurationPredictor
from voicekiln.nets.embedding import embedding
from voicekiln.nets.flow import ResidualCouplingBlock
from voicekiln.nets.hifigan import Generator
from voicekiln.nets.noise import Noise
from voicekiln.nets.posterior import PosteriorEncoder
from voicekiln.nets.unit_length import unit_length

MAX_SAMPLES = 2**20
"""That a text may last where the voice itself makes room for it: 47 s at 22,050 Hz, and a gigabyte in the decoder."""


class TextEncoder(nn.Module):
    """What is said, and mean and log deviation of the prior, token by token."""

    def __init__(self, encoder: Encoder, symbols: int, hidden: int, language_channels: int, channels: int) -> None:
        super().__init__()
        self.hidden, self.channels = hidden, channels
        self.emb = embedding(symbols, hidden)
        self.encoder = encoder
        self.proj = nn.Conv1d(hidden + language_channels, 2 * channels, 1)

    def forward(
        self, tokens: torch.Tensor, mask: torch.Tensor, language: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return what is said, (1, hidden + language_channels, tokens), mean and log deviation, (1, channels, tokens).

        All are 0 beyond the mask.

        Args:
            tokens: Numbers of symbols, (1, tokens).
            mask: 1 or 0 as (tokens,).
            language: (1, language_channels, 1), where there are several.
        """
        x = self.emb(tokens).transpose(1, 2) * math.sqrt(self.hidden)
        x = x if language is None else torch.cat([x, language * mask], dim=1)
        x = self.encoder(x, mask)
        # The batch is taken off and put on again, so that the exporter knows its size, which attention made it forget.
        mean, log_deviation = torch.split((self.proj(x) * mask)[0], self.channels)
        return x, mean.unsqueeze(0), log_deviation.unsqueeze(0)


class UnitLength(nn.Module):
    """Brings a d-vector to the length of 1."""

    def forward(self, d_vector: torch.Tensor) -> torch.Tensor:
        """Return (1, gin_channels)."""
        return unit_length(d_vector)


class Stretch(nn.Module):
    """Brings the latent sound to another rate by repeating frames, for a decoder that was trained at that rate."""

    def __init__(self, ratio: Fraction) -> None:
        super().__init__()
        self.ratio = ratio

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Return (1, channels, frames * ratio), rounded down."""
        numerator, denominator = self.ratio.as_integer_ratio()
        places = torch.arange(z.shape[2] * numerator // denominator, device=z.device)
        return torch.index_select(z, 2, places * denominator // numerator)


class Voice(nn.Module):
    """Is told who speaks; made of as many of a checkpoint's parts as a face needs."""

    emb_g: nn.Embedding | None
    """The table of speakers; None for a voice that is given a d-vector, or knows one speaker only."""

    def __init__(self, **parts: nn.Module | None) -> None:
        """Put the parts together, each under its name."""
        super().__init__()
        self.unit_length = UnitLength()
        for name, part in parts.items():
            setattr(self, name, part)

    def speaker(self, who: torch.Tensor) -> torch.Tensor:
        """Return (1, gin_channels, 1) for a number, (1,), or a d-vector, (1, gin_channels), of any length but 0."""
        found = self.unit_length(who) if self.emb_g is None else self.emb_g(who)
        return found.unsqueeze(-1)  # type: ignore[no-any-return]


class TextToPrior(Voice):
    """From a text to the prior and the durations of its tokens."""

    text_encoder: TextEncoder
    duration_predictor: DurationPredictor | StochasticDurationPredictor
    emb_l: nn.Embedding | None

    @property
    def stochastic(self) -> bool:
        """Whether durations are drawn."""
        return isinstance(self.duration_predictor, StochasticDurationPredictor)

    def forward(
        self, tokens: torch.Tensor, token_lengths: torch.Tensor, *rest: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return what `read` does.

        Args:
            tokens: Numbers of symbols, (1, tokens).
            token_lengths: How many of the tokens count, (1,).
            rest: [Who speaks, as for `speaker`, if that changes durations]; [number of the language, (1,)]; [normal
                noise with the wanted deviation, (1, 2, tokens), if durations are drawn].
        """
        given = [*rest]
        noise = given.pop() if self.stochastic else None
        language_id = given.pop() if self.emb_l is not None else None
        g = self.speaker(given.pop()) if given else None
        return self.read(tokens, token_lengths, g, language_id, lambda _: noise)

    def read(
        self,
        tokens: torch.Tensor,
        token_lengths: torch.Tensor,
        g: torch.Tensor | None,
        language_id: torch.Tensor | None,
        draw: Callable[[torch.Tensor], torch.Tensor | None],
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return mean and log deviation of each token, (1, channels, tokens), and its length in frames, (1, 1, tokens).

        All are 0 beyond the mask. `draw` returns the durations' noise, scaled, in the shape of what it is given:
        (1, 2, tokens); it is not called where durations are not drawn.
        """
        places = torch.arange(tokens.shape[1], device=tokens.device)
        mask = (places < token_lengths).to(self.text_encoder.emb.weight.dtype)
        language = None if self.emb_l is None else self.emb_l(language_id).unsqueeze(-1)  # (1, language_channels, 1)
        x, mean, log_deviation = self.text_encoder(tokens, mask, language)
        drawn = [draw(x[:, :2])] if self.stochastic else []
        log_w = self.duration_predictor(x, mask, *drawn, g, language)
        return mean, log_deviation, (torch.exp(log_w) * mask)[0].unsqueeze(0)


class Speech(Voice):
    """What all voices that are heard have in common."""

    flow: ResidualCouplingBlock
    stretch: Stretch | nn.Identity
    waveform_decoder: Generator

    def speak(self, prior: Prior, noise: torch.Tensor, g: torch.Tensor | None) -> torch.Tensor:
        """Return audio within -1 .. 1, (1, 1, samples); the noise is (1, channels, frames), scaled."""
        z_p = (prior.mean + torch.exp(prior.log_deviation) * noise) * prior.mask
        z = self.flow(z_p, prior.mask, g)
        return self.waveform_decoder(self.stretch(z), g)  # type: ignore[no-any-return]


class PriorToSpeech(Speech):
    """From what `TextToPrior` finds, the durations made whole numbers, to audio."""

    def forward(
        self, m_p: torch.Tensor, logs_p: torch.Tensor, durations: torch.Tensor, *rest: torch.Tensor
    ) -> torch.Tensor:
        """Return audio within -1 .. 1, (1, 1, samples).

        Args:
            m_p: Mean of each token, (1, channels, tokens).
            logs_p: Log deviation of each token, (1, channels, tokens).
            durations: Frames of each token, int64, (1, tokens).
            rest: [Who speaks, as for `speaker`]; normal noise with the wanted deviation (the original's is 0.667),
                (1, channels, frames), whose frames say how many are made: those beyond the durations' sum are silent.
        """
        *who, noise = rest
        places = torch.arange(noise.shape[2], device=noise.device)
        g = self.speaker(*who) if who else None
        return self.speak(align(m_p, logs_p, durations, places), noise, g)


class TextToSpeech(TextToPrior, Speech):
    """From a text to audio in one graph, for the clients of Coqui, Piper and sherpa-onnx: its noise is drawn inside."""

    def __init__(self, most_frames: int, **parts: nn.Module | None) -> None:
        """Put the parts together; `most_frames` is how long a text may last."""
        super().__init__(**parts)
        self.most_frames = most_frames
        if self.stochastic:
            self.dp_noise = Noise()
        self.noise = Noise()

    def forward(  # type: ignore[override] # a face of its own
        self, tokens: torch.Tensor, token_lengths: torch.Tensor, scales: torch.Tensor, *rest: torch.Tensor
    ) -> torch.Tensor:
        """Return audio within -1 .. 1, (1, 1, samples), of `most_frames` at most.

        Args:
            tokens: As for `TextToPrior`.
            token_lengths: As for `TextToPrior`.
            scales: Deviation of the prior's noise, stretch of all durations, deviation of the durations' noise; (3,).
            rest: [Who speaks, as for `speaker`]; [number of the language, (1,)].
        """
        noise_scale, length_scale, noise_scale_dp = torch.split(scales, 1)
        given = [*rest]
        language_id = given.pop() if self.emb_l is not None else None
        g = self.speaker(given.pop()) if given else None
        mean, log_deviation, w = self.read(
            tokens, token_lengths, g, language_id, lambda like: self.dp_noise(like) * noise_scale_dp
        )
        durations = whole_frames(w * length_scale)
        frames = torch.clamp(durations.sum(), 1, self.most_frames)
        places = torch.arange(frames, device=tokens.device)  # type: ignore[call-overload] # a traced number
        prior = align(mean, log_deviation, durations, places)
        return self.speak(prior, self.noise(prior.mean) * noise_scale, g)


class VoiceConversion(Speech):
    """From one speaker's spectrogram to the audio of another who says the same."""

    posterior_encoder: PosteriorEncoder

    def forward(
        self, spectrogram: torch.Tensor, source: torch.Tensor, target: torch.Tensor, noise: torch.Tensor
    ) -> torch.Tensor:
        """Return audio within -1 .. 1, (1, 1, samples).

        Args:
            spectrogram: Magnitudes, (1, bins, frames).
            source: Who speaks there, as for `speaker`.
            target: Who is to be heard.
            noise: Normal noise with the wanted deviation (the original's is 1), (1, channels, frames).
        """
        mask = torch.ones_like(noise[0, 0])
        before, after = self.speaker(source), self.speaker(target)
        z = self.posterior_encoder(spectrogram, mask, before, noise)
        z_p = self.flow(z, mask, before, onward=True)
        return self.waveform_decoder(self.flow(z_p, mask, after), after)  # type: ignore[no-any-return]
