"""The worker process: `python -m voicekiln.worker.child`. Started by the parent, never imported by it.

Before anything heavy is imported the process makes itself harmless: the wire gets a descriptor of its own, so that
no library's print can corrupt it; the process dies with its parent; it is what the kernel kills first when memory
is short; it goes into its cage (see `cage`), which is locked before the first request is served. Then it does one
request at a time. After an error that it cannot explain it goes, because nobody knows what state it is in; the parent
starts a fresh one.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import faulthandler
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, cast

from voicekiln.errors import Refusal, plain
from voicekiln.job import Enter, Stage
from voicekiln.worker import cage
from voicekiln.worker.rooms import Rooms
from voicekiln.worker.wire import (
    Answer,
    Convert,
    Declined,
    Entered,
    Finished,
    Inspect,
    Judge,
    Listen,
    Looked,
    Ready,
    Request,
    Sample,
    Templates,
    Troubled,
    WireError,
    decode_request,
    encode,
)

PR_SET_PDEATHSIG = 1
"""From <linux/prctl.h>."""

OUTSIDE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE, errno.EMFILE, errno.ENFILE)
"""Errors of the machine, not of the file."""


Work = Callable[[Request, Enter], Answer]
"""Does a request, calls its second argument at each stage, returns what to answer."""


def main(arguments: list[str]) -> int:
    """Run until standard input ends; return the exit status."""
    options = _options(arguments)
    rooms = Rooms(options.templates, options.sources, options.staging)
    say = Mouth(guard_wire())
    humble(options.parent)
    show_gpu(options.device)
    gpu = cage.has_gpu()
    cage.furnish(rooms, gpu=gpu)
    files = cage.enter(rooms, gpu=gpu)
    requests = hear_requests()  # in a thread, so not before
    work, ready = _workshop(rooms.templates)
    calls = cage.lock(options.memory, gpu=ready.device["kind"] != "cpu")
    say(Ready(ready.device | {"cage": [files, calls]}, ready.versions))
    return serve(requests, work, say)


class Mouth:
    """Writes answers to the wire."""

    def __init__(self, wire: BinaryIO) -> None:
        self._wire = wire

    def __call__(self, answer: Answer) -> None:
        """Write one answer at once.

        Raises:
            WireError: if it cannot be put into a line.
        """
        self._wire.write(encode(answer))
        self._wire.flush()


def serve(requests: Iterator[Request], work: Work, say: Callable[[Answer], None]) -> int:
    """Answer requests until there are no more or one ends in trouble; return the exit status."""
    return 0 if all(_attempt(request, work, say) for request in requests) else 1


def _attempt(request: Request, work: Work, say: Callable[[Answer], None]) -> bool:
    """Answer a request; return False if this process had better go."""

    def entered(stage: Stage, step: int = 0, steps: int = 0, /) -> None:
        say(Entered(request.id, stage, step, steps))

    try:
        say(work(request, entered))
    except Refusal as refusal:
        say(Declined(request.id, refusal))
    except Exception as error:  # noqa: BLE001 - whatever a stranger's file sets off must be told, not only die
        traceback.print_exc()
        say(Troubled(request.id, _reason(error), outside=_is_outside(error)))
        return False
    return True


def guard_wire() -> BinaryIO:
    """Return standard output as a private descriptor; from now on descriptor 1 is standard error.

    Prints of Python and C libraries then land in the log instead of between the answers.
    """
    wire = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return cast("BinaryIO", wire)


def humble(parent: int | None) -> None:
    """Tie the process to its parent's life and let it give way to others.

    What the surroundings forbid (a container's /proc, a system call filter) is left as it is: these are nets
    beneath the parent's own limits.
    """
    faulthandler.enable()
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # must work while C code runs, so no handler of ours
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the daemon, which then tells us
    os.umask(0o077)
    if parent is not None:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the call
            os._exit(0)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
    with suppress(OSError):
        os.nice(5)


def hear_requests() -> Iterator[Request]:
    """Read requests in a thread of their own; the end of input ends the process at once, also in the midst of a job.

    It means that the parent is dead or wants us gone. Nothing has to be cleaned up: the staging folder is thrown
    away by the parent, a template that was being written by the next one that is.
    """
    source = os.fdopen(os.dup(0), "rb")
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    requests: queue.SimpleQueue[Request] = queue.SimpleQueue()

    def hear() -> None:
        try:
            for line in source:
                requests.put(decode_request(line))
        except WireError as error:
            print(f"an unreadable request: {error}", file=sys.stderr)  # noqa: T201 - the parent logs it
            os._exit(2)
        os._exit(0)

    threading.Thread(target=hear, name="requests", daemon=True).start()
    return iter(requests.get, None)


def show_gpu(device: str) -> None:
    """Let this process see the GPU that `device` names, or none for `cpu`; has to come before torch does."""
    if device == "auto":
        return
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    number = int(device.partition(":")[2] or 0) if device != "cpu" else None
    if number is None:
        chosen = ""
    elif seen is None:
        chosen = str(number)
    else:  # the number counts what the surroundings let us see
        chosen = dict(enumerate(seen.split(","))).get(number, "")
    os.environ["CUDA_VISIBLE_DEVICES"] = chosen


def _workshop(templates: Path) -> tuple[Work, Ready]:
    """Import what does the work; return it with the facts about this machine."""
    import torch  # noqa: PLC0415 - only now is the process harmless

    from voicekiln.convert import device  # noqa: PLC0415 - as above
    from voicekiln.convert.cache import Cache  # noqa: PLC0415 - as above
    from voicekiln.convert.pipeline import Pipeline, inspect  # noqa: PLC0415 - as above
    from voicekiln.families import sample  # noqa: PLC0415 - as above
    from voicekiln.judge.face import UnfitError  # noqa: PLC0415 - as above
    from voicekiln.judge.listen import listen  # noqa: PLC0415 - as above
    from voicekiln.judge.verdict import judge  # noqa: PLC0415 - as above

    ready = Ready(device.device(), device.versions())
    pipeline = Pipeline(Cache(templates))

    most_threads = torch.get_num_threads() if "OMP_NUM_THREADS" in os.environ else sys.maxsize

    def work(request: Request, entered: Enter) -> Answer:
        match request:
            case Convert(job, threads):
                torch.set_num_threads(min(threads, most_threads))  # ONNX Runtime is told the same when it starts
                made = pipeline.convert(job.source, job.sha256, job.recipe, job.staging, entered, job.beside)
                return Finished(job.id, made)
            case Inspect(name, source, beside):
                return Looked(name, *inspect(source, beside))
            case Sample(name, target):
                sample.write_sample(target, seed=0)
                return Looked(name, {}, ())
            case Templates(name, verb, recipes):
                return Looked(name, pipeline.templates(verb, recipes, entered), ())
            case Judge(name, model, checkpoint, long):
                return Looked(name, judge(model, checkpoint, entered, long=long), ())
            case Listen(name, speech):
                return Looked(name, *listen(speech, entered))

    def tried(request: Request, entered: Enter) -> Answer:
        try:
            return work(request, entered)
        except UnfitError as unfit:
            return Looked(request.id, {"trouble": str(unfit), "hint": unfit.hint, "choices": unfit.choices}, ())

    return tried, ready


def _is_outside(error: Exception) -> bool:
    """Say whether the machine is at fault: a full disk, or graphics memory that other programs hold."""
    if isinstance(error, OSError):
        return error.errno in OUTSIDE
    return type(error).__name__ == "OutOfMemoryError" and type(error).__module__.startswith("torch")


def _reason(error: Exception) -> str:
    """Return a clause for a person, on one line."""
    if isinstance(error, MemoryError):
        return "the worker ran out of memory"
    if isinstance(error, OSError) and error.strerror:
        return plain(f"the worker met an error of the system: {error.strerror}", 300)
    text = str(error).strip().partition("\n")[0]
    return plain(f"the worker met an unexpected error ({type(error).__name__}: {text})", 300)


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="voicekiln.worker.child")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--memory", type=int, required=True, help="bytes")
    parser.add_argument("--templates", type=Path, required=True, help="folder in which templates are kept")
    parser.add_argument("--sources", type=Path, required=True, help="folder in which the files to read lie")
    parser.add_argument("--staging", type=Path, required=True, help="folder in which the jobs' folders lie")
    parser.add_argument("--parent", type=int, help="process that this one may not outlive")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
