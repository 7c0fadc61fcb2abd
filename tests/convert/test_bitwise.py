"""A second voice in the first one's template is, byte for byte, what the exporter makes of that second voice alone.

This is what allows the exporter to be asked once for all voices of an architecture. The measure is `plain_export`,
which knows nothing of templates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

import plain_export
import reference_voices
import tiny_coqui
import tiny_sovits
import tiny_voices
from outlines import outline, tensors
from voicekiln.convert.cache import Cache
from voicekiln.convert.device import CPU
from voicekiln.convert.fill import fill
from voicekiln.convert.halve import halve, store_as_half
from voicekiln.convert.template import ARITHMETICS, Arithmetic, Template
from voicekiln.convert.verify import open_session
from voicekiln.families import choose, sample
from voicekiln.families.base import PLAIN, Exportable
from voicekiln.families.weights import AsIs, read
from voicekiln.job import PRECISIONS, Part, Precision, Recipe

FACTS = {"precision": "some", "family": "rvc", "name": "Škoda ☂"}
LENGTHS = (12, 40, 200, 517)
"""Frames; none was traced."""
LARGEST_HALF = 65504
SOVITS: dict[str, tuple[Part, Recipe]] = {
    "default": ("so-vits-svc", PLAIN),
    "vol": ("autof0", PLAIN),
    "snake": ("so-vits-svc", Recipe("mix", speaker_mix=True)),
    "tiny": ("autof0", Recipe("mix", speaker_mix=True)),
    "shared-transformer": ("so-vits-svc", PLAIN),
}
"""Variants of so-vits-svc, each with one of its parts and recipes, so that all of these are there."""
COQUI: dict[str, Part] = {
    "yourtts": "decoder",
    "one-language": "encoder",
    "speakers": "encoder",
    "single": "single",
    "hearing": "voice-conversion",
}
"""Variants of Coqui's VITS, each with one of its parts."""


@dataclass(frozen=True, slots=True)
class Second:
    """A voice that comes after another one of its architecture."""

    exportable: Exportable
    tensors: dict[str, torch.Tensor]
    plain: onnx.ModelProto
    """The exporter's own model of it."""
    cache: Cache
    """Holds templates that were made for the first voice."""
    folder: Path

    def template(self, precision: Precision, arithmetic: Arithmetic) -> Template:
        """Return the template, which must be there already."""
        return self.cache.template(self.exportable, Recipe("r"), precision, arithmetic)

    def filled(self, template: Template) -> Path:
        """Return the file that a template becomes with this voice's numbers."""
        path = self.folder / "voice.onnx"
        fill(template.model, lambda name: read(self.exportable.weights[name], self.tensors), FACTS, path)
        return path

    def whole(self) -> onnx.ModelProto:
        """Return its own model as it is published in float32."""
        return plain_export.tidied(self.plain, self.exportable, FACTS)


def built(checkpoint: dict[str, Any], part: Part | None = None, recipe: Recipe = PLAIN) -> Exportable:
    """Return a network that a checkpoint is for."""
    seen = outline(checkpoint)
    family, claim = choose(seen)
    return family.build(claim, seen, part, recipe)


def after(first: Exportable, exportable: Exportable, checkpoint: dict[str, Any], folder: Path) -> Second:
    """Return the second voice, the first one's templates made."""
    cache = Cache(folder / "templates")
    for precision in PRECISIONS:
        for arithmetic in ARITHMETICS[precision]:
            cache.template(first, Recipe("r"), precision, arithmetic)
    numbers = tensors(checkpoint)
    own = plain_export.plain(exportable, plain_export.network(exportable, numbers))
    return Second(exportable, numbers, own, cache, folder)


@pytest.fixture(autouse=True)
def _exports_nothing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the exporter fail from here on: the fixtures have had their templates made."""
    for name in {"second", "second_of_full_size"}.intersection(request.fixturenames):
        request.getfixturevalue(name)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a template was made anew")

    monkeypatch.setattr("voicekiln.convert.template.export", refuse)
    monkeypatch.setattr("voicekiln.convert.template.halve", refuse)
    monkeypatch.setattr("voicekiln.convert.template.store_as_half", refuse)


@pytest.fixture(scope="module", params=(*reference_voices.names(), *SOVITS, *COQUI))
def second(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Second:
    """Return the second tiny voice of a reference voice's architecture, or of one of so-vits-svc's or Coqui's."""
    name: str = request.param
    part, recipe = SOVITS.get(name, (COQUI.get(name), PLAIN))
    tiny = tiny_sovits.tiny if name in SOVITS else tiny_coqui.tiny if name in COQUI else tiny_rvc
    first, second = (tiny(name, seed=seed) for seed in (1, 2))
    made, exportable = (built(checkpoint, part, recipe) for checkpoint in (first, second))
    return after(made, exportable, second, tmp_path_factory.mktemp(name))


