"""Companions in the folders: which files belong to a voice, how they are seen, and how they are copied."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tracemalloc
from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Self, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arrivals import archive
from voicekiln.errors import Changed
from voicekiln.folders import inbox as looking
from voicekiln.folders import spool as copying
from voicekiln.folders.beside import (
    GENERAL,
    MAX_BYTES,
    MAX_VECTORS_BYTES,
    OWN,
    Neighbours,
    digest,
    may_be_companion,
    most_bytes,
)
from voicekiln.folders.files import open_plain
from voicekiln.folders.inbox import scan
from voicekiln.folders.names import fold, stem_of
from voicekiln.folders.rows import stamp_in, text_of
from voicekiln.folders.spool import Companion, Spooled, all_beside, copies_beside, take
from voicekiln.folders.voices import alone, key_of, read_beside
from voicekiln.job import FileStamp, Recipe

VOICE = PurePosixPath("zoe.pth")


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """Return an inbox with one voice in it."""
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox/zoe.pth").write_bytes(archive())
    return tmp_path / "inbox"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Return where the copy of the voice goes."""
    (tmp_path / "spool").mkdir()
    return tmp_path / "spool/job1.pth"


def taken(inbox: Path, target: Path, relpath: PurePosixPath = VOICE) -> Spooled:
    """Take the voice as a daemon does that has just scanned."""
    seen = scan(inbox)
    return take(inbox, relpath, seen.files[relpath], target, 10**9, beside=seen.beside.get(relpath, ()))


def of(voice: str, *names: str) -> tuple[str, ...]:
    return Neighbours(filter(may_be_companion, names)).of(voice)


# --- which -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("zoe.json", "zoe.yaml", "zoe.yml", "ZOE.JSON", "Zoe.Yaml"),
        *("config.json", "Config.JSON", "config.yaml", "config.yml", "diffusion.yaml", "DIFFUSION.YML"),
        *("speakers.json", "speakers.pth", "speaker_ids.json", "speaker_ids.pth", "language_ids.json"),
        *("language_ids.pth", "config_se.json", "Speakers.JSON", "SPEAKERS.PTH", "Language_Ids.Pth"),
        *("zoe.speakers.json", "zoe.speaker_ids.json", "zoe.language_ids.json", "Zoe.Speakers.json"),
    ],
)
def test_these_belong_to_a_voice(name: str) -> None:
    """In any case."""
    assert of("zoe.pth", name) == (name,)


@pytest.mark.parametrize(
    "name",
    [
        *("zoe", "zoe.json.tmp", "zoe.error.json", "zoe2.json", "other.json", "diffusion.json", "config", "config.txt"),
        *(".config.json", "~config.json", "config.json~", "zoe.pth.json", "config.json.part", "zoe/config.json"),
        *(
            "zoe.speakers.pth",
            "other.speakers.json",
            "zoespeakers.json",
            "speakers.yaml",
            "speakers.pt",
            "speaker.json",
        ),
        *("zoe.config_se.json", "model_se.pth", "speakers", "speakers.pth.part", "d_vectors.json"),
    ],
)
def test_these_do_not(name: str) -> None:
    """Neither other files nor what is still under way."""
    assert of("zoe.pth", name) == ()


@pytest.mark.parametrize(("voice", "own"), [("a.b.pth", "a.b.json"), ("a.pkl", "a.yml"), ("A.PT", "a.json")])
def test_the_stem_is_the_whole_name_but_the_ending(voice: str, own: str) -> None:
    """Of each ending that a voice may have."""
    assert of(voice, own) == (own,)
    assert of("model", "model.json") == ("model.json",)


def test_its_own_ones_come_first_and_general_ones_are_everybodys() -> None:
    """Whoever reads them can tell the two kinds apart by the order as well."""
    names = ("config.json", "a.yaml", "a.json", "b.json", "diffusion.yaml")
    assert of("a.pth", *names) == ("a.json", "a.yaml", "config.json", "diffusion.yaml")
    assert of("b.pth", *names) == ("b.json", "config.json", "diffusion.yaml")
    assert of("config.pth", "config.json") == ("config.json",)
    tables = ("speakers.json", "b.speakers.json", "a.language_ids.json", "a.speakers.json", "speakers.pth")
    assert of("a.pth", *tables) == ("a.speakers.json", "a.language_ids.json", "speakers.json", "speakers.pth")
    assert of("speakers.pt", *tables[:2]) == ("speakers.json",)


