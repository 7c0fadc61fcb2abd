"""Tables of speakers and languages beside a voice: what is understood of them, and that odd ones harm nobody."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convert.small_checkpoints import around, saved, voice, written
from convert.test_hostile_pickles import FEW, TABLE, stream
from convert.watched import harmless
from voicekiln.convert import d_vectors
from voicekiln.convert.checkpoint import Checkpoint, open_checkpoint
from voicekiln.convert.d_vectors import MAX_CLIPS, MAX_NAME, WIDTHS, Tables, read
from voicekiln.families.base import DVectors, exact
from voicekiln.families.companions import MAX_NAMES, is_table
from voicekiln.folders.beside import GENERAL, MAX_VECTORS_BYTES, OWN, most_bytes

Clips = dict[str, Any]


def clip(name: Any, *numbers: Any) -> dict[str, Any]:
    return {"name": name, "embedding": list(numbers)}


def no_pickle(path: Path) -> Any:
    pytest.fail(f"{path} was opened")


def told(path: Path, name: str, data: bytes | str) -> Tables:
    """Return what is understood of a table in JSON."""
    return read({name: written(path / "copy", data.encode() if isinstance(data, str) else data)}, no_pickle, ())


def beside(path: Path, name: str, data: bytes) -> Checkpoint:
    """Open a voice with one table beside it."""
    copy = written(path / "voice.0.beside", data)
    return open_checkpoint(written(path / "voice.pth", saved(voice())), {name: copy})


def vectors(found: Checkpoint, name: str) -> tuple[DVectors, torch.Tensor]:
    table = found.outline.beside[name]
    assert isinstance(table, DVectors)
    return table, found.tensors[table.tensor]


SPEAKERS: Clips = {
    "one.wav": clip("female-en-5\n", 16_777_216, 0.5, -1),
    "two.wav": clip("female-en-5", 0, 1, 2),
    "three.wav": clip("female-en-5\n", 1, 0.25, 0),
    "four.wav": clip("female-en-5\n", 1, 0.75, 4),
}


def tensors(shape: tuple[int, ...], dtype: torch.dtype) -> Clips:
    numbers = {key: torch.tensor(each["embedding"], dtype=dtype).reshape(shape) for key, each in SPEAKERS.items()}
    return {key: {"name": each["name"], "embedding": numbers[key]} for key, each in SPEAKERS.items()}


NESTED = {key: {**each, "embedding": [each["embedding"]]} for key, each in SPEAKERS.items()}
FORMS: dict[str, tuple[str, bytes]] = {
    "JSON": ("speakers.json", json.dumps(SPEAKERS).encode()),
    "a voice's own": ("anna.Speakers.JSON", json.dumps(SPEAKERS).encode()),
    "a list in a list": ("speakers.json", json.dumps(NESTED).encode()),
    "more beside the vector": (
        "speakers.json", json.dumps({key: each | {"path": "x"} for key, each in SPEAKERS.items()}).encode()
    ),
    "a pickle of lists": ("speakers.pth", saved(SPEAKERS)),
    "an older pickle of lists": ("Speakers.PTH", saved(NESTED, legacy=True)),
    "a pickle of tensors": ("speakers.pth", saved(tensors((3,), torch.float32))),
    "a pickle of rows": ("speakers.pth", saved(tensors((1, 3), torch.float64))),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_the_vectors_of_a_speaker_become_their_mean(tmp_path: Path, form: str) -> None:
    """Reckoned in float64, in the order in which speakers come first; an end of line tells two speakers apart."""
    name, data = FORMS[form]
    table, means = vectors(beside(tmp_path, name, data), name)
    assert (table.width, table.clips) == (3, (3, 1))
    assert [exact(speaker) for speaker in table.names] == ["female-en-5\n", "female-en-5"]
    assert table.names[0] == "female-en-5 "
    assert means.dtype == torch.float32
    assert means.tolist() == [[5_592_406.0, 0.5, 1.0], [0.0, 1.0, 2.0]]


def test_half_precision_is_read_as_it_is(tmp_path: Path) -> None:
    """A number takes two bytes there, no fewer than in text."""
    clips = {"a": {"name": "a", "embedding": torch.arange(2000).half()}}
    assert torch.equal(
        vectors(beside(tmp_path, "speakers.pth", saved(clips)), "speakers.pth")[1][0], torch.arange(2000.0)
    )


def test_vectors_are_with_the_tensors_and_not_in_the_outline(tmp_path: Path) -> None:
    """Rules read them like any other, and no family takes them for the voice's."""
    found = beside(tmp_path, "speakers.json", json.dumps(SPEAKERS).encode())
    assert found.tensors.keys() - found.outline.tensors.keys() == {vectors(found, "speakers.json")[0].tensor}


