"""Where templates are kept: the latest in memory, all of them in a folder.

The folder is a convenience: whatever is wrong with it (full, read-only, gone, damaged files) costs the time of an
export and never a conversion. A template appears under its name whole or not at all, and is checked when it is read.

Of the processes that use the folder, one at a time makes templates; the others wait, and mostly find what they want.
"""

from __future__ import annotations

import math
import os
import stat
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import onnx

from voicekiln.convert import template
from voicekiln.convert.fill import TYPES
from voicekiln.convert.graph import ports
from voicekiln.convert.template import Arithmetic, DamagedError, Kind, Template, read_kind
from voicekiln.convert.turns import turn
from voicekiln.families.base import Exportable
from voicekiln.job import Precision, Recipe

SUFFIX: Final = ".template"
HIDDEN: Final = ".~"
PART: Final = ".part"
"""How the name of a file that is being written begins and ends, as everywhere in voicekiln."""
MAX_BYTES: Final = 2**24
"""Of a template's file."""
ABANDONED_S: Final = 3600
"""Age at which such a file has no writer any more; writing takes a moment."""

IN_MEMORY: Final = 16
"""Templates, about 1 MB each when parsed."""
IN_FOLDER: Final = 200
"""Templates, about 0.2 MB each; of more, those go that were not used for the longest time."""


class Cache:
    """See the module; for one thread at a time, while other processes may use the same folder."""

    def __init__(self, folder: Path) -> None:
        """Nothing is read yet; the folder need not exist."""
        self.folder = folder
        self._loaded: OrderedDict[str, Template] = OrderedDict()
        self._in_turn = False
        self.trouble: str | None = None
        """Why a template could not be kept, the last time that one could not."""

    def template(
        self, exportable: Exportable, recipe: Recipe, precision: Precision, arithmetic: Arithmetic
    ) -> Template:
        """Return the template, made now if it is not there.

        Raises:
            BadGraphError: if the tools make something else than they should.
        """
        kind = kind_of(exportable, recipe, precision, arithmetic)
        found = self._loaded.get(kind.key) or self._read(kind, exportable) or self._make_once(exportable, recipe, kind)
        self._loaded[kind.key] = found
        self._loaded.move_to_end(kind.key)
        while len(self._loaded) > IN_MEMORY:
            self._loaded.popitem(last=False)
        return found

    def kept(self) -> Iterator[tuple[Path, Kind | None]]:
        """Give the files in the folder, each with what it is for; None if it is damaged or cannot be read."""
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            try:
                yield path, read_kind(_bytes(path))[0]
            except FileNotFoundError:
                continue
            except (DamagedError, OSError):
                yield path, None

    def clear(self) -> int:
        """Remove the files and return how many there were."""
        self._loaded.clear()
        return sum(map(_removed, self.folder.glob(f"*{SUFFIX}")))

    def _make_once(self, exportable: Exportable, recipe: Recipe, kind: Kind) -> Template:
        """Make a template, unless another process has just done so."""
        if self._in_turn:
            return self._make(exportable, recipe, kind)
        with turn(self.folder):
            self._in_turn = True
            try:
                return self._read(kind, exportable) or self._make(exportable, recipe, kind)
            finally:
                self._in_turn = False

    def _make(self, exportable: Exportable, recipe: Recipe, kind: Kind) -> Template:
        if kind.precision == "fp32":
            made = template.float32(exportable, kind)
        else:
            whole = self.template(exportable, recipe, "fp32", "float32")
            made = template.half(exportable, kind, whole.model)
        self._write(made)
        return made

    def _read(self, kind: Kind, exportable: Exportable) -> Template | None:
        path = self._path(kind)
        try:
            found = Template.from_bytes(_bytes(path), kind)
            _check_face(found.model, exportable)
        except FileNotFoundError:
            return None
        except (OSError, DamagedError) as error:
            _say(f"the template {path.name} is made anew: {error}")
            return None
        with suppress(OSError), _opened(path) as descriptor:  # a folder that can only be read will do
            os.utime(descriptor)  # what is used stays
        return found

    def _write(self, made: Template) -> None:
        try:
            if not self.folder.is_dir():
                self.folder.mkdir(parents=True, exist_ok=True)
                _give_to_owner(self.folder)
            _replace(self._path(made.kind), made.to_bytes())
        except OSError as error:
            self.trouble = f"the template of {made.kind.title} could not be kept: {error.strerror}"
            _say(self.trouble)
        else:
            self._thin_out()

    def _thin_out(self) -> None:
        """Remove what was not used for the longest time, and what a process left behind that was killed."""
        for path in self.folder.glob(f"{HIDDEN}*{PART}"):
            if time.time() - _used(path) > ABANDONED_S:
                _removed(path)
        found = sorted(self.folder.glob(f"*{SUFFIX}"), key=_used)
        for path in found[:-IN_FOLDER]:
            _removed(path)

    def _path(self, kind: Kind) -> Path:
        return self.folder / f"{kind.key}{SUFFIX}"


def kind_of(exportable: Exportable, recipe: Recipe, precision: Precision, arithmetic: Arithmetic) -> Kind:
    """Return what the template for a file has to be."""
    return Kind(
        graph_key=exportable.graph_key,
        title=exportable.title,
        precision=precision,
        arithmetic=arithmetic,
        opset=recipe.opset,
        interface=exportable.interface,
        made_by=template.maker(),
    )


def _bytes(path: Path) -> bytes:
    """Return a file's bytes, if it is one and no larger than any template; nothing else is waited for."""
    with _opened(path) as descriptor, os.fdopen(descriptor, "rb", closefd=False) as file:
        st = os.fstat(descriptor)
        if not stat.S_ISREG(st.st_mode) or st.st_size > MAX_BYTES:
            raise DamagedError("it is no plain file of a template's size")
        return file.read()


def _check_face(model: onnx.ModelProto, exportable: Exportable) -> None:
    """Compare a graph that was read with what the network says of itself; the verification sees to the rest.

    Raises:
        DamagedError: if it has other weights, inputs or outputs.
    """
    weights = {tensor.name: (tuple(tensor.dims), tensor.data_type in TYPES) for tensor in model.graph.initializer}
    wanted = {name: (tuple(tensor.shape), True) for name, tensor in exportable.module.state_dict().items()}
    face = ports(model.graph.input), ports(model.graph.output)
    if weights != wanted or face != (exportable.inputs, exportable.outputs):
        raise DamagedError("its graph is another one")


def _removed(path: Path) -> bool:
    """Remove a file and say whether that was possible; what is in the way (a folder, somebody else's) stays."""
    try:
        path.unlink()
    except OSError:
        return False
    return True


def _used(path: Path) -> float:
    """Return when a file was last used; one that another process has just removed or renamed is not old."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return math.inf


def _replace(path: Path, data: bytes) -> None:
    """Put a file in place at once."""
    handle, name = tempfile.mkstemp(prefix=HIDDEN, suffix=PART, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _give_to_owner(Path(name))
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def _give_to_owner(path: Path) -> None:
    """Give what root makes, by a command, to whom the folder around it belongs: the daemon has to read and write it."""
    around = path.parent.stat()
    with suppress(OSError), _opened(path) as descriptor:  # others than root may not, and need not
        os.fchown(descriptor, around.st_uid, around.st_gid)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Give a descriptor of a file or folder, to read it or to change what is said of it.

    By name, the worker's cage forbids the latter.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _say(text: str) -> None:
    """Tell it to the log: the parent reads this process's standard error."""
    print(text, file=sys.stderr)  # noqa: T201 - as above
