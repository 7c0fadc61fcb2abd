"""Log lines: JSON for programs, colours for people, and never an exception."""

import enum
import io
import json
import logging
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from voicekiln import logs


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Spiteful:
    """A value whose every way to become text raises."""

    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __repr__


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Put back what `configure` changes for the whole process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    logging.captureWarnings(capture=False)
    logging.getLogger(logs.NAME).setLevel(logging.NOTSET)
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def fail(message: str) -> None:
    raise ValueError(message)


def to_json(level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    logs.configure("auto", level, stream)
    return stream


def test_an_event_is_one_json_line_with_time_level_and_event_first() -> None:
    """What journald and programs get, where the stream is no terminal; times in UTC."""
    stream = to_json()
    structlog.get_logger().info("job.finished", file="a.pth", snr_db=101.5, seconds={"load": 1.5}, notes=["x"], ok=None)
    [line] = lines(stream)
    assert list(line) == ["ts", "level", "event", "file", "snr_db", "seconds", "notes", "ok"]
    assert (line["level"], line["event"], line["snr_db"]) == ("info", "job.finished", 101.5)
    assert (line["seconds"], line["notes"], line["ok"]) == ({"load": 1.5}, ["x"], None)
    assert line["ts"].endswith("Z")
    assert abs(datetime.fromisoformat(line["ts"]) - datetime.now(UTC)) < timedelta(minutes=1)


def test_a_terminal_gets_colours() -> None:
    """`auto` shows a person at a terminal coloured lines."""
    stream = Terminal()
    logs.configure("auto", "info", stream)
    structlog.get_logger().info("job.finished", file="a.pth")
    assert "\x1b[" in stream.getvalue()
    assert "job.finished" in stream.getvalue()


def test_console_without_a_terminal_has_no_colours() -> None:
    """Asked for by name and sent to a file, the lines stay readable."""
    stream = io.StringIO()
    logs.configure("console", "info", stream)
    structlog.get_logger().warning("file.kept", reason="somebody changed it")
    assert "\x1b" not in stream.getvalue()
    assert "file.kept" in stream.getvalue()


def test_a_terminal_can_be_asked_for_json() -> None:
    """The setting wins over the stream."""
    stream = Terminal()
    logs.configure("json", "info", stream)
    structlog.get_logger().info("file.seen")
    assert lines(stream)[0]["event"] == "file.seen"


@pytest.mark.parametrize("form", ["json", "console"])
def test_names_of_files_cannot_steer_the_terminal_or_forge_a_line(form: logs.Format) -> None:
    """Control and direction characters and undecodable bytes are replaced, in values, lists and keys."""
    stream = io.StringIO()
    logs.configure(form, "info", stream)
    name = "a\x1b[31m\nevil\u202e\udcff.pth"
    structlog.get_logger().info(
        "file.seen", file=Path(name), names=[name], by={name: 1}, raw=name.encode("utf-8", "replace")
    )
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert not any(c in text for c in "\x1b\u202e\udcff")


def test_the_level_holds_and_other_packages_are_heard_from_warnings_on() -> None:
    """Our own chatter is shown from the configured level on, that of others only if it matters."""
    stream = to_json("info")
    structlog.get_logger().debug("too.much")
    logging.getLogger("watchdog.observers").info("chatter")
    logging.getLogger("watchdog.observers").warning("overflow of %s", "queue")
    [line] = lines(stream)
    assert (line["level"], line["event"], line["logger"]) == ("warning", "overflow of queue", "watchdog.observers")


def test_warnings_of_python_become_lines() -> None:
    """A deprecation shows up as an event and not as loose text."""
    stream = to_json()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("old thing", stacklevel=1)
    assert "old thing" in lines(stream)[0]["event"]


def test_an_exception_is_kept_with_its_lines() -> None:
    """A traceback stays readable: one field, its line breaks in it, its values cleaned."""
    stream = to_json()
    try:
        fail("bad \x1b[31m name")
    except ValueError:
        structlog.get_logger().exception("worker.lost")
    [line] = lines(stream)
    assert line["exception"].startswith("Traceback (most recent call last):\n")
    assert "ValueError: bad" in line["exception"]
    assert "\x1b" not in line["exception"]


def test_configuring_again_replaces_the_stream() -> None:
    """After a reload each event is written once."""
    first, second = to_json(), to_json()
    structlog.get_logger().info("config.reloaded")
    assert first.getvalue() == ""
    assert len(lines(second)) == 1


def test_a_stream_that_knows_ascii_only_gets_escapes() -> None:
    """A service in the C locale can still name the file."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    logs.configure("json", "info", stream)
    structlog.get_logger().info("file.seen", file="é.pth")
    stream.flush()
    assert b"\\xe9.pth" in raw.getvalue()


def endless() -> list[Any]:
    ring: list[Any] = []
    ring.append(ring)
    return ring


class Colour(enum.Enum):
    """Any enumeration."""

    RED = 1


ODD = [
    *(Spiteful(), endless(), {Spiteful(): Spiteful()}, {1: {2: {3: {4: {5: 6}}}}}, object, lambda: 1, Colour.RED),
    *(float("nan"), float("-inf"), 10**10_000, b"\xff\x00", "\ud800", range(3), {frozenset({1})}, iter([1])),
    *(ValueError(Spiteful()), RecursionError(), KeyError("\x1b"), list(range(10**5)), "x" * 10**6, 1j, ...),
]


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("value", ODD, ids=[f"{number}-{type(value).__name__}" for number, value in enumerate(ODD)])
def test_no_value_is_too_odd_to_be_logged(form: logs.Format, value: object, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever it is, there is one line of bearable length and nothing on the error stream."""
    stream = io.StringIO()
    logs.configure(form, "info", stream)
    structlog.get_logger().info("thing.seen", value=value)
    assert stream.getvalue().count("\n") == 1
    assert len(stream.getvalue()) < 20_000
    assert capsys.readouterr().err == ""


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.builds(Spiteful),
    lambda inner: st.lists(inner) | st.dictionaries(st.integers() | st.text() | st.binary(), inner),
    max_leaves=20,
)


@given(ANYTHING)
def test_tamed_values_are_json(value: object) -> None:
    """Strict JSON comes of any value: no NaN, no surrogates, no unknown types."""
    text = json.dumps(logs.tame(None, "", {"event": "x", "value": value}), allow_nan=False, ensure_ascii=False)
    assert text.encode().isascii() or text.isprintable()