def test_of_names_that_are_one_elsewhere_one_is_taken() -> None:
    """The one that is spelt like the voice, else always the same, however the folder is listed."""
    names = ["".join(letters) for letters in product("cC", "oO", "nN", "fF", ["ig.json"])]
    names.remove("config.json")
    assert of("zoe.pth", *names) == of("zoe.pth", *reversed(names)) == ("CONFig.json",)
    assert of("zoe.pth", *names, "config.json") == ("config.json",)
    assert of("Zoe.pth", "zoe.json", "Zoe.json") == ("Zoe.json",)
    assert of("zoe.pth", "zoe.json", "Zoe.json") == ("zoe.json",)
    assert of("Zoe\u0308.pth", "Zo\u00eb.json") == ("Zo\u00eb.json",)


@given(st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=40), st.binary(max_size=20))
def test_any_name_has_few(stem: str, more: bytes) -> None:
    """Whatever lies there: the work for a voice has an end, and names that are no text do no harm."""
    odd = os.fsdecode(more).replace("/", "").replace("\0", "")
    names = [f"{stem}{tail}{ending}" for tail in ("", odd) for ending in OWN]
    found = of(f"{stem}.pth", *names, *map(str.swapcase, names), *map(str.upper, names), "CONFIG.JSON", *GENERAL[1:])
    assert len(found) <= len(OWN) + len(GENERAL)
    assert len(set(found)) == len(found)


@given(
    st.text("aAß\u0130\u0307o\u0308. \u200b\u03a3-", max_size=5),
    st.text("aAß\u0130\u0307o\u0308. \u200bs-", max_size=5),
)
def test_a_name_is_a_voices_own_if_it_is_one_with_it_somewhere(stem: str, other: str) -> None:
    """Whatever stands before the ending: half an accent, a dot, a space."""
    for ending in OWN:
        name = f"{other}{ending}"
        one = fold(name) in {fold(f"{stem_of(f'{stem}.pth')}{ending}") for ending in OWN}
        assert of(f"{stem}.pth", name, "x.json") == ((name,) if one else ())


# --- seen ------------------------------------------------------------------------------------------------------------


def test_a_scan_tells_what_lies_beside_a_voice(inbox: Path) -> None:
    """By name, and as a part of its stamp; a voice that lies alone has none."""
    (inbox / "sub").mkdir()
    (inbox / "sub/alone.pth").write_bytes(archive())
    (inbox / "config.json").write_text("{}")
    seen = scan(inbox)
    assert seen.beside == {VOICE: ("config.json",)}
    assert [bool(stamp.beside) for stamp in seen.files.values()] == [False, True]
    assert scan(inbox) == seen


CHANGES: dict[str, Callable[[Path], object]] = {
    "it comes": lambda folder: (folder / "zoe.json").write_text("{}"),
    "it changes": lambda folder: (folder / "config.json").write_text('{"a": 1}'),
    "its time changes": lambda folder: os.utime(folder / "config.json", (1, 1)),
    "another takes its place": lambda folder: (folder / "new").replace(folder / "config.json"),
    "it goes": lambda folder: (folder / "config.json").unlink(),
    "it gets another name": lambda folder: (folder / "config.json").rename(folder / "zoe.json"),
    "it becomes a link": lambda folder: becomes_a_link(folder / "config.json"),
}


def becomes_a_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("new")


@pytest.mark.parametrize("change", CHANGES)
def test_what_happens_to_a_companion_happens_to_the_voice(inbox: Path, change: str) -> None:
    """Its stamp is another one, and without the companions it would be the same."""
    (inbox / "config.json").write_text("{}")
    (inbox / "new").write_text("[]")
    before = scan(inbox).files[VOICE]
    CHANGES[change](inbox)
    after = scan(inbox).files[VOICE]
    assert after != before
    assert (after.ino, after.size, after.mtime_ns, after.ctime_ns) == (
        *(before.ino, before.size, before.mtime_ns, before.ctime_ns),
    )


