"""Writes `status.html`: one file with all that it needs, which a browser opens from a share.

The only door to Jinja2. What the page may run and load is fixed by its first lines (`_policy`): the one script and the
one style sheet that stand in it, known by their hashes, and nothing from anywhere else. Every text that is filled in is
escaped; only `_time` and `_say` make markup, of what has been escaped.

A page of 5,000 voices is 14 MB and still has to open at once. So a voice is a few elements, and its picture stands in a
<noscript>: a browser that runs scripts takes it for one piece of text until the row is unfolded.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from functools import cache, lru_cache
from importlib import resources
from pathlib import PurePosixPath
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape

from voicekiln.folders.names import shown
from voicekiln.folders.sidecar import utc
from voicekiln.page.board import Board, DoneVoice
from voicekiln.page.facts import link
from voicekiln.page.picture import NEXT_LANE, drawing
from voicekiln.words import Words

POLICY = "img-src data:; base-uri 'none'; form-action 'none'"
"""What the page may do beside running its script and wearing its style sheet."""
PIECES = 500
"""Of so many scraps of text the template's output is put together before it is given."""

UNPITCHED = frozenset({"coqui-vits", "speaker-encoder"})
"""Families with a sample rate and without pitch: what reads a text makes its own, what hears a speaker wants none."""

UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def render(board: Board, words: Words, outbox: str = "") -> Iterator[str]:
    """Give the text of `status.html` in pieces.

    Args:
        board: what to show.
        words: in which language.
        outbox: the outbox as seen from the folder of the page, such as `../outbox`; empty if the page lies in it.
    """
    page = _environment().get_template("status.html.j2")
    stream = page.stream(
        board=board,
        words=words,
        outbox=outbox,
        style=(style := _style(words)),
        script=_script(),
        policy=f"default-src 'none'; script-src {_hash(_script())}; style-src {_hash(style)}; {POLICY}",
        lane=NEXT_LANE,
        seen=any((board.in_work, board.waiting, board.refused, board.done)),
    )
    stream.enable_buffering(PIECES)
    return stream


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("voicekiln", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.globals["say"] = _say
    environment.filters.update(size=_size, time=_time, path=_path, link=link, number=_number, rate=_rate)
    environment.filters.update(drawing=drawing, models=_models, sentence=_sentence)
    environment.tests["pitched"] = _is_pitched
    return environment


@lru_cache(maxsize=1)
def _style(words: Words) -> Markup:
    """Return the style sheet, with the axes of all pictures as one image."""
    axes = quote(_environment().get_template("axes.svg.j2").render(words=words), safe=" ='/:;,(){}")
    return Markup(f'{_ours("status.css")}.picture {{ background: url("data:image/svg+xml,{axes}"); }}\n')  # noqa: S704


@cache
def _script() -> Markup:
    return Markup(_ours("status.js"))  # noqa: S704 - ours


def _ours(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@pass_context
def _say(context: Context, english: str, **values: object) -> Markup:
    """Return a text of the page in its language. A value that is markup stays it, all others are escaped."""
    words: Words = context["words"]
    markup = {f"\ue000{name}\ue001": value for name, value in values.items() if isinstance(value, Markup)}
    stand_ins = {name: f"\ue000{name}\ue001" if isinstance(value, Markup) else value for name, value in values.items()}
    said = str(escape(words.say(english, **stand_ins)))
    for stand_in, value in markup.items():
        said = said.replace(stand_in, value)
    return Markup(said)  # noqa: S704 - escaped above


def _time(at: float, kind: str = "") -> Markup:
    """Return a time as it reads without the script, which makes it local and, by its kind, relative."""
    stamp = utc(at)
    attribute = Markup(' class="{}"').format(kind) if kind else ""
    return Markup('<time datetime="{}"{}>{} {} UTC</time>').format(stamp, attribute, stamp[:10], stamp[11:16])


def _size(count: int) -> str:
    """Return a number of bytes as people read it: `54.8 MB`."""
    value, unit = float(count), 0
    while round(value) >= 1000 and unit < len(UNITS) - 1:  # noqa: PLR2004 - the step between units
        value, unit = value / 1000, unit + 1
    digits = 1 if unit > 0 and round(value, 1) < 100 else 0  # noqa: PLR2004 - three digits are enough
    return f"{value:.{digits}f} {UNITS[unit]}"


def _rate(hertz: int) -> str:
    return f"{hertz / 1000:g} kHz"


def _is_pitched(voice: DoneVoice) -> bool:
    """Say whether it is a question if the voice is fed with f0; it is none for one without a sample rate."""
    return voice.sample_rate > 0 and voice.family not in UNPITCHED


def _number(value: float) -> str:
    return f"{value:,}"


def _path(path: str) -> str:
    return shown(PurePosixPath(path))


def _models(path: str) -> str:
    """Return the folder whose content MoeVoiceStudio wants, from the path of its ONNX file (`names.moevs_names`)."""
    return shown(PurePosixPath(path).parent.parent)


def _sentence(text: str) -> str:
    """Return a reason, which the ledger keeps as part of a sentence, as a whole one. Names stay as they are."""
    first, *_ = text.split(" ", 1)
    if re.fullmatch("[a-z]+", first) and first != "voicekiln":
        text = text[0].upper() + text[1:]
    if text.endswith((".", "。")):
        return text
    return text + ("。" if re.search("[\u4e00-\u9fff]", text) else ".")
