"""What can go wrong, and the words in which a person is told.

A `Refusal` is the file's fault and final until the file changes. It is known by its `code`; message and
hint are templates that live here, in the supervisor. From the worker only the code and the values for the
template cross over (`Refusal.from_wire`), so a hostile file cannot put words of its own into the outbox
beyond short, cleaned values. Everything else that ends a job early is `Lost` (see `job`).
"""

from __future__ import annotations

from collections.abc import Iterator
from string import Formatter
from typing import ClassVar

Found = str | int | float
"""A value that fills a gap in a message."""

MAX_FOUND = 600
"""Characters. A longer value in a message is cut."""


def plain(text: str, limit: int = MAX_FOUND) -> str:
    """Return `text` on one line, without control or direction characters and surrogates, at most `limit` characters.

    For every text that comes out of a file, a file name or the worker and that a person will read.
    """
    clean = "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


class ConfigError(Exception):
    """The configuration cannot be used; `problems` says all that is wrong, one line each, dotted key first."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class LedgerError(Exception):
    """The ledger cannot be used; a person has to see to it."""


class LedgerStuckError(LedgerError):
    """The ledger cannot be written now: the disk is full or does not answer. To be waited out."""


class LedgerDamagedError(LedgerError):
    """What lies there is no ledger that this version can read. The daemon moves it aside and begins a new one."""


class ShareAwayError(Exception):
    """A root folder is not there or does not answer: a state to wait out, never an empty folder."""


class NotOwnerError(ShareAwayError):
    """Another daemon may have taken the outbox over, so nothing is written to it now."""


class NotYet(Exception):  # noqa: N818 - a state of the file, to be looked at again; nobody's fault
    """A file cannot be taken from the inbox as it is now; `why` says so in words."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Changed(NotYet):
    """The file is not the one that was seen before: another state, another file, or gone."""


class Unproven(NotYet):
    """The file is of a form that cannot show that it is complete; only a longer quiet time can."""


class Incomplete(NotYet):
    """A part of the file has not arrived."""

    def refusal(self) -> Refusal:
        """Return what to tell the person once this has lasted for so long that nothing more will come."""
        return Damaged(what=self.why)


class StillEmpty(Incomplete):
    """The file has no bytes yet, as most programs begin."""

    def refusal(self) -> Refusal:
        """Return what to tell the person once this has lasted."""
        return Empty()


class Refusal(Exception):  # noqa: N818 - the domain's word; it is an answer as much as an error
    """The file cannot become a voice in ONNX, and will not until it changes.

    Subclasses give the stable `code`, the `message` (what is wrong and why) and the `hint` (what to do). Gaps in
    the templates are filled from the keyword arguments; all of them have to be given, and no others.
    """

    code: ClassVar[str]
    message: ClassVar[str]
    hint: ClassVar[str]

    def __init__(self, **found: Found) -> None:
        if found.keys() != self.gaps():
            raise TypeError(f"{self.code}: wants {sorted(self.gaps())}, got {sorted(found)}")
        self.found = {name: plain(value) if isinstance(value, str) else value for name, value in found.items()}
        super().__init__(f"{self.code}: {self.text}")

    @classmethod
    def gaps(cls) -> set[str]:
        """Return the names of the values that the two templates want."""
        return {name for _, name, _, _ in Formatter().parse(cls.message + cls.hint) if name}

    @property
    def text(self) -> str:
        """The message with its gaps filled."""
        return self.message.format(**self.found)

    @property
    def advice(self) -> str:
        """The hint with its gaps filled."""
        return self.hint.format(**self.found)

    @staticmethod
    def from_wire(code: str, found: dict[str, Found]) -> Refusal:
        """Return the refusal that `code` names, with the worker's values cleaned.

        Raises:
            ValueError: if there is no such code or the values are not the ones that its templates want.
        """
        kind = REFUSALS.get(code)
        if kind is None or found.keys() != kind.gaps():
            raise ValueError(f"no refusal {plain(code, 40)!r} with {sorted(map(plain, found))}")
        return kind(**found)


