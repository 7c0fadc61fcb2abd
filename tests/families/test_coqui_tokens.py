"""Token maps: what the original's tokenizer gives, and none rather than a wrong one."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference_voices
from families.spoiling import values
from voicekiln.convert.data import plain_data
from voicekiln.errors import Contradiction
from voicekiln.families.base import exact
from voicekiln.families.companions import Table
from voicekiln.families.coqui_tokens import RULES, Vocabulary, listed_vocabulary, vocabulary

VITS = "TTS.tts.models.vits.VitsCharacters"
GRAPHEMES = "TTS.tts.utils.text.characters.Graphemes"
PHONEMES = "TTS.tts.utils.text.characters.IPAPhonemes"
TEXTS = ("hello, you.", "ça va? não, obrigado!")
"""What the reference's tokens say, as its cleaner leaves it."""


def table(raw: Mapping[str, Any]) -> Table:
    """Return a config as a family sees it."""
    return Table("own.json", plain_data(dict(raw)))


def found(rows: int, **characters: Any) -> Vocabulary | None:
    """Return what is read of a config with such characters."""
    return vocabulary(table({"characters": characters}), rows)


def read(rows: int, **characters: Any) -> Vocabulary:
    """Return the same where something has to be found."""
    symbols = found(rows, **characters)
    assert symbols is not None
    return symbols


def test_yourtts_reads_as_the_original_does() -> None:
    """Both texts become the reference's tokens; the comma is there twice, and its last number counts."""
    characters = reference_voices.spec("coqui-yourtts")["rest"]["config"]["characters"]
    symbols = read(165, **characters)
    assert (symbols.tokens[","], symbols.blank, symbols.pad) == (157, 164, 0)
    assert max(symbols.tokens.values()) == 164
    for text, run in zip(TEXTS, reference_voices.arrays("coqui-yourtts"), strict=True):
        assert [symbols.tokens[letter] for letter in text] == run["tokens"][0, 1::2].tolist()
        assert set(run["tokens"][0, ::2]) == {symbols.blank}


letters = st.text(max_size=30)


@given(letters, letters, letters)
def test_the_last_of_several_counts(punctuations: str, characters: str, phonemes: str) -> None:
    """The numbers are places in one long text: pad, punctuation, letters, phonemes, and the blank at its end."""
    said = {"pad": "_", "punctuations": punctuations, "characters": characters, "phonemes": phonemes}
    whole = "_" + punctuations + characters + phonemes
    symbols = read(len(whole) + 1, characters_class=VITS, **said)
    assert {symbol: whole.rindex(symbol) for symbol in whole} | {"<BLNK>": len(whole)} == symbols.tokens
    assert (symbols.pad, symbols.blank, symbols.bos, symbols.eos) == (whole.rindex("_"), len(whole), None, None)


@given(st.text("abcdef", max_size=8), st.text(".,!", max_size=3, min_size=1), st.booleans(), st.booleans())
def test_the_other_rules_put_purposes_first(characters: str, punctuations: str, unique: bool, blank: bool) -> None:  # noqa: FBT001 - drawn
    """Pad, end, beginning, blank if there is one; then letters in their order, then punctuation."""
    first = [*"_&*", *(["<B>"] if blank else [])]
    inner = sorted(set(characters)) if unique else sorted(characters)
    whole = [*first, *inner, *punctuations]
    said = {"pad": "_", "eos": "&", "bos": "*", "blank": "<B>" if blank else None, "punctuations": punctuations}
    rules = {
        GRAPHEMES: {"characters": characters, "phonemes": "xyz"},
        PHONEMES: {"characters": "x" * 9, "phonemes": characters},
    }
    for name, letters in rules.items():
        symbols = read(len(whole), characters_class=name, is_unique=unique, is_sorted=True, **said, **letters)
        assert list(symbols.tokens.items()) == list(dict(zip(whole, range(len(whole)), strict=True)).items())
        assert (symbols.pad, symbols.eos, symbols.bos, symbols.blank) == (0, 1, 2, 3 if blank else None)


def test_letters_may_stand_as_they_are() -> None:
    """Unsorted; what a set would shuffle is not guessed, unless there is nothing to shuffle."""
    base = {"characters_class": GRAPHEMES, "pad": "_", "punctuations": "", "is_sorted": False}
    assert read(4, characters="cab", is_unique=False, **base).tokens == {"_": 0, "c": 1, "a": 2, "b": 3}
    assert found(4, characters="cab", is_unique=True, **base) is None
    assert read(2, characters="aa", is_unique=True, **base).tokens == {"_": 0, "a": 1}


def test_older_configs_say_unique_otherwise() -> None:
    """And some say nothing: then the number of rows tells."""
    base = {"characters_class": GRAPHEMES, "pad": "_", "punctuations": "", "characters": "baa"}
    assert read(3, unique=True, **base).tokens == {"_": 0, "a": 1, "b": 2}
    for rows, last in ((3, 2), (4, 3)):
        assert read(rows, **base).tokens["b"] == last
    with pytest.raises(Contradiction):
        found(4, unique=True, **base)


INVISIBLE = "\N{NO-BREAK SPACE}\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}\N{SOFT HYPHEN}\n\t"


