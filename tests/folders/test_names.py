"""Names: what is a voice, what is junk, and what our own files are called."""

from __future__ import annotations

import os
import unicodedata
from itertools import islice
from pathlib import PurePosixPath

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from voicekiln.folders.names import (
    WINDOWS,
    Conflict,
    Folder,
    Ignored,
    Voice,
    bases,
    fold,
    folders_below,
    folds,
    is_sync_marker,
    judge_name,
    moevs_names,
    output_base,
    reserved,
    shown,
    stem_of,
    temp_name,
    temp_token,
)

NAME_BYTES = 255

stems = st.one_of(
    st.binary(min_size=1, max_size=251).map(os.fsdecode),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=251),
    st.text("aAä\u0308ß \u200b.K\u212a", min_size=1, max_size=12),
    st.builds(
        lambda char, count, tail: char * count + tail,
        st.sampled_from("xé声🦊"),
        st.integers(60, 251),
        st.text(max_size=9),
    ),
)


@st.composite
def sources(draw: st.DrawFn) -> str:
    """Draw any name that a voice can have on Linux."""
    name = draw(stems) + draw(st.sampled_from([".pth", ".PTH", ".pTh", ".pt", ".Pt", ".pkl"]))
    assume("/" not in name and "\0" not in name)
    try:
        assume(len(os.fsencode(name)) <= NAME_BYTES)
    except UnicodeEncodeError:
        assume(False)  # noqa: FBT003 - hypothesis's own spelling of "not this one"
    return name


def verdict(path: str, *, is_dir: bool = False) -> Voice | Folder | Ignored | Conflict:
    """Judge a path given as text as a scan does, from its first folder down."""
    *folders, name = PurePosixPath(path).parts
    conflict: Conflict | None = None
    for folder in folders:
        match judge_name(folder, is_dir=True):
            case Ignored() as above:
                return above
            case Conflict() as above:
                conflict = above
    found = judge_name(name, is_dir=is_dir)
    return conflict if conflict and isinstance(found, Voice | Folder) else found


@pytest.mark.parametrize(
    "name",
    [
        *("voice.pth", "Voice.PTH", "a/b/c/voice.pth", "CON.pth", "nul.pth", "voice .pth", "-rf.pth", "voice.pth.pth"),
        *("G_2333333.pth", "名前.pth", "Zoe\u0308.pth", "a\nb.pth", os.fsdecode(b"\xff\xfe.pth"), "voice (1).pth"),
        *("conflict.pth", "my sync-conflict.pth", "x.sync-conflict-2024.pth", "a (conflicted).pth", "safebackup-1.pth"),
        *("(conflicted copy).pth", "in progress.part.pth", "templates/x.pth", "tmp/x.pth", "recycle/x.pth"),
        *("model_5000.pt", "Kmeans_10000.PT", "feature_and_index.pkl", "model", "MODEL", "a/Model", "model.pth"),
        *("model_se.pth", "speakers.pt", "x.speakers.pth", "speakers2.pth", "speaker.pth", "speakers/voice.pth"),
    ],
)
def test_a_pth_file_is_a_voice_whatever_else_its_name_says(name: str) -> None:
    """Names that only look like temp or conflict names are converted."""
    assert verdict(name) == Voice()


@pytest.mark.parametrize(
    "name",
    [
        *("voice", "voice.txt", "voice.onnx", "voice.json", "voice.pth.zip", "pth", ".pth", "config.json"),
        *("voice.ptx", "pt", ".pt", ".model", "models", "model.json", "model.conflict2", "voice.pt.conflict1"),
        *(".voice.pth", "._voice.pth", "~voice.pth", "voice.pth~", ".DS_Store", "Icon\r", ".apdisk", "Thumbs.db"),
        *("Thumbs.db:encryptable", "thumbs.db.pth", "ehthumbs_vista.db", "Desktop.INI", ".directory", ".nfs0000012f"),
        *(".fuse_hidden000a", ".smbdeleteAAA", "voice.pth:Zone.Identifier", "voice.tmp", "voice.pth.temp"),
        *("voice.pth.part", "voice.pth.1a2b3c4d.partial", "voice.pth.filepart", "voice.pth.crdownload"),
        *("voice.pth.download", "voice.pth.opdownload", "voice.pth.!Sync", "voice.pth.!qB", "voice.pth.!ut"),
        *("voice.pth.aria2", "voice.pth.insyncdl", ".voice.pth.swp", "voice.pth.kate-swp", "SYNO@.voice.pth"),
        *("voice.pth@SynoEAStream", "voice.pth@SynoResource", ".syncthing.voice.pth.tmp", "~syncthing~voice.pth.tmp"),
        *(
            ".voice.pth.Xa3f9Q",
            ".voice.pth.~1a2b",
            ".unison.voice.pth.1a2b.unison.tmp",
            "voice.pth.ocTransferId12.part",
        ),
        *("voice.pth.conflict1", ".~voice.onnx.abc.part"),
        *("speakers.pth", "speaker_ids.pth", "language_ids.pth", "a/speakers.pth", "speakers (Case Conflict).pth"),
        *("speakers.sync-conflict-20240131-235959-ABCDEF7.pth", "language_ids_conflict-20240131-235959.pth"),
        *("speakers (Bob's conflicted copy 2024-01-31).pth", "speaker_ids-nas-safeBackup-0001.pth"),
    ],
)
def test_junk_and_files_under_way_are_ignored(name: str) -> None:
    """Everything in the survey's ignore set is left alone, in lower and upper case."""
    for spelling in (name, name.upper(), name.lower()):
        assert isinstance(verdict(spelling), Ignored), spelling


