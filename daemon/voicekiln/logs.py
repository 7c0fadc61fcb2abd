"""How the daemon tells what it does: one event a line, its facts as keys.

JSON where a program reads along (journald), colours where a person does. Everything goes through the standard
library's root handler, so that what other packages log or warn of has the same form. File names and messages from
outside are cleaned on the way out, and a value of any type becomes text without any of its own code being run:
writing a log line is the one thing that must never fail.
"""

from __future__ import annotations

import io
import json
import logging
import math
import os
import sys
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Literal, TextIO

from voicekiln.errors import plain

sys.modules.setdefault("rich", None)  # type: ignore[arg-type]  # structlog would load it: 5 MB for tracebacks not in use
import structlog  # noqa: E402 - after the line above

if sys.modules["rich"] is None:
    del sys.modules["rich"]  # commands may load it for their bars

Format = Literal["auto", "json", "console"]

NAME = "voicekiln"
MAX_DEPTH = 4
MAX_ITEMS = 64
"""Of a list or mapping in a value; deeper and longer ones are cut."""
MAX_BITS = 256
"""Of a whole number; Python itself refuses to write very long ones."""
MAX_TRACE_LINES = 60
_FIRST = ("ts", "level", "event")


def configure(form: Format, level: str, stream: TextIO) -> None:
    """Let all logging go to `stream` from now on; calling again replaces what was set before.

    Args:
        form: `auto` is `console` if the stream is a terminal, otherwise `json`.
        level: The least that is shown, `debug` to `error`. Of other packages only warnings and worse are shown.
        stream: Where to; characters that it cannot encode are escaped.
    """
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    console = form == "console" or (form == "auto" and stream.isatty())
    least = getattr(logging, level.upper())
    structlog.configure(
        processors=[*_shared(console=console), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=lambda *_: logging.getLogger(NAME),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(console=console, colours=stream.isatty()))
    logging.basicConfig(handlers=[handler], level=max(least, logging.WARNING), force=True)
    logging.getLogger(NAME).setLevel(least)
    logging.captureWarnings(capture=True)


def logger() -> Any:  # noqa: ANN401 - whatever `configure` has set; a `supervisor.common.Log`
    """Return what the daemon logs with."""
    return structlog.get_logger()


def _formatter(*, console: bool, colours: bool) -> logging.Formatter:
    render: Any = _json
    if console:
        render = structlog.dev.ConsoleRenderer(
            colors=colours,
            timestamp_key="ts",
            exception_formatter=structlog.dev.plain_traceback,
            pad_event_to=24,
            sort_keys=False,
        )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, *_shared(console=console)],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, tame, render],
    )


def _shared(*, console: bool) -> list[Any]:
    """Return what both our own and foreign events go through first."""
    # A person at a terminal wants to see the clock on the wall.
    stamp = {"fmt": "%H:%M:%S", "utc": False} if console else {"fmt": "iso", "utc": True}
    return [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(key="ts", **stamp),  # type: ignore[arg-type]  # the two stamps
        structlog.processors.format_exc_info,
    ]


def tame(logger: object, method: str, event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the event with time, level and name first and every value made plain (a structlog processor)."""
    del logger, method
    ordered = {key: event[key] for key in (*_FIRST, *event) if key in event}
    return {plain(str(key), 100): _trace(v) if key == "exception" else _tamed(v, 0) for key, v in ordered.items()}


def _tamed(value: Any, depth: int) -> Any:  # noqa: ANN401, PLR0911 - the point is to take anything; a return per type
    """Return `value` as something that JSON can hold. Calls no methods of types that are not known here."""
    match value:
        case None | bool():
            return value
        case int():
            return int(value) if value.bit_length() <= MAX_BITS else f"<a number of {value.bit_length()} bits>"
        case float():
            return float(value) if math.isfinite(value) else repr(float(value))
        case str():
            return plain(value)
        case bytes() | PurePath():
            return plain(os.fsdecode(value))
        case BaseException():
            return _tamed([type(value).__name__, *value.args], depth)
        case dict() | list() | tuple() | set() | frozenset() if depth >= MAX_DEPTH:
            return "…"
        case dict():
            return {_word(k): _tamed(v, depth + 1) for k, v in list(value.items())[:MAX_ITEMS]}
        case list() | tuple() | set() | frozenset():
            return [_tamed(item, depth + 1) for item in list(value)[:MAX_ITEMS]]
        case _:
            return f"<{type(value).__name__}>"


def _word(key: object) -> str:
    word = _tamed(key, MAX_DEPTH)
    return word if isinstance(word, str) else str(word)


def _trace(value: object) -> str:
    """Return a traceback with its line breaks, each line cleaned, the innermost part if it is long."""
    return "\n".join(plain(line, 300) for line in str(value).splitlines()[-MAX_TRACE_LINES:])


def _json(logger: object, method: str, event: Mapping[str, Any]) -> str:
    del logger, method
    return json.dumps(event, ensure_ascii=False)
