"""What stands in companions: read as plain data, and whatever is odd about them harms nobody."""

from __future__ import annotations

import builtins
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import reference_voices
import tiny_coqui
from convert.small_checkpoints import saved, voice, written
from voicekiln.convert.checkpoint import open_checkpoint
from voicekiln.convert.companions import read
from voicekiln.convert.data import MAX_DEPTH, MAX_TEXT, MAX_VALUES
from voicekiln.families import choose

MEBIBYTE = 1 << 20


def said(tmp_path: Path, name: str, text: bytes | str) -> Any:
    """Return what is understood of a companion."""
    path = tmp_path / "copy"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read({name: path})[name]


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


CONFIG: dict[str, Any] = {
    "model": {"ssl_dim": 768, "n_speakers": 200, "upsample_rates": [8, 8, 2, 2, 2], "vol_embedding": False},
    "data": {"sampling_rate": 44100, "unit_interpolate_mode": "left", "f0_min": 50.5, "none": None},
    "spk": {"女声": 0, "tenor": 1},
}


@pytest.mark.parametrize("name", ["config.json", "Config.JSON", "config.yaml", "x.YML"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_what_training_tools_write_is_understood(tmp_path: Path, name: str, mark: str) -> None:
    """In both languages, and with the mark that some editors leave at the beginning."""
    if name.lower().endswith("json"):
        text = json.dumps(CONFIG, ensure_ascii=False)
    else:
        text = yaml.safe_dump(CONFIG, allow_unicode=True)
    assert said(tmp_path, name, mark + text) == CONFIG


def test_yaml_is_understood_as_the_training_tools_do(tmp_path: Path) -> None:
    """With its surprises, because they have made the voice by them; dates are texts, and lists may be named."""
    text = "lr: 1e-4\nsmall: 0.0002\ncold: off\nday: 2024-01-31\nno day: 2024-99-99\none: &it [1, 2]\nother: *it\n"
    assert said(tmp_path, "diffusion.yaml", text) == {
        "lr": "1e-4",
        "small": 0.0002,
        "cold": False,
        "day": "2024-01-31",
        "no day": "2024-99-99",
        "one": [1, 2],
        "other": [1, 2],
    }


BAD_JSON: dict[str, bytes | str] = {
    "nothing": "",
    "half of it": '{"model": {',
    "more than one": "{} {}",
    "a comment": "{} // mine",
    "a key twice": '{"a": 1, "a": 2}',
    "a key twice below": '{"b": [{"a": 1, "a": 1}]}',
    "too long a number": "9" * 5000,
    "a number of 20 digits": '{"a": 18446744073709551616}',
    "too deep": nested(MAX_DEPTH + 1),
    "so deep that readers fall over": "[" * MEBIBYTE,
    "too much": json.dumps([0] * (MAX_VALUES + 1)),
    "too long a text": json.dumps("x" * (MAX_TEXT + 1)),
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "UTF-32": '{"a": 1}'.encode("utf-32"),
    "GBK": '{"a": "中文"}'.encode("gbk"),
    "bytes": bytes(range(256)),
}
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{one}: &{one} [{','.join([f'*{before}'] * 9)}]\n" for before, one in zip("abcdefgh", "bcdefghi", strict=True)
)
BAD_YAML: dict[str, bytes | str] = {
    "nothing": "",
    "half of it": "a: [1, 2",
    "more than one": "a: 1\n---\nb: 2\n",
    "a key twice": "a: 1\na: 2\n",
    "a key twice in two spellings": "a: 1\n'a': 2\n",
    "a key that is a list": "? [1, 2]\n: 3\n",
    "a number of 20 digits": "a: 18446744073709551616",
    "a number to the base of 60 that would take a minute": "a: 1" + ":30" * (MEBIBYTE // 3 - 3),
    "too deep": nested(MAX_DEPTH + 1),
    "so deep that readers fall over": "[" * MEBIBYTE,
    "deep in dashes": "- " * (MEBIBYTE // 2),
    "deep in tables": "{a: " * (MEBIBYTE // 4),
    "too much": "- 1\n" * (MAX_VALUES + 1),
    "a bomb of names": BOMB,
    "a list in itself": "&a [*a]",
    "no truth": "a: !!bool x",
    "no whole number": 'a: !!int ""',
    "nothing but signs": 'a: !!float "_"',
    "a table in itself": "&a {b: *a}",
    "a merged table": "a: &a {b: 1}\nc:\n  <<: *a\n",
    "too long a text": "a: " + "x" * (MAX_TEXT + 1),
    "an object of Python": "!!python/object/apply:os.system ['touch /tmp/x']",
    "a name of Python": "!!python/name:os.system",
    "bytes in base64": "a: !!binary aGk=",
    "a set": "!!set {a, b}",
    "a tab": "a:\n\t- 1",
    "UTF-16": "a: 1".encode("utf-16"),
    "bytes": bytes(range(256)),
}


@pytest.mark.parametrize("what", BAD_JSON)
def test_odd_json_is_none(tmp_path: Path, what: str) -> None:
    """It is known to be there, and says nothing."""
    assert said(tmp_path, "config.json", BAD_JSON[what]) is None


@pytest.mark.parametrize("what", BAD_YAML)
def test_odd_yaml_is_none(tmp_path: Path, what: str) -> None:
    """As above, and nothing of it is ever made."""
    assert said(tmp_path, "config.yaml", BAD_YAML[what]) is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"a": NaN, "b": Infinity, "c": [-Infinity], "d": 1e9999, "e": 1.5}'),
        ("a.yaml", "{a: .nan, b: .inf, c: [-.inf], d: 1.0e+9999, e: 1.5}"),
    ],
)
def test_numbers_that_are_not_finite_are_texts(tmp_path: Path, name: str, text: str) -> None:
    """As in a checkpoint, so that the rest of the file can be used and all of it written as JSON."""
    assert said(tmp_path, name, text) == {"a": "nan", "b": "inf", "c": ["-inf"], "d": "inf", "e": 1.5}


def test_the_bounds_are_where_they_are_said_to_be(tmp_path: Path) -> None:
    """What is just within them is read."""
    assert said(tmp_path, "a.json", nested(MAX_DEPTH)) is not None
    assert said(tmp_path, "a.yaml", nested(MAX_DEPTH)) is not None
    assert len(said(tmp_path, "a.json", json.dumps([0] * (MAX_VALUES - 1)))) == MAX_VALUES - 1
    assert len(said(tmp_path, "a.yaml", "- 1\n" * (MAX_VALUES - 1))) == MAX_VALUES - 1
    assert said(tmp_path, "a.json", json.dumps("x" * MAX_TEXT)) == "x" * MAX_TEXT


def test_texts_in_it_are_made_plain(tmp_path: Path) -> None:
    """They go on into sidecars and onto screens."""
    assert said(tmp_path, "a.json", json.dumps({"a\nb": "\u202eevil\x1b[31m"})) == {"a b": "\ufffdevil\ufffd[31m"}
    assert said(tmp_path, "a.json", '{"a": "\\ud800"}') == {"a": "\ufffd"}


@given(st.binary(max_size=300), st.sampled_from(["a.json", "a.yaml"]))
def test_no_bytes_do_harm(tmp_path_factory: pytest.TempPathFactory, text: bytes, name: str) -> None:
    """Whatever they are, they can be written as JSON afterwards."""
    json.dumps(said(tmp_path_factory.getbasetemp(), name, text), allow_nan=False)


@given(st.text("{}[]:,-&*!|>'\"%@`? \n#ab01.~<=\t", max_size=60))
def test_no_yaml_does_harm(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Of the characters that mean something in it."""
    json.dumps(said(tmp_path_factory.getbasetemp(), "a.yaml", text), allow_nan=False)


def test_the_name_is_made_plain_and_what_was_not_copied_is_none(tmp_path: Path) -> None:
    """A name comes back to the supervisor with the answer, so it has to be text."""
    (tmp_path / "copy").write_text("{}")
    assert read({os.fsdecode(b"\xff\n.json"): tmp_path / "copy", "config.yaml": None}) == {
        "\ufffd .json": {},
        "config.yaml": None,
    }


def test_our_own_sidecar_is_no_companion(tmp_path: Path) -> None:
    """`voicekiln convert` lays it beside the voice, under the name that a companion would have."""
    ours = {"schema": 2, "made_by": {"name": "voicekiln"}, "model": {}, "data": {}}
    (tmp_path / "ours").write_text(json.dumps(ours))
    (tmp_path / "theirs").write_text(json.dumps(ours | {"made_by": {"name": "somebody"}}))
    assert [*read({"zoe.json": tmp_path / "ours", "config.json": tmp_path / "theirs"})] == ["config.json"]


def test_a_disk_that_fails_is_no_answer_about_the_file(tmp_path: Path) -> None:
    """The voice is tried again; it is not converted as if the companion could not be read."""
    with pytest.raises(FileNotFoundError):
        read({"config.json": tmp_path / "gone"})


def test_a_checkpoint_comes_with_its_companions(tmp_path: Path) -> None:
    """Families see them in the outline."""
    (tmp_path / "copy").write_text('{"a": 1}')
    path = written(tmp_path / "v.pth", saved(voice()))
    assert open_checkpoint(path).outline.beside == {}
    assert open_checkpoint(path, {"config.json": tmp_path / "copy"}).outline.beside == {"config.json": {"a": 1}}


def test_coquis_own_config_is_used(tmp_path: Path) -> None:
    """As Python writes it, with an Infinity in it, beside a checkpoint that has none."""
    config = reference_voices.spec("coqui-vits-single")["rest"]["config"]
    real = reference_voices.outline("coqui-vits-single").tensors
    path = written(tmp_path / "v.pth", saved({"model": tiny_coqui.tiny("single")["model"]}))
    for voice_config, tensors in ((config, real), (config | tiny_coqui.config("single"), None)):
        text = json.dumps(voice_config)
        assert "Infinity" in text
        found = open_checkpoint(path, {"config.json": written(tmp_path / "copy", text.encode())}).outline
        _, claim = choose(found if tensors is None else replace(found, tensors=tensors))
        assert (claim.family, claim.model["companions"], claim.notes) == ("coqui-vits", ["config.json"], ())


def test_nothing_in_a_companion_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No tag of YAML leads anywhere but to data."""
    called: list[object] = []
    monkeypatch.setattr(os, "system", called.append)
    monkeypatch.setattr(builtins, "eval", called.append)
    for tag in ("python/object/apply:os.system", "python/object/new:os.system", "python/name:os.system", "eval"):
        assert said(tmp_path, "a.yaml", f"!!{tag} ['x']") is None
    assert called == []