class Damaged(Refusal):
    """The file is cut off, has holes, or cannot be read as what it says it is."""

    code = "damaged"
    message = "The file is damaged or did not arrive completely: {what}."
    hint = (
        "Copy or download it again and compare its size with the original. If a copy is still running, "
        "there is nothing to do: the file is looked at again as soon as it changes."
    )


class Empty(Refusal):
    """The file has no bytes."""

    code = "empty"
    message = "The file is empty (0 bytes)."
    hint = "The copy or download did not work. Put the file into the folder again."


class TooLarge(Refusal):
    """The file is larger than the configuration allows."""

    code = "too-large"
    message = "The file has {size_mb} MB; this converter takes files of up to {limit_mb} MB."
    hint = (
        "A voice for use is about 55 MB, a training checkpoint about 450 MB. If this file is right, "
        "ask whoever runs the converter to raise max_bytes."
    )


class NotAFile(Refusal):
    """A link, pipe, socket or device under a voice's name."""

    code = "not-a-file"
    message = "This is {what}, not a file."
    hint = "Put the file itself into the folder, not a link or shortcut to it."


class Unreadable(Refusal):
    """A file that the daemon has no right to read."""

    code = "unreadable"
    message = "voicekiln has no right to read this file."
    hint = "Give everybody, or the group of the folder, the right to read it (chmod a+r); it is then taken by itself."


class WebPage(Refusal):
    """A saved web page or download error instead of the model."""

    code = "web-page"
    message = 'This is a web page or an error message from a download, not a voice. It begins: "{beginning}"'
    hint = "Open the download page in a browser and use its download button, then put the file here again."


class LfsPointer(Refusal):
    """A Git-LFS pointer: a few lines of text that stand for the real file."""

    code = "lfs-pointer"
    message = "This is a Git-LFS pointer: a few lines of text that stand for a file of {size_mb} MB."
    hint = 'Fetch the real file, with "git lfs pull" or with the download button of the model page.'


class Safetensors(Refusal):
    """A safetensors file under another name."""

    code = "safetensors"
    message = "This is a safetensors file that was given another ending; voicekiln reads PyTorch checkpoints."
    hint = "Get the original .pth of the voice, the one that its training tool wrote."


class NotACheckpoint(Refusal):
    """Not a PyTorch checkpoint at all, or one that holds something else than weights."""

    code = "not-a-checkpoint"
    message = "This is not a PyTorch checkpoint: {what}."
    hint = "Put the .pth file of the voice here, as the training tool saved it; unpack it first if it is in an archive."


class UnsafePickle(Refusal):
    """The pickle wants to import something that weights do not need."""

    code = "unsafe-pickle"
    message = 'The file asks to run program code ("{wants}"), which a voice does not need. Nothing of it was run.'
    hint = (
        "Do not open this file in other programs: it may be harmful. Get the voice from a source that you trust, "
        "or ask its author for a file that holds weights only."
    )


class Discriminator(Refusal):
    """The other half of a training checkpoint, `D_*.pth`."""

    code = "discriminator"
    message = "This is a discriminator (usually named D_….pth): the half of a training that judges, not the voice."
    hint = "Put the voice here: the small file from the folder weights, or the G_….pth beside this one."


class NoWeights(Refusal):
    """A checkpoint without a model in it: optimizer or scheduler state alone."""

    code = "no-weights"
    message = "This checkpoint holds no model, only {keys}."
    hint = "Put the voice itself here: the small file from the folder weights, or a G_….pth."


class UnknownVocoder(Refusal):
    """An RVC voice whose decoder is another network than RVC's own."""

    code = "unknown-vocoder"
    message = "This RVC voice was trained with the vocoder {vocoder}, which voicekiln cannot convert yet."
    hint = 'Train or fine-tune the voice with the vocoder "HiFi-GAN"; that is the one that all RVC programs can play.'