@pytest.mark.parametrize("kind", ["link", "folder", "pipe", "dangling link"])
def test_only_plain_files_are_companions(inbox: Path, kind: str) -> None:
    """A link may lead anywhere, and nobody waits for a pipe."""
    path = inbox / "config.json"
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case _:
            path.symlink_to("zoe.pth" if kind == "link" else "nowhere")
    seen = scan(inbox)
    assert (seen.beside, seen.files[VOICE].beside) == ({}, "")


def test_a_companion_alone_is_nothing(tmp_path: Path) -> None:
    """It waits in silence for its voice."""
    (tmp_path / "config.json").write_text("{}")
    seen = scan(tmp_path)
    assert (seen.files, seen.odd, seen.conflicts, seen.beside) == ({}, {}, {}, {})


def test_a_table_in_the_form_of_a_voice_is_none(inbox: Path) -> None:
    """Nor is a conflict copy of one, or a link; nothing is said of them. A speaker encoder is a voice of its own."""
    tables = ("Speakers.PTH", "speaker_ids.pth", "sub/language_ids.pth", "speakers (Case Conflict).pth")
    for name in (*tables, "speakers.sync-conflict-20240131-235959-ABCDEF7.pth", "model_se.pth", "sub/anna.pth"):
        (inbox / name).parent.mkdir(exist_ok=True)
        (inbox / name).write_bytes(archive())
    (inbox / "speakers.pth").symlink_to("zoe.pth")
    seen = scan(inbox, conflicts_are_voices=True)
    assert {str(path): names for path, names in seen.beside.items()} == {
        "model_se.pth": ("speaker_ids.pth",),
        "sub/anna.pth": ("language_ids.pth",),
        "zoe.pth": ("speaker_ids.pth",),
    }
    assert (len(seen.files), seen.odd, seen.conflicts) == (3, {}, {})
    (inbox / "speakers.pth").unlink()
    assert scan(inbox).beside[VOICE] == ("Speakers.PTH", "speaker_ids.pth")


def test_a_flat_folder_of_thousands_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What belongs to every voice in it is neither asked for nor reckoned anew for each; one of its own is."""
    for number in range(5000):
        (tmp_path / f"{number}.pth").touch()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "7.json").write_text("{}")
    reckoned: list[tuple[str, ...]] = []

    def noted(stamps: Mapping[str, FileStamp]) -> str:
        reckoned.append(tuple(stamps))
        return digest(stamps)

    monkeypatch.setattr(looking, "digest", noted)
    seen = scan(tmp_path)
    assert len(seen.beside) == 5000
    assert sorted(reckoned) == [("7.json", "config.json"), ("config.json",)]


class Entry:
    """What a listing gives for a file that then cannot be looked at."""

    def __init__(self, name: str, error: int) -> None:
        self.name, self.error = name, error

    def stat(self, *, follow_symlinks: bool) -> os.stat_result:
        raise OSError(self.error, os.strerror(self.error), self.name, follow_symlinks)


def test_a_companion_that_cannot_be_looked_at_leaves_the_voice_unknown(
    inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A share in trouble must not look like a companion that was taken away; one that has just gone is one."""
    around = looking._Around
    for error, seen in ((errno.EIO, {}), (errno.ENOENT, {VOICE: ""})):
        entry: Any = Entry("config.json", error)
        monkeypatch.setattr(
            looking, "_Around", lambda entries, inodes, entry=entry: around([*entries, entry], inodes=inodes)
        )
        found = scan(inbox)
        assert {path: stamp.beside for path, stamp in found.files.items()} == seen
        assert found.unreadable == ({} if seen else {VOICE: "Input/output error"})


# --- kept ------------------------------------------------------------------------------------------------------------


def test_a_stamp_without_companions_is_kept_as_ever() -> None:
    """Ledgers of older versions hold four numbers, and most rows still do."""
    old, new = FileStamp(1, 2, 3, 4), FileStamp(1, 2, 3, 4, "0123456789abcdef")
    assert (text_of(old), stamp_in("[1, 2, 3, 4]")) == ("[1, 2, 3, 4]", old)
    assert stamp_in(text_of(new)) == new


