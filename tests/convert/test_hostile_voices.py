"""Voices of the real layout, spoilt byte by byte and part by part: each is converted or refused with a code.

Never another exception (the worker would call it trouble and be tried again in vain), never a program or a file
outside the staging folder, never more time or memory than the file deserves. By hand for longer:
`VOICEKILN_FUZZ=50 pytest tests/convert/test_hostile_voices.py` runs so many times the examples, new ones each time.
"""

from __future__ import annotations

import os
import pickletools
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convert.small_checkpoints import archive, members, number, saved, written
from convert.watched import harmless
from tiny_voices import tiny, tiny_training
from voicekiln import families
from voicekiln.convert.cache import Cache
from voicekiln.convert.checkpoint import open_checkpoint
from voicekiln.convert.pipeline import Pipeline
from voicekiln.errors import Refusal
from voicekiln.job import Conversion, Recipe

pytestmark = pytest.mark.requirement(20)

VOICES = (tiny(), tiny("v1", f0=False, sr=48_000), tiny_training())
ZIPS = [saved(voice) for voice in VOICES]
STREAMS = [saved(voice, legacy=True) for voice in VOICES]
PARTS = [members(data) for data in ZIPS]
TABLE = next(name for name in PARTS[0] if name.endswith("/data.pkl"))

LONGER = int(os.environ.get("VOICEKILN_FUZZ", "1"))


def fuzz(examples: int) -> settings:
    """Return the settings for so many examples; the same ones in every run unless a longer one is asked for."""
    return settings(
        max_examples=examples * LONGER,
        deadline=None,
        derandomize=LONGER == 1,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module", autouse=True)
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pipeline, Path]:
    """Return a pipeline that has converted each of the voices, and the folder of its templates."""
    templates = tmp_path_factory.mktemp("templates")
    pipeline = Pipeline(Cache(templates))
    folder = tmp_path_factory.mktemp("sound")
    for data in ZIPS:  # whatever is imported late is imported now
        pipeline.convert(written(folder / "voice.pth", data), "5f" * 32, Recipe("r"), folder, lambda _: None)
    return pipeline, templates


def converted(pipeline: Pipeline, templates: Path, folder: Path, data: bytes) -> Conversion | Refusal:
    """Convert the file with these bytes as the worker does; whatever is neither answer fails the test."""
    source = written(folder / "voice.pth", data)
    staging = folder / "staging"
    staging.mkdir(exist_ok=True)
    before = {path for path in folder.iterdir() if path != staging}
    try:
        with harmless(staging, templates, extra_bytes=3 * 2**30):
            made = pipeline.convert(source, "5f" * 32, Recipe("r", verify="quick"), staging, lambda _: None)
    except Refusal as refusal:
        return refusal
    finally:
        for path in staging.iterdir():
            path.unlink()
        assert {path for path in folder.iterdir() if path != staging} == before
        assert source.read_bytes() == data
    return made


def looked_at(path: Path, data: bytes) -> None:
    """Open the file and let the families see it: all that a stranger's bytes reach before there is a network."""
    written(path, data)
    with harmless():
        try:
            checkpoint = open_checkpoint(path)
            family, claim = families.choose(checkpoint.outline)
            family.build(claim, checkpoint.outline)
        except Refusal:
            return


edits = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=4), st.integers(0, 5)), min_size=1, max_size=4
)
"""Where (as a share of all), what is put there, how many bytes that replaces."""


def edited(data: bytes, changes: list[tuple[float, bytes, int]]) -> bytes:
    """Return the bytes with the edits done in their order."""
    for share, new, replaced in changes:
        at = int(share * len(data))
        data = data[:at] + new + data[at + replaced :]
    return data


@fuzz(60)
@given(which=st.integers(0, 2), changes=edits)
def test_bytes_of_an_archive_are_changed(tmp_path: Path, which: int, changes: list[tuple[float, bytes, int]]) -> None:
    """Anywhere in the file, its checksums as they were."""
    looked_at(tmp_path / "voice.pth", edited(ZIPS[which], changes))


@fuzz(60)
@given(which=st.integers(0, 2), changes=edits, head=st.booleans())
def test_bytes_of_a_stream_are_changed(
    tmp_path: Path, which: int, changes: list[tuple[float, bytes, int]], *, head: bool
) -> None:
    """Anywhere in the older form, which has no checksums; half of the time in its pickles."""
    cut = STREAMS[which].index(b"Q\x00K\x00") if head and b"Q\x00K\x00" in STREAMS[which] else 40_000 * head
    data = STREAMS[which]
    cut = cut or len(data)
    looked_at(tmp_path / "voice.pth", edited(data[:cut], changes) + data[cut:])


