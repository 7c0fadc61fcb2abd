"""Which names are voices, and what our own files beside them are called.

Only `.pth`, `.pt` and `.pkl` files are voices, and a file called `model`; what else lies on a share - junk of operating
systems, files that other programs are still writing, tables that belong to voices (see `beside`), copies that sync
tools make of a quarrel - is told from its name alone, before anything is opened. Names are compared as NFC and
casefolded; they may hold any bytes (surrogateescape). Results keep the stem of the source, shortened only where the
file system could not hold them.

Accepted: a conflict copy in the words of another language than English is taken for a voice, and a voice that is
really called "(case conflict)" is not; the second can be put right with a setting, the first is a voice anyway.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import translate
from itertools import count
from pathlib import PurePosixPath

from voicekiln.errors import plain
from voicekiln.job import DATA, EXTRAS, INTERFACES, NAMED

ENDINGS = (".pth", ".pt", ".pkl")
BARE = "model"
"""The whole name of what NSF-HiFiGAN comes as."""
TABLES = ("speakers", "speaker_ids", "language_ids")
"""As Coqui calls them: who can speak, by vector or number, and in what languages."""
PICKLED_TABLES = tuple(f"{name}.pth" for name in TABLES)
"""Whole names of what has the ending of a voice and is none."""
NAME_MAX = 255
"""Bytes that a file name may have on most file systems; some encrypted ones hold fewer."""


@dataclass(frozen=True, slots=True)
class Voice:
    """A file to convert."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder to look into."""


