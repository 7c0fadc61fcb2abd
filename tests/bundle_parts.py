"""Conversions of the kinds that make up a bundle, by hand: what their families tell, with files of a few bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from endings import converted
from kiln import good, voice_bytes
from voicekiln.folders.bundle_parts import Role
from voicekiln.job import Conversion, Converted, DataFile, Ending, Job, OnnxFile, Port, Precision, Recipe, staged
from voicekiln.job import Part as PartName
from voicekiln.worker.wire import Convert, Looked, Request

C = Port("c", "float32", (1, "units", 768))
F0 = Port("f0", "float32", (1, "frames"))
STRETCH = Port("mel2ph", "int64", (1, "frames"))
MEL = Port("mel", "float32", (1, "frames", 128))
AUDIO = Port("audio", "float32", (1, 1, "samples"))

M_P = Port("m_p", "float32", (1, 192, "tokens"))
LOGS_P = replace(M_P, name="logs_p")
D_VECTOR = Port("d_vector", "float32", (1, 512))
WAVEFORM = Port("waveform", "float32", (1, 1, "samples"))

Kind = Role | Literal["speech"]
"""What a file can be: `voice` is one that sings, `speech` one that reads text."""
Graph = tuple[PartName, tuple[Port, ...], tuple[Port, ...], dict[str, str | None]]

GRAPHS: dict[Kind, list[Graph]] = {
    "voice": [
        (
            "so-vits-svc",
            (C, F0, STRETCH, Port("noise", "float32", (1, 192, "frames")), Port("sid", "int64", (1,))),
            (AUDIO,),
            {"features": "c", "f0": "f0", "stretch": "mel2ph", "noise": "noise", "speaker": "sid"},
        ),
        ("autof0", (C, F0), (AUDIO, F0), {"features": "c", "f0": "f0"}),
    ],
    "diffusion": [
        (
            "diffusion",
            (C, STRETCH, F0, MEL, Port("k_step", "int64", (1,))),
            (replace(MEL, name="mel_out"),),
            {"features": "c", "stretch": "mel2ph", "f0": "f0", "mel": "mel"},
        ),
        ("encoder", (C, F0), (Port("condition", "float32", (1, 256, "frames")),), {"features": "c", "f0": "f0"}),
    ],
    "kmeans": [
        (
            "kmeans",
            (C, Port("ratio", "float32", (1,))),
            (replace(C, name="c_out"),),
            {"features": "c", "ratio": "ratio"},
        )
    ],
    "index": [
        ("index", (C, Port("ratio", "float32", (1,))), (replace(C, name="c_out"),), {"features": "c", "ratio": "ratio"})
    ],
    "vocoder": [
        ("vocoder", (Port("c", "float32", (1, 128, "frames")), F0), (AUDIO,), {"mel": "c", "f0": "f0", "noise": None}),
        (
            "mel",
            (Port("audio", "float32", (1, "samples")),),
            (Port("mel", "float32", (1, 128, "frames")),),
            {"audio": "audio"},
        ),
    ],
    "speech": [
        (
            "decoder",
            (
                M_P,
                LOGS_P,
                Port("durations", "int64", (1, "tokens")),
                D_VECTOR,
                Port("noise", "float32", (1, 192, "frames")),
            ),
            (WAVEFORM,),
            {
                "mean": "m_p",
                "log_deviation": "logs_p",
                "durations": "durations",
                "d_vector": "d_vector",
                "noise": "noise",
            },
        ),
        (
            "encoder",
            (Port("tokens", "int64", (1, "tokens")), Port("token_lengths", "int64", (1,)), D_VECTOR),
            (M_P, LOGS_P, Port("w", "float32", (1, 1, "tokens"))),
            {"tokens": "tokens", "length": "token_lengths", "d_vector": "d_vector"},
        ),
    ],
    "speaker_encoder": [
        (
            "speaker_encoder",
            (Port("waveform", "float32", ("windows", "samples")),),
            (replace(D_VECTOR, axes=("windows", 512)),),
            {"waveform": "waveform"},
        )
    ],
}

FEATURES = {"encoder": "vec768l12", "layer": 12, "width": 768, "frames_per_second": 50}
STRETCHED = {"rule": "nearest", "formula": "mel2ph[t] = 1 + ..."}
SOUND = {"sample_rate": 44100, "hop": 512, "f0": True}

FILES: Mapping[str, Role] = {
    "G_1000.pth": "voice",
    "model_50000.pth": "diffusion",
    "kmeans_10000.pth": "kmeans",
    "feature_and_index.pth": "index",
    "vocoder.pth": "vocoder",
}
"""What lies in a folder, under names that are watched in any case."""
SPEECH_FILES: Mapping[str, Kind] = {"model_file.pth": "speech", "model_se.pth": "speaker_encoder"}
"""And in one of a voice that reads text."""
DURATIONS = {"rule": "min(ceil(w * length_scale), 1000)"}
D_VECTORS = {"width": 512, "of_a_clip": "the mean over its windows"}
LOUDNESS = {"rms_db": -27.0, "rule": "as loud as others"}
WINDOWS = {"count": 10, "samples": 40000, "starts": "floor(i / 9)", "shorter": "a shorter clip is one window"}


def content(role: Kind, more: str = "") -> bytes:
    """Return a source that `answer` takes for this."""
    return voice_bytes(f"this is a {role}. {more}")


def answer(request: Request) -> Ending | Looked:
    """Answer as a worker that knows the kinds of files apart."""
    assert isinstance(request, Convert)
    source = request.job.source.read_bytes()
    role = next((role for role in GRAPHS if f"this is a {role}.".encode() in source), None)
    return good(request) if role is None else Converted(conversion(request.job, role))


def conversion(job: Job, role: Kind, **model: Any) -> Conversion:
    """Write the files of such a job into its staging folder, and return what the worker tells of them."""
    files = [_file(job, graph, precision) for graph in GRAPHS[role] for precision in job.recipe.precisions]
    sound = SOUND if role in ("voice", "diffusion", "vocoder", "speech") else {"sample_rate": None, "f0": False}
    told: dict[str, Any] = {"version": "4.1", "speakers": 1, "parameters": 7, "weights": "float"}
    feed: dict[str, Any] = {"names": {name: names for name, _, _, names in GRAPHS[role]}}
    if role not in ("vocoder", "speech", "speaker_encoder"):
        feed["features"] = FEATURES if role in ("voice", "diffusion") else {"width": 768}
    if role == "voice":
        feed["stretch"] = STRETCHED
    if role == "speech":
        feed["durations"] = DURATIONS
    if role == "speaker_encoder":
        feed |= {"d_vector": D_VECTORS, "loudness": LOUDNESS, "windows": WINDOWS}
    return replace(
        converted(job).conversion,
        files=tuple(files),
        model={"family": role} | told | sound | model,
        feed=feed,
        data=(_array(job),) if role == "kmeans" else (),
    )


def made(at: Path, role: Kind, **model: Any) -> Conversion:
    """Return such a conversion without a daemon; its files lie in the folder `at`."""
    return conversion(Job("j", at / "source", at, "5f" * 32, Recipe("default")), role, **model)


def _file(job: Job, graph: Graph, precision: Precision) -> OnnxFile:
    part, inputs, outputs, _ = graph
    [plain] = converted(replace(job, recipe=Recipe("default"))).conversion.files
    name, written = staged(part, precision), f"{part} in {precision} of {job.sha256}".encode()
    (job.staging / name).write_bytes(written)
    return replace(
        plain,
        name=name,
        interface=part,
        precision=precision,
        inputs=inputs,
        outputs=outputs,
        sha256=hashlib.sha256(written).hexdigest(),
        bytes=len(written),
    )


def _array(job: Job) -> DataFile:
    written = f"centres of {job.sha256}".encode()
    (job.staging / "KMeans.npy").write_bytes(written)
    return DataFile("KMeans", hashlib.sha256(written).hexdigest(), len(written), "float32", (7, 768))
