"""Turns: small voices first, and nobody waits for ever. And what an older voicekiln has kept is read."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endings import converted
from voicekiln.folders.voices import BYTES_A_SECOND, State, Voice, ending_json, read_ending, read_recipe
from voicekiln.job import INTERFACES, Converted, FileStamp, Job, Recipe

HUGE = 4_000_000_000


def voice(number: int, first_seen: float, size: int) -> Voice:
    """Return a voice that waits."""
    return Voice(
        id=number,
        relpath=PurePosixPath(f"{number}.pth"),
        recipe="default",
        taken=None,
        stamp=FileStamp(number, size, 0, 0),
        state=State.SETTLING,
        reason="",
        next_try=None,
        first_seen=first_seen,
        finished=None,
        sha256=None,
        key=None,
        job=None,
        attempts=0,
        ending=None,
        base=None,
        source="there",
    )


seen = st.integers(0, 3000).map(float)
sizes = st.sampled_from([0, 1, 20_000_000, 55_000_000, 450_000_000, HUGE]) | st.integers(0, HUGE)


@given(st.lists(st.tuples(seen, sizes), max_size=40), seen)
def test_a_huge_voice_is_overtaken_only_by_those_that_come_within_its_handicap(
    others: list[tuple[float, int]], arrived: float
) -> None:
    """However many small ones come, and for however long: 4 GB let others pass for 800 s."""
    huge = voice(0, arrived, HUGE)
    crowd = [voice(number, *facts) for number, facts in enumerate(others, start=1)]
    queue = sorted([huge, *crowd], key=lambda waiting: waiting.turn)
    overtaken_by = [other for other in queue[: queue.index(huge)] if other.first_seen > arrived]
    assert all(other.first_seen - arrived <= HUGE / BYTES_A_SECOND for other in overtaken_by)


@given(seen, sizes, sizes)
def test_of_two_that_come_together_the_smaller_goes_first(arrived: float, one: int, other: int) -> None:
    """And of two alike the one that was entered first."""
    small, large = sorted((one, other))
    assert voice(1, arrived, small).turn < voice(2, arrived, large).turn


@given(seen, seen, sizes)
def test_of_two_of_a_size_the_earlier_goes_first(one: float, other: float, size: int) -> None:
    """So a folder of usual voices comes out as it came in."""
    early, late = sorted((one, other))
    assert voice(1, early, size).turn < voice(2, late, size).turn


def test_a_small_voice_passes_a_huge_one_that_came_a_while_ago() -> None:
    """But not one that has waited its time."""
    huge, usual = voice(1, 0.0, HUGE), 55_000_000
    assert voice(2, 700.0, usual).turn < huge.turn < voice(3, 800.0, usual).turn


OLDER = {"name": "both", "precisions": ["fp32", "fp16"], "opset": 17, "interface": "rvc", "verify": "quick"}
"""A recipe as it was kept when there was one face."""


def test_a_recipe_of_the_time_with_one_face_is_read() -> None:
    """And is the same as the one that is written today."""
    recipe = read_recipe(json.dumps(OLDER))
    assert recipe == Recipe("both", ("fp32", "fp16"), verify="quick")
    assert read_recipe(json.dumps(asdict(recipe))) == recipe


@pytest.mark.parametrize(
    "change",
    [
        {"interfaces": ["rvc"]},
        {"interface": "another"},
        {"interface": ["rvc"]},
        {"precisions": []},
        {"precisions": "fp32"},
        {"precisions": ["fp32", "fp32"]},
        {"opset": "17"},
    ],
)
def test_what_is_no_recipe_is_not_read(change: dict[str, object]) -> None:
    """Neither half of one nor both spellings at once."""
    assert read_recipe(json.dumps(OLDER | change)) is None
    assert read_recipe("[]") is None


def test_faces_make_other_files_and_their_order_other_names() -> None:
    """So results are shared between recipes only where names and bytes are the same."""
    recipes = [Recipe("a", interfaces=faces) for faces in (("rvc",), INTERFACES, INTERFACES[::-1], ("w-okada",))]
    assert len({recipe.fingerprint for recipe in recipes}) == len(recipes)
    assert Recipe("b", interfaces=INTERFACES).fingerprint == recipes[1].fingerprint


def test_an_ending_of_the_time_with_one_face_is_published_still(tmp_path: Path) -> None:
    """Its files lie in staging under their older names."""
    job = Job("j", tmp_path / "source", tmp_path, "5f" * 32, Recipe("both", ("fp32", "fp16")))
    body = json.loads(ending_json(converted(job)))
    for file in body["converted"]["files"]:
        del file["interface"], file["client"]
        file["name"] = file["name"].removeprefix("rvc.")
    ending = read_ending(json.dumps(body))
    assert isinstance(ending, Converted)
    assert [file.name for file in ending.conversion.files] == ["fp32.onnx", "fp16.onnx"]
    assert {file.interface for file in ending.conversion.files} == {"rvc"}
    assert read_ending(ending_json(ending)) == ending


@pytest.mark.parametrize("change", [{"interface": "another"}, {"interface": "w-okada"}, {"name": "../rvc.fp32.onnx"}])
def test_a_file_of_another_name_or_face_is_not_believed(tmp_path: Path, change: dict[str, str]) -> None:
    """A worker names no files of its own choice."""
    body = json.loads(ending_json(converted(Job("j", tmp_path, tmp_path, "5f" * 32, Recipe("r")))))
    body["converted"]["files"][0] |= change
    assert read_ending(json.dumps(body)) is None
