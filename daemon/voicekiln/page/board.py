"""What the status page and `status.json` show, as plain values; neither knows anything else.

Texts that come from files, file names or the system have been made plain before they get here; nothing has been
escaped. Only paths in the outbox are as the file system has them (surrogateescape), because links lead to them.
"""

from __future__ import annotations

from dataclasses import dataclass

from voicekiln.errors import Refusal
from voicekiln.job import Part, Precision

PAGE_BEGINNING = "<!DOCTYPE html>\n<!-- voicekiln status -->\n"
JSON_BEGINNING = '{\n  "voicekiln": "status",\n'
"""With these, word for word, the two files begin: by them a daemon knows what it, or another one, has written and may
write over (`folders.boards`). A file that begins in another way is somebody's."""


@dataclass(frozen=True, slots=True)
class VoiceInWork:
    """A voice with a worker."""

    file: str
    """Path below the inbox, as people see it; so in all of these."""
    recipe: str
    attempt: int
    bytes: int
    """Of the source."""
    stage: str
    """One of `job.STAGES`, `starting` before the first, `publishing` after the last, `sent` while it waits for a
    place in a cluster."""
    done: float
    """Which part of its steps lies behind, 0 .. 1."""
    since: float
    """Wall-clock seconds at which the stage began; so all times here."""


@dataclass(frozen=True, slots=True)
class WaitingVoice:
    """A voice that waits."""

    file: str
    state: str
    """One of `State`: settling, incomplete, queued, converted, refusing."""
    reason: str
    """Why, in English as the ledger keeps it; empty where the state says it all."""
    next_try: float | None
    bytes: int
    first_seen: float


@dataclass(frozen=True, slots=True)
class RefusedVoice:
    """A voice that was refused."""

    file: str
    refusal: Refusal
    at: float
    error_file: str | None
    """Path below the outbox; None once it has been swept."""
    swept_at: float | None
    """From when on that file may be removed, at the next sweep; None for never."""


@dataclass(frozen=True, slots=True)
class Made:
    """An ONNX file in the outbox."""

    path: str
    """Below the outbox."""
    interface: Part
    precision: Precision
    bytes: int
    snr_db: float | None
    """The worst of its providers; None where it was not verified."""


@dataclass(frozen=True, slots=True)
class DoneVoice:
    """A voice whose result is published."""

    file: str
    recipe: str
    family: str
    version: str
    sample_rate: int
    """Hz; 0 where the file knows none."""
    f0: bool
    speakers: int
    bytes: int
    """Of the source."""
    at: float
    seconds: float | None
    """That the conversion took; None where the content had been converted before, so that there was none."""
    files: tuple[Made, ...]
    """None once they have been swept."""
    sidecar: str | None
    """Path below the outbox."""
    swept_at: float | None
    """As above, for all of the files."""
    notes: tuple[str, ...]
    picture: str
    """As `Conversion.picture`; empty if there is none."""
    data: tuple[str, ...] = ()
    """Paths below the outbox of bare numbers that clients read."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Of all that the daemon knows, also of what is left out below."""

    waiting: int
    in_work: int
    done: int
    refused: int
    bytes_in: int
    """Of the sources of all results."""
    bytes_out: int
    """Of all files that lie in the outbox."""
    mean_seconds: float | None
    """Per conversion; None before the first."""
    free_bytes: int | None
    """On the outbox's file system; None if it does not say."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the workers are, if not on this machine."""

    scheduler: str
    """Its address."""
    places: int
    """So many voices are in work at once there; 0 while it is away."""
    dashboard: str | None
    """The address of its own page; None if it has none, or is away."""


@dataclass(frozen=True, slots=True)
class Board:
    """The whole of it."""

    written: float
    promised: float
    """The next one is written by then at the latest; if not, the daemon does not run or cannot write."""
    stopped: bool
    """The daemon came to a clean end when it had written this; then nothing is `promised`, whatever stands there."""
    version: str
    """Of voicekiln."""
    device: str
    """`NVIDIA …` or `CPU`; empty before a worker has said so."""
    cluster: Cluster | None
    """None where the workers are on this machine."""
    last_scan: float | None
    """Of the inbox, when this was `written`; others have come since."""
    troubles: tuple[str, ...]
    """What keeps the daemon from its work, in English as `status` tells it."""
    totals: Totals
    in_work: tuple[VoiceInWork, ...]
    waiting: tuple[WaitingVoice, ...]
    refused: tuple[RefusedVoice, ...]
    done: tuple[DoneVoice, ...]
    """The newest first."""
    left_out: int
    """Voices that are known and not listed, because the page would grow too long."""
