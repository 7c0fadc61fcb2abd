"""The messages: what one side writes the other side reads, and nothing else gets through."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endings import converted
from voicekiln.errors import Damaged
from voicekiln.job import Conversion, Job, Recipe, Speech
from voicekiln.worker.wire import (
    MAX_LINE,
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
    Troubled,
    WireError,
    decode_answer,
    decode_request,
    encode,
)


def job(tmp_path: Path) -> Job:
    """Return a job with every field set."""
    beside = {"v\udcff\n.json": tmp_path / "j1.0.beside", "config.json": None}
    return Job("j1", tmp_path / "v\udcff.pth", tmp_path, "0" * 64, Recipe("both", ("fp32", "fp16"), 18), beside)


@cache
def finished() -> bytes:
    """Return the line of a good conversion."""
    with TemporaryDirectory() as folder:
        return encode(Finished("j1", converted(job(Path(folder))).conversion))


def test_requests_come_out_as_they_went_in(tmp_path: Path) -> None:
    """Also paths that are no UTF-8."""
    requests: list[Request] = [
        Convert(job(tmp_path), threads=3, turn=1.5),
        Inspect("i", tmp_path / "v\udcff.pth"),
        Inspect("i", tmp_path / "v.pth", {"\udcff.yaml": tmp_path / "\udcff", "config.json": None}),
        Sample("s", tmp_path / "x"),
        Judge("j", tmp_path / "v\udcff.onnx", tmp_path / "v.pth", long=True),
        Listen("l", Speech(tmp_path / "m", tmp_path / "f", None, tmp_path / "o", 1, 2, None, 40_000)),
        Listen("l", Speech(tmp_path / "m", tmp_path / "f", tmp_path / "g", tmp_path / "o", 1, 2, 3, None)),
    ]
    for request in requests:
        assert decode_request(encode(request)) == request


def test_answers_come_out_as_they_went_in(tmp_path: Path) -> None:
    """Every kind of them."""
    answers: list[Answer] = [
        Ready({"kind": "cpu"}, {"torch": "2"}),
        Entered("j1", "template"),
        Entered("j1", "template", 3, 12),
        Finished("j1", converted(job(tmp_path)).conversion),
        Looked("j1", {"speakers": 3, "f0": True}, ("a note",)),
        Troubled("j1", "disk full", outside=True),
    ]
    for answer in answers:
        assert decode_answer(encode(answer)) == answer


@pytest.mark.parametrize("picture", ["", "A-_z" * 200])
def test_a_picture_crosses_whole(tmp_path: Path, picture: str) -> None:
    """Although it is longer than any other text may be."""
    finished = Finished("j1", replace(converted(job(tmp_path)).conversion, picture=picture))
    assert decode_answer(encode(finished)) == finished


@pytest.mark.parametrize(
    "picture",
    ["A", "A" * 799, "A" * 801, "A" * 799 + "=", "A" * 799 + "+", "\N{ARABIC-INDIC DIGIT ONE}" * 800, "A" * 800 + "\n"],
)
def test_what_is_no_picture_does_not_cross(tmp_path: Path, picture: str) -> None:
    """Exactly so many characters of exactly this alphabet."""
    with pytest.raises(WireError, match="not a picture"):
        decode_answer(encode(Finished("j1", replace(converted(job(tmp_path)).conversion, picture=picture))))


def test_an_older_conversion_has_no_picture(tmp_path: Path) -> None:
    """As older ledgers and sidecars have it."""
    facts = asdict(converted(job(tmp_path)).conversion)
    del facts["picture"]
    assert Conversion.from_dict(facts).picture == ""


def test_a_refusal_crosses_as_code_and_values() -> None:
    """Its words are made on this side."""
    answer = decode_answer(encode(Declined("j1", Damaged(what="it is cut off"))))
    assert isinstance(answer, Declined)
    assert isinstance(answer.refusal, Damaged)
    assert answer.refusal.text == Damaged(what="it is cut off").text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)

KINDS = ["ready", "entered", "finished", "looked", "declined", "troubled"]

FIELDS = [
    "id",
    "stage",
    "step",
    "steps",
    "conversion",
    "model",
    "notes",
    "code",
    "found",
    "reason",
    "outside",
    "device",
    "versions",
]


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_no_bytes_raise_anything_but_a_wire_error(line: bytes) -> None:
    """The loop of the supervisor cannot be ended by a line."""
    with pytest.raises(WireError):
        decode_answer(line)


@given(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_no_values_raise_anything_but_a_wire_error(kind: str, fields: dict[str, Any]) -> None:
    """Also where the form is nearly right."""
    with suppress(WireError):
        decode_answer(json.dumps({"is": kind} | fields).encode())


@given(
    st.sampled_from(["files", "model", "feed", "notes", "seconds", "device", "versions"])
    | st.sampled_from(["files.name", "files.precision", "files.bytes", "files.inputs", "files.outputs"])
    | st.sampled_from(["files.fidelity", "files.sha256", "files.opset"]),
    JSON,
)
def test_no_conversion_raises_anything_but_a_wire_error(field: str, value: Any) -> None:
    """One value of a good conversion is replaced by any other."""
    body = json.loads(finished())
    target, _, inner = field.partition(".")
    if inner:
        body["conversion"][target][0][inner] = value
    else:
        body["conversion"][target] = value
    with suppress(WireError):
        decode_answer(json.dumps(body).encode())


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1" * 400, "9" * 19, '"nan"', "true"])
def test_no_number_gets_through_that_cannot_be_kept(number: str) -> None:
    """A ledger, a sidecar and a comparison would each stumble over another of them."""
    line = finished().replace(b"123.4", number.encode())
    assert number.encode() in line
    with pytest.raises(WireError):
        decode_answer(line)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_no_number_gets_through_that_is_none(number: str) -> None:
    """Also where nobody says what kind of value it has to be."""
    line = f'{{"is": "looked", "id": "j", "notes": [], "model": {{"x": {number}}}}}'
    with pytest.raises(WireError, match="not finite"):
        decode_answer(line.encode())


@pytest.mark.parametrize("depth", [20, 900, 30_000])
def test_nesting_is_limited(depth: int) -> None:
    """Whoever walks the value later has less stack left than we."""
    line = b'{"is": "looked", "id": "j", "notes": [], "model": {"a": ' + b"[" * depth + b"]" * depth + b"}}"
    with pytest.raises(WireError, match="nested"):
        decode_answer(line)


def test_texts_come_out_clean() -> None:
    """No control or direction characters, no text of any length."""
    line = json.dumps({"is": "troubled", "id": "j", "reason": "a\x1b[2J\n\u202eb" + "x" * 5000, "outside": False})
    answer = decode_answer(line.encode())
    assert isinstance(answer, Troubled)
    assert answer.reason.isprintable()
    assert len(answer.reason) <= 600


def test_a_message_beyond_the_limit_is_not_written() -> None:
    """The child learns it before the parent kills it for it."""
    with pytest.raises(WireError):
        encode(Looked("j", {"x": "y" * MAX_LINE}, ()))
    with pytest.raises(WireError):
        encode(Looked("j", {"x": float("nan")}, ()))


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2", None, [2]])
def test_a_number_of_threads_is_a_number(tmp_path: Path, threads: object) -> None:
    """The libraries would take other values for all cores, or crash."""
    body = json.loads(encode(Convert(job(tmp_path), threads=3)))
    assert body["threads"] == 3
    with pytest.raises(WireError):
        decode_request(json.dumps(body | {"threads": threads}).encode())


def test_an_unreadable_request_is_an_error() -> None:
    """Not a crash with another name."""
    for line in (b"", b"[]", b"{}", b'{"is": "format"}', b'{"is": "convert", "job": {"id": "x"}}'):
        with pytest.raises(WireError):
            decode_request(line)


@pytest.mark.parametrize(
    ("step", "steps"), [(2, 1), (-1, 0), (0, 3), (1, 1001), (True, 1), (1.0, 1), ("1", 1), (None, 0)]
)
def test_a_step_is_one_of_those_that_there_are(step: object, steps: object) -> None:
    """Counted from 1, and of no more than a person would wait for."""
    line = json.dumps({"is": "entered", "id": "j1", "stage": "template", "step": step, "steps": steps})
    with pytest.raises(WireError):
        decode_answer(line.encode())