def tiny_rvc(name: str, seed: int) -> dict[str, Any]:
    """Return a tiny voice of a reference voice's architecture."""
    rest = reference_voices.spec(name)["rest"]
    return tiny_voices.tiny(rest["version"], f0=bool(rest["f0"]), sr=rest["config"][-1], seed=seed)


@pytest.fixture(scope="module")
def second_of_full_size(tmp_path_factory: pytest.TempPathFactory) -> Second:
    """Return a voice of the most common architecture as large as it is; the templates were made without a voice."""
    seen = sample.outline(sample.V2_40K)
    family, claim = choose(seen)
    checkpoint = sample.checkpoint(sample.V2_40K, seed=2)
    return after(family.build(claim, seen), built(checkpoint), checkpoint, tmp_path_factory.mktemp("full"))


def test_a_second_voice_is_its_own_export(second: Second) -> None:
    """In float32: every byte of the file."""
    wanted = second.whole().SerializeToString(deterministic=True)
    assert second.filled(second.template("fp32", "float32")).read_bytes() == wanted


def test_a_second_voice_is_its_own_export_halved(second: Second) -> None:
    """In half precision: every byte of what onnxconverter-common makes of the whole model."""
    asked = second.exportable
    wanted = halve(second.whole(), asked.in_float32, asked.in_half).SerializeToString(deterministic=True)
    assert second.filled(second.template("fp16", "half")).read_bytes() == wanted


def test_a_second_voice_is_its_own_export_stored_as_half(second: Second) -> None:
    """With float32 arithmetic: every byte of the whole model with its weights rounded by NumPy."""
    whole = store_as_half(second.whole(), second.exportable.in_float32, second.exportable.in_half)
    for tensor in whole.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            numbers = np.frombuffer(tensor.raw_data, np.float32)
            tensor.raw_data = np.clip(numbers, -LARGEST_HALF, LARGEST_HALF).astype(np.float16).tobytes()
    wanted = whole.SerializeToString(deterministic=True)
    assert second.filled(second.template("fp16", "float32")).read_bytes() == wanted


def test_a_second_voice_sounds_as_the_exporters_own_model(second: Second) -> None:
    """Not one sample differs from the model that the exporter made of this voice alone, its noise seeded."""
    assert_equal_sound(second)


def test_a_voice_of_full_size_is_its_own_export(second_of_full_size: Second) -> None:
    """As the tiny ones are, in both precisions."""
    second = second_of_full_size
    whole = second.whole()
    halved = halve(whole, second.exportable.in_float32)
    for template, wanted in ((second.template("fp32", "float32"), whole), (second.template("fp16", "half"), halved)):
        assert second.filled(template).read_bytes() == wanted.SerializeToString(deterministic=True)


def test_a_voice_of_full_size_sounds_as_the_exporters_own_model(second_of_full_size: Second) -> None:
    """As the tiny ones do."""
    assert_equal_sound(second_of_full_size)


def assert_equal_sound(second: Second) -> None:
    """Run the filled file and the exporter's own model side by side."""
    filled = open_session(second.filled(second.template("fp32", "float32")), CPU)
    plain = open_session(plain_export.seeded(second.plain).SerializeToString(), CPU)
    for frames in LENGTHS:
        feed = second.exportable.sample(frames, np.random.default_rng(frames))
        got, wanted = (session.run(None, feed)[0] for session in (filled, plain))
        assert wanted.any()
        assert np.array_equal(got, wanted)


def test_a_single_number_shows(second: Second) -> None:
    """The measure can fail: one number that is a little off is another file."""
    numbers = {name: tensor.clone() for name, tensor in second.tensors.items()}
    some = next(rule.name for rule in second.exportable.weights.values() if isinstance(rule, AsIs))
    numbers[some].reshape(-1)[3] *= 1.01
    wanted = second.whole().SerializeToString(deterministic=True)
    assert replace(second, tensors=numbers).filled(second.template("fp32", "float32")).read_bytes() != wanted
