"""No folders to watch: what commands such as `convert`, `inspect` and `verify` ask of a worker.

The same steps as the daemon's, one after the other: the source and its companions are copied and hashed, a worker does
the work in its own process, and the result is written beside its final name and renamed. There is no ledger; a file in
the way that is not a voicekiln result is never overwritten.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self

from voicekiln.errors import Changed, Incomplete, NotAFile, Refusal
from voicekiln.folders import sidecar
from voicekiln.folders.beside import Neighbours, may_be_companion, most_bytes
from voicekiln.folders.files import open_folder, open_plain
from voicekiln.folders.inbox import kind_of, stamp_of
from voicekiln.folders.names import output_base, temp_name
from voicekiln.folders.outbox import Delivery, Rights, publish
from voicekiln.folders.spool import Spooled, copies_beside, copy_beside, places_beside, take
from voicekiln.folders.voices import Published
from voicekiln.job import Conversion, Converted, Job, Lost, Recipe, Refused, Speech, Stage, staged_files
from voicekiln.settings import Settings
from voicekiln.supervisor.hiring import HERE, devices, hire
from voicekiln.worker.keeper import At, Ended
from voicekiln.worker.rooms import Rooms
from voicekiln.worker.wire import Convert, Inspect, Judge, Listen, Looked, Ready, Request, Sample, Templates

_JOB = f"oneoff{os.getpid()}"

Entered = Callable[[Stage, int, int], None]
"""Is told of each stage that is entered; of one with steps, which of how many (see `wire.Entered`)."""


def _untold(stage: Stage, step: int, steps: int) -> None:
    """Keep it to oneself."""


def _leave(number: int, _: object) -> None:
    """End the command by an exception, so that its copies, which may be gigabytes, are cleared away."""
    sys.exit(128 + number)


class NotDoneError(Exception):
    """The worker was lost; the text says how."""


class Desk:
    """A worker for commands, kept warm from one file to the next."""

    def __init__(self, settings: Settings, templates: Path) -> None:
        """No process is started yet; `templates` is the folder in which it keeps the graphs that voices share."""
        self._settings = settings
        self._wake = threading.Event()
        self._folder = tempfile.TemporaryDirectory(prefix="voicekiln-")
        room = Path(self._folder.name)
        self._former: Any = None
        """What SIGTERM did before."""
        self._worker = hire(
            settings.worker, devices(settings.worker.device)[0], Rooms(templates, room, room), self._wake.set
        )

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._former = signal.signal(signal.SIGTERM, _leave)
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.close(1.0)
        self._folder.cleanup()
        if self._former is not None:
            signal.signal(signal.SIGTERM, self._former)

    def convert(
        self, path: Path, out: Path, recipe: Recipe, entered: Entered
    ) -> tuple[Conversion, tuple[Published, ...]]:
        """Convert one file into the folder `out`; return what was published there.

        Raises:
            Refusal: if it cannot be converted.
            NotDoneError: if the worker was lost.
            OSError: if a file cannot be read or written.
        """
        with self._room() as folder:
            staging = Path(folder, "staging")
            staging.mkdir()
            spooled, source = self._take(path, Path(folder))
            beside = _companions(path, source)
            job = Job(_JOB, source, staging, spooled.sha256, recipe, copies_beside(source, beside))
            ending = self._ask(Convert(job, HERE.cores()), entered)
            if not isinstance(ending, Converted):
                raise NotDoneError("the worker answered something else")
            whole = PurePosixPath(path.name), spooled.sha256, spooled.bytes
            origin = sidecar.Origin(*whole, time.time(), beside=beside)
            sources = staged_files(ending.conversion, staging)
            base = PurePosixPath(output_base(path.name))
            pieces = sidecar.result(origin, ending.conversion, recipe, base, sources, time.time())
            files = publish(out, Delivery(pieces, (), {}, _JOB), Rights())
            return ending.conversion, files

    def inspect(self, path: Path) -> Looked:
        """Say what a file is. Raises as `convert` does."""
        with self._room() as folder:
            _, source = self._take(path, Path(folder))
            beside = copies_beside(source, _companions(path, source))
            return self._look(Inspect(_JOB, source, beside))

    def sample(self, target: Path) -> None:
        """Write a voice with random weights. Raises as `convert` does."""
        with self._room() as folder:
            self._ask(Sample(_JOB, Path(folder, "sample.pth")))
            self._fetch(Path(folder), "sample.pth", target)

    def templates(
        self, verb: Literal["list", "build", "clear"], recipes: Sequence[Recipe], entered: Entered = _untold
    ) -> dict[str, Any]:
        """List, make or remove templates; return what there is now. Raises as `convert` does."""
        return self._look(Templates(_JOB, verb, tuple(recipes)), entered).model

    def verify(self, model: Path, checkpoint: Path, entered: Entered, *, long: bool) -> dict[str, Any]:
        """Return the judgement on an ONNX file (see `judge.verdict`), or `trouble` and `hint`.

        Raises:
            Refusal: if the checkpoint is no voice, or one of the two is no file.
            NotDoneError: if the worker was lost.
            OSError: if a file cannot be read.
        """
        with self._room() as folder:
            _, copy = self._take(model, Path(folder), "model.onnx")
            _, source = self._take(checkpoint, Path(folder))
            return self._look(Judge(_JOB, copy, source, long), entered).model

    def listen(self, speech: Speech, entered: Entered) -> Looked:
        """Let an ONNX file speak into the file `speech.target`, which is replaced at the end or not at all.

        Returns facts (see `judge.listen`) and notes, or `trouble` and `hint`. Raises as `verify` does.
        """
        given = {"model": speech.model, "features": speech.features, "f0": speech.f0}
        with self._room() as folder:
            copies = {name: path and self._take(path, Path(folder), name)[1] for name, path in given.items()}
            looked = self._look(
                Listen(_JOB, replace(speech, **copies, target=Path(folder, "out.wav"))),  # type: ignore[arg-type]
                entered,
            )
            if "trouble" not in looked.model:
                self._fetch(Path(folder), "out.wav", speech.target)
        return looked

    def greeting(self) -> Ready:
        """Start the worker and return what it runs on. Raises as `convert` does."""
        with self._room() as folder, contextlib.suppress(Refusal):
            nothing = Path(folder, "nothing.pth")  # which the worker refuses, but not before it has introduced itself
            nothing.touch()
            self._ask(Inspect(_JOB, nothing))
        if self._worker.ready is None:
            raise NotDoneError("the worker did not say what it runs on")
        return self._worker.ready

    def _room(self) -> tempfile.TemporaryDirectory[str]:
        """Return a new folder, the only one that the worker may write to besides that of the templates."""
        return tempfile.TemporaryDirectory(dir=self._folder.name)

    def _fetch(self, folder: Path, name: str, target: Path) -> None:
        """Put what the worker has written in its room in the place of `target`."""
        part = target.with_name(temp_name(target.name, _JOB))
        part.unlink(missing_ok=True)  # of an earlier process with this one's number, or somebody's link to elsewhere
        try:
            with (
                open_folder(folder, PurePosixPath()) as room,
                open_plain(room, name) as source,
                part.open("xb") as file,
            ):
                shutil.copyfileobj(source, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)

    def _take(self, path: Path, folder: Path, name: str = "source.pth") -> tuple[Spooled, Path]:
        """Copy and hash the file, as the daemon does; the person says that it is there, so nothing has to settle."""
        st = path.stat()
        real = path.resolve(strict=True)
        if what := kind_of(st.st_mode):
            raise NotAFile(what=what)
        target = folder / name
        try:
            spooled = take(
                real.parent,
                PurePosixPath(real.name),
                stamp_of(st, inodes=True),
                target,
                self._settings.max_bytes,
                unproven_ok=True,
            )
        except Incomplete as error:
            raise error.refusal() from error
        except Changed as error:
            raise NotDoneError(error.why) from error
        return spooled, target

    def _look(self, request: Request, entered: Entered = _untold) -> Looked:
        looked = self._ask(request, entered)
        if not isinstance(looked, Looked):
            raise NotDoneError("the worker answered something else")
        return looked

    def _ask(self, request: Request, entered: Entered = _untold) -> Converted | Looked:
        self._worker.begin(request, time.monotonic())
        while True:
            self._wake.clear()
            for event in self._worker.poll(time.monotonic()):
                match event:
                    case At(_, stage, step, steps):
                        entered(stage, step, steps)
                    case Ended(_, Refused(refusal)):
                        raise refusal
                    case Ended(_, Lost(reason)):
                        raise NotDoneError(reason)
                    case Ended(_, Converted() | Looked() as ending):
                        return ending
                    case _:
                        pass
            self._wake.wait(max(0.0, min(self._worker.next_due(time.monotonic()) - time.monotonic(), 1.0)))


def _companions(path: Path, copy: Path) -> dict[str, str | None]:
    """Copy what belongs to the file `path` and lies beside it to where `copy` lies; return the sha256 of each by name.

    The person who gave the file may use links as he likes.

    Raises:
        NotDoneError: if one of them is just being written.
        OSError: if one cannot be read.
    """
    around = path.absolute().parent
    near = (entry.name for entry in around.iterdir() if may_be_companion(entry.name))
    names = [name for name in Neighbours(near).of(path.name) if (around / name).is_file()]
    found: dict[str, str | None] = {}
    for name, place in places_beside(copy, names).items():
        real = (around / name).resolve()
        try:
            companion = copy_beside(real.parent, PurePosixPath(real.name), place, most_bytes(name))
        except Changed as error:
            raise NotDoneError(error.why) from error
        found[name] = None if companion is None else companion.sha256
    return found