def test_symbols_are_exact() -> None:
    """What nobody can read has its number, too: two joiners are not one, though both are shown alike."""
    symbols = read(3 + len(INVISIBLE), characters_class=VITS, pad="_", characters="a" + INVISIBLE, punctuations="")
    assert [symbols.tokens[letter] for letter in INVISIBLE] == list(range(2, 2 + len(INVISIBLE)))
    listed = listed_vocabulary(table({"symbols": ["_", *INVISIBLE]}), 1 + len(INVISIBLE))
    assert listed is not None
    assert [listed.tokens[letter] for letter in INVISIBLE] == list(range(1, 1 + len(INVISIBLE)))


@pytest.mark.parametrize("kind", [VITS, GRAPHEMES, PHONEMES])
def test_a_rule_that_is_named_has_to_fit(kind: str) -> None:
    """It is a contradiction with both numbers if it makes more or fewer symbols than there are rows."""
    said = {
        "characters_class": kind,
        "pad": "_",
        "characters": "abc",
        "phonemes": "abc",
        "punctuations": ".",
        "is_unique": True,
        "is_sorted": True,
    }
    right = 9 if kind == VITS else 5
    assert read(right, **said)
    for rows in (right - 1, right + 1):
        with pytest.raises(Contradiction, match=f"has symbols {right}, the weights have {rows}"):
            found(rows, **said)


def test_where_no_rule_is_named_the_only_one_that_fits_is_taken() -> None:
    """None if none fits, or two that differ."""
    said: dict[str, Any] = {"pad": "_", "eos": "&", "characters": "abc", "phonemes": "wxyz", "punctuations": "."}
    assert read(6, **said).tokens == {"_": 0, "&": 1, "a": 2, "b": 3, "c": 4, ".": 5}
    assert read(7, **said).tokens["w"] == 2
    assert read(10, **said).blank == 9
    assert found(8, **said) is None
    assert found(6, **said | {"phonemes": "xyz"}) is None
    assert read(6, **said | {"phonemes": "abc"}).tokens["a"] == 2


@pytest.mark.parametrize(
    "raw", [{}, {"characters": None}, {"characters": "abc"}, {"characters": {"characters_class": "mine.Own"}}]
)
def test_what_is_not_known_is_not_guessed(raw: dict[str, Any]) -> None:
    """No characters at all, or a class of somebody's own."""
    assert vocabulary(table(raw), 5) is None


def test_a_vocabulary_that_is_given_is_taken() -> None:
    """As a list or as a table, whatever the characters say."""
    said = {"characters_class": "own.Vocabulary", "characters": "abc", "pad": "<p>", "blank": "<b>", "bos": "a"}
    for given_ in (["<p>", "a", "a", "<b>"], {"<b>": 3, "a": 2, "<p>": 0, "A": 1}):
        symbols = read(4, vocab_dict=given_, **said)
        assert (symbols.tokens["a"], symbols.pad, symbols.blank, symbols.bos, symbols.eos) == (2, 0, 3, 2, None)
    for wrong in (
        {"a": 0, "b": 2},
        {"a": 0, "b": True},
        {"a": 0, "b": "1"},
        ["a", 1],
        {"a": -1, "b": 0},
        {"a": 0},
        "ab",
        7,
    ):
        with pytest.raises(Contradiction):
            found(2, vocab_dict=wrong, **said)


def test_an_empty_symbol_is_none() -> None:
    """It has a number and stands in no text."""
    for given_ in (["_", "a", ""], {"_": 0, "a": 1, "": 2}):
        assert read(3, vocab_dict=given_, pad="_").tokens == {"_": 0, "a": 1}


def test_symbols_that_are_shown_alike_are_not_mixed_up() -> None:
    """Two names that a table cannot hold apart once they are cleaned make it too short, and no wrong map."""
    with pytest.raises(Contradiction, match="symbols 2, the weights have 3"):
        found(3, vocab_dict={"a": 0, "\N{ZERO WIDTH JOINER}": 1, "\N{ZERO WIDTH NON-JOINER}": 2})


def test_the_original_lists_its_symbols() -> None:
    """The first is pad and blank; a list of another length is another voice's."""
    symbols = listed_vocabulary(table({"symbols": ["_", ",", "a", ","]}), 4)
    assert symbols == Vocabulary({"_": 0, ",": 3, "a": 2}, pad=0, blank=0)
    assert listed_vocabulary(table({}), 4) is None
    with pytest.raises(Contradiction, match="has symbols 4, the weights have 5"):
        listed_vocabulary(table({"symbols": ["_", ",", "a", ","]}), 5)
    with pytest.raises(Contradiction, match="which cannot be"):
        listed_vocabulary(table({"symbols": ["_", 1]}), 2)


KEYS = (
    "characters_class",
    "vocab_dict",
    "pad",
    "blank",
    "bos",
    "characters",
    "punctuations",
    "phonemes",
    "is_unique",
    "is_sorted",
)


@given(
    st.dictionaries(st.sampled_from(KEYS), st.one_of(values, st.sampled_from([*RULES, "ab", ""]))), st.integers(1, 12)
)
def test_whatever_is_written_no_number_lies_beyond_the_rows(characters: dict[str, Any], rows: int) -> None:
    """It ends in a map of exact texts, in none, or in a refusal."""
    with suppress(Contradiction):
        symbols = vocabulary(Table("own.json", {"characters": characters}), rows)
        if symbols is not None:
            numbers = [*symbols.tokens.values(), symbols.pad, symbols.blank, symbols.bos, symbols.eos]
            assert all(number is None or 0 <= number < rows for number in numbers)
            assert all(exact(symbol) is symbol for symbol in symbols.tokens)
