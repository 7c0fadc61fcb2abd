"""Figure 8: how fast ONNX Runtime is with our graph, beside the simplified graph of the ordinary network."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks.harness import Contestant, Figure, Room, Seat, Target, ratios, take_turns
from voicekiln.convert.device import CPU
from voicekiln.families.rvc_feed import sampler
from voicekiln.families.rvc_settings import FRAMES_PER_S
from voicekiln.families.sample import V2_40K

FRAMES = (100, 1000)
TO_ORDINARY = Target("<=", 0.9)


def beside_ordinary(room: Room, ours: Path, ordinary: Path) -> list[Figure]:
    """Figure 8, for two lengths of audio."""
    with Seat() as one, Seat() as other:
        costs = take_turns(
            room,
            {
                f"{who} {frames}": Contestant(seat, speak, (graph, frames))
                for frames in FRAMES
                for who, seat, graph in (("ours", one, ours), ("ordinary", other, ordinary))
            },
            room.rounds,
        )
    figures = []
    for frames in FRAMES:
        pair = [costs[f"{who} {frames}"] for who in ("ours", "ordinary")]
        figures += ratios(8, f"ONNX Runtime, {frames} frames, ours / ordinary", pair[0], pair[1], TO_ORDINARY)
        spent = [cost.wall / frames * FRAMES_PER_S for cost in pair[0]]
        figures.append(Figure(8, f"ONNX Runtime, {frames} frames, ours, per second of audio", spent, "s"))
    return figures


def speak(_: Path, graph: Path, frames: int) -> None:
    """Run a graph once."""
    session(graph).run(None, sampler(V2_40K)(frames, np.random.default_rng(0)))


@cache
def session(graph: Path) -> onnxruntime.InferenceSession:
    """Return a session as clients have it, but that its threads sleep while they wait: CPU time is to be work."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(graph), options, providers=[CPU])