@pytest.mark.parametrize(
    "ending",
    [
        *("tmp", "temp", "part", "partial", "filepart", "crdownload", "download", "opdownload", "!sync", "!qb", "!ut"),
        *("aria2", "insyncdl", "swp", "kate-swp"),
    ],
)
def test_a_file_under_way_is_told_from_any_other_file(ending: str) -> None:
    """Who asks why nothing happens learns that a copy is not finished."""
    why = verdict(f"voice.pth.{ending}")
    assert isinstance(why, Ignored)
    assert why.why.startswith("a temporary file")


@pytest.mark.parametrize(
    "name",
    [
        *("@eaDir", "@tmp", "@sharebin", "#recycle", "#snapshot", ".SynologyWorkingDirectory", "$RECYCLE.BIN"),
        *("System Volume Information", "lost+found", "__MACOSX", "Network Trash Folder", "Temporary Items"),
        *(".Trash-1000", ".stfolder", ".stversions", ".sync", ".SyncArchive", ".dropbox.cache", ".unwanted", ".git"),
        *("_UNPACK_voices",),
    ],
)
def test_nothing_below_a_junk_folder_is_a_voice(name: str) -> None:
    """What people threw away, and what devices keep for themselves, is not converted."""
    for spelling in (name, name.upper()):
        assert isinstance(verdict(spelling, is_dir=True), Ignored), spelling
        assert isinstance(verdict(f"a/{spelling}/b/voice.pth"), Ignored), spelling


def test_a_folder_may_bear_a_voices_name() -> None:
    """A folder called x.pth is a folder like any other."""
    assert verdict("x.pth", is_dir=True) == Folder()
    assert verdict("x.pth/y.pth") == Voice()


@pytest.mark.parametrize(
    ("name", "tool"),
    [
        ("voice.sync-conflict-20240131-235959-ABCDEF7.pth", "Syncthing"),
        ("voice.sync-conflict-20150131-235959.pth", "Syncthing"),
        ("voice (conflicted copy 2024-01-31 235959).pth", "Nextcloud or ownCloud"),
        ("voice (conflicted copy Ann Lee 2024-01-31 235959).PTH", "Nextcloud or ownCloud"),
        ("voice_conflict-20240131-235959.pth", "Nextcloud or ownCloud"),
        ("voice (Bob's conflicted copy 2024-01-31).pth", "Dropbox"),
        ("voice (Bob’s laptop (old)'s conflicted copy 2024-01-31 1).pth", "Dropbox"),  # noqa: RUF001 - as Dropbox writes it
        ("voice (Case Conflict).pth", "Dropbox"),
        ("voice (case conflict 2).pth", "Dropbox"),
        ("voice (Unicode Encoding Conflict).pth", "Dropbox"),
        ("voice (white space conflict).pth", "Dropbox"),
        ("voice-nas-safeBackup-0001.pth", "the OneDrive client"),
        ("voice.conflict2.pth", "rclone bisync"),
        ("model_5000.sync-conflict-20240131-235959-ABCDEF7.pt", "Syncthing"),
        ("kmeans (Case Conflict).PKL", "Dropbox"),
        ("model.sync-conflict-20240131-235959-ABCDEF7", "Syncthing"),
        ("Model (Bob's conflicted copy 2024-01-31)", "Dropbox"),
    ],
)
def test_a_conflict_copy_is_told_with_the_tool_that_made_it(name: str, tool: str) -> None:
    """Each tool's form of a conflict copy is recognised, in any folder."""
    assert verdict(name) == verdict(f"a/{name}") == Conflict(tool)


