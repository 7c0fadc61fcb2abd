"""Where one voice becomes files: each of its parts in each precision, written, and then verified as it lies on disk.

Several files get their weights from PyTorch's network, which they are compared with anyway and in which they are
computed once for all faces of it. A single file, or one that nobody compares, gets them streamed from the checkpoint.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import torch

from voicekiln.convert import device
from voicekiln.convert.cache import Cache
from voicekiln.convert.fill import fill
from voicekiln.convert.graph import noise_nodes
from voicekiln.convert.reference import References, with_face
from voicekiln.convert.template import ARITHMETICS, Arithmetic, Template
from voicekiln.convert.threads import threads
from voicekiln.convert.verify import LENGTHS, Original, verify
from voicekiln.errors import NotFaithful, plain
from voicekiln.families import weights
from voicekiln.families.base import Exportable
from voicekiln.families.weights import Rule
from voicekiln.job import (
    PRECISIONS,
    Data,
    DataFile,
    Fidelity,
    OnnxFile,
    Part,
    Precision,
    Recipe,
    Stage,
    staged,
)

MAX_FACT = 20_000
"""Characters of one value in an ONNX file's metadata."""


UNVERIFIED: Final = (
    "The files were not compared with the original network: this recipe says verify: off. "
    "They were made from a checked template, but nobody has listened to them."
)
STORED_AS_HALF: Final = (
    "The half-precision file keeps its numbers in half precision but computes in float32, because half "
    "arithmetic would have been too far from the network ({snr_db} dB on {provider}, at least {wanted_db} dB is "
    "wanted)."
)


class Stages:
    """Announces the stages of a job and sums up the seconds that each takes."""

    def __init__(self, entered: Callable[[Stage], None], clock: Callable[[], float]) -> None:
        self._entered = entered
        self._clock = clock
        self.seconds: dict[str, float] = {}
        """Wall seconds by stage, in the order in which they were first entered."""

    @contextmanager
    def stage(self, name: Stage) -> Iterator[None]:
        """Announce the stage, and time what is done in it; a stage may be entered again."""
        self._entered(name)
        begun = self._clock()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + self._clock() - begun, 3)


