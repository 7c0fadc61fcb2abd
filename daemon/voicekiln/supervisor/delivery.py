"""From an ending in the ledger to the files in the outbox.

Publishing may fail for reasons that pass - the share is away, the disk is full, somebody's file lies in the way -
and is then tried again for ever, at growing distances and with the reason in the ledger. The finished files wait in
staging meanwhile; nothing is converted twice for it.
"""

from __future__ import annotations

import errno
import secrets
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath

from voicekiln.errors import NameTaken, Refusal, ShareAwayError, plain
from voicekiln.folders import bundle, sidecar
from voicekiln.folders.names import bases, fold, folds, shown
from voicekiln.folders.outbox import Delivery, Piece, Rights, StagingLostError, publish
from voicekiln.folders.voices import Published, State, Voice
from voicekiln.job import Conversion, Converted, OnnxFile, Refused, staged_files
from voicekiln.steps import Step, passed
from voicekiln.supervisor.common import Common
from voicekiln.supervisor.ownership import Ownership

ITS_OWN = {
    *(errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EINVAL, errno.EILSEQ),
    errno.ENOTEMPTY,
}
"""Troubles with one name or folder of the outbox, which are no reason to stop other voices."""


PAGE_IN_THE_WAY = "its folder has the name of the status page; rename the folder in the inbox"


