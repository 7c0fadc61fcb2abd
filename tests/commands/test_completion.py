"""The scripts for the Tab key, in the shells themselves."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from voicekiln import cli
from voicekiln.commands.completion import SHELLS

TRY_IN_BASH = """
source script.bash
complete -p voicekiln > /dev/null || exit 1
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
_shtab_voicekiln "$1" "${!#}"
printf '%s\\n' "${COMPREPLY[@]}"
"""

QUESTIONS: list[tuple[tuple[str, ...], set[str]]] = [
    (("con",), {"convert"}),
    (("convert", "--prec"), {"--precision"}),
    (("convert", "--precision", ""), {"fp32", "fp16", "both"}),
    (("convert", "--interface", ""), {"rvc", "w-okada", "moevs", "single", "voice-conversion"}),
    (("convert", "v"), {"voice.pth"}),
    (("convert", "--out", ""), {"folder"}),
    (("templates", ""), {"list", "build", "clear"}),
    (("doctor", "--config", "v"), {"voice.pth"}),
    (("completion", ""), set(SHELLS)),
]


@pytest.fixture
def room(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A folder with a file, a folder and the scripts."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "voice.pth").touch()
    for shell in SHELLS:
        assert cli.main(["completion", shell]) == cli.OK
        (tmp_path / f"script.{shell}").write_text(capsys.readouterr().out)
    return tmp_path


def asked(room: Path, *command: str) -> str:
    return subprocess.run(command, cwd=room, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_can_read_its_script(room: Path, shell: str) -> None:
    """No mistake of syntax in it."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    asked(room, shell, "-n", f"script.{shell}")


@pytest.mark.parametrize(("words", "offered"), QUESTIONS)
def test_bash_offers_what_fits(room: Path, words: tuple[str, ...], offered: set[str]) -> None:
    """Commands, options, choices; files where a file is wanted, folders where a folder is."""
    found = asked(room, "bash", "-c", TRY_IN_BASH, "bash", "voicekiln", *words)
    assert set(found.split()) == offered


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
@pytest.mark.parametrize(("words", "offered"), QUESTIONS)
def test_fish_offers_what_fits(room: Path, words: tuple[str, ...], offered: set[str]) -> None:
    """The same."""
    line = " ".join(["voicekiln", *words])
    found = asked(room, "fish", "--no-config", "-c", f'source script.fish; complete -C "{line}"')
    assert {row.partition("\t")[0].rstrip("/") for row in found.splitlines()} == offered


def test_the_readme_says_how_each_is_installed() -> None:
    """In the words of the help."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert [shell for shell, line in SHELLS.items() if line not in readme] == []