@dataclass(frozen=True, slots=True)
class Bench:
    """Where one voice becomes files."""

    parts: Mapping[Part, Exportable]
    data: Mapping[Data, Rule]
    tensors: Mapping[str, torch.Tensor]
    recipe: Recipe
    staging: Path
    facts: Mapping[str, str]
    """For each file's metadata, beside those of its face."""
    cache: Cache
    references: References
    stages: Stages
    pictures: dict[str, str] = field(default_factory=dict)
    """Of the verified files, by their names in the staging folder."""
    networks: dict[Part, torch.nn.Module] = field(default_factory=dict)
    """With the voice's numbers; filled when they are asked for."""

    def files(self) -> tuple[tuple[OnnxFile, ...], tuple[str, ...]]:
        """Return the files, and sentences about what was special."""
        made: dict[str, OnnxFile] = {}
        finished: list[OnnxFile] = []
        notes: list[str] = [UNVERIFIED] if self.recipe.verify == "off" else []
        arithmetic = {precision: ways[0] for precision, ways in ARITHMETICS.items()}
        for part, exportable in self.parts.items():
            for precision in (p for p in PRECISIONS if p in self.recipe.precisions):
                name = staged(exportable.interface, precision)
                if name not in made:
                    try:
                        made[name] = self._file(exportable, precision, arithmetic[precision], name)
                    except NotFaithful as unfaithful:
                        if arithmetic[precision] == "float32":
                            raise
                        arithmetic[precision] = "float32"  # for the other parts, too: as a rule they are one network
                        made[name] = self._file(exportable, precision, "float32", name)
                        notes.append(STORED_AS_HALF.format_map(unfaithful.found))
                finished.append(replace(made[name], interface=part, client=dict(exportable.client)))
        return tuple(finished), tuple(notes)

    def numbers(self) -> tuple[DataFile, ...]:
        """Write what is published as mere numbers, and describe it. Equal voices give equal bytes."""
        return tuple(self._array(name, rule) for name, rule in self.data.items())

    def _array(self, name: Data, rule: Rule) -> DataFile:
        """Write one array in its own precision, as NumPy does: a header of 128 bytes and the bare numbers."""
        with self.stages.stage("fill"), threads(1):
            array = weights.read(rule, self.tensors).contiguous().numpy()
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
            pieces = header.getvalue(), array.reshape(-1).view(np.uint8).data
            digest = hashlib.sha256()
            with (self.staging / f"{name}.npy").open("xb") as file:
                for piece in pieces:
                    digest.update(piece)
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            return DataFile(name, digest.hexdigest(), sum(map(len, pieces)), str(array.dtype), array.shape)

    def picture(self, files: Sequence[OnnxFile]) -> str:
        """Return the picture of the least faithful file; the figure that is shown beside it is that file's, too."""
        verified = [file for file in files if file.fidelity]
        worst = min(verified, key=lambda file: min(f.snr_db for f in file.fidelity), default=None)
        return "" if worst is None else self.pictures[worst.name]

    def _file(self, exportable: Exportable, precision: Precision, arithmetic: Arithmetic, name: str) -> OnnxFile:
        """Write a file with its metadata, verify it and describe it. Equal voices give equal bytes."""
        path = self.staging / name
        with self.stages.stage("template"):
            template = self.cache.template(exportable, self.recipe, precision, arithmetic)
        with self.stages.stage("fill"), threads(1):
            computed_in = _computed_in(template.model, arithmetic)
            facts = {**exportable.metadata, **self.facts, "precision": precision, "arithmetic": computed_in}
            facts = {key: plain(value, MAX_FACT) for key, value in facts.items()}
            filled = fill(template.model, self._numbers(exportable), facts, path)
        return OnnxFile(
            name=path.name,
            precision=precision,
            sha256=filled.sha256,
            bytes=filled.bytes,
            opset=self.recipe.opset,
            inputs=exportable.inputs,
            outputs=exportable.outputs,
            fidelity=self._verified(exportable, path, precision, template),
        )

    def _numbers(self, exportable: Exportable) -> Callable[[str], torch.Tensor]:
        """Return what gives the voice's weights by name.

        They are computed once for several files that are compared with a network: it has them all.
        """
        same = {e.interface for e in self.parts.values() if e.weights == exportable.weights}
        if len(same) * len(self.recipe.precisions) > 1 and LENGTHS[self.recipe.verify]:
            return self._network(exportable).state_dict().__getitem__
        return lambda name: weights.read(exportable.weights[name], self.tensors)

    def _network(self, exportable: Exportable) -> torch.nn.Module:
        """Return PyTorch's network with the voice's numbers, computed once for all parts that have the same."""
        if exportable.interface not in self.networks:
            alike = (e.interface for e in self.parts.values() if e.weights == exportable.weights)
            other = next((self.networks[part] for part in alike if part in self.networks), None)
            self.networks[exportable.interface] = (
                self.references.load(exportable, self.tensors) if other is None else with_face(other, exportable)
            )
        return self.networks[exportable.interface]

    def _verified(
        self, exportable: Exportable, path: Path, precision: Precision, template: Template
    ) -> tuple[Fidelity, ...]:
        """Return how faithful the file is, unless nobody wants to know."""
        if not (lengths := LENGTHS[self.recipe.verify]):
            return ()
        with self.stages.stage("verify"):
            voice = Original(exportable, self._network(exportable), noise_nodes(template.model.graph))
            return verify(
                path, voice, precision, device.providers(), lengths, partial(self.pictures.__setitem__, path.name)
            )


def _computed_in(model: onnx.ModelProto, asked: Arithmetic) -> Arithmetic:
    """Return in what a graph computes: a network that is float32 in every precision is float32 in this one."""
    halves = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)
    return asked if halves else "float32"


def sync_folder(folder: Path) -> None:
    """Make the names in it durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
