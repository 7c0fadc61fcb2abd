"""The command line as a person reads it: commands under what one wants of them, an example for each."""

from __future__ import annotations

import argparse
import difflib
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from voicekiln.errors import plain

DEFAULT_CONFIG = Path("/etc/voicekiln/config.yaml")

Wish = Literal["First steps", "Every day", "Listen and compare", "When something is wrong", "Made easier"]
"""What one wants when one looks for a command; the headings of the help."""

EXAMPLES: dict[Wish, str] = {
    "First steps": "voicekiln convert voice.pth",
    "Every day": "voicekiln status",
    "Listen and compare": "voicekiln verify voice.onnx --against voice.pth",
    "When something is wrong": "voicekiln doctor > doctor.txt",
    "Made easier": "voicekiln templates build",
}
"""One for each heading, in their order."""

WIDTH = 78
"""Characters of a line of help, for a terminal of 80."""

ABOUT = (
    "Turns voice models (.pth) that are dropped into a folder into ONNX files, each of them checked against the "
    "original."
)

CLOSING = f"""\
voicekiln COMMAND --help says more about a command, with an example.
A command that needs a configuration reads {DEFAULT_CONFIG}
unless you name another one with --config FILE.

Exit status: 0 all went well; 1 a file was refused or differs, something looks
wrong, or what was asked for is not there; 2 the command line is wrong;
75 another voicekiln works on the same state folder; 78 the configuration or
the ledger cannot be used; 130 stopped by Ctrl-C.
"""

Run = Callable[[argparse.Namespace], int]
"""Carries a command out and returns the exit status."""


class Commands:
    """The list of commands, to which each module adds its own."""

    def __init__(self, version: str) -> None:
        self.parser = _Top(prog="voicekiln", usage="voicekiln COMMAND ...", description=ABOUT)
        self.parser.add_argument("--version", action="version", version=version, help="say which version this is")
        self._list: Any = self.parser.add_subparsers(
            required=True, metavar="COMMAND", prog="voicekiln", parser_class=argparse.ArgumentParser
        )

    def add(  # noqa: PLR0913 - what a person is told of a command, each part by its name
        self, name: str, what: str, run: Run, *, wish: Wish, example: str, more: str = "", config: str | None = ""
    ) -> argparse.ArgumentParser:
        """Add a command; return its parser, for more arguments.

        Args:
            name: As it is typed.
            what: What it does, a clause for the list of commands; begins with a verb in the imperative.
            run: Carries it out.
            wish: Under which heading it stands.
            example: Command lines, one a line.
            more: What else is to be known of it, whole sentences; stands in its own help only.
            config: What a configuration is for, where the command does without one as well; `options.config` is
                then None unless one was named. Empty: there always has to be one. None: it has no use for any.
        """
        sub: argparse.ArgumentParser = self._list.add_parser(
            name,
            help=what,
            description=textwrap.fill(f"{what[0].upper()}{what[1:]}. {more}".rstrip(), WIDTH),
            epilog="\n".join(["example:", *(f"  {line}" for line in example.splitlines())]),
            formatter_class=_Plain,
        )
        sub.set_defaults(run=run, config=DEFAULT_CONFIG if config == "" else None)
        if config is not None:
            text = config or f"the configuration (default: {DEFAULT_CONFIG})"
            sub.add_argument(
                "--config", type=Path, default=None if config else DEFAULT_CONFIG, metavar="FILE", help=text
            )
        self.parser.listed[wish][name] = what
        return sub

    def slip(self, word: str) -> str | None:
        """Return what to say to a command that does not exist; None if it does."""
        names = [name for listed in self.parser.listed.values() for name in listed]
        if word in names:
            return None
        near = difflib.get_close_matches(word.lower(), names, n=1)
        hint = f'; did you mean "{near[0]}"?' if near else "; voicekiln --help lists those that there are"
        return f'voicekiln: there is no command "{plain(word, 60)}"{hint}'


class _Plain(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of examples, and has a plain word for a heading."""

    def start_section(self, heading: str | None) -> None:
        super().start_section("arguments" if heading == "positional arguments" else heading)


class _Top(argparse.ArgumentParser):
    """Lists its commands under headings, which argparse knows for options only."""

    def __init__(self, **words: Any) -> None:  # noqa: ANN401 - argparse's own
        super().__init__(**words)
        self.listed: dict[Wish, dict[str, str]] = {wish: {} for wish in EXAMPLES}

    def format_help(self) -> str:
        return "\n".join([textwrap.fill(ABOUT, WIDTH), "", *self._lists(), CLOSING])

    def brief(self) -> str:
        """Return the list of commands alone."""
        return "\n".join(self._lists()) + "\nvoicekiln --help says more.\n"

    def _lists(self) -> list[str]:
        lines = []
        width = max(len(name) for listed in self.listed.values() for name in listed)
        for wish, listed in self.listed.items():
            if not listed:
                continue
            lines.append(f"{wish}:")
            for name, what in listed.items():
                lines += textwrap.wrap(
                    f"{name:<{width}}  {what}", WIDTH, initial_indent="  ", subsequent_indent=" " * (width + 4)
                )
            lines += [f"      {EXAMPLES[wish]}", ""]
        return lines
