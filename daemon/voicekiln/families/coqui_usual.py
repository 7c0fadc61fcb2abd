"""The Coqui voices that most people have, without their numbers: templates are made of them before anybody comes.

Sizes are those of Coqui's released models; which symbols a voice has does not matter to its graph, only how many.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from voicekiln.families.base import DVectors, Outline, TensorInfo
from voicekiln.families.coqui_network import Settings, expected

YOURTTS = Settings(
    symbols=165,
    hidden=192,
    channels=192,
    filter_channels=768,
    heads=2,
    layers=10,
    kernel=3,
    window=4,
    languages=3,
    language_channels=4,
    speaker="d_vector",
    speakers=0,
    gin_channels=512,
    stochastic=True,
    duration_channels=192,
    duration_kernel=3,
    duration_layers=3,
    duration_flows=4,
    duration_bins=10,
    duration_by_speaker=True,
    duration_by_language=True,
    glow_norm=False,
    flows=4,
    flow_layers=4,
    flow_kernel=5,
    flow_dilation=1,
    initial=512,
    rates=(8, 8, 2, 2),
    up_kernels=(16, 16, 4, 4),
    block_kernels=(3, 7, 11),
    dilations=((1, 3),) * 3,
    block=2,
    sample_rate=16_000,
    encoder_rate=16_000,
    spectrum=513,
    posterior_layers=16,
    posterior_kernel=5,
    posterior_dilation=1,
)
SINGLE = replace(
    YOURTTS,
    symbols=186,
    layers=6,
    languages=0,
    language_channels=0,
    duration_by_language=False,
    speaker="none",
    gin_channels=0,
    duration_by_speaker=False,
    block=1,
    dilations=((1, 3, 5),) * 3,
    sample_rate=22_050,
    encoder_rate=22_050,
)
"""What Coqui's VITS is by default: LJSpeech's voice."""
VCTK = replace(SINGLE, speaker="speaker_id", speakers=109, gin_channels=256, duration_by_speaker=True)

NO_LETTERS = 3
"""Symbols: the padding, the space and the blank."""
FIRST_LETTER = 0x4E00
"""Code point; from it on there are more letters than a voice has symbols."""


def outline(settings: Settings) -> Outline:
    """Return what a checkpoint of these settings looks like as Coqui's trainer saves it, and what lies beside it."""
    tensors = {coquis(name): TensorInfo(shape, "float32") for name, shape in expected(settings).items()}
    beside: dict[str, Any] = {}
    if settings.languages:
        beside["language_ids.json"] = {str(row): row for row in range(settings.languages)}
    if settings.speaker == "d_vector":
        beside["speakers.json"] = DVectors(("somebody",), (1,), settings.gin_channels, "speakers.json")
    if settings.speaker == "speaker_id":
        beside["speaker_ids.json"] = {str(row): row for row in range(settings.speakers)}
    return Outline(tensors, {"config": config(settings)}, "model", ("config", "model"), beside)


def coquis(name: str) -> str:
    """Return what Coqui calls a tensor of ours: it does not count the flips in a flow."""
    if match := re.match(r"flow\.flows\.(\d+)\.", name):
        return f"flow.flows.{int(match[1]) // 2}.{name[match.end() :]}"
    return name.replace("waveform_decoder.cond.", "waveform_decoder.cond_layer.")


def config(settings: Settings) -> dict[str, Any]:
    """Return what Coqui's trainer writes for a voice of these settings, as far as it matters; the symbols are any."""
    s = settings
    letters = range(FIRST_LETTER, FIRST_LETTER + s.symbols - NO_LETTERS)
    arguments = {
        "num_chars": s.symbols,
        "out_channels": s.spectrum or 513,
        "hidden_channels": s.hidden,
        "hidden_channels_ffn_text_encoder": s.filter_channels,
        "num_heads_text_encoder": s.heads,
        "num_layers_text_encoder": s.layers,
        "kernel_size_text_encoder": s.kernel,
        "kernel_size_posterior_encoder": s.posterior_kernel or 5,
        "dilation_rate_posterior_encoder": s.posterior_dilation or 1,
        "num_layers_posterior_encoder": s.posterior_layers or 16,
        "kernel_size_flow": s.flow_kernel,
        "dilation_rate_flow": s.flow_dilation,
        "num_layers_flow": s.flow_layers,
        "resblock_type_decoder": str(s.block),
        "resblock_kernel_sizes_decoder": [*s.block_kernels],
        "resblock_dilation_sizes_decoder": [[*steps] for steps in s.dilations],
        "upsample_rates_decoder": [*s.rates],
        "upsample_initial_channel_decoder": s.initial,
        "upsample_kernel_sizes_decoder": [*s.up_kernels],
        "use_sdp": s.stochastic,
        "inference_noise_scale": 0.667,
        "length_scale": 1.0,
        "inference_noise_scale_dp": 1.0,
        "use_speaker_embedding": s.speaker == "speaker_id",
        "num_speakers": s.speakers,
        "speaker_embedding_channels": s.gin_channels if s.speaker == "speaker_id" else 256,
        "use_d_vector_file": s.speaker == "d_vector",
        "d_vector_dim": s.gin_channels if s.speaker == "d_vector" else 0,
        "use_language_embedding": s.languages > 0,
        "embedded_language_dim": s.language_channels or 4,
        "condition_dp_on_speaker": s.duration_by_speaker or s.speaker == "none",
        "encoder_sample_rate": s.encoder_rate if s.encoder_rate != s.sample_rate else None,
        "interpolate_z": True,
    }
    spectrum = 2 * (s.spectrum or 513) - 2
    return {
        "model": "vits",
        "audio": {"sample_rate": s.sample_rate, "hop_length": s.hop, "fft_size": spectrum, "win_length": spectrum},
        "model_args": arguments,
        "use_phonemes": False,
        "phonemizer": None,
        "phoneme_language": None,
        "text_cleaner": "multilingual_cleaners",
        "enable_eos_bos_chars": False,
        "add_blank": True,
        "characters": {
            "characters_class": "TTS.tts.models.vits.VitsCharacters",
            "vocab_dict": None,
            "pad": "_",
            "eos": "&",
            "bos": "*",
            "blank": None,
            "characters": "".join(map(chr, letters)),
            "punctuations": " ",
            "phonemes": "",
            "is_unique": False,
            "is_sorted": True,
        },
    }