def test_companions_are_a_part_of_the_key() -> None:
    """By name and content; a key without any is what it always was."""
    recipe = Recipe("r")
    keys = [
        key_of("aa", recipe, beside)
        for beside in (
            {},
            {"a": "bb"},
            {"b": "bb"},
            {"a": "cc"},
            {"a": None},
            {"a": "bb", "b": None},
            {"a\udcff": "bb"},
        )
    ]
    assert len(set(keys)) == len(keys)
    assert {alone(key) for key in keys} == {keys[0]} == {key_of("aa", recipe)}
    assert key_of("aa", recipe, {"a": "x", "b": "y"}) == key_of("aa", recipe, {"b": "y", "a": "x"})


@pytest.mark.parametrize("text", [None, "", "{}", "[]", "nonsense", "3"])
def test_a_row_that_says_nothing_of_companions_has_none(text: str | None) -> None:
    """As all rows of older versions do."""
    assert read_beside(text) == {}


# --- copied ----------------------------------------------------------------------------------------------------------


def test_companions_are_copied_with_the_voice(inbox: Path, target: Path) -> None:
    """Beside its copy, under names that come from us, with the hash of each."""
    texts = {"config.json": b'{"a": 1}', "zoe.yaml": b"", os.fsdecode(b"x\xff.pth"): archive()}
    for name, text in texts.items():
        (inbox / name).write_bytes(text)
    spooled = taken(inbox, target)
    assert spooled.beside == {name: hashlib.sha256(texts[name]).hexdigest() for name in ("zoe.yaml", "config.json")}
    copies = copies_beside(target, spooled.beside)
    assert {name: path and path.read_bytes() for name, path in copies.items()} == {
        name: texts[name] for name in spooled.beside
    }
    assert sorted(path.name for path in target.parent.iterdir()) == ["job1.0.beside", "job1.1.beside", "job1.pth"]
    assert {path.stat().st_mode & 0o777 for path in target.parent.iterdir()} == {0o600}
    assert sorted(all_beside(target)) == sorted(path for path in copies.values() if path)


def test_one_that_is_too_large_is_known_and_not_read(inbox: Path, target: Path) -> None:
    """A mebibyte is let pass, a byte more is not."""
    (inbox / "config.json").write_bytes(b"x" * MAX_BYTES)
    (inbox / "zoe.json").write_bytes(b"x" * (MAX_BYTES + 1))
    spooled = taken(inbox, target)
    assert spooled.beside["zoe.json"] is None
    assert spooled.beside["config.json"] is not None
    assert copies_beside(target, spooled.beside)["zoe.json"] is None
    assert [path.stat().st_size for path in all_beside(target)] == [MAX_BYTES]


@pytest.mark.parametrize("name", ["speakers.json", "SPEAKERS.PTH", "zoe.speakers.json"])
def test_vectors_may_be_large(inbox: Path, target: Path, name: str) -> None:
    """But not larger, and it is nobody's memory that they take on their way."""
    with (inbox / name).open("wb") as file:
        file.truncate(MAX_VECTORS_BYTES)
    tracemalloc.start()
    try:
        spooled = taken(inbox, target)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert spooled.beside == {name: hashlib.sha256(bytes(MAX_VECTORS_BYTES)).hexdigest()}
    assert [path.stat().st_size for path in all_beside(target)] == [MAX_VECTORS_BYTES]
    os.truncate(inbox / name, MAX_VECTORS_BYTES + 1)
    assert taken(inbox, target).beside == {name: None}


@pytest.mark.parametrize("name", ["speaker_ids.json", "language_ids.pth", "config_se.json", "myspeakers.json"])
def test_other_companions_are_small(name: str) -> None:
    """A table of numbers or a config has some kilobytes."""
    assert most_bytes(name) == MAX_BYTES