@dataclass(frozen=True, slots=True)
class Ignored:
    """Nothing to do with this, and nothing below it."""

    why: str
    """A few words for a person."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """A copy that a sync tool made because two devices changed one file; for a folder: all below it."""

    tool: str


Verdict = Voice | Folder | Ignored | Conflict


def _any_of(*globs: str) -> re.Pattern[str]:
    return re.compile("|".join(translate(_key(glob)) for glob in globs))


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


# A glob that another one here includes (`._*`, `.nfs*`, `.~*.part` of our own in `.*`) is not repeated.
_HIDDEN = _any_of(".*")
_IN_PROGRESS = _any_of(
    *("~*", "*~", "*.tmp", "*.temp", "*.part", "*.partial", "*.filepart", "*.crdownload", "*.download"),
    *("*.opdownload", "*.!sync", "*.!qb", "*.!ut", "*.aria2", "*.insyncdl", "*.swp", "*.kate-swp"),
)
_JUNK_FILE = _any_of(
    *("icon\r", "thumbs.db*", "ehthumbs*.db", "desktop.ini", "*:zone.identifier"),
    *("syno@.*", "*@synoeastream", "*@synoresource"),
)
_JUNK_FOLDER = _any_of(
    *("@eadir", "@tmp", "@sharebin", "#recycle", "#snapshot", "$recycle.bin", "system volume information"),
    *("lost+found", "__macosx", "network trash folder", "temporary items", "_unpack_*"),
)
_SYNC_MARKER = _any_of(
    *(".stfolder", ".sync", ".dropbox.cache", ".maestral.cache", ".synologyworkingdirectory"),
    *("._sync_*.db*", ".sync_*.db*", ".csync_journal.db*", ".owncloudsync.log*", ".nextcloudsync.log*"),
)

_BRACKETED: tuple[tuple[str, str], ...] = (
    # The first has a time of day, which tells it from Dropbox's.
    ("Nextcloud or ownCloud", r" ?\(conflicted copy (?:.* )?\d{4}-\d\d-\d\d \d{6}\)"),
    ("Dropbox", r" ?\((?:.* )?conflicted copy \d{4}-\d\d-\d\d(?: \d+)?\)"),
    ("Dropbox", r" ?\((?:case|unicode(?: encoding)?|white ?space) conflict(?: \d+)?\)"),
)
_CONFLICT_FOLDER = [(tool, re.compile(f".*{rest}", re.DOTALL)) for tool, rest in _BRACKETED]
_WITH_ENDING = rf"(?:{'|'.join(map(re.escape, ENDINGS))})"
_COPIED: tuple[tuple[str, str], ...] = (
    ("Syncthing", r"\.sync-conflict-\d{8}-\d{6}(?:-[a-z0-9]{7})?"),
    *_BRACKETED,
    ("Nextcloud or ownCloud", r"_conflict-\d{8}-\d{6}"),
    ("the OneDrive client", r"(?:-.*)?-safebackup-\d{4}"),
    ("rclone bisync", r"\.conflict\d+"),
)
_CONFLICT_FILE = [(tool, re.compile(rf".*{rest}{_WITH_ENDING}|{BARE}{rest}", re.DOTALL)) for tool, rest in _COPIED]
_TABLE = re.compile(rf"(?:{'|'.join(TABLES)})(?:{'|'.join(rest for _, rest in _COPIED)})?\.pth", re.DOTALL)
"""One of `PICKLED_TABLES`, or a conflict copy of it."""
_RCLONE_CONFLICT = re.compile(rf"(?:.*{_WITH_ENDING}|{BARE})\.conflict\d+", re.DOTALL)


def judge_name(name: str, *, is_dir: bool) -> Verdict:
    """Return what a file or folder of this name is, whatever it lies in."""
    key = _key(name)
    if _HIDDEN.fullmatch(key):
        return Ignored("a hidden file or folder")
    return _judge_folder(key) if is_dir else _judge_file(key)


def _judge_folder(key: str) -> Verdict:
    if _JUNK_FOLDER.fullmatch(key):
        return Ignored("a folder that belongs to an operating system or a storage device")
    return next((Conflict(tool) for tool, form in _CONFLICT_FOLDER if form.fullmatch(key)), Folder())


def _judge_file(key: str) -> Verdict:
    if _IN_PROGRESS.fullmatch(key):
        return Ignored("a temporary file that another program is still writing or has left behind")
    if _JUNK_FILE.fullmatch(key):
        return Ignored("a file that belongs to an operating system or a storage device")
    if _RCLONE_CONFLICT.fullmatch(key):
        return Ignored("a conflict copy that rclone bisync made")
    if _TABLE.fullmatch(key):
        return Ignored("a table of speakers or languages, which is read with the voices beside it")
    if (tool := next((tool for tool, form in _CONFLICT_FILE if form.fullmatch(key)), None)) is not None:
        return Conflict(tool)
    return Voice() if key.endswith(ENDINGS) or key == BARE else Ignored("no .pth, .pt or .pkl file")


def is_pickled_table(name: str) -> bool:
    """Return whether a file of this name is one of `PICKLED_TABLES`, in any case."""
    return _key(name) in PICKLED_TABLES


def is_sync_marker(name: str, *, is_dir: bool) -> bool:
    """Return whether this entry shows that the folder around it is synced with other devices, deletions included."""
    key = _key(name)
    # In a home folder .dropbox is a folder and holds settings; in the synced folder it is a file.
    return bool(_SYNC_MARKER.fullmatch(key)) or (key == ".dropbox" and not is_dir)


def shown(relpath: PurePosixPath) -> str:
    r"""Return the path as a person may see it: one line, no control characters, undecodable bytes as `\xNN`."""
    return plain(re.sub("[\udc80-\udcff]", lambda byte: f"\\x{ord(byte[0]) - 0xDC00:02x}", str(relpath)))


# What file systems leave out when they compare names (Unicode's default ignorable code points).
_UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def fold(name: str) -> str:
    """Return the key under which two names, or two relative paths, are one file on some file system.

    Case and the two spellings of accents are one on macOS, Windows and folded ext4 (which also makes "ß" "ss" and
    leaves out invisible characters); Windows drops dots and spaces at the end. Rather one collision too many.
    """
    seen = _UNSEEN.sub("", unicodedata.normalize("NFD", name).casefold())
    return "/".join(part.rstrip(". ") for part in unicodedata.normalize("NFC", seen).split("/"))


WINDOWS = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names that nothing can have on Windows."""


def onnx_name(base: str, mark: str, *, half: bool) -> str:
    """Return the name of an ONNX file beside its sidecar; `mark` tells faces apart, `half` precisions."""
    return f"{base}{mark and '.'}{mark}{'.fp16' if half else ''}.onnx"


def data_name(base: str, name: str) -> str:
    """Return the name of a NumPy file beside its sidecar."""
    return f"{base}.{name}.npy"


MOEVS_TYPES = ("RVC", "SoVits")
"""The types of voices that MoeVoiceStudio knows, of those that can be made."""


def moevs_names(base: str, *, half: bool, of: str = MOEVS_TYPES[0]) -> tuple[str, str]:
    """Return the names, below the sidecar's folder, of an ONNX file and its JSON as MoeVoiceStudio wants them.

    `of` is one of its types. Both lie in one folder, whose content is copied into that client's `Models`; their names
    are plain enough for Windows, where it runs.
    """
    folder = _plainest(base) + ("-fp16" if half else "")
    return f"{base}.moevs/{folder}/{folder}_{of}.onnx", f"{base}.moevs/{folder}.json"


