"""The words of the command line: help that fits a terminal, examples that work, slips that are understood."""

from __future__ import annotations

import re
import shlex

import pytest

from voicekiln import cli

OPERATORS = {">", ">>", "|", "||", "&&"}


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int | str | None, str]:
    """Return the exit status and all that is said."""
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    said = capsys.readouterr()
    return end.value.code, said.out + said.err


@pytest.fixture(autouse=True)
def _eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def names(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return re.findall(r"^  (\w+)  +\w", told(capsys, "--help")[1], re.MULTILINE)


def examples(text: str) -> list[str]:
    return [line.strip() for line in text.partition("example:\n")[2].splitlines()]


def test_no_words_are_answered_with_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    """Not with an error line; the exit status says all the same that nothing was done."""
    status, said = told(capsys)
    assert status == cli.WRONG_WORDS
    assert "convert files once" in said
    assert "error" not in said
    assert len(said.splitlines()) <= 40


def test_commands_stand_under_what_one_wants(capsys: pytest.CaptureFixture[str]) -> None:
    """Each heading has its commands and a line to try."""
    said = told(capsys, "--help")[1]
    headings = re.findall(r"^(\w.*):\n((?:  +.*\n)+)", said, re.MULTILINE)
    assert headings[0][0] == "First steps"
    assert len(headings) == 5
    for _, body in headings:
        assert re.search(r"^      voicekiln \w+", body, re.MULTILINE)
    assert "doctor" in dict(headings)["When something is wrong"]


def test_a_line_of_help_fits_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """In every help; only an example, which is to be copied, is never broken."""
    for words in ((), ("--help",), *((name, "--help") for name in names(capsys))):
        lines = told(capsys, *words)[1].partition("example:")[0].splitlines()
        assert [line for line in lines if len(line) > 79] == []


def test_every_command_has_an_example_that_it_understands(capsys: pytest.CaptureFixture[str]) -> None:
    """The words after its name are parsed as they would be in a shell."""
    listed = names(capsys)
    assert len(listed) >= 15
    for name in listed:
        said = told(capsys, name, "--help")[1]
        assert "positional" not in said
        assert examples(said)
        for line in examples(said):
            words = shlex.split(line, comments=True)
            end = next((at for at, word in enumerate(words) if word in OPERATORS), len(words))
            assert words[:2] == ["voicekiln", name]
            assert cli._options(words[1:end]).run


def test_examples_of_the_headings_are_understood(capsys: pytest.CaptureFixture[str]) -> None:
    """As those of the commands."""
    for line in re.findall(r"^      voicekiln (\w+ ?[^>\n]*)", told(capsys, "--help")[1], re.MULTILINE):
        assert cli._options(shlex.split(line)).run


@pytest.mark.parametrize(("slip", "meant"), [("convret", "convert"), ("Status", "status"), ("dokter", "doctor")])
def test_a_slip_is_answered_with_what_was_meant(slip: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line that names the nearest command, whatever follows the slip."""
    status, said = told(capsys, slip, "x.pth", "--odd")
    assert (status, said) == (2, f'voicekiln: there is no command "{slip}"; did you mean "{meant}"?\n')


def test_a_word_like_none_is_answered_with_where_to_look(capsys: pytest.CaptureFixture[str]) -> None:
    """Without control characters, should it hold some."""
    status, said = told(capsys, "xyzzy\x1b[2J")
    assert status == 2
    assert "voicekiln --help" in said
    assert "\x1b" not in said