def test_a_companion_is_read_once(inbox: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second look is at its stamp: over a network, 64 MiB take a second each time."""
    (inbox / "speakers.json").write_bytes(b"x" * 100)
    opened: list[Read] = []

    def noted(folder: int, name: str) -> BinaryIO:
        file = open_plain(folder, name)
        if name == "speakers.json":
            opened.append(Read(file))
            return cast("BinaryIO", opened[-1])
        return file

    monkeypatch.setattr(copying, "open_plain", noted)
    taken(inbox, target)
    assert [file.bytes for file in opened] == [100, 0]


class Read:
    """An open file that counts what is read of it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.bytes = file, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def read(self, count: int) -> bytes:
        found = self.file.read(count)
        self.bytes += len(found)
        return found


def test_one_that_is_closed_to_us_is_known_and_not_read(
    inbox: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps the voice from nothing, and is asked for again when its rights change: they are in its stamp."""
    (inbox / "config.json").write_text("{}")

    def refuse(folder: int, name: str) -> object:
        if name == "config.json":
            raise PermissionError(13, "Permission denied", name)
        return open_plain(folder, name)

    monkeypatch.setattr(copying, "open_plain", refuse)
    assert taken(inbox, target).beside == {"config.json": None}


@pytest.mark.parametrize("change", ["it changes", "its time changes", "it goes", "it becomes a link"])
@pytest.mark.parametrize("when", ["before", "while"])
def test_a_companion_that_changes_under_the_copy_takes_the_copy_back(
    inbox: Path, target: Path, change: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No voice is ever with half a companion, or with one that is not there any more, and nothing is left of it."""
    (inbox / "config.json").write_text("{}")
    (inbox / "new").write_text("[]")
    seen = scan(inbox)
    if when == "before":
        CHANGES[change](inbox)
    else:
        copy = copying.copy_beside
        monkeypatch.setattr(
            copying, "copy_beside", lambda *words, **more: (copy(*words, **more), CHANGES[change](inbox))[0]
        )
    with pytest.raises(Changed, match="beside"):
        take(inbox, VOICE, seen.files[VOICE], target, 10**9, beside=seen.beside[VOICE])
    assert list(target.parent.iterdir()) == []


def test_one_that_was_another_only_while_it_was_copied_takes_the_copy_back(
    inbox: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moved away and back: some file systems keep all times of a file that only gets another name."""
    (inbox / "config.json").write_text("{}")
    (inbox / "new").write_text("[]")
    copy = copying.copy_beside

    def swapped(root: Path, relpath: PurePosixPath, *words: Any, **more: Any) -> Companion | None:
        return copy(root, relpath.with_name("new"), *words, **more)

    monkeypatch.setattr(copying, "copy_beside", swapped)
    with pytest.raises(Changed, match="beside"):
        taken(inbox, target)
    assert list(target.parent.iterdir()) == []


def test_one_that_becomes_shorter_under_the_copy_takes_it_back(
    inbox: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its size was known before it was read."""
    (inbox / "speakers.json").write_bytes(b"x" * 100)

    def shortened(folder: int, name: str) -> object:
        file = open_plain(folder, name)
        if name == "speakers.json":
            monkeypatch.setattr(os, "fstat", partial(cut, fstat, name))
        return file

    def cut(really: Callable[[int], os.stat_result], name: str, descriptor: int) -> os.stat_result:
        found = really(descriptor)
        monkeypatch.setattr(os, "fstat", really)
        os.truncate(inbox / name, 50)
        return found

    fstat = os.fstat
    monkeypatch.setattr(copying, "open_plain", shortened)
    with pytest.raises(Changed, match="shorter"):
        taken(inbox, target)
    assert list(target.parent.iterdir()) == []


def test_a_full_disk_leaves_nothing_of_the_copies(inbox: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when it was full between one companion and the next."""
    for name in ("config.json", "zoe.json"):
        (inbox / name).write_text("{}")

    def fail(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink().name.endswith(".1.beside"):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        taken(inbox, target)
    assert list(target.parent.iterdir()) == []


def test_a_late_companion_is_for_the_next_scan(inbox: Path, target: Path) -> None:
    """The copy is of what was there when the voice settled; that more has come is seen by its stamp."""
    seen = scan(inbox)
    (inbox / "config.json").write_text("{}")
    assert take(inbox, VOICE, seen.files[VOICE], target, 10**9).beside == {}
    assert scan(inbox).files[VOICE] != seen.files[VOICE]


def test_names_that_are_no_text_are_kept(inbox: Path, target: Path) -> None:
    """In the ledger as in the folder."""
    voice = PurePosixPath(os.fsdecode(b"\xff\n.pth"))
    (inbox / voice).write_bytes(archive())
    (inbox / os.fsdecode(b"\xff\n.json")).write_text("{}")
    spooled = taken(inbox, target, voice)
    assert list(spooled.beside) == [os.fsdecode(b"\xff\n.json")]
    assert read_beside(json.dumps(dict(spooled.beside))) == spooled.beside
