"""The command `voicekiln`.

No torch in this process: whatever opens a model is a job for the worker. What each command does is said in its help;
the exit statuses are listed in the README and below.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath

import structlog

from voicekiln import __version__, config, logs, loop, report
from voicekiln.errors import ConfigError, LedgerDamagedError, LedgerError, NameTaken, Refusal, ShareAwayError, plain
from voicekiln.folders.inbox import scan
from voicekiln.folders.ledger import Ledger
from voicekiln.folders.names import shown
from voicekiln.folders.outbox import StagingLostError
from voicekiln.folders.owner import other_owner
from voicekiln.folders.sweep import Swept, carry_out, note
from voicekiln.job import PRECISIONS, Recipe, Stage
from voicekiln.oneoff import Desk, NotDoneError
from voicekiln.settings import Settings
from voicekiln.supervisor.common import TROUBLE
from voicekiln.supervisor.homes import Homes
from voicekiln.supervisor.ownership import RUNS
from voicekiln.supervisor.sweeping import PIECE, WANT_SWEEP, grounds, plan_by

OK = 0
NOT_DONE = 1
"""A file was refused, or what was asked for is not there or cannot be done now."""
BUSY = os.EX_TEMPFAIL
"""75: another daemon works on the same state folder."""
BAD_CONFIG = os.EX_CONFIG
"""78: the configuration cannot be used; a service manager need not try again."""

INTERRUPTED = 130
"""As a shell counts an end by Ctrl-C."""

DEFAULT_CONFIG = Path("/etc/voicekiln/config.yaml")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status."""
    options = _parser().parse_args(arguments)
    status: int
    try:
        status = options.run(options)
    except ConfigError as error:
        if options.config is not None:
            _complain(f"{options.config} cannot be used:")
        for problem in error.problems:
            _complain(f"  {problem}")
        status = BAD_CONFIG
    except LedgerDamagedError as error:
        _complain(f"{error}; start the daemon: it keeps this ledger aside and fills a new one from the outbox")
        status = BAD_CONFIG
    except LedgerError as error:
        _complain(str(error))
        status = BAD_CONFIG
    except loop.AlreadyRunningError as error:
        _complain(f"another voicekiln works on the state folder {error}")
        status = BUSY
    except BrokenPipeError:  # somebody read only the first lines
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = OK
    except (ShareAwayError, OSError) as error:
        _complain(_words(error))
        status = NOT_DONE
    except KeyboardInterrupt:
        status = INTERRUPTED
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="voicekiln",
        description="Turns PyTorch voice models that are dropped into a folder into verified ONNX files.",
        epilog="Exit status: 0 all went well; 1 a file was refused, or what was asked for is not there; "
        "2 the command line is wrong; 75 another voicekiln works on the same state folder; "
        "78 the configuration or the ledger cannot be used; 130 stopped by Ctrl-C.",
    )
    parser.add_argument("--version", action="version", version=f"voicekiln {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, what: str, run: object, *, config_needed: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
        default = DEFAULT_CONFIG if config_needed else None
        text = (
            f"the configuration (default: {default})" if default else "take recipes and limits from this configuration"
        )
        sub.add_argument("--config", type=Path, default=default, metavar="FILE", help=text)
        sub.set_defaults(run=run)
        return sub

    command("run", "watch the inbox and convert what arrives, until stopped", _run)
    command("check", "say what was understood of the configuration and of this machine", _check)

    convert = command("convert", "convert files once, without any folders to watch", _convert, config_needed=False)
    convert.add_argument("files", type=Path, nargs="+", metavar="FILE")
    convert.add_argument("--out", type=Path, metavar="DIR", help="where the results go (default: beside each file)")
    convert.add_argument("--recipe", metavar="NAME", help="a recipe of the configuration (default: default)")
    convert.add_argument("--precision", choices=[*PRECISIONS, "both"], help="instead of the recipe's")

    inspect = command("inspect", "say what a file is", _inspect, config_needed=False)
    inspect.add_argument("file", type=Path, metavar="FILE")
    inspect.add_argument("--json", action="store_true", help="for programs")

    status = command("status", "list every known file with its state, reason and next try", _status)
    status.add_argument("--json", action="store_true", help="for programs")

    command("health", "exit with 0 if the daemon runs and nothing keeps it from its work", _health)

    for name, what in (
        ("retry", "take files up again: settle, copy, and convert unless an equal file has its result already"),
        ("forget", "forget files as if they had never been seen; results stay where they are"),
    ):
        sub = command(name, what, _retry_or_forget)
        sub.add_argument("names", nargs="+", metavar="NAME", help="path below the inbox, as status shows it")
        sub.set_defaults(verb=name)

    sweep = command("sweep", "remove now what is due for removal", _sweep)
    sweep.add_argument("--dry-run", action="store_true", help="only say what would go, and why")

    templates = command(
        "templates", "list, build or clear the graphs that voices share", _templates, config_needed=False
    )
    templates.add_argument("verb", choices=["list", "build", "clear"], metavar="list|build|clear")

    sample = command(
        "sample", "write a valid voice with random weights, to try things out", _sample, config_needed=False
    )
    sample.add_argument("folder", type=Path, metavar="DIR")
    return parser


def _run(options: argparse.Namespace) -> int:
    settings = config.load_prepared(options.config)
    logs.configure(settings.log.format, settings.log.level, sys.stderr)
    return loop.run(options.config, settings, structlog.get_logger())


def _check(options: argparse.Namespace) -> int:
    settings = config.load_prepared(options.config)
    for line in report.settings(settings):
        _say(line)
    with Desk(settings, settings.templates) as desk:
        ready = desk.greeting()
    for line in report.machine(ready):
        _say(line)
    return OK


def _convert(options: argparse.Namespace) -> int:
    settings = _settings_or_defaults(options.config)
    recipe = _recipe(settings, options.recipe, options.precision)
    status = OK
    with Desk(settings, _templates_folder(options, settings)) as desk:
        for path in options.files:
            out = options.out or path.absolute().parent
            try:
                path.stat()  # before a folder is made for a slip of the pen
                out.mkdir(parents=True, exist_ok=True)
                conversion, files = desk.convert(path, out, recipe, partial(_tell_stage, path))
            except (Refusal, NotDoneError, ShareAwayError, StagingLostError, OSError) as error:
                _tell_failure(path, error)
                status = NOT_DONE
                continue
            for line in report.conversion(path, conversion, [out / file.path for file in files]):
                _say(line)
    return status


def _tell_stage(path: Path, stage: Stage) -> None:
    _say(f"{path.name}: {stage} ...")


def _settings_or_defaults(path: Path | None) -> Settings:
    return config.load(path) if path is not None else Settings.in_folder(Path.cwd())


def _templates_folder(options: argparse.Namespace, settings: Settings) -> Path:
    """Return the daemon's folder if there is a configuration, else one of the user's own."""
    if options.config is not None:
        return settings.templates
    wanted = Path(os.environ.get("XDG_CACHE_HOME", "")), Path(os.path.expanduser("~/.cache"))  # noqa: PTH111 - never raises
    nowhere = Path(os.devnull)  # a user without a home keeps nothing
    return next((path for path in wanted if path.is_absolute()), nowhere) / "voicekiln" / "templates"


def _recipe(settings: Settings, name: str | None, precision: str | None) -> Recipe:
    recipe = settings.recipes.get(name or "default")
    if recipe is None:
        raise ConfigError([f"recipes.{plain(str(name))}: there is no such recipe, only {', '.join(settings.recipes)}"])
    if precision is None:
        return recipe
    return replace(recipe, precisions=tuple(p for p in PRECISIONS if precision in (p, "both")))


def _inspect(options: argparse.Namespace) -> int:
    settings = _settings_or_defaults(options.config)
    with Desk(settings, _templates_folder(options, settings)) as desk:
        try:
            looked = desk.inspect(options.file)
        except Refusal as refusal:
            if options.json:
                _say(json.dumps({"code": refusal.code, "message": refusal.text, "hint": refusal.advice}, indent=2))
            else:
                _tell_failure(options.file, refusal)
            return NOT_DONE
        except (NotDoneError, ShareAwayError, OSError) as error:
            _tell_failure(options.file, error)
            return NOT_DONE
    if options.json:
        _say(json.dumps({"model": looked.model, "notes": looked.notes}, indent=2, ensure_ascii=False))
    else:
        for line in report.model(options.file, looked.model, looked.notes):
            _say(line)
    return OK


def _status(options: argparse.Namespace) -> int:
    settings = config.load(options.config)
    with _ledger(settings) as ledger:
        running = loop.is_running(settings.state)
        told = report.status_json if options.json else report.status
        for line in told(ledger, running=running):
            _say(line)
    return OK


def _health(options: argparse.Namespace) -> int:
    settings = config.load(options.config)
    with _ledger(settings) as ledger:
        running = loop.is_running(settings.state)
        trouble = ledger.fact(TROUBLE) if running else "the daemon does not run"
    _say(trouble or "well")
    return OK if trouble is None else NOT_DONE


def _retry_or_forget(options: argparse.Namespace) -> int:
    status = OK
    settings = config.load(options.config)
    with _ledger(settings) as ledger:
        told = {name: (shown(PurePosixPath(name)), _below(settings.inbox, name)) for name in options.names}
        wanted = frozenset(chain.from_iterable(told.values()))
        known = {path: number for number, relpath in ledger.paths() if (path := shown(relpath)) in wanted}
        for name in options.names:
            voice = next((known[path] for path in told[name] if path in known), None)
            if voice is None:
                _complain(f"{name}: not known; voicekiln status lists what is")
            elif _do(ledger, options.verb, voice):
                _say(f"{name}: {'will be tried again' if options.verb == 'retry' else 'forgotten'}")
                continue
            else:
                _complain(f"{name}: is being converted{', or its source is gone' if options.verb == 'retry' else ''}")
            status = NOT_DONE
    return status


def _below(inbox: Path, name: str) -> str:
    """Return a path that leads into the inbox as status shows it."""
    path = Path(name).absolute()
    return shown(PurePosixPath(path.relative_to(inbox))) if path.is_relative_to(inbox) else ""


def _do(ledger: Ledger, verb: str, voice: int) -> bool:
    return ledger.retry(voice) if verb == "retry" else ledger.forget(voice)


def _sweep(options: argparse.Namespace) -> int:
    settings = config.load_prepared(options.config)  # where `run` would not start, nothing is swept either
    with _ledger(settings) as ledger:
        if not options.dry_run:
            try:
                with loop.only_daemon(settings.state):
                    return _sweep_now(settings, ledger, dry_run=False)
            except loop.AlreadyRunningError:
                ledger.set_fact(WANT_SWEEP, "yes")
                _say("The running daemon was asked to sweep; its log says what it removes.")
                return OK
        return _sweep_now(settings, ledger, dry_run=True)


def _sweep_now(settings: Settings, ledger: Ledger, *, dry_run: bool) -> int:
    homes, now = Homes.of(settings), loop.now()
    grounds(settings, homes)
    other = other_owner(settings.outbox, (ledger.fact(RUNS) or "").split())
    if other is not None and not dry_run:
        _complain(f"voicekiln on {plain(other.host)} works on the outbox; sweep there, or start the daemon here.")
        return NOT_DONE
    if not dry_run:
        ledger.pass_time(now.mono, now.wall)
    plan = plan_by(settings, ledger, scan(settings.inbox).synced, ledger.clock_at(now.wall))
    status, count = OK, 0
    while items := plan.next(PIECE):
        if dry_run:
            done = [Swept(item, tuple(file.path for file in item.files), ()) for item in items]
        else:
            done = carry_out(items, *grounds(settings, homes))
            grounds(settings, homes)  # in a folder beneath a mount point everything would seem to be gone
            note(ledger, done)
        plan.passed([swept.item for swept in done])
        count += len(done)
        for swept in done:
            _tell_swept(swept, plan.age_s(swept.item), dry_run=dry_run)
            status = NOT_DONE if swept.trouble is not None else status
    if not count:
        _say("Nothing is due for removal.")
    if held_back := plan.held_back():
        _say(f"{held_back} more are due; sweep.max_share leaves them for the next sweep.")
    return status


def _tell_swept(swept: Swept, age_s: float, *, dry_run: bool) -> None:
    for path in swept.removed:
        _say(report.swept(path, swept.item, age_s, dry_run=dry_run))
    for path, why in swept.kept:
        _say(f"kept {shown(path)}: {why}")
    if swept.trouble is not None:
        _complain(f"{shown(swept.item.files[0].path)}: {plain(swept.trouble.strerror or str(swept.trouble))}")


def _templates(options: argparse.Namespace) -> int:
    settings = _settings_or_defaults(options.config)
    folder = _templates_folder(options, settings)
    try:
        with Desk(settings, folder) as desk:
            found = desk.templates(options.verb, tuple(settings.recipes.values()))
    except NotDoneError as error:
        _tell_failure(folder, error)
        return NOT_DONE
    for line in report.templates(folder, found):
        _say(line)
    if (trouble := found.get("trouble")) is not None:
        _complain(plain(str(trouble)))
        return NOT_DONE
    return OK


def _sample(options: argparse.Namespace) -> int:
    settings = _settings_or_defaults(options.config)
    target = options.folder / "sample.pth"
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
        with Desk(settings, _templates_folder(options, settings)) as desk:
            desk.sample(target)
    except (NotDoneError, OSError) as error:
        _tell_failure(target, error)
        return NOT_DONE
    target.chmod(0o666 & ~_umask())  # the worker keeps what it writes to itself
    _say(f"{target}: an RVC v2 voice, 40 kHz, with random weights; it converts, but does not speak.")
    return OK


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _ledger(settings: Settings) -> Ledger:
    path = settings.state / loop.LEDGER
    if not path.exists():
        raise ConfigError([f"state: voicekiln has never run with the state folder {plain(str(path.parent))}"])
    return Ledger(path)


def _tell_failure(path: Path, error: Exception) -> None:
    match error:
        case NameTaken():
            _complain(f"{path}: there already is a {error.found['name']} that was not made from it.")
            _complain("  Move or rename that file, or name another folder with --out.")
        case Refusal():
            _complain(f"{path}: {error.text}")
            _complain(f"  {error.advice}")
        case OSError():
            _complain(_words(error))
        case _:
            _complain(f"{path}: {plain(str(error))}")


def _words(error: Exception) -> str:
    """Return an error of the system as a person says it: which file, and what of it."""
    if isinstance(error, PermissionError) and error.filename:
        return f"{plain(str(error.filename))}: not allowed; try it as the user that voicekiln runs as"
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{plain(str(error.filename))}: {error.strerror}"
    return plain(str(error))


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - this is how a command speaks


def _complain(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - as above
