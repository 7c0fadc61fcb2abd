"""Who may import whom: folders know no models, families know no folders, the supervisor never imports torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import voicekiln

ROOT = Path(voicekiln.__file__).parent
HEAVY = ("torch", "onnx", "onnxruntime", "onnxconverter_common", "numpy")

NOUNS = ("voicekiln", "voicekiln.errors", "voicekiln.job")
"""The package itself holds the version only."""
FOLDERS = (*NOUNS, "voicekiln.steps", "voicekiln.words", "voicekiln.folders")
CONFIG = (*NOUNS, "voicekiln.settings", "voicekiln.values", "voicekiln.fences", "voicekiln.folders")
WORKER = (*NOUNS, "voicekiln.worker.wire", "voicekiln.worker.lines", "voicekiln.worker.rooms")
WORKS = ("voicekiln.families", "voicekiln.convert", "voicekiln.judge")
KEEPING = (*WORKER, "voicekiln.worker.keeper", "voicekiln.worker.process", "voicekiln.worker.shift")
LOOP = (*FOLDERS, *KEEPING, "voicekiln.worker.parent", "voicekiln.settings", "voicekiln.supervisor", "voicekiln.page")
CLUSTER = (*NOUNS, *WORKER, "voicekiln.worker.keeper", "voicekiln.cluster")
COMMANDS = (*LOOP, "voicekiln.commands", "voicekiln.config", "voicekiln.loop", "voicekiln.oneoff", "voicekiln.report")

MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "voicekiln": (),
    "voicekiln.errors": (),
    "voicekiln.steps": (),
    "voicekiln.words": NOUNS,
    "voicekiln.job": ("voicekiln.errors",),
    "voicekiln.folders": FOLDERS,
    "voicekiln.folders.database": (*FOLDERS, "sqlite3"),
    "voicekiln.folders.watch": (*FOLDERS, "watchdog"),
    "voicekiln.settings": NOUNS,
    "voicekiln.values": (*NOUNS, "voicekiln.folders.names"),
    "voicekiln.fences": (*NOUNS, "voicekiln.settings", "voicekiln.folders", "voicekiln.cluster.fences"),
    "voicekiln.cluster.fences": (*NOUNS, "voicekiln.settings"),
    "voicekiln.config": (*CONFIG, "yaml"),
    "voicekiln.notify": NOUNS,
    "voicekiln.page": (*FOLDERS, "voicekiln.page"),
    "voicekiln.page.render": (*FOLDERS, "voicekiln.page", "jinja2"),
    "voicekiln.metrics": (*NOUNS, "voicekiln.supervisor.exporting", "prometheus_client"),
    "voicekiln.logs": (*NOUNS, "structlog"),
    "voicekiln.nets": ("voicekiln.nets", "torch"),
    "voicekiln.families": (*NOUNS, "voicekiln.families", "voicekiln.nets", "torch", "numpy"),
    "voicekiln.convert": (*NOUNS, "voicekiln.families", "voicekiln.nets", "voicekiln.convert", *HEAVY),
    "voicekiln.convert.companions": (*NOUNS, "voicekiln.convert.data", "yaml"),
    "voicekiln.judge": (*NOUNS, "voicekiln.families", "voicekiln.nets", "voicekiln.convert", "voicekiln.judge", *HEAVY),
    "voicekiln.worker": WORKER,
    "voicekiln.worker.shift": KEEPING,
    "voicekiln.worker.parent": KEEPING,
    "voicekiln.worker.cage": (*WORKER, "voicekiln.worker.landlock", "voicekiln.worker.seccomp"),
    "voicekiln.worker.child": (*WORKER, "voicekiln.worker.cage", *WORKS, "torch"),
    "voicekiln.cluster": (*CLUSTER, "voicekiln.folders.files", "voicekiln.worker.parent"),
    "voicekiln.cluster.host": (*CLUSTER, "distributed"),
    "voicekiln.cluster.connection": (*CLUSTER, "distributed"),
    "voicekiln.cluster.line": (*CLUSTER, "distributed"),
    "voicekiln.cluster.shared": (*CLUSTER, "voicekiln.folders.files", "distributed"),
    "voicekiln.cluster.versions": ("voicekiln", "distributed"),
    "voicekiln.cluster.ways": (*CLUSTER, "distributed"),
    "voicekiln.cluster.crew": (
        *CLUSTER,
        *("voicekiln.page.board", "voicekiln.settings", "voicekiln.supervisor", "distributed"),
    ),
    "voicekiln.supervisor": LOOP,
    "voicekiln.report": LOOP,
    "voicekiln.oneoff": LOOP,
    "voicekiln.service": (*LOOP, "voicekiln.config", "voicekiln.logs", "voicekiln.notify"),
    "voicekiln.loop": (*LOOP, "voicekiln.cluster.crew", "voicekiln.notify", "voicekiln.service", "voicekiln.metrics"),
    "voicekiln.commands": COMMANDS,
    "voicekiln.commands.aside": NOUNS,
    "voicekiln.commands.completion": (*NOUNS, "voicekiln.commands", "shtab"),
    "voicekiln.commands.discreet": (*NOUNS, "voicekiln.settings"),
    "voicekiln.commands.machine": (*NOUNS, "voicekiln.commands.aside", "voicekiln.supervisor.hiring"),
    "voicekiln.commands.once": (*COMMANDS, "voicekiln.values"),
    "voicekiln.commands.parsing": NOUNS,
    "voicekiln.commands.premises": (
        *LOOP,
        *("voicekiln.cluster.crew", "voicekiln.commands", "voicekiln.fences", "voicekiln.loop"),
    ),
    "voicekiln.commands.terminal": (*NOUNS, "rich"),
    "voicekiln.commands.daemon": (*COMMANDS, "voicekiln.logs"),
    "voicekiln.cli": (*NOUNS, "voicekiln.commands", "voicekiln.loop"),
}
"""What a module, or a package with all in it, may import of ours and of what stands behind a door.