class OtherFamily(Refusal):
    """A voice model of a kind that voicekiln knows by sight but does not convert."""

    code = "other-family"
    message = "This is {what}, which voicekiln does not convert."
    hint = "voicekiln converts voices of these kinds: {families}."


class UnknownModel(Refusal):
    """A checkpoint that no family claims."""

    code = "unknown-model"
    message = "This checkpoint is not a voice of a kind that voicekiln knows: {reasons}."
    hint = "voicekiln converts voices of these kinds: {families}. If this is one of them, please report it."


class Contradiction(Refusal):
    """Shapes or settings in the checkpoint that cannot all be true."""

    code = "contradiction"
    message = "The checkpoint contradicts itself: {what}."
    hint = (
        "The file was changed or merged by a tool that made a mistake. Export the voice again from its training tool."
    )


class WrongCompanion(Contradiction):
    """A file beside a model that bears its name or is needed for it, and says what cannot be true of it."""

    code = "wrong-companion"
    message = "{name}, which lies beside this file, does not fit it: {what}."
    hint = (
        "Correct {name}, put the right one in its place or remove it; this file is then judged again by itself. With "
        "several voices in one folder, each one's own companion bears its name: VOICE.json instead of config.json, "
        "VOICE.speakers.json instead of speakers.json."
    )


class NoCompanion(Contradiction):
    """A model that nobody can hear rightly without a file that does not lie beside it, or is of no use there."""

    code = "no-companion"
    message = "This file cannot be converted without its {name}: {what}."
    hint = (
        "Put its {name} beside it, as it came with the voice; this file is then judged again by itself. With several "
        "voices in one folder, each one's own companion bears its name: VOICE.json instead of config.json."
    )


class BadNumbers(Refusal):
    """NaN or infinity among the weights."""

    code = "bad-numbers"
    message = "{count} numbers in the weights are not finite (NaN or infinity), the first of them in {tensor}."
    hint = "The training went wrong or the file is damaged. Use an earlier checkpoint of the same training."


class NotFaithful(Refusal):
    """The finished ONNX file does not sound like the original network, so it was not published."""

    code = "not-faithful"
    message = (
        "The converted file ({precision}) was not published: it differs from the original network "
        "({snr_db} dB signal-to-noise at {frames} frames on {provider}, at least {wanted_db} dB is wanted)."
    )
    hint = (
        "This is a fault of the converter or an unusual voice. Try the recipe fp32 if this was fp16, "
        "and please report it."
    )


class NoSuchFace(Refusal):
    """A recipe asks for an interface alone that this voice cannot have."""

    code = "no-such-face"
    message = "This voice cannot have the interface {interface}: {why}."
    hint = "Use a recipe with another interface (rvc is there for every voice), or one that asks for several."


class WorkerLost(Refusal):
    """The worker died or hung on this file as often as it may."""

    code = "worker-lost"
    message = "The conversion was tried {attempts} times and never finished; the last time: {reason}."
    hint = (
        "The file may be broken in an unusual way, or the machine has too little memory. Ask whoever runs the "
        "converter to look at its log; replacing the file tries again."
    )


class ConflictCopy(Refusal):
    """A copy that a sync tool made because two devices changed the same file."""

    code = "conflict-copy"
    message = "This is a conflict copy made by {tool}: two devices changed the same file, so it was not converted."
    hint = "Keep the version that you want under its plain name and delete or rename the other."


class NameTaken(Refusal):
    """A file that is not ours lies where the result belongs."""

    code = "name-taken"
    message = "The result is ready, but {name} already lies in the outbox and was not put there by voicekiln."
    hint = "Move or rename that file; the result is then published by itself within some minutes."


def _kinds(above: type[Refusal]) -> Iterator[type[Refusal]]:
    """Give all subclasses, each followed by its own."""
    for kind in above.__subclasses__():
        yield kind
        yield from _kinds(kind)


REFUSALS: dict[str, type[Refusal]] = {kind.code: kind for kind in _kinds(Refusal)}
"""Every refusal by its code."""
