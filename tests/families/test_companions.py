"""Companions: which of them is asked, whose fault a wrong one is, and that nothing in one of them does harm."""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tiny_clusters
import tiny_diffusion
import tiny_sovits
import tiny_vocoders
from families.spoiling import values
from outlines import outline
from voicekiln.errors import Contradiction, Refusal, WrongCompanion
from voicekiln.families import choose
from voicekiln.families.base import Outline
from voicekiln.families.companions import SPEAKERS, Companion, Table, beside, check_speakers, speakers, tables
from voicekiln.families.so_vits_svc_config import config as written
from voicekiln.job import Conversion, Fidelity, OnnxFile, Recipe
from voicekiln.worker.wire import Finished, encode

WHOLE = [
    replace(outline(tiny_vocoders.tiny_vocoder()), beside={"own.json": tiny_vocoders.config()}),
    tiny_diffusion.beside(outline(tiny_diffusion.tiny()), tiny_diffusion.config(), "own.yaml"),
]
"""A vocoder and a diffusion model, each with a companion of its own; a voice's have their own test."""


@st.composite
def spoilt(draw: st.DrawFn) -> Outline:
    """Return one of `WHOLE` with a value of its companion, a table in it, or all of it replaced or dropped."""
    whole = draw(st.sampled_from(WHOLE))
    [(name, raw)] = whole.beside.items()
    made = copy.deepcopy(raw)
    table = draw(st.sampled_from([made, *(value for value in made.values() if isinstance(value, dict))]))
    key = draw(st.sampled_from(sorted(table)))
    if draw(st.booleans()):
        table[key] = draw(values)
    else:
        del table[key]
    kept = {name: made if draw(st.integers(0, 9)) else draw(values)}
    return replace(whole, beside=kept)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(spoilt())
def test_a_hostile_companion_ends_in_words(hostile: Outline) -> None:
    """Never in another exception than a refusal; what is claimed can be written as JSON and built."""
    with suppress(Refusal):
        family, claim = choose(hostile)
        json.dumps({"model": claim.model, "notes": claim.notes}, allow_nan=False)
        built = family.build(claim, hostile)
        json.dumps({"feed": built.feed, "metadata": built.metadata}, allow_nan=False)


def test_no_spoiling_is_a_claim() -> None:
    """What the other test spoils is used when it is whole."""
    for whole in WHOLE:
        _, claim = choose(whole)
        assert claim.model["companions"] == list(whole.beside)


def test_its_own_are_asked_before_the_general_ones() -> None:
    """Those of general names come in the order in which the family names them, whatever their case; others never."""
    lying = dict.fromkeys(("Config.yaml", "diffusion.yaml", "G.json", "notes.txt", "b.YAML"))
    seen = replace(WHOLE[1], beside=lying)
    asked = [(each.name, each.own) for each in beside(seen, ("diffusion.yaml", "config.yaml"))]
    assert asked == [("b.YAML", True), ("diffusion.yaml", False), ("Config.yaml", False)]


def test_whose_fault_a_contradiction_is() -> None:
    """The model's, if the companion bears its name; else the companion is another's, and the person is told why."""
    problem = Contradiction(what="it is so")
    sentence = "config.json, which lies beside it, is not this model's: it is so."
    assert Companion("config.json", {}, own=False).another(problem) == sentence
    with pytest.raises(WrongCompanion) as refusal:
        Companion("own.json", {}, own=True).another(problem)
    assert refusal.value.found == {"name": "own.json", "what": "it is so"}


def test_tables_and_other_kinds_configs_are_nobodys_own() -> None:
    """What is called after a kind of companion is no config of the one model that happens to be asked."""
    lying = dict.fromkeys(("speakers.json", "x.speakers.json", "language_ids.json", "config_se.json", "x.json"))
    seen = replace(WHOLE[0], beside=lying)
    assert [each.name for each in beside(seen)] == ["x.json"]
    assert [each.name for each in beside(seen, ("config_se.json",))] == ["x.json", "config_se.json"]


def test_its_own_tables_are_asked_first() -> None:
    """Each by one of its names, whatever their case; those of the folder follow."""
    names = ("speakers.pth", "Speakers.json", "speaker_ids.json", "x.speakers.json", "x.json", "language_ids.json")
    asked = [(each.name, each.own) for each in tables(replace(WHOLE[0], beside=dict.fromkeys(names)), SPEAKERS)]
    assert asked == [
        ("x.speakers.json", True),
        ("speaker_ids.json", False),
        ("Speakers.json", False),
        ("speakers.pth", False),
    ]


def test_what_a_model_needs_is_asked_for() -> None:
    """One that does not fit is named, and it is said how to tell several voices' apart; nothing is blamed on them."""
    refusal = Companion("speakers.pth", {}, own=False).refused(Contradiction(what="it is so"))
    assert refusal.text == "speakers.pth, which lies beside this file, does not fit it: it is so."
    assert "Correct speakers.pth, put the right one in its place or remove it" in refusal.advice
    assert "VOICE.speakers.json" in refusal.advice
    assert "training tool" not in refusal.advice


@pytest.mark.parametrize("value", [True, 0, -1, 65_537, 10**400, 1.0, "7", [7], {}, float("nan")])
def test_a_number_is_one_or_cannot_be(value: object) -> None:
    """Neither a truth value nor a text that looks like one, and never beyond its bounds; null says nothing."""
    with pytest.raises(Contradiction, match="which cannot be"):
        Table("own.json", {"n": value}).number("n")
    with pytest.raises(Contradiction, match="which cannot be"):
        Table("own.json", {"n": [value]}).numbers("n")
    assert Table("own.json", {"n": None}).number("n") is None
    assert Table("own.json", {"n": 65_536}).number("n") == 65_536