def test_two_tables_are_two_tensors(tmp_path: Path) -> None:
    """A voice may have one of its own beside everybody's."""
    other = written(tmp_path / "other", json.dumps({"x": clip("x", 7, 8)}).encode())
    own = written(tmp_path / "own", json.dumps(SPEAKERS).encode())
    path = written(tmp_path / "v.pth", saved(voice()))
    found = open_checkpoint(path, {"speakers.json": other, "v.speakers.json": own})
    assert [len(vectors(found, name)[1]) for name in ("speakers.json", "v.speakers.json")] == [1, 2]


def test_a_tensor_that_has_their_name_already_keeps_it(tmp_path: Path) -> None:
    """Nobody's weights are taken from a file beside."""
    taken = "beside/speakers.json"
    path = written(tmp_path / "v.pth", saved({"weight": {taken: torch.ones(2), f"{taken}'": torch.ones(2)}}))
    found = open_checkpoint(path, {"speakers.json": written(tmp_path / "copy", json.dumps(SPEAKERS).encode())})
    assert found.tensors[taken].tolist() == [1, 1]
    assert vectors(found, "speakers.json")[1].shape == (2, 3)
    assert found.outline.tensors[taken].shape == (2,)


IDS = {"en": 0, "fr-fr": 1, "female-en-5\n": 2, "female-en-5": 3}


@pytest.mark.parametrize("name", ["language_ids.json", "speakers.json", "x.speaker_ids.json", "speaker_ids.pth"])
def test_numbers_are_a_plain_table(tmp_path: Path, name: str) -> None:
    """By names as they are in the file."""
    data = saved(IDS) if name.endswith("pth") else json.dumps(IDS).encode()
    found = beside(tmp_path, name, data)
    assert {exact(key): number for key, number in found.outline.beside[name].items()} == IDS
    assert found.tensors.keys() == found.outline.tensors.keys()


def test_a_table_of_nothing_names_nobody(tmp_path: Path) -> None:
    """It can be read; who needs a name misses it."""
    assert told(tmp_path, "speakers.json", "{}").values == {"speakers.json": {}}


GOOD = clip("a", 1, 2)
ODD: dict[str, Any] = {
    "a list": [GOOD],
    "a number": 3,
    "nothing": None,
    "half vectors, half numbers": {"a": GOOD, "b": 1},
    "a number that is none": {"a": 0.5},
    "a truth": {"a": True},
    "a negative number": {"a": -1},
    "a text": {"a": "0"},
    "names that look alike": {"a b": 0, "a\tb": 1},
    "too many names": {str(number): number for number in range(20_001)},
    "no name": {"a": {"embedding": [1, 2]}},
    "no vector": {"a": {"name": "a"}},
    "a name that is a number": {"a": clip(1, 1, 2)},
    "a name that is a list": {"a": clip(["a"], 1, 2)},
    "too long a name": {"a": clip("a" * (MAX_NAME + 1), 1, 2)},
    "too narrow": {"a": clip("a", 1)},
    "too wide": {"a": clip("a", *[1] * (WIDTHS[-1] + 1))},
    "of no width": {"a": clip("a")},
    "of two widths": {"a": GOOD, "b": clip("b", 1, 2, 3)},
    "of two widths for one": {"a": GOOD, "b": clip("a", 1, 2, 3)},
    "a truth for a number": {"a": {"name": "a", "embedding": [1, True]}},
    "a text for a number": {"a": clip("a", 1, "2")},
    "nothing for a number": {"a": clip("a", 1, None)},
    "a list for a number": {"a": clip("a", 1, [2])},
    "two lists in a list": {"a": clip("a", [1, 2], [3, 4])},
    "a list in a list in a list": {"a": clip("a", [[1, 2]])},
    "a text for a vector": {"a": {"name": "a", "embedding": "12"}},
    "a table for a vector": {"a": {"name": "a", "embedding": {"0": 1, "1": 2}}},
    "beyond float32": {"a": clip("a", 1, 1e39)},
    "beyond float64": {"a": clip("a", 1, 10**400)},
    "beyond float64 together": {"a": clip("a", 1, 1.7e308), "b": clip("a", 1, 1.7e308)},
    "too many speakers": {str(number): clip(str(number), 1, 2) for number in range(MAX_NAMES + 1)},
}  # fmt: skip


