"""What people read, in their language: refusals, why a voice waits, the page in the outbox. One catalogue.

The English text with its {gaps} is the key, so the code stays readable, and what has no translation comes out in
English. Texts that were filled before they get here - reasons in the ledger, what a refusal found - are recognised by
their English template and filled anew. What fills a gap comes from a file as a rule and stays as it is; only a gap that
is called as a section of the catalogue's phrases holds words of ours, and is looked up in that section alone. Nothing
that fills a gap is ever taken for a template itself.

A catalogue is one JSON file, read when its language is first asked for. The terms that it keeps to are in its test.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from string import Formatter
from typing import Any, Literal

from voicekiln.errors import Refusal

Language = Literal["en", "zh"]

VARIABLES = ("LC_ALL", "LC_MESSAGES", "LANG")
"""The first of them that is set says in which language the system speaks."""

LISTED = "; "
"""Between several phrases in one text."""

MAX_NESTED = 8
"""Phrases within phrases; ours are four at most."""

_CHINESE = re.compile(r"zh(?![a-z])")
_SEAM = re.compile(r"[\u4e00-\u9fff][A-Za-z0-9]|[A-Za-z0-9][\u4e00-\u9fff]")


def chosen(setting: Literal["auto", "en", "zh"], environ: Mapping[str, str]) -> Language:
    """Return the language that the configuration asks for, with `auto` the one of the system.

    Every Chinese locale means Simplified Chinese: to readers of the traditional script it is nearer than English.
    """
    if setting != "auto":
        return setting
    system = next((value for name in VARIABLES if (value := environ.get(name))), "")
    return "zh" if _CHINESE.match(system.lower()) else "en"


@lru_cache(maxsize=1)
def of(language: Language) -> Words:
    """Return the words of a language."""
    if language == "en":
        return Words("en", {}, {})
    catalogue = json.loads(Path(__file__).with_name(f"{language}.json").read_text(encoding="utf-8"))
    texts, phrases = catalogue["refusals"] | catalogue["page"], catalogue["phrases"]
    system = {os.strerror(getattr(errno, name)): text for name, text in catalogue["system"].items()}
    # The ledger keeps all of these as reasons: what is wrong with a file that may still change, a name that is taken.
    phrases["reason"] |= phrases["what"] | catalogue["refusals"] | system
    return Words(language, texts, phrases)


class Words:
    """The texts of one language, from English."""

    def __init__(self, language: Language, texts: Mapping[str, str], phrases: Mapping[str, Mapping[str, str]]) -> None:
        """Take `texts`, which are asked for by their template, and `phrases` by section, which come filled."""
        self.language = language
        self._texts = texts
        self._phrases = phrases
        self._forms = {
            section: sorted((_Form(english) for english in known if "{" in english), key=lambda form: -form.weight)
            for section, known in phrases.items()
        }

    def say(self, english: str, **values: Any) -> str:  # noqa: ANN401 - whatever can be written into a text
        """Return the text with its gaps filled."""
        return self._texts.get(english, english).format(**values)

    def refusal(self, refusal: Refusal) -> tuple[str, str]:
        """Return what is wrong, and what to do."""
        texts = [self._texts.get(text, text) for text in (refusal.message, refusal.hint)]
        message, hint = (self._filled(text, refusal.found) for text in texts)
        return message, hint

    def reason(self, english: str) -> str:
        """Return a text that was filled in English: why a voice waits, a trouble, a note. An unknown one stays it."""
        return self._recognised("reason", english) or english

    def _recognised(self, section: str, english: str, depth: int = 0) -> str | None:
        known = self._phrases.get(section, {})
        if (exactly := known.get(english)) is not None:
            return exactly
        if LISTED in english and LISTED in known:
            return known[LISTED].join(self._recognised(section, part, depth) or part for part in english.split(LISTED))
        for form in self._forms.get(section, ()):
            if (found := form.read(english)) is not None:
                return self._filled(known[form.english], found, depth + 1)
        return None

    def _filled(self, text: str, found: Mapping[str, Any], depth: int = 0) -> str:
        ours = {
            gap: _apart(text, gap, self._recognised(gap, value, depth) or value)
            for gap, value in found.items()
            if gap in self._phrases and isinstance(value, str) and depth < MAX_NESTED
        }
        return text.format(**{**found, **ours})


def _apart(text: str, gap: str, value: str) -> str:
    """Return what fills a gap, with a space where Chinese and Latin letters would touch; others' words have theirs."""
    before, _, after = text.partition(f"{{{gap}}}")
    left, right = (" " if _SEAM.fullmatch(seam) else "" for seam in (before[-1:] + value[:1], value[-1:] + after[:1]))
    return f"{left}{value}{right}"


class _Form:
    """A template, to recognise a text that was made of it."""

    def __init__(self, english: str) -> None:
        self.english = english
        pieces = list(Formatter().parse(english))
        self.weight = sum(len(literal) for literal, *_ in pieces)
        """The more words a template has of its own, the less it is mistaken for another."""
        self._head = pieces[0][0]
        pattern = "".join(re.escape(literal) + (f"(?P<{name}>.+?)" if name else "") for literal, name, *_ in pieces)
        self._pattern = re.compile(pattern)

    def read(self, text: str) -> dict[str, str] | None:
        """Return what fills the gaps in `text`; None if it was not made of this template."""
        match = self._pattern.fullmatch(text) if text.startswith(self._head) else None
        return None if match is None else match.groupdict()
