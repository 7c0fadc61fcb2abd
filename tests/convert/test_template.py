"""A template's file is read back as it was or not at all, and its key changes with all that shapes a graph."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import onnx
import pytest

import tiny_voices
import voicekiln
from convert import small_networks
from outlines import outline
from voicekiln.convert import template
from voicekiln.convert.cache import kind_of
from voicekiln.convert.template import MAGIC, TOOLS, DamagedError, Kind, Template, maker, read_kind
from voicekiln.families import choose
from voicekiln.families.base import Exportable
from voicekiln.job import Recipe

KIND = Kind("a key", "Ä title", "fp32", "float32", 17, "rvc", "made by")
OTHER: dict[str, Any] = {
    "graph_key": "another key",
    "title": "another title",
    "precision": "fp16",
    "arithmetic": "half",
    "opset": 18,
    "interface": "another",
    "made_by": "another",
}
"""For each field of a kind another value."""


def little() -> Template:
    """Return a template whose file is short enough to be spoilt at every place."""
    model = onnx.ModelProto(ir_version=8, producer_name="voicekiln")
    model.graph.name = "voice"
    model.graph.initializer.add(name="w", data_type=onnx.TensorProto.FLOAT, dims=[2, 3])
    return Template(KIND, model)


@pytest.mark.parametrize("made", [little(), Template(KIND, small_networks.graph())], ids=["little", "real"])
def test_what_was_written_is_read(made: Template) -> None:
    """Kind and graph come back; equal templates are equal bytes."""
    data = made.to_bytes()
    assert Template.from_bytes(data, KIND) == made
    assert Template.from_bytes(data, KIND).to_bytes() == data
    assert read_kind(data) == (KIND, made.model.SerializeToString(deterministic=True))


def assert_damaged(data: bytes) -> None:
    """Neither the template nor its kind can be read."""
    with pytest.raises(DamagedError):
        Template.from_bytes(data, KIND)
    with pytest.raises(DamagedError):
        read_kind(data)


@pytest.mark.parametrize("bit", [0, 3, 7])
def test_every_changed_byte_is_noticed(bit: int) -> None:
    """Wherever it lies."""
    data = little().to_bytes()
    for at in range(len(data)):
        spoilt = bytearray(data)
        spoilt[at] ^= 1 << bit
        assert_damaged(bytes(spoilt))


def test_every_cut_is_noticed() -> None:
    """However much is missing, at the end or at the start; and a file that goes on is no template either."""
    data = little().to_bytes()
    for at in range(len(data)):
        assert_damaged(data[:at])
        assert_damaged(data[at + 1 :])
    assert_damaged(data + b"\0")
    assert_damaged(data + data)


def test_changes_in_a_real_file_are_noticed() -> None:
    """As above, at places all over it."""
    data = Template(KIND, small_networks.graph()).to_bytes()
    for at in (*range(0, len(data), 997), len(data) - 1):
        assert_damaged(data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1 :])
        assert_damaged(data[:at])


@pytest.mark.parametrize(
    "rest",
    [b"", b"\n", b"{}\n", b"[]\n", b"null\n", b"{\n", b"\xff\n", b'{"graph_key": "a"}\n', b'"' + b"a" * 99 + b'"\n'],
)
def test_a_file_that_says_something_else_is_no_template(rest: bytes) -> None:
    """Even where its hash is right: one of another release, say."""
    assert_damaged(MAGIC + hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest)


def test_facts_of_another_release_are_no_template() -> None:
    """Nothing is guessed where one fact is missing or is more than are known."""
    facts = asdict(KIND)
    for changed in (facts | {"more": 1}, {name: fact for name, fact in facts.items() if name != "opset"}):
        rest = json.dumps(changed).encode() + b"\n"
        assert_damaged(MAGIC + hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest)


@pytest.mark.parametrize("name", OTHER)
def test_a_template_of_another_kind_is_not_taken(name: str) -> None:
    """Whatever makes the difference; its own kind can be read all the same."""
    data = Template(replace(KIND, **{name: OTHER[name]}), little().model).to_bytes()
    with pytest.raises(DamagedError, match="something else"):
        Template.from_bytes(data, KIND)
    assert read_kind(data)[0] != KIND


@pytest.mark.parametrize("name", OTHER)
def test_the_key_changes_with_each_fact(name: str) -> None:
    """None is left out."""
    assert OTHER.keys() == {field.name for field in fields(Kind)}
    assert replace(KIND, **{name: OTHER[name]}).key != KIND.key


def test_the_key_follows_the_network_and_the_recipe() -> None:
    """What a template is looked for under is what it was asked for with."""
    small, recipe = small_networks.voice(), Recipe("r")
    kinds = [
        kind_of(small, recipe, "fp32", "float32"),
        kind_of(replace(small, graph_key="other"), recipe, "fp32", "float32"),
        kind_of(small, replace(recipe, opset=18), "fp32", "float32"),
        kind_of(small, recipe, "fp16", "float32"),
        kind_of(small, recipe, "fp16", "half"),
    ]
    assert len({kind.key for kind in kinds}) == len(kinds)
    assert {kind.made_by for kind in kinds} == {maker()}
    same = replace(recipe, name="other", precisions=("fp16",), verify="off")
    assert kind_of(small, same, "fp32", "float32") == kinds[0]


# What makes graphs here.


@pytest.fixture
def _asked_anew() -> Iterator[None]:
    """Forget the maker before and afterwards."""
    maker.cache_clear()
    yield
    maker.cache_clear()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _asked_anew: None) -> Path:
    """Return a copy of our own source, from which the maker is reckoned."""
    copy = tmp_path / "voicekiln"
    shutil.copytree(Path(voicekiln.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(template, "__file__", str(copy / "convert" / "template.py"))
    return copy


def made_by() -> str:
    """Return the maker as it is now."""
    maker.cache_clear()
    return maker()


@pytest.mark.usefixtures("_asked_anew")
@pytest.mark.parametrize("tool", ["torch", "onnx", "onnxconverter-common"])
def test_another_release_of_a_tool_is_another_maker(monkeypatch: pytest.MonkeyPatch, tool: str) -> None:
    """Each of those that write into a graph."""
    before, real = made_by(), metadata.version
    assert tool in TOOLS
    monkeypatch.setattr(metadata, "version", lambda name: f"{real(name)}.1" if name == tool else real(name))
    assert made_by() != before


@pytest.mark.usefixtures("_asked_anew")
def test_another_release_of_our_own_is_another_maker(monkeypatch: pytest.MonkeyPatch) -> None:
    """It signs each graph with its version."""
    before = made_by()
    monkeypatch.setattr(template, "__version__", "99")
    assert made_by() != before


def test_the_maker_does_not_depend_on_where_it_lies(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the package makes the same graphs."""
    copied = made_by()
    monkeypatch.undo()
    assert package.exists()
    assert made_by() == copied


