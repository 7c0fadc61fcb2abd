"""Companions: which of them is asked, whose fault a wrong one is, and that nothing in one of them does harm."""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tiny_diffusion
import tiny_vocoders
from families.test_rvc_hostile import values
from outlines import outline
from voicekiln.errors import Contradiction, Refusal
from voicekiln.families import choose
from voicekiln.families.base import Outline
from voicekiln.families.companions import Companion, Table, beside, check_speakers, speakers

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
    with pytest.raises(Contradiction, match="it is so"):
        Companion("own.json", {}, own=True).another(problem)


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
def test_a_frequency_is_one_or_cannot_be(value: object) -> None:
    """No comparison lets through what is no number."""
    with pytest.raises(Contradiction, match="which cannot be"):
        Table("own.json", {"low": value}).hz("low", 0, 100)
    assert Table("own.json", {"low": 40}).hz("low", 0, 100) == 40


@pytest.mark.parametrize(
    "raw", [{"a": 0, "b": 0}, {"a": True}, {"a": -1}, {"a": "0"}, {str(n): n for n in range(1001)}]
)
def test_speakers_have_numbers_of_their_own(raw: object) -> None:
    """Two of one number, or a thousand and one, are no voice's."""
    with pytest.raises(Contradiction, match="without a number of their own"):
        speakers("own.json", raw)


def test_speakers_come_in_the_order_of_their_numbers() -> None:
    """Each with a name of bounded length, and none beyond the rows of the weights."""
    named = speakers("own.json", {"b" * 500: 3, "a": 0})
    assert named == {0: "a", 3: "b" * 100}
    check_speakers("own.json", named, 4)
    with pytest.raises(Contradiction, match="has a speaker 3, the weights have 3"):
        check_speakers("own.json", named, 3)
    assert speakers("own.json", {}) is None