@pytest.mark.parametrize("what", ODD)
def test_an_odd_table_cannot_be_read(tmp_path: Path, what: str) -> None:
    """It is known to be there, and says nothing, in both forms."""
    assert told(tmp_path, "speakers.json", json.dumps(ODD[what])) == Tables({"speakers.json": None})
    if what != "beyond float64":
        assert beside(tmp_path, "speakers.pth", saved(ODD[what])).outline.beside == {"speakers.pth": None}


BAD_JSON: dict[str, bytes | str] = {
    "a key twice": '{"a": {"name": "a", "name": "b", "embedding": [1, 2]}}',
    "a clip twice": '{"a": 1, "a": 1}',
    "no number": '{"a": {"name": "a", "embedding": [1, NaN]}}',
    "infinity": '{"a": {"name": "a", "embedding": [1, 1e999]}}',
    "half of it": '{"a": {"name": "a", "embedding": [1,',
    "so deep that readers fall over": "[" * 100_000,
    "bytes": bytes(range(256)),
    "nothing": "",
}


@pytest.mark.parametrize("what", BAD_JSON)
def test_odd_json_cannot_be_read(tmp_path: Path, what: str) -> None:
    """As of all companions."""
    assert told(tmp_path, "speakers.json", BAD_JSON[what]).values == {"speakers.json": None}


ODD_TENSORS: dict[str, Any] = {
    "not a number": torch.tensor([1.0, float("nan")]),
    "infinite": torch.tensor([1.0, float("inf")]),
    "whole numbers": torch.tensor([1, 2]),
    "truths": torch.tensor([True, False]),
    "a single number": torch.tensor(1.0),
    "two rows": torch.ones(2, 2),
    "a column": torch.ones(2, 1),
    "too wide": torch.ones(WIDTHS[-1] + 1),
    "sparse": torch.ones(2).to_sparse(),
    "more than the file holds": torch.ones(1).expand(4096),
    "an array of NumPy": np.ones(2, np.float32),
}


@pytest.mark.parametrize("what", ODD_TENSORS)
def test_an_odd_tensor_cannot_be_read(tmp_path: Path, what: str) -> None:
    """And it is no fault of the voice's, whose own numbers are sound."""
    data = saved({"a": {"name": "a", "embedding": ODD_TENSORS[what]}})
    found = beside(tmp_path, "speakers.pth", data)
    assert found.outline.beside == {"speakers.pth": None}
    assert found.tensors.keys() == found.outline.tensors.keys()


def test_the_bounds_are_where_they_are_said_to_be(tmp_path: Path) -> None:
    """What is just within them is read."""
    many = {str(number): clip(f"{number:0{MAX_NAME}}", *[1] * WIDTHS[0]) for number in range(MAX_NAMES)}
    for clips in (many, {"a": clip("a", *[1.5] * WIDTHS[-1])}):
        tables = told(tmp_path, "speakers.json", json.dumps(clips))
        assert [len(rows) for rows in tables.tensors.values()] == [len(clips)]


@pytest.mark.parametrize("name", ["speakers.json", "speakers.pth"])
def test_there_is_an_end_to_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """In both forms, even of one speaker."""
    monkeypatch.setattr(d_vectors, "MAX_CLIPS", 20)
    for count, fits in ((20, True), (21, False)):
        clips = {str(number): GOOD for number in range(count)}
        data = saved(clips) if name.endswith("pth") else json.dumps(clips).encode()
        assert isinstance(beside(tmp_path, name, data).outline.beside[name], DVectors) == fits