def test_every_byte_of_our_own_source_counts(package: Path) -> None:
    """Any change in a file that has a part in graphs; a new file; one that goes; one that is called otherwise."""
    before = made_by()
    sources = [*(path for name in ("convert", "families", "nets") for path in (package / name).glob("*.py"))]
    assert len(sources) > 20
    for path in (*sources, package / "job.py"):
        data = path.read_bytes()
        path.write_bytes(data + b"\n")
        assert made_by() != before, path
        path.write_bytes(data[:-1])
        assert made_by() != before, path
        path.write_bytes(data)
    assert made_by() == before
    (package / "nets" / "more.py").write_bytes(b"")
    assert made_by() != before
    (package / "nets" / "more.py").unlink()
    (package / "nets" / "flow.py").rename(package / "nets" / "flows.py")
    assert made_by() != before


def test_the_service_around_it_does_not_count(package: Path) -> None:
    """A template outlives a change in what has no part in it."""
    before = made_by()
    for path in (package / "service.py", package / "worker" / "child.py", package / "folders" / "inbox.py"):
        path.write_bytes(path.read_bytes() + b"\n")
    assert made_by() == before


IN_ANOTHER_PROCESS = """
import hashlib, sys
sys.path[:0] = sys.argv[1:]
from convert import test_template
print(test_template.fingerprint())
"""


def tiny() -> Exportable:
    """Return the network of a tiny voice."""
    seen = outline(tiny_voices.tiny())
    family, claim = choose(seen)
    return family.build(claim, seen)


def fingerprint() -> str:
    """Return key and file of a tiny voice's templates as text."""
    exportable, recipe = tiny(), Recipe("r")
    whole = template.float32(exportable, kind_of(exportable, recipe, "fp32", "float32"))
    half = template.half(exportable, kind_of(exportable, recipe, "fp16", "half"), whole.model)
    return " ".join(f"{each.kind.key} {hashlib.sha256(each.to_bytes()).hexdigest()}" for each in (whole, half))


def test_equal_networks_have_equal_templates_in_every_process() -> None:
    """Neither key nor bytes follow the order in which a process happens to hash texts."""
    tests = str(Path(__file__).parents[1])
    environment = os.environ | {"PYTHONHASHSEED": "17" if os.environ.get("PYTHONHASHSEED") != "17" else "18"}
    command = [sys.executable, "-W", "ignore", "-c", IN_ANOTHER_PROCESS, tests]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.strip() == fingerprint()
