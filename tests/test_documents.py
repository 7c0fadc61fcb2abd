"""Documents that cannot lie: what the README lists is what the code does."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

import voicekiln
from voicekiln import cli, config
from voicekiln.errors import REFUSALS, Refusal
from voicekiln.families import FAMILIES
from voicekiln.folders.bundle_parts import ROLES
from voicekiln.job import DATA, INTERFACES, PARTS, PRECISIONS
from voicekiln.settings import default_recipes

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGE = Path(voicekiln.__file__).parent / "page"


def table(name: str) -> str:
    """Return what stands between the marks of a table in the README."""
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", README, re.DOTALL)
    assert found is not None
    return found[1]


def row(kind: type[Refusal]) -> str:
    gaps = dict.fromkeys(kind.gaps(), "…")
    return f"| `{kind.code}` | {kind.message.format(**gaps)} | {kind.hint.format(**gaps)} |"


def test_the_readme_lists_every_refusal_with_its_words() -> None:
    """Codes, messages and hints stand there as a person will read them, and no others."""
    lines = ["| code | what it says | what to do |", "|---|---|---|", *map(row, REFUSALS.values())]
    assert table("refusals") == "\n".join(lines) + "\n"


def test_the_readme_lists_every_family() -> None:
    """A new family is not forgotten there."""
    lines = ["| family | voices |", "|---|---|", *(f"| `{family.name}` | {family.title} |" for family in FAMILIES)]
    assert table("families") == "\n".join(lines) + "\n"


def schema(name: str) -> dict[str, Any]:
    """Return a layout that is promised to programs."""
    found: dict[str, Any] = json.loads((Path(voicekiln.__file__).parent / name).read_text())
    return found


def test_the_layouts_know_all_that_can_stand_in_them() -> None:
    """A face, a part or a kind of numbers that is new breaks nobody's check of a sidecar."""
    known = schema("folders/sidecar.schema.json")["$defs"]
    found = {name: known[name]["enum"] for name in ("interface", "part", "precision")}
    assert found == {"interface": [*INTERFACES], "part": [*PARTS], "precision": [*PRECISIONS]}
    assert known["data"]["properties"]["data"]["enum"] == [*DATA]
    assert f'"interface": {{ "enum": {json.dumps(PARTS)} }}' in (PAGE / "status.schema.json").read_text()
    assert schema("folders/bundle.schema.json")["required"][3 : 3 + len(ROLES)] == [*ROLES]


@pytest.mark.parametrize("kind", REFUSALS.values(), ids=lambda kind: kind.code)
def test_a_refusal_speaks_to_a_person(kind: type[Refusal]) -> None:
    """Whole sentences without the words of programmers, and an advice."""
    said = kind.message + kind.hint
    assert kind.message.rstrip('"').endswith((".", "…", "}"))
    assert kind.hint.endswith(".")
    for word in ("exception", "traceback", "None", "null", "tensor(", "state_dict", "pickle", "stderr"):
        assert word not in said


def test_the_readmes_recipes_are_understood(tmp_path: Path) -> None:
    """The example can be pasted, and gives what is said of it."""
    block = table("recipes")
    (tmp_path / "config.yaml").write_text(block.removeprefix("```yaml\n").removesuffix("```\n"))
    recipes = config.load(tmp_path / "config.yaml").recipes
    assert recipes["live"].interfaces == ("rvc", "w-okada", "moevs")
    assert recipes == {**default_recipes(), "live": recipes["live"]}


def test_the_readme_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """The commands in the help are those in the table."""
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    told = set(re.findall(r"^  (\w+)  +\w", capsys.readouterr().out, re.MULTILINE))
    assert told == set(re.findall(r"^\| `voicekiln (\w+)", README, re.MULTILINE))


def test_the_exit_statuses_are_those_of_the_code() -> None:
    """The table has what `cli` returns, and argparse's own 2."""
    told = {int(status) for status in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    assert told == {cli.OK, cli.NOT_DONE, 2, cli.BUSY, cli.BAD_CONFIG, cli.INTERRUPTED}
    assert cli.BUSY == os.EX_TEMPFAIL


def test_ci_runs_the_readmes_test_command() -> None:
    """The line in the README is the one that CI takes out of it."""
    found = re.search(r"<!-- command: test -->\n```sh\n(.*?)\n```", README, re.DOTALL)
    assert found is not None
    assert found[1].startswith("python3 -m venv")
    assert "<!-- command: test -->" in (ROOT / ".ci/run").read_text()


def test_files_that_the_readme_names_exist() -> None:
    """Links and paths of the repository lead somewhere."""
    names = re.findall(r"\]\(([^)#:]+)\)", README) + re.findall(r"(?<![\w/])(systemd/[\w./-]+)", README)
    assert names
    assert [name for name in names if not (ROOT / name).exists()] == []