@pytest.mark.parametrize("value", [True, -1, 101, 10**400, float("nan"), float("inf"), "7", [7]])
def test_a_real_number_is_one_or_cannot_be(value: object) -> None:
    """No comparison lets through what is no number."""
    with pytest.raises(Contradiction, match="which cannot be"):
        Table("own.json", {"low": value}).real("low", 0, 100)
    assert Table("own.json", {"low": 40}).real("low", 0, 100) == 40


@pytest.mark.parametrize("raw", [{"a": 0, "b": 0}, {"a": True}, {"a": -1}, {"a": "0"}, {"a": 65_536}])
def test_speakers_have_numbers_of_their_own(raw: object) -> None:
    """Two of one number, or none that is one, are no voice's."""
    with pytest.raises(Contradiction, match="without a number of their own"):
        speakers("own.json", raw)


def test_speakers_come_in_the_order_of_their_numbers() -> None:
    """Each with a name of bounded length, and none beyond the rows of the weights."""
    named = speakers("own.json", {"b" * 500: 3, "a": 0})
    assert named == {0: "a", 3: "b" * 59 + "…"}
    check_speakers("own.json", named, 4)
    with pytest.raises(Contradiction, match="has a speaker 3, the weights have 3"):
        check_speakers("own.json", named, 3)
    assert speakers("own.json", {}) is None


THOUSAND = 1000
NAMES = pytest.mark.parametrize("letter", ["声", "\N{CJK UNIFIED IDEOGRAPH-20000}", '"'])


def crowd(letter: str) -> dict[str, int]:
    """Return a thousand speakers with names of sixty such letters, each of its own."""
    return {f"{number:03d}" + letter * 57: number for number in range(THOUSAND)}


def answer(seen: Outline, recipe: Recipe) -> bytes:
    """Return the line in which the worker tells of a file that was made in both precisions."""
    family, claim = choose(seen)
    made = {part: family.build(claim, seen, part, recipe) for part in family.parts(claim, recipe)}
    fidelity = tuple(Fidelity("CPUExecutionProvider", (24, 137), 123.456, 1e-6, 100.0) for _ in range(4))
    files = tuple(
        OnnxFile(
            f"{part}.fp16.onnx", "fp16", "0" * 64, 2**31, 17, one.inputs, one.outputs, fidelity, part, dict(one.client)
        )
        for part, one in made.items()
        for _ in recipe.precisions
    )
    told = {**next(iter(made.values())).feed, "names": {part: dict(one.names) for part, one in made.items()}}
    notes = (*claim.notes, *("x" * 600,) * 20)
    return encode(Finished("1", Conversion(files, dict(claim.model), told, notes, {}, {}, {}, "x" * 800)))


@NAMES
@pytest.mark.parametrize("mix", [False, True])
def test_a_thousand_speakers_can_be_told(letter: str, *, mix: bool) -> None:
    """A voice's, for two clients of which one has their names in a file of its own, and a diffusion model's."""
    recipe = Recipe("all", interfaces=("rvc", "moevs"), precisions=("fp32", "fp16"), speaker_mix=mix)
    config = written(tiny_sovits.settings(speakers=THOUSAND), tuple(crowd(letter)), "vec256l9")
    voice = replace(outline(tiny_sovits.tiny(speakers=THOUSAND)), beside={"config.json": config})
    raw = tiny_diffusion.config(speakers=THOUSAND) | {"spk": crowd(letter)}
    diffusion = tiny_diffusion.beside(outline(tiny_diffusion.tiny(speakers=THOUSAND)), raw)
    for seen in (voice, diffusion):
        _, claim = choose(seen)
        assert [row["name"] for row in claim.model["speaker_names"]] == list(crowd(letter))
        assert len(answer(seen, recipe)) > THOUSAND * len(letter.encode()) * 57 * 2


@NAMES
def test_a_thousand_speakers_of_clusters_can_be_told(letter: str) -> None:
    """Of cluster centres, whose tables bear their names, and of a feature index, which has them from a config."""
    centres = tiny_clusters.flat(tiny_clusters.centres(**dict.fromkeys(crowd(letter), 1)))
    index = tiny_clusters.index(**{f"s{number}": [1] for number in range(THOUSAND)})
    recipe = Recipe("all", precisions=("fp32", "fp16"))
    for checkpoint in (centres, index):
        raw = {"model": {}, "data": {}, "spk": crowd(letter)}
        seen = replace(outline(checkpoint), beside={"config.json": raw})
        _, claim = choose(seen)
        assert [row["name"] for row in claim.model["speaker_names"]] == list(crowd(letter))
        assert answer(seen, recipe)


@pytest.mark.parametrize(
    "checkpoint",
    [
        tiny_clusters.flat(tiny_clusters.centres(**{str(number): 1 for number in range(1001)})),
        tiny_clusters.index(**{f"s{number}": [1] for number in range(1001)}),
    ],
)
def test_one_more_is_refused(checkpoint: dict[str, Any]) -> None:
    """Of cluster centres and feature indexes, too."""
    with pytest.raises(Contradiction, match="it has 1001 speakers, 1000 at most"):
        choose(outline(checkpoint))


def test_names_that_differ_only_where_they_are_cut_are_no_ones() -> None:
    """No speaker of cluster centres is given the number of another."""
    alike = "x" * 60
    centres = outline(tiny_clusters.flat(tiny_clusters.centres(**{alike + "a": 3})))
    for numbers in ({alike + "a": 1, alike + "b": 0}, {alike + "b": 0, alike + "a": 1}):
        raw = {"model": {}, "data": {}, "spk": numbers}
        _, claim = choose(replace(centres, beside={"config.json": raw}))
        assert "has no speaker" in claim.notes[0]