The longest name that fits a module holds for it. A name allows all below it, `voicekiln` only itself.
"""

BEHIND_DOORS = (
    "yaml",
    "structlog",
    "watchdog",
    "sqlite3",
    "prometheus_client",
    "jinja2",
    "rich",
    "shtab",
    "distributed",
    *HEAVY,
)


def imports_of(source: str) -> Iterator[str]:
    """Every module that the source names in an import, or asks `import_module` for, wherever it stands."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.ImportFrom():
                yield "a relative import"
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield name


def is_within(name: str, package: str) -> bool:
    if package == "voicekiln":  # or it would allow everything; `voicekiln.__version__` and the like are its own
        return name == package or (name.startswith("voicekiln._") and name.endswith("_"))
    return name == package or name.startswith(f"{package}.")


def violations(module: str, source: str) -> list[str]:
    """What the source of `module` imports against the table."""
    fitting = [name for name in MAY_IMPORT if module == name or (name != "voicekiln" and is_within(module, name))]
    if not fitting:
        return [f"{module} is not in the table of this test"]
    allowed = MAY_IMPORT[max(fitting, key=len)]
    guarded = [
        name
        for name in imports_of(source)
        if name.partition(".")[0] in ("voicekiln", "a relative import", *BEHIND_DOORS)
    ]
    return [f"{module} imports {name}" for name in guarded if not any(is_within(name, package) for package in allowed)]


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@pytest.mark.parametrize("module", modules())
def test_each_module_imports_only_what_it_may(module: str) -> None:
    """The import statements of the whole tree follow the table."""
    assert violations(module, modules()[module].read_text()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("voicekiln.service", "import torch"),
        ("voicekiln.worker.parent", "def f():\n    from torch import nn"),
        ("voicekiln.worker.parent", "from voicekiln.convert import verify"),
        ("voicekiln.service", "from voicekiln.worker import child"),
        ("voicekiln.folders.sweep", "from voicekiln.families.base import Outline"),
        ("voicekiln.folders.sweep", "import sqlite3"),
        ("voicekiln.families.rvc", "from voicekiln.folders import names"),
        ("voicekiln.families.rvc", "import onnx"),
        ("voicekiln.nets.flow", "from voicekiln.families import base"),
        ("voicekiln.convert.verify", "from voicekiln.config import Settings"),
        ("voicekiln.convert.verify", "from voicekiln.judge import client"),
        ("voicekiln.cli", "import importlib\nimportlib.import_module('onnxruntime')"),
        ("voicekiln.cli", "import yaml"),
        ("voicekiln.convert.checkpoint", "import yaml"),
        ("voicekiln.convert.companions", "import torch"),
        ("voicekiln.loop", "import prometheus_client"),
        ("voicekiln.page.facts", "import jinja2"),
        ("voicekiln.job", "from voicekiln import folders"),
        ("voicekiln.folders.inbox", "from . import names"),
        ("voicekiln.folders.inbox", "if TYPE_CHECKING:\n    import watchdog.events"),
        ("voicekiln.newcomer", ""),
    ],
)
def test_a_forbidden_import_is_noticed(module: str, source: str) -> None:
    """The check can fail: each of these is a violation."""
    assert len(violations(module, source)) == 1


def test_what_is_allowed_passes() -> None:
    """The check does not fail everything."""
    assert violations("voicekiln.config", "import os\nimport yaml\nfrom voicekiln import __version__, fences") == []


def test_every_line_of_the_table_has_a_module() -> None:
    """A line for a module that has gone would be a hole for the next one of that name."""
    assert [name for name in MAY_IMPORT if name not in modules()] == []


def test_the_command_loads_no_heavy_package() -> None:
    """After `import voicekiln.cli` neither torch nor anything of ONNX nor NumPy is there, nor what few need."""
    unwanted = (*HEAVY, "rich", "shtab", "distributed")
    program = f"import sys, voicekiln.cli; print(sorted(set({unwanted}) & set(sys.modules)))"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