@fuzz(100)
@given(which=st.integers(0, 2), changes=edits)
def test_bytes_of_the_table_are_changed_by_someone_who_mends_the_checksums(
    tmp_path: Path, which: int, changes: list[tuple[float, bytes, int]]
) -> None:
    """The pickle is spoilt, the archive is sound."""
    parts = PARTS[which]
    looked_at(tmp_path / "voice.pth", archive(parts | {TABLE: edited(parts[TABLE], changes)}))


def opcodes(table: bytes) -> list[bytes]:
    """Return the pickle cut into its opcodes."""
    starts = [at for _, _, at in pickletools.genops(table) if at is not None]
    return [table[a:b] for a, b in zip(starts, [*starts[1:], len(table)], strict=True)]


CODES = [opcodes(parts[TABLE]) for parts in PARTS]
NUMBERS = [-1, 0, 1, 2, 3, 255, 2**16, 2**31 - 1, 2**31, 2**62, 2**63, -(2**63), 2**64, 2**600]


class Spoilt:
    """A file that somebody spoilt, and how, for the report of a failure."""

    def __init__(self, data: bytes, story: tuple[object, ...]) -> None:
        self.data = data
        self.story = story

    def __repr__(self) -> str:
        return f"Spoilt({self.story})"


@st.composite
def tables(draw: st.DrawFn) -> Spoilt:
    """Draw a voice and its pickle with a few opcodes dropped, doubled, exchanged or replaced."""
    which = draw(st.integers(0, len(CODES) - 1))
    codes, story = list(CODES[which]), list[object]([which])
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(codes) - 1))
        what = draw(st.sampled_from(["drop", "double", "exchange", "number", "other", "number"]))
        match what:
            case "drop":
                codes[at] = b""
            case "double":
                codes[at] *= draw(st.sampled_from([2, 3, 1000]))
            case "exchange":
                to = draw(st.integers(0, len(codes) - 1))
                codes[at], codes[to] = codes[to], codes[at]
            case "number":
                spots = [i for i in range(at, min(at + 40, len(codes))) if codes[i][:1] in (b"K", b"M", b"J")]
                codes[spots[0] if spots else at] = number(draw(st.sampled_from(NUMBERS)))
            case _:
                codes[at] = draw(
                    st.sampled_from(
                        [b"N", b"\x88", b"}", b"]", b")", b"R", b"b", b"t", b"\x85", b"u", b"Q", b"0", b"("]
                    )
                    | st.integers(0, 255).map(lambda n: b"h" + bytes([n]))
                    | st.floats().map(lambda f: b"G" + struct.pack(">d", f))
                )
        story.append((what, at, codes[at][:20]))
    return Spoilt(archive(PARTS[which] | {TABLE: b"".join(codes)}), tuple(story))


@fuzz(150)
@given(spoilt=tables())
def test_opcodes_of_the_table_are_changed(tmp_path: Path, spoilt: Spoilt) -> None:
    """Each is valid in itself, and numbers are those at which something could tip over."""
    looked_at(tmp_path / "voice.pth", spoilt.data)


@st.composite
def archives(draw: st.DrawFn) -> Spoilt:
    """Draw an archive of a voice whose parts are dropped, cut, exchanged, renamed, added or doubled."""
    parts = dict(draw(st.sampled_from(PARTS)))
    extra: list[tuple[str, bytes]] = []
    story: list[object] = []
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(parts)))
        other = draw(st.sampled_from(sorted(parts)))
        what = draw(st.sampled_from(["drop", "cut", "longer", "exchange", "rename", "add", "double"]))
        story.append((what, name, other))
        match what:
            case "drop" if len(parts) > 1:
                del parts[name]
            case "cut":
                parts[name] = parts[name][: draw(st.integers(0, len(parts[name])))]
            case "longer":
                parts[name] += bytes(draw(st.integers(1, 100)))
            case "exchange":
                parts[name], parts[other] = parts[other], parts[name]
            case "rename":
                parts[draw(st.sampled_from([name.upper(), name + "x", "x" + name, "../" + name, name[:-1]]))] = parts[
                    name
                ]
            case "add":
                parts[name.rpartition("/")[0] + "/" + draw(st.text(min_size=1, max_size=9))] = draw(st.binary())
            case _:
                extra.append((name, parts[other]))
    data = archive(parts)
    for name, content in extra:  # two parts of one name, which zipfile warns of
        marked = archive(parts | {name[:-1] + "\x01": content})
        data = marked.replace((name[:-1] + "\x01").encode(), name.encode())
    return Spoilt(data, tuple(story))


@fuzz(80)
@given(spoilt=archives())
def test_parts_of_the_archive_are_changed(tmp_path: Path, spoilt: Spoilt) -> None:
    """By someone who writes a sound archive around them."""
    looked_at(tmp_path / "voice.pth", spoilt.data)