class Post:
    """Publishes endings, one at a time."""

    def __init__(self, common: Common, ownership: Ownership) -> None:
        self._common = common
        self._must_be_sure = ownership.must_be_sure
        self._under_way = False
        self._run = secrets.token_hex(2)
        """In the names of temporary files: somebody may have started a copy of our state folder, too."""

    def step(self) -> None:
        """Hand the next ending that is due to the hands, unless one is with them already."""
        if self._under_way:
            return
        ledger, common = self._common.ledger, self._common
        voice = ledger.first(lambda v: common.may_try(v.id), State.CONVERTED, State.REFUSING)
        if voice is not None:
            self._send(voice)

    def _send(self, voice: Voice) -> None:
        common = self._common
        # Names that it had before a file of the daemon's own got one of them are no longer its own.
        base = voice.base if voice.base is not None and self._is_free(folds(voice.base)) else self._claim(voice)
        if not common.boards.isdisjoint(fold(str(folder)) for folder in base.parents):
            common.in_the_way.add(voice.id)
            common.ledger.wait(voice.id, voice.state, PAGE_IN_THE_WAY, common.put_off(voice.id))
            return
        match voice.ending:
            case Converted(conversion):
                pieces = self._result(voice, conversion, base)
            case Refused(refusal):
                pieces = [self._refusal(voice, refusal, base)]
            case None:
                common.ledger.start_over(voice.id)  # an ending of another version of voicekiln: judge anew
                return
        delivery = self._delivery(voice, pieces, replaces_all=isinstance(voice.ending, Converted))
        self._under_way = True
        common.hands.do(
            f"publishing {shown(voice.relpath)}",
            lambda: _publish(common, delivery, self._must_be_sure),
            lambda files: self._published(voice, files, delivery),
            lambda error: self._failed(voice, error),
        )

    def _claim(self, voice: Voice) -> PurePosixPath:
        """Reserve the names of the results: the source's own stem, or that with a mark if another voice has it.

        Or if a file of the daemon's own has one of them.
        """
        for base in bases(voice.relpath, self._common.name_max):
            path = voice.relpath.parent / base
            names = folds(path)
            if self._is_free(names) and self._common.ledger.claim_base(voice.id, path, names):
                return path
        raise AssertionError("there is always another one")

    def _is_free(self, names: Iterable[str]) -> bool:
        """Say whether neither the status page nor a bundle has one of these folded names."""
        boards = self._common.boards
        return not any(name in boards or name.rpartition("/")[2] == bundle.NAME for name in names)

    def _result(self, voice: Voice, conversion: Conversion, base: PurePosixPath) -> list[Piece]:
        sources, recipe = self._sources(voice, conversion), voice.taken or self._common.recipe(voice)
        return sidecar.result(self._origin(voice), conversion, recipe, base, sources, self._common.now.wall)

    def _refusal(self, voice: Voice, refusal: Refusal, base: PurePosixPath) -> Piece:
        return sidecar.refusal(self._origin(voice), refusal, base, self._common.now.wall, self._common.words)

    def _origin(self, voice: Voice) -> sidecar.Origin:
        instance = self._common.ledger.instance
        return sidecar.Origin(voice.relpath, voice.sha256, voice.stamp.size, voice.first_seen, instance, voice.beside)

    def _sources(self, voice: Voice, conversion: Conversion) -> dict[str, Path]:
        """Return where the bytes lie, by hash: in staging, or among the published results of a twin."""
        staging = self._common.staging(voice.job or "-")
        sources = staged_files(conversion, staging)
        if not staging.is_dir() and (twin := self._common.ledger.twin(voice)) is not None:
            for _, file in self._common.ledger.files(twin.id):
                if file.sha256 in sources:
                    sources[file.sha256] = self._common.settings.outbox / file.path
        return sources

    def _delivery(self, voice: Voice, pieces: Sequence[Piece], *, replaces_all: bool) -> Delivery:
        """`replaces_all` lets a result take away whatever else the voice had; a refusal leaves an older result."""
        ours = {file.path: file for _, file in self._common.ledger.files(voice.id)}
        targets = {piece.path for piece in pieces}
        stale = [path for path in ours if replaces_all and path not in targets]
        token = f"{self._common.ledger.instance}{self._run}{voice.id:x}"
        return Delivery(pieces, stale, ours, token)

    def _published(self, voice: Voice, files: tuple[Published, ...], delivery: Delivery) -> None:
        common = self._common
        self._under_way = False
        common.share_is("outbox", None)
        common.ledger.published(voice.id, files, delivery.stale, common.now.wall)
        passed(Step.PUBLISHED)
        common.went_well(voice.id)
        common.without_twin.discard(voice.id)
        common.in_the_way.discard(voice.id)
        common.ended.pop(voice.id, None)
        common.clear_job(voice.job)
        passed(Step.SPOOL_CLEARED)
        self._tell(voice, files)

    def _failed(self, voice: Voice, error: Exception) -> None:
        common = self._common
        self._under_way = False
        common.heard(error)
        if isinstance(error, StagingLostError):
            common.log.warning("staging.lost", file=shown(voice.relpath), reason=str(error))
            common.without_twin.add(voice.id)
            common.in_the_way.discard(voice.id)
            common.put_off(voice.id)
            common.ledger.start_over(voice.id, counts=True)
            return
        reason = error.text if isinstance(error, Refusal) else plain(str(error))
        if reason != voice.reason and not isinstance(error, ShareAwayError):
            common.log.warning("publication.failed", file=shown(voice.relpath), reason=reason)
        told = voice.id in common.in_the_way
        own = isinstance(error, NameTaken) or (isinstance(error, OSError) and error.errno in ITS_OWN)
        (common.in_the_way.add if own else common.in_the_way.discard)(voice.id)
        common.ledger.wait(voice.id, voice.state, reason, common.put_off(voice.id))
        if isinstance(error, NameTaken) and not told:
            self._say_taken(voice, error)

    def _say_taken(self, voice: Voice, refusal: NameTaken) -> None:
        """Tell the person in the outbox, too; the result follows when the way is free."""
        current = self._common.ledger.by_id(voice.id)
        if current is None or current.base is None or not isinstance(voice.ending, Converted):
            return
        delivery = self._delivery(voice, [self._refusal(voice, refusal, current.base)], replaces_all=False)
        common = self._common
        self._under_way = True  # until the ledger knows of that file, nothing of this voice may overtake it

        def told(files: tuple[Published, ...]) -> None:
            self._under_way = False
            common.ledger.also_published(voice.id, files)
            facts = {"file": shown(voice.relpath), "code": refusal.code, "error_file": files[0].path}
            common.log.info("refusal.published", **facts)

        def not_told(_: Exception) -> None:
            self._under_way = False  # that name is taken as well; the status says why the voice waits

        common.hands.do(
            f"publishing {shown(voice.relpath)}", lambda: _publish(common, delivery, self._must_be_sure), told, not_told
        )

    def _tell(self, voice: Voice, files: tuple[Published, ...]) -> None:
        """Write the canonical line of a job."""
        facts: dict[str, object] = {
            "file": shown(voice.relpath),
            "recipe": voice.recipe,
            "attempt": voice.attempts,
            "sha256": voice.sha256,
        }
        match voice.ending:
            case Converted(conversion):
                facts |= {
                    "outcome": "converted" if voice.attempts else "copied",
                    "family": conversion.model.get("family"),
                    "variant": conversion.model.get("version"),
                    "bytes": {str(f.path.name): f.bytes for f in files if f.kind == "onnx"},
                    "seconds": {stage: round(s, 2) for stage, s in conversion.seconds.items()},
                    "snr_db": {f"{f.interface} {f.precision}": _snr_db(f) for f in conversion.files},
                }
            case Refused(refusal):
                facts |= {"outcome": "refused", "code": refusal.code, "reason": refusal.text}
                facts["error_file"] = files[0].path
        self._common.log.info("job.finished", **facts)


def _snr_db(file: OnnxFile) -> float | None:
    return min((round(found.snr_db, 1) for found in file.fidelity), default=None)


def _publish(common: Common, delivery: Delivery, must_be_sure: Callable[[], None]) -> tuple[Published, ...]:
    settings = common.settings.publish
    common.homes.check("outbox")
    try:
        rights = Rights(settings.mode, settings.folder_mode, settings.gid)
    except KeyError as error:
        raise OSError(f"there is no group {settings.group} any more") from error
    must_be_sure()
    return publish(common.settings.outbox, delivery, rights, must_be_sure)
