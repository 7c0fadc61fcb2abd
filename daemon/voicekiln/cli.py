"""The command `voicekiln`.

No torch in this process: whatever opens a model is a job for the worker. What each command does is said in its help
(see `commands`); the exit statuses are listed in the README and below.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from voicekiln import __version__, loop
from voicekiln.commands import completion, daemon, doctor, judging, once
from voicekiln.commands.common import NOT_DONE, OK, in_words
from voicekiln.commands.parsing import DEFAULT_CONFIG, Commands
from voicekiln.commands.terminal import complain
from voicekiln.errors import ConfigError, LedgerDamagedError, LedgerError, ShareAwayError, plain

__all__ = ["BAD_CONFIG", "BUSY", "DEFAULT_CONFIG", "INTERRUPTED", "NOT_DONE", "OK", "main"]

WRONG_WORDS = 2
"""The command line cannot be understood; argparse's own status."""
BUSY = os.EX_TEMPFAIL
"""75: another daemon works on the same state folder."""
BAD_CONFIG = os.EX_CONFIG
"""78: the configuration cannot be used; a service manager need not try again."""

INTERRUPTED = 130
"""As a shell counts an end by Ctrl-C."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status."""
    options = _options(sys.argv[1:] if arguments is None else arguments)
    status: int
    try:
        status = options.run(options)
    except ConfigError as error:
        _complain_of(options.config, error.problems)
        status = BAD_CONFIG
    except LedgerDamagedError as error:
        complain(f"{error}; start the daemon: it keeps this ledger aside and fills a new one from the outbox")
        status = BAD_CONFIG
    except LedgerError as error:
        complain(str(error))
        status = BAD_CONFIG
    except loop.AlreadyRunningError as error:
        complain(f"another voicekiln works on the state folder {error}")
        status = BUSY
    except BrokenPipeError:  # somebody read only the first lines
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = OK
    except (ShareAwayError, OSError) as error:
        complain(in_words(error))
        status = NOT_DONE
    except KeyboardInterrupt:
        status = INTERRUPTED
    return status


def _complain_of(config: Path | None, problems: Sequence[str]) -> None:
    """Say what is wrong with the configuration, or that there is none."""
    if config is not None and not os.path.lexists(config):
        complain(f"There is no configuration {plain(str(config))}; name yours with --config FILE.")
        return
    if config is not None:
        complain(f"{plain(str(config))} cannot be used:")
    for problem in problems:
        complain(f"  {problem.removeprefix(f'{plain(str(config))}: ')}")


def _options(words_typed: Sequence[str]) -> argparse.Namespace:
    """Return what was typed as values; exits where that cannot be understood, with words that help."""
    commands = Commands(f"voicekiln {__version__}")
    for module in (once, judging, doctor, daemon, completion):
        module.add(commands)
    if not words_typed:
        commands.parser.exit(WRONG_WORDS, commands.parser.brief())
    if not words_typed[0].startswith("-") and (slip := commands.slip(words_typed[0])):
        commands.parser.exit(WRONG_WORDS, f"{slip}\n")
    return commands.parser.parse_args(words_typed)
