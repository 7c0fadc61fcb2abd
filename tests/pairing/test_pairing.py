"""The README's recipes for sync tools, with the real tools: what comes in, what goes out, and what the table says.

A tool that is not installed is skipped; `.ci/run` installs them all.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pairing import mounted, synced
from pairing.pair import Pair
from pairing.programs import missing
from pairing.syncthing import IGNORE
from pairing.tools import OURS, TOOLS, Tool
from pairing.witness import HEAD, Row

README = (Path(__file__).parents[2] / "README.md").read_text()


def needs(*programs: str) -> None:
    if why := missing(programs):
        pytest.skip(why)


def told() -> list[str]:
    """Return the lines of the README's table."""
    found = re.search(r"<!-- pairing -->\n(.*?)\n<!-- /pairing -->", README, re.DOTALL)
    assert found is not None
    return found[1].splitlines()


def agree(row: Row) -> None:
    """Compare with the README, unless it tells of another version."""
    [line] = [line for line in told() if line.startswith(f"| {row.tool} |")]
    version = line.split("|")[2].strip()
    if version != row.version:
        pytest.skip(f"the README tells of version {version}, here is {row.line()}")
    assert line == row.line()


@pytest.mark.requirement(2)
@pytest.mark.requirement(14)
@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name.replace("`", ""))
def test_a_tool_brings_voices_and_fetches_results_as_the_readme_says(tool: Tool, tmp_path: Path) -> None:
    """Old dates, a newer voice, one that breaks off, one removed: nothing half is converted, results arrive whole."""
    needs(*tool.programs)
    agree(Pair(tool, tmp_path).run())


@pytest.mark.requirement(2)
@pytest.mark.requirement(6)
@pytest.mark.requirement(14)
def test_syncthing_in_one_way_folders_loses_nothing_at_the_other_end(tmp_path: Path) -> None:
    """What is swept or removed at one end stays at the other, and our hidden names do not travel."""
    needs("syncthing")
    agree(synced.one_way(tmp_path))


@pytest.mark.requirement(1)
@pytest.mark.requirement(14)
def test_syncthing_in_two_way_folders_takes_removals_along_and_its_conflicts_are_refused(tmp_path: Path) -> None:
    """That is why the daemon does not start with a time for sources, and why `.stignore` needs our line."""
    needs("syncthing")
    synced.two_way(tmp_path)


@pytest.mark.requirement(5)
def test_inbox_and_outbox_may_lie_in_an_rclone_mount(tmp_path: Path) -> None:
    """What others drop at the far end is converted, and there too the sidecar comes after its file."""
    needs("rclone", "fusermount3")
    mounted.mounted(tmp_path)


def test_the_readme_gives_the_settings_that_are_tried_here() -> None:
    """The table has a line for each tool and no other, and the options are those of the recipes."""
    assert "\n".join(told()[:2]) == HEAD
    assert [line.split("|")[1].strip() for line in told()[2:]] == [synced.SYNCTHING, *(tool.name for tool in TOOLS)]
    for setting in (IGNORE, f"'{OURS}'", f"veto files = /{OURS}/", "--partial-dir=.rsync-partial", "--ignore-times"):
        assert setting in README, setting
    for option in mounted.OPTIONS:
        assert option.partition("=")[0] in README, option