def test_all_below_a_conflict_folder_is_a_conflict() -> None:
    """A folder can be a conflict copy too; junk in it stays junk."""
    assert verdict("voices (Case Conflict)", is_dir=True) == Conflict("Dropbox")
    assert verdict("voices (Case Conflict)/x.pth") == Conflict("Dropbox")
    assert isinstance(verdict("voices (Case Conflict)/.x.pth"), Ignored)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_the_spelling_of_accents_changes_no_verdict(form: str) -> None:
    """A Mac writes accents as two characters."""
    name = unicodedata.normalize(form, "Zoë (Zoë's conflicted copy 2024-01-31).pth")  # type: ignore[arg-type]  # a literal
    assert verdict(name) == Conflict("Dropbox")


@given(sources())
def test_what_is_a_voice_has_the_ending(name: str) -> None:
    """No folding of characters makes another ending into one of ours."""
    is_voice = isinstance(verdict(name), Voice)
    assert not is_voice or name.lower().endswith((".pth", ".pt", ".pkl"))


def test_a_stem_is_the_name_without_its_ending() -> None:
    """Only the last ending goes, in any case, and what has none is its own stem."""
    stems = {"a.pth": "a", "A.PT": "A", "a.b.Pkl": "a.b", "a.pth.pt": "a.pth", "model": "model", "a.txt": "a.txt"}
    assert {name: stem_of(name) for name in stems} == stems


def test_results_of_one_stem_are_kept_apart() -> None:
    """`a.pth`, `a.pt` and `a.pkl` want the same names; what the later ones get instead is each one's own."""
    tried = [[*islice(bases(PurePosixPath(name)), 2)] for name in ("a.pth", "a.pt", "a.pkl")]
    assert [first for first, _ in tried] == ["a", "a", "a"]
    assert len({second for _, second in tried}) == 3
    assert [next(bases(PurePosixPath(name))) for name in ("model", "model.pt")] == ["model", "model"]


@pytest.mark.requirement(12)
@given(sources(), sources())
@example("a .pth", "a.pth")
@example("x" * 251 + ".pth", "x" * 250 + "y.pth")
@example("x.pth", "X.PTH")
def test_distinct_sources_have_distinct_results(one: str, other: str) -> None:
    """Two sources share a result's name only where, but for their endings, they would be one file on some system."""
    assume(fold(stem_of(one) + ".pth") != fold(stem_of(other) + ".pth"))
    assert fold(output_base(one) + ".onnx") != fold(output_base(other) + ".onnx")


@pytest.mark.requirement(12)
@given(sources(), st.sampled_from([255, 143]))
def test_every_name_of_ours_fits(source: str, name_max: int) -> None:
    """Final and temp names stay within the file system's limit, whatever the source is called."""
    for path in map(PurePosixPath, reserved(output_base(source, name_max))):
        assert all(len(os.fsencode(part)) <= name_max for part in path.parts)
        assert len(os.fsencode(temp_name(path.name, "0123456789abcdef", name_max))) <= name_max


@given(sources())
def test_a_short_stem_is_kept_as_it_is(source: str) -> None:
    """Only what would not fit is shortened, at a character's border."""
    base, stem = output_base(source), source.rpartition(".")[0]
    if len(os.fsencode(stem)) <= NAME_BYTES - len(".voice-conversion.fp16.onnx"):
        assert base == stem
    else:
        kept, _, mark = base.rpartition("~")
        assert stem.startswith(kept)
        assert len(mark) == 6
        assert len(os.fsencode(base)) > NAME_BYTES - 60 or stem[len(kept)] in ". "


def test_two_bases_can_claim_one_name() -> None:
    """Whoever publishes has to compare what the bases claim, not the bases."""
    assert set(reserved("x")) & set(reserved("x.fp16")) == {"x.fp16.onnx"}


@given(sources(), st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True))
def test_a_temp_name_gives_its_token_back_and_is_ignored(source: str, token: str) -> None:
    """Our own files under way are known by their token and never taken for voices."""
    for final in map(PurePosixPath, reserved(output_base(source))):
        name = temp_name(final.name, token)
        assert temp_token(name) == token
        assert isinstance(judge_name(name, is_dir=False), Ignored)


@pytest.mark.parametrize(
    "name", ["voice.onnx", ".~lock.voice#", ".~voice", ".voice.pth.~1a2b", ".~.part", ".~a.b c.part", ".~a..part"]
)
def test_other_programs_temp_names_are_not_ours(name: str) -> None:
    """Only a name of our own form has a token."""
    assert temp_token(name) is None


@pytest.mark.parametrize("token", ["", "a.b", "a/b", "é", "x" * 65])
def test_a_token_that_could_not_be_read_back_is_an_error(token: str) -> None:
    """Tokens are chosen by us; a wrong one is a mistake in the program."""
    with pytest.raises(ValueError, match="token"):
        temp_name("voice.onnx", token)