sizes = st.sampled_from([-1, 0, 1, 2, 3, 7, 10, 11, 16, 40, 512, 65_535, 65_536, 2**31, 2**63, 40_000, 400_000])
values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | sizes
    | st.floats()
    | st.sampled_from(["", "1", "2", "40k", "v1", "v2", "x" * 300, "\ud800\x1b[2J\u202e"]),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)
types = st.sampled_from(
    [torch.float16, torch.float32, torch.float64, torch.bfloat16, torch.int8, torch.int64, torch.bool, torch.complex64]
)
names = st.sampled_from(
    [
        "dec.UPS.0.weight",
        "emb_g.weight\u200b",
        "dec.ups.63.weight_v",
        "dec.mrfs.0",
        "weight_g",
        "",
        "e\u0301",
        "\xe9",
        "a/b",
    ]
)


@st.composite
def voices(draw: st.DrawFn) -> Spoilt:
    """Draw a voice in which one or two things are wrong, or only unusual."""
    voice = dict(draw(st.sampled_from(VOICES)))
    voice |= {"config": list(voice["config"])} if "config" in voice else {}
    key = "weight" if "weight" in voice else "model"
    tensors: dict[str, torch.Tensor] = dict(voice[key])
    voice[key], story = tensors, list[object]()
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(sorted(tensors)))
        what = draw(st.sampled_from(["drop", "add", "type", "shape", "numbers", "config", "entry", "all", "share"]))
        story.append((what, name))
        match what:
            case "drop":
                del tensors[name]
            case "add":
                tensors[draw(names)] = draw(st.sampled_from([torch.ones(3), torch.ones(()), torch.ones(2, 0, 2)]))
            case "type":
                tensors[name] = tensors[name].to(draw(types))
            case "shape":
                tensors[name] = _reshaped(draw, tensors[name])
            case "numbers":
                tensors[name] = _renumbered(draw, tensors[name])
            case "config" if isinstance(voice.get("config"), list):
                _reconfigured(draw, voice["config"])
            case "entry":
                voice[draw(st.sampled_from(["sr", "f0", "version", "info", "vocoder", "config", "embedder_model"]))] = (
                    draw(values)
                )
            case "all":
                kind = draw(types)
                voice[key] = tensors = {name: tensor.to(kind) for name, tensor in tensors.items()}
            case _:
                tensors[name] = tensors[draw(st.sampled_from(sorted(tensors)))]
    return Spoilt(saved(voice), (*story, f"{ {k: v for k, v in voice.items() if k != key}!r:.500}"))


def _reshaped(draw: st.DrawFn, tensor: torch.Tensor) -> torch.Tensor:
    how = draw(st.sampled_from(["turned", "flat", "axis", "cut", "none", "stretched"]))
    match how:
        case "turned":
            return tensor.t() if tensor.ndim == 2 else tensor.transpose(0, -1)
        case "flat":
            return tensor.flatten()
        case "axis":
            return tensor.unsqueeze(draw(st.integers(0, 1)))
        case "cut":
            return tensor[: draw(st.integers(1, 3))]
        case "stretched":
            return tensor.flatten()[:1].expand(tensor.shape)
        case _:
            return tensor[:0]


def _renumbered(draw: st.DrawFn, tensor: torch.Tensor) -> torch.Tensor:
    filled = draw(st.sampled_from([0.0, 1e-8, 1.0, -1.0, 6e4, 1e30, float("nan"), float("inf")]))
    tensor = tensor.float() if abs(filled) > 1e9 else tensor
    if draw(st.booleans()):
        return torch.full_like(tensor, filled)
    spoilt = tensor.clone()
    spoilt.view(-1)[draw(st.integers(0, 10**6)) % max(1, tensor.numel())] = filled
    return spoilt


def _reconfigured(draw: st.DrawFn, config: list[Any]) -> None:
    at = draw(st.integers(0, len(config) - 1))
    inner = config[at]
    if isinstance(inner, list | tuple) and inner and draw(st.integers(0, 3)):
        config[at] = [draw(sizes | st.just(old)) for old in inner]
        if all(isinstance(old, list | tuple) for old in inner):
            config[at] = [[draw(sizes | st.just(one)) for one in old] for old in inner]
    else:
        config[at] = draw(values)


@fuzz(150)
@given(spoilt=voices())
def test_what_a_voice_says_is_changed(tmp_path: Path, spoilt: Spoilt) -> None:
    """Shapes, types, numbers, settings and names, saved by PyTorch itself."""
    looked_at(tmp_path / "voice.pth", spoilt.data)


@fuzz(50)
@given(spoilt=st.one_of(voices(), tables(), voices()))
def test_a_changed_voice_is_converted_or_refused(
    tmp_path: Path, pipeline: tuple[Pipeline, Path], spoilt: Spoilt
) -> None:
    """Whatever of it still is a voice goes through the whole pipeline, to a file that was verified."""
    converted(*pipeline, tmp_path, spoilt.data)
