"""What the Tab key completes: the script for each shell, made by shtab from the parser itself, so that none is stale.

The only door to shtab, which is loaded for this command alone.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from voicekiln.commands.common import OK
from voicekiln.commands.parsing import Commands
from voicekiln.commands.terminal import say
from voicekiln.job import INTERFACES

SHELLS = {
    "bash": "voicekiln completion bash > ~/.voicekiln.bash && echo '. ~/.voicekiln.bash' >> ~/.bashrc",
    "zsh": "voicekiln completion zsh | sudo tee /usr/local/share/zsh/site-functions/_voicekiln > /dev/null",
    "fish": "voicekiln completion fish > ~/.config/fish/completions/voicekiln.fish",
}
"""How it is installed; what the README says, too."""


def add(commands: Commands) -> None:
    """Describe the command of this module to the parser."""
    completion = commands.add(
        "completion",
        "let the Tab key complete commands, options and file names",
        partial(_completion, commands.parser),
        wish="Made easier",
        more="Prints a script for your shell. Each line below installs it; then open a new terminal.",
        example="\n".join(SHELLS.values()),
        config=None,
    )
    completion.add_argument("shell", choices=[*SHELLS], metavar="|".join(SHELLS), help="which shell you use")


def _completion(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    import shtab  # noqa: PLC0415 - for this command alone

    _say_what_is_a_path(parser, shtab.FILE, shtab.DIRECTORY)
    say(shtab.complete(parser, options.shell))
    return OK


def _say_what_is_a_path(parser: argparse.ArgumentParser, file: object, folder: object) -> None:
    """Give each argument that is a path the hint that shtab looks for, also in the commands below."""
    for action in parser._actions:  # noqa: SLF001 - argparse lists them nowhere else
        if action.type is Path:
            vars(action)["complete"] = folder if action.metavar == "DIR" else file
        if action.dest == "interface":  # one or several; the words of which are offered
            action.choices = INTERFACES
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - as above
            for sub in action.choices.values():
                _say_what_is_a_path(sub, file, folder)