@pytest.mark.requirement(12)
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Zoe.pth", "ZOE.PTH"),
        ("Zo\u00eb.pth", "Zoe\u0308.pth"),
        ("Stra\u00dfe.pth", "STRASSE.pth"),
        ("voice", "voice. ."),
        ("a/voice ", "A/Voice"),
        ("a./b", "A/B"),
        ("no\u200bbody", "nobody"),
        ("\U0001f98a\ufe0f", "\U0001f98a"),
    ],
)
def test_names_that_some_file_system_takes_for_one_fold_alike(one: str, other: str) -> None:
    """Case, accents, trailing dots and spaces, invisible characters."""
    assert fold(one) == fold(other)


def test_names_that_differ_fold_apart() -> None:
    """The key is no coarser than it has to be."""
    names = [
        "voice",
        "voice2",
        "a/voice",
        "voic\u00e9",
        "vo ice",
        "vo.ice",
        os.fsdecode(b"voice\xff"),
        os.fsdecode(b"voice\xfe"),
    ]
    assert len({fold(name) for name in names}) == len(names)


@given(sources())
def test_folding_twice_changes_nothing(name: str) -> None:
    """The key of a key is the key."""
    assert fold(fold(name)) == fold(name)


@pytest.mark.requirement(12)
@given(sources())
def test_a_shown_path_is_one_harmless_line(name: str) -> None:
    """Whatever bytes a name holds, it can be printed, logged and written to JSON."""
    text = shown(PurePosixPath("a", name))
    text.encode()
    assert text.isprintable()


def test_bytes_that_are_no_text_are_shown_as_bytes() -> None:
    """A person can find the file by what is shown."""
    assert shown(PurePosixPath(os.fsdecode(b"a/vo\xffce.pth"))) == r"a/vo\xffce.pth"


@pytest.mark.parametrize(
    "name",
    [
        *(".stfolder", ".sync", ".dropbox", ".dropbox.cache", ".maestral.cache", "._sync_1a2b.db", ".sync_1a2b.db-wal"),
        *(".csync_journal.db", ".owncloudsync.log", ".nextcloudsync.log", ".SynologyWorkingDirectory"),
    ],
)
def test_a_sync_tools_own_files_give_it_away(name: str) -> None:
    """Each of these lies in the root of a tree that is synced both ways."""
    assert is_sync_marker(name, is_dir=False)


def test_dropboxs_settings_are_no_sign_of_a_synced_folder() -> None:
    """In a home folder .dropbox is a folder, on every machine where Dropbox is installed."""
    assert not is_sync_marker(".dropbox", is_dir=True)
    assert not is_sync_marker("sync", is_dir=True)


@given(sources())
@example("..  .pth")
@example("con.pth")
@example("nul.x.pth")
@example("a\udcff?.pth")
@example("e\u0301.pth")
def test_what_moe_voice_studio_opens_has_names_that_windows_takes(source: str) -> None:
    """Whatever the voice is called; and the two precisions have folders of their own."""
    base = output_base(source)
    found = [moevs_names(base, half=half) for half in (False, True)]
    assert len({name for names in found for name in names}) == 4
    for onnx, beside in found:
        top, folder, file = PurePosixPath(onnx).parts
        assert (top, PurePosixPath(beside).parts) == (f"{base}.moevs", (f"{base}.moevs", f"{folder}.json"))
        assert file == f"{folder}_RVC.onnx"
        assert folder == folder.strip(". ")
        assert folder
        assert not set(folder) & set('<>:"/\\|?*')
        assert not WINDOWS.fullmatch(folder)
        assert folder.isprintable()


def test_another_voices_file_can_lie_where_a_face_belongs() -> None:
    """Voices in a folder of the inbox that is called like the folder of a face; and one that is called like a face."""
    mine = folds(PurePosixPath("a/voice"))
    for other in (
        "a/voice.moevs/voice",
        "a/voice.moevs/voice/voice_RVC",
        "a/voice.w-okada",
        "A/Voice.moevs/VOICE-fp16",
    ):
        assert set(mine) & set(folds(PurePosixPath(other))), other
    assert not set(mine) & set(folds(PurePosixPath("a/voice.moevs/other")))


def test_the_folders_of_a_result_are_told_innermost_first() -> None:
    """Only those below the sidecar's."""
    paths = [PurePosixPath(path) for path in ("a/v.json", "a/v.moevs/v/v_RVC.onnx", "a/v.moevs/v.json")]
    assert [str(path) for path in folders_below(PurePosixPath("a"), paths)] == ["a/v.moevs/v", "a/v.moevs"]
    assert folders_below(PurePosixPath(), [PurePosixPath("v.json")]) == []
