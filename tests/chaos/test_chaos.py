"""A short run with a fixed seed; longer ones are for the hand (see `chaos.__main__`)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from arrivals import in_own_namespace

RUN = """
import sys

sys.path.insert(0, sys.argv[1])
from chaos.__main__ import main

sys.exit(main([*sys.argv[2:], "--inside"]))
"""


@pytest.mark.requirement(1)
@pytest.mark.requirement(4)
@pytest.mark.requirement(5)
@pytest.mark.requirement(6)
@pytest.mark.requirement(9)
@pytest.mark.requirement(14)
def test_whatever_happens_every_voice_that_stays_has_its_result_and_no_reader_sees_half_of_one(tmp_path: Path) -> None:
    """Nothing is lost, changed, left over or half done after a minute of everything at once."""
    words = ("--seed", 1, "--voices", 60, "--minutes", 0.75, "--folder", tmp_path)
    figures = json.loads(in_own_namespace("", RUN, Path(__file__).parents[1], *words).splitlines()[-1])
    assert figures["conversions"] >= 10
    assert figures["reader"]["sidecars"] > 0
