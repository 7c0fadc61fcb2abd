"""Read from the code: nothing changes a share, the spool or the ledger without a step behind it.

A function that removes, renames or makes something has a call of `passed` further down, or whoever calls it has. So a
new change needs a step, a new step needs a line in `WHERE`, and `tests/test_crashes.py` tries it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import voicekiln
from voicekiln.steps import Step

ROOT = Path(voicekiln.__file__).parent
TOUCHING = ("folders", "supervisor")
"""The packages that change shares, spool or ledger; `worker` writes in staging, which is made anew each time."""
NO_STEPS = {
    "owner.py": "its marker says who works, not what was done; a crash leaves one that is waited out or taken over",
    "exporting.py": "the metrics are of what is, and written anew every minute",
    "scrape.py": "the socket of the metrics is put in place anew by the next start",
}
"""Modules whose changes have no steps, each with the reason."""

WHERE = {
    Step.COMMITTED: {"folders.database.Database.together"},
    Step.SEEN: {"supervisor.intake.Intake._sight"},
    Step.COPYING: {"folders.spool.take"},
    Step.COPIED: {"folders.spool.take"},
    Step.SPOOLED: {"supervisor.intake.Intake._took"},
    Step.STARTED: {"supervisor.dispatch.Dispatch._send"},
    Step.SENT: {"supervisor.dispatch.Dispatch._send"},
    Step.ENDED: {"supervisor.dispatch.Dispatch._end"},
    Step.FOLDER_MADE: {"folders.outbox._make_folder"},
    Step.TEMP_WRITTEN: {"folders.outbox._publish", "folders.boards.put_up"},
    Step.OLD_SIDECAR_GONE: {"folders.outbox._switch"},
    Step.ONNX_RENAMED: {"folders.outbox._switch"},
    Step.STALE_REMOVED: {"folders.outbox._switch"},
    Step.FOLDER_REMOVED: {"folders.files.remove_if_empty"},
    Step.SIDECAR_RENAMED: {"folders.outbox._switch"},
    Step.PUBLISHED: {"supervisor.delivery.Post._published"},
    Step.SPOOL_CLEARED: {"supervisor.delivery.Post._published"},
    Step.BOARD_RENAMED: {"folders.boards.put_up"},
    Step.BOARD_REMOVED: {"folders.boards.take_down"},
    Step.FILE_SWEPT: {"folders.sweep._Hand.unlink"},
    Step.LITTER_REMOVED: {"folders.outbox.clear_temps"},
}
"""The functions that pass each step."""

WITHOUT = {
    ("folders.outbox._publish", "_unlink"): "temporary files, gone from their names unless something failed: litter",
    ("folders.boards.put_up", "unlink"): "as above",
    ("folders.spool.take", "unlink"): "what is left of a copy that failed: litter",
    ("folders.database.set_aside", "rename"): "a ledger that is of no use, before there is one to be true to",
    ("supervisor.dispatch.Dispatch._end", "clear_copy"): "a copy whose ending is in the ledger: litter",
    ("supervisor.common.Common._clear", "mkdir"): "empty folders on the local disk",
    ("folders.files.remove_tree", "_remove_one"): "staging, and litter in it: made anew each time",
    ("supervisor.common.Common._clear", "unlink"): "as above",
    ("supervisor.homes.Homes.of", "write_text"): "where the shares were mounted, which the next start finds out again",
    ("supervisor.homes.Homes.of", "replace"): "as above",
}
"""Changes after which a crash finds nothing to make good."""

CHANGES = {
    *("rename", "renames", "replace", "unlink", "remove", "mkdir", "makedirs", "rmdir", "removedirs", "rmtree"),
    *("link", "symlink", "hardlink_to", "symlink_to", "truncate", "write_text", "write_bytes", "move", "copyfile"),
}
"""Of `os`, `shutil` and `Path`."""


@dataclass(frozen=True, slots=True)
class Called:
    """A call: of what, in which function of which module, in which line."""

    module: str
    inside: str
    what: str
    on: str
    line: int
    node: ast.Call


def calls(module: str, source: str) -> Iterator[Called]:
    def walk(node: ast.AST, inside: str) -> Iterator[Called]:
        for child in ast.iter_child_nodes(node):
            deeper = inside
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                deeper = f"{inside}.{child.name}"
            match child:
                case ast.Call(func=ast.Name(id=name)):
                    yield Called(module, inside, name, "", child.lineno, child)
                case ast.Call(func=ast.Attribute(value=value, attr=name)):
                    yield Called(module, inside, name, ast.unparse(value), child.lineno, child)
                case _:
                    pass
            yield from walk(child, deeper)

    yield from walk(ast.parse(source), module)


def tree() -> dict[str, str]:
    """Return the sources of the packages that touch anything, by module."""
    paths = [path for package in TOUCHING for path in sorted((ROOT / package).glob("*.py"))]
    told = [path for path in paths if path.name not in NO_STEPS]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text() for path in told}


def steps_of(call: Called) -> list[str]:
    """Return what is passed there, as it is written."""
    [argument] = call.node.args
    return [
        ast.unparse(node)
        for node in ([argument.body, argument.orelse] if isinstance(argument, ast.IfExp) else [argument])
    ]


def unfollowed(sources: dict[str, str]) -> list[tuple[str, str]]:
    """Return the changes that no step follows, as function and what it calls."""
    all_calls = [call for module, source in sources.items() for call in calls(module, source)]
    last: dict[str, int] = {}
    for call in all_calls:
        if call.what == "passed":
            last[call.inside] = max(call.line, last.get(call.inside, 0))
    own = {
        (module, node.name)  # `hand.unlink`, where the module has an `unlink` of its own
        for module, source in sources.items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef)
    }
    changing = [c for c in all_calls if _changes(c) and (c.on in ("os", "shutil") or (c.module, c.what) not in own)]
    found: dict[tuple[str, str], None] = {}
    seen: set[str] = set()
    while changing:
        call = changing.pop()
        if last.get(call.inside, 0) > call.line or (call.inside, call.what) in found:
            continue
        name = call.inside.rpartition(".")[2]
        above = [c for c in all_calls if c.what == name and (c.on or c.module == call.module)]
        if not above or (call.inside, call.what) in WITHOUT:
            found[call.inside, call.what] = None
        elif call.inside not in seen:
            seen.add(call.inside)
            changing += above
    return list(found)


def _changes(call: Called) -> bool:
    if call.what not in CHANGES or not call.on:
        return False
    return call.what != "replace" or len(call.node.args) == 1  # that of a text has two


def test_every_step_is_passed_where_it_should_be() -> None:
    """Each member of `Step` has its functions, and nothing but a member is ever passed."""
    found: dict[str, set[str]] = {}
    for path in ROOT.rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for call in calls(module, path.read_text()):
            if call.what == "passed" and not call.on:
                for step in steps_of(call):
                    found.setdefault(step, set()).add(call.inside)
    assert found == {f"Step.{step.name}": functions for step, functions in WHERE.items()}


def test_every_change_has_a_step_behind_it() -> None:
    """In the folders' and the supervisor's modules; the exceptions are those of the table, and all of them are."""
    assert set(unfollowed(tree())) == set(WITHOUT)


@pytest.mark.parametrize(
    "source",
    [
        "def f(x):\n    os.unlink(x)",
        "def f(x):\n    passed(Step.SEEN)\n    os.rename(x, x)",
        "def f(x):\n    x.path.unlink(missing_ok=True)",
        "def f(x):\n    g(x)\ndef g(x):\n    os.mkdir(x)",
        "def f(x):\n    passed(Step.SEEN)\n    g(x)\ndef g(x):\n    x.rename(x)",
        "def f(x):\n    g(x)\n    passed(Step.SEEN)\ndef e(x):\n    g(x)\ndef g(x):\n    shutil.rmtree(x)",
    ],
)
def test_a_change_without_a_step_is_noticed(source: str) -> None:
    """The check can fail: each of these has one."""
    assert len(unfollowed({"folders.new": source})) == 1


@pytest.mark.parametrize(
    "source",
    [
        "def f(x):\n    os.unlink(x)\n    passed(Step.SEEN)",
        "def f(x):\n    g(x)\n    passed(Step.SEEN)\ndef g(x):\n    os.mkdir(x)",
        "def f(x):\n    x = x.replace('a', 'b')\n    return replace(x, y=1)",
    ],
)
def test_a_change_with_its_step_passes(source: str) -> None:
    """The check does not fail everything."""
    assert unfollowed({"folders.new": source}) == []


WRITING = ("INSERT", "UPDATE", "DELETE", "CREATE", "DROP", "ALTER", "REPLACE")


@pytest.mark.parametrize("module", ["database", "ledger"])
def test_the_ledger_changes_in_one_way_only(module: str) -> None:
    """Whatever writes does so within `together`, which alone commits, and there the step is passed."""
    source = (ROOT / f"folders/{module}.py").read_text()
    safe = {
        node.lineno
        for block in ast.walk(ast.parse(source))
        if isinstance(block, ast.With) and any(ast.unparse(i.context_expr).endswith(".together()") for i in block.items)
        for node in ast.walk(block)
        if isinstance(node, ast.Call)
    }
    outside = []
    for call in calls(module, source):
        if not call.what.startswith("execute") or not call.node.args:
            continue
        sql = ast.unparse(call.node.args[0]).lstrip("f'\"\\n ")
        private = call.inside.rpartition(".")[2].startswith("_")  # called within one by the others
        if sql.startswith("COMMIT"):
            outside += [] if call.inside == "database.Database.together" else [f"{call.inside}: COMMIT"]
        elif sql.startswith(WRITING) and call.line not in safe and not private:
            outside.append(f"{call.inside}: {sql[:60]}")
    assert outside == []