@pytest.mark.parametrize("text", ['"a":1,', "{},", "[],"])
def test_what_would_be_gigabytes_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Of 64 MiB of small things Python makes two gigabytes: they are counted before."""
    monkeypatch.setattr(d_vectors, "json_in", lambda _: pytest.fail("it was read"))
    data = f"[{text * (8 * MAX_CLIPS + 1)}1]"
    assert len(data) < MAX_VECTORS_BYTES
    assert told(tmp_path, "speakers.json", data).values == {"speakers.json": None}


def test_one_list_in_many_places_is_too_much(tmp_path: Path) -> None:
    """In a pickle, a few bytes can stand for a wide vector: that would be hours of work."""
    shared = [0.5] * WIDTHS[-1]
    clips = {str(number): {"name": "a", "embedding": shared} for number in range(100)}
    data = saved(clips)
    assert len(data) < 100_000
    assert beside(tmp_path, "speakers.pth", data).outline.beside == {"speakers.pth": None}


def test_what_nobody_could_copy_cannot_be_read() -> None:
    """It was too large, or closed to us."""
    assert read({"speakers.pth": None, "a\n.speakers.json": None}, no_pickle, ()).values == {
        "speakers.pth": None,
        "a .speakers.json": None,
    }


def test_our_own_sidecar_is_no_table(tmp_path: Path) -> None:
    """That of a voice called `speakers.pt`, which a command has laid beside it."""
    ours = json.dumps({"schema": 2, "made_by": {"name": "voicekiln"}})
    assert told(tmp_path, "speakers.json", ours).values == {}


@pytest.mark.parametrize("name", ["speakers.json", "speakers.pth"])
def test_a_disk_that_fails_is_no_answer_about_the_file(tmp_path: Path, name: str) -> None:
    """The voice is tried again; it is not converted as if the table could not be read."""
    path = written(tmp_path / "v.pth", saved(voice()))
    with pytest.raises(FileNotFoundError):
        open_checkpoint(path, {name: tmp_path / "gone"})


@given(st.binary(max_size=200))
def test_no_bytes_do_harm(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Whatever they are, in both forms."""
    folder = tmp_path_factory.getbasetemp()
    assert beside(folder, "speakers.pth", data).outline.beside["speakers.pth"] is None
    told(folder, "speakers.json", data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "embedding", "a"]), inner),
    max_leaves=12,
)


@given(JSON)
def test_no_table_does_harm(tmp_path_factory: pytest.TempPathFactory, said: Any) -> None:
    """What is understood of it is of the right kind."""
    [found] = told(tmp_path_factory.getbasetemp(), "speakers.json", json.dumps(said)).values.values()
    assert found is None or isinstance(found, DVectors) or all(type(number) is int for number in found.values())


@pytest.mark.parametrize("frame", [lambda opcodes: around(opcodes, s0=FEW), stream, bytes], ids=["zip", "old", "bare"])
@pytest.mark.parametrize("name", TABLE)
@pytest.mark.requirement(20)
def test_a_hostile_pickle_beside_a_voice_is_not_read_and_nothing_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, frame: Callable[[bytes], bytes]
) -> None:
    """It goes through the same door as a voice, and the voice through it as well."""
    monkeypatch.chdir(tmp_path)
    path, copy = written(tmp_path / "v.pth", saved(voice())), written(tmp_path / "copy", frame(TABLE[name][0]))
    open_checkpoint(path)  # whatever is imported late is imported now
    with harmless(seconds=30, extra_bytes=2**29):
        found = open_checkpoint(path, {"speakers.pth": copy})
    assert not found.outline.beside["speakers.pth"]
    assert found.tensors.keys() == found.outline.tensors.keys()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["copy", "v.pth"]


def test_what_is_copied_as_a_table_is_read_as_one() -> None:
    """The folders and the worker know the same files by the same names."""
    names = [*GENERAL, *(f"zoe{ending}" for ending in OWN)]
    tables = {name for name in names if is_table(name)}
    assert tables == {
        *("speakers.json", "speaker_ids.json", "language_ids.json", "speakers.pth", "speaker_ids.pth"),
        *("language_ids.pth", "zoe.speakers.json", "zoe.speaker_ids.json", "zoe.language_ids.json"),
    }
    assert {name for name in names if most_bytes(name) == MAX_VECTORS_BYTES} <= tables
