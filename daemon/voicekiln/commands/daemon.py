"""The daemon and what is asked of it: run, check, status, health, retry, forget, sweep."""

from __future__ import annotations

import argparse
import sys
from itertools import chain
from pathlib import Path, PurePosixPath

from voicekiln import config, logs, loop, report
from voicekiln.commands.common import NOT_DONE, OK, open_ledger
from voicekiln.commands.parsing import Commands
from voicekiln.commands.terminal import complain, say
from voicekiln.errors import plain
from voicekiln.folders.inbox import scan
from voicekiln.folders.ledger import Ledger
from voicekiln.folders.names import shown
from voicekiln.folders.owner import other_owner
from voicekiln.folders.sweep import Swept, carry_out, note
from voicekiln.oneoff import Desk
from voicekiln.settings import Settings
from voicekiln.supervisor.common import TROUBLE
from voicekiln.supervisor.homes import Homes
from voicekiln.supervisor.ownership import RUNS
from voicekiln.supervisor.sweeping import PIECE, WANT_SWEEP, grounds, plan_by


def add(commands: Commands) -> None:
    """Describe the commands of this module to the parser."""
    commands.add(
        "check",
        "say what was understood of the configuration and of this machine",
        _check,
        wish="First steps",
        example="voicekiln check --config config.example.yaml",
    )

    commands.add(
        "run",
        "watch the inbox and convert what arrives, until stopped",
        _run,
        wish="Every day",
        more="SIGHUP (systemctl reload voicekiln) makes it read the configuration anew, Ctrl-C or SIGTERM ends it.",
        example="voicekiln run --config config.example.yaml",
    )

    status = commands.add(
        "status",
        "list every known file with its state, reason and next try",
        _status,
        wish="Every day",
        example="voicekiln status",
    )
    status.add_argument("--json", action="store_true", help="for programs")

    sweep = commands.add(
        "sweep",
        "remove now what is due for removal",
        _sweep,
        more="What is due, and when, is said in the configuration (sweep); the daemon does the same by itself.",
        wish="Every day",
        example="voicekiln sweep --dry-run       # removes nothing, only says what would go",
    )
    sweep.add_argument("--dry-run", action="store_true", help="only say what would go, and why")

    commands.add(
        "health",
        "say whether the daemon runs and nothing keeps it from its work",
        _health,
        wish="When something is wrong",
        example='voicekiln health || echo "look after voicekiln"',
        more="For monitors: the exit status is 0 if all is well, else 1.",
    )

    for name, what, more in (
        (
            "retry",
            "take files up again",
            "They settle and are copied anew, and converted unless an equal file has its result already.",
        ),
        (
            "forget",
            "forget files as if they had never been seen",
            "Results stay where they are; a source that still lies in the inbox is then new.",
        ),
    ):
        sub = commands.add(
            name,
            what,
            _retry_or_forget,
            wish="When something is wrong",
            example=f"voicekiln {name} voice.pth",
            more=more,
        )
        sub.add_argument("names", nargs="+", metavar="NAME", help="path below the inbox, as status shows it")
        sub.set_defaults(verb=name)


def _run(options: argparse.Namespace) -> int:
    settings = config.load_prepared(options.config)
    logs.configure(settings.log.format, settings.log.level, sys.stderr)
    return loop.run(options.config, settings, logs.logger())


def _check(options: argparse.Namespace) -> int:
    settings = config.load_prepared(options.config)
    for line in report.settings(settings):
        say(line)
    with Desk(settings, settings.templates) as desk:
        ready = desk.greeting()
    for line in report.machine(ready):
        say(line)
    return OK


def _status(options: argparse.Namespace) -> int:
    settings = config.load(options.config)
    with open_ledger(settings) as ledger:
        running = loop.is_running(settings.state)
        told = report.status_json if options.json else report.status
        for line in told(ledger, running=running):
            say(line)
    return OK


def _health(options: argparse.Namespace) -> int:
    settings = config.load(options.config)
    with open_ledger(settings) as ledger:
        running = loop.is_running(settings.state)
        trouble = ledger.fact(TROUBLE) if running else "the daemon does not run"
    say(trouble or "well")
    return OK if trouble is None else NOT_DONE


def _retry_or_forget(options: argparse.Namespace) -> int:
    status = OK
    settings = config.load(options.config)
    with open_ledger(settings) as ledger:
        told = {name: (shown(PurePosixPath(name)), _below(settings.inbox, name)) for name in options.names}
        wanted = frozenset(chain.from_iterable(told.values()))
        known = {path: number for number, relpath in ledger.paths() if (path := shown(relpath)) in wanted}
        for name in options.names:
            voice = next((known[path] for path in told[name] if path in known), None)
            if voice is None:
                complain(f"{name}: not known; voicekiln status lists what is")
            elif _do(ledger, options.verb, voice):
                say(f"{name}: {'will be tried again' if options.verb == 'retry' else 'forgotten'}")
                continue
            else:
                complain(f"{name}: is being converted{', or its source is gone' if options.verb == 'retry' else ''}")
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
    with open_ledger(settings) as ledger:
        if not options.dry_run:
            try:
                with loop.only_daemon(settings.state):
                    return _sweep_now(settings, ledger, dry_run=False)
            except loop.AlreadyRunningError:
                ledger.set_fact(WANT_SWEEP, "yes")
                say("The running daemon was asked to sweep; its log says what it removes.")
                return OK
        return _sweep_now(settings, ledger, dry_run=True)


def _sweep_now(settings: Settings, ledger: Ledger, *, dry_run: bool) -> int:
    homes, now = Homes.of(settings), loop.now()
    grounds(settings, homes)
    other = other_owner(settings.outbox, (ledger.fact(RUNS) or "").split())
    if other is not None and not dry_run:
        complain(f"voicekiln on {plain(other.host)} works on the outbox; sweep there, or start the daemon here.")
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
        say("Nothing is due for removal.")
    if held_back := plan.held_back():
        say(f"{held_back} more are due; sweep.max_share leaves them for the next sweep.")
    return status


def _tell_swept(swept: Swept, age_s: float, *, dry_run: bool) -> None:
    for path in swept.removed:
        say(report.swept(path, swept.item, age_s, dry_run=dry_run))
    for path, why in swept.kept:
        say(f"kept {shown(path)}: {why}")
    if swept.trouble is not None:
        complain(f"{shown(swept.item.files[0].path)}: {plain(swept.trouble.strerror or str(swept.trouble))}")