BELOW = 2
"""Folders one in another that results may need below the sidecar's."""


def folders_below(top: PurePosixPath, paths: Iterable[PurePosixPath]) -> list[PurePosixPath]:
    """Return the folders below `top` that lead to `paths`, the innermost first."""
    between = {folder for path in paths for folder in path.parents if top in folder.parents}
    return sorted(between, key=lambda folder: (-len(folder.parts), folder))


def _plainest(base: str) -> str:
    """Return a name that every system takes, no longer than `base` and as like it as can be."""
    kept = "".join(c if c.isalnum() or c in " ._-~()" else "_" for c in unicodedata.normalize("NFC", base))
    name = _shortened(kept.strip(". "), len(os.fsencode(base)), base) or "voice"
    return f"_{name}" if WINDOWS.fullmatch(name) else name


_MARKS = ("", *(face for face in INTERFACES if face != "moevs"), *NAMED, *EXTRAS)
_FLAT = (
    *(onnx_name("", mark, half=half) for mark in _MARKS for half in (False, True)),
    *(data_name("", name) for name in DATA),
    *(".json", ".error.json"),
)
LONGEST = max(map(len, _FLAT))
"""Bytes of the longest ending of a result."""
WAS_LONGEST = (len(".error.json"), len(".w-okada.fp16.onnx"))
"""The same before there were several faces, and before there was text to speech."""


def stem_of(source_name: str) -> str:
    """Return the name of a voice without its ending."""
    for ending in ENDINGS:
        if source_name[-len(ending) :].lower() == ending:
            return source_name[: -len(ending)]
    return source_name


def output_base(source_name: str, name_max: int = NAME_MAX) -> str:
    """Return the stem under which the results of the voice `source_name` (a bare name) are published.

    It is the source's own stem; if that is too long for the endings of results, its beginning, "~" and six
    hexadecimal digits of the whole name's hash. `name_max` is what the outbox's file system holds, in bytes.
    """
    return _shortened(stem_of(source_name), name_max - LONGEST, source_name)


def bases(relpath: PurePosixPath, name_max: int = NAME_MAX) -> Iterator[str]:
    """Give the stems under which the results of the source `relpath` may lie, in the order in which they are tried.

    The first is `output_base`'s; where another source has that, a mark follows that is this source's own.
    """
    first = output_base(relpath.name, name_max)
    yield first
    for number in count(1):
        mark = hashlib.sha256(os.fsencode(relpath) + b"\0%d" % number).hexdigest()[:6]
        yield output_base(f"{first}~{mark}{ENDINGS[0]}", name_max)


def reserved(base: str) -> tuple[str, ...]:
    """Return all final names that the results under `base` may take; two bases may claim the same one.

    Some lie in folders of their own and are paths from the sidecar's.
    """
    flat = (base + ending for ending in _FLAT)
    theirs = [moevs_names(base, half=half, of=of) for half in (False, True) for of in MOEVS_TYPES]
    return tuple(dict.fromkeys((*flat, *(name for names in theirs for name in names))))


def folds(base: PurePosixPath) -> list[str]:
    """Return the keys (`fold`) of all final paths that the results under the path `base` may take."""
    return [fold(str(base.parent / name)) for name in reserved(base.name)]


_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TEMP = re.compile(rf"\.~.+\.({_TOKEN.pattern})\.part", re.DOTALL)


def temp_name(final_name: str, token: str, name_max: int = NAME_MAX) -> str:
    """Return the hidden name under which `final_name` is written first; sync clients leave such names alone.

    Raises:
        ValueError: if `token` is anything but up to 64 letters, digits, `_` and `-`.
    """
    if not _TOKEN.fullmatch(token):
        raise ValueError(f"no token for a file name: {token!r}")
    tail = f".{token}.part"
    return f".~{_shortened(final_name, name_max - len(tail) - 2, final_name)}{tail}"


def temp_token(name: str) -> str | None:
    """Return the token in a name that `temp_name` made, None for any other name."""
    match = _TEMP.fullmatch(name)
    return match[1] if match else None


def _shortened(name: str, max_bytes: int, whole: str) -> str:
    if len(os.fsencode(name)) <= max_bytes:
        return name
    mark = "~" + hashlib.sha256(os.fsencode(whole)).hexdigest()[:6]
    while len(os.fsencode(name)) > max_bytes - len(mark):
        name = name[:-1]
    return name.rstrip(". ") + mark
