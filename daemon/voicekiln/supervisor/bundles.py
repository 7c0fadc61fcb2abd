"""When `bundle.json` is written: after each change to what is published of one voice's parts in a folder.

The ledger keeps which folders have changed (`Ledger.unbundled`) in the same transaction as the change itself, so that
neither a crash nor a share that was away leaves a bundle behind that is not true for long. A bundle goes when its
folder no longer holds one voice and something beside it. Somebody's own file of that name is left alone, and the log
says so.

Accepted: a bundle names results that a person takes out of its folder until something else changes there; and one that
is left when state folder and sidecars are both lost stays.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from voicekiln.errors import NameTaken, NotOwnerError, ShareAwayError, plain
from voicekiln.folders import bundle
from voicekiln.folders.boards import GONE, BoardFile, put_up, take_down
from voicekiln.folders.bundle_parts import ROLES, Member
from voicekiln.folders.files import open_folder
from voicekiln.folders.names import shown
from voicekiln.folders.outbox import Rights
from voicekiln.folders.voices import Published
from voicekiln.supervisor.common import FIRST_RETRY_S, LAST_RETRY_S, Common
from voicekiln.supervisor.homes import AwayError
from voicekiln.supervisor.ownership import Ownership

AT_ONCE = 20
"""Folders that are looked after in one go."""

MOST = 16
"""Of one kind in a folder; what there is more of nobody can mean by one voice's parts."""


class Bundles:
    """See the module."""

    def __init__(self, common: Common, ownership: Ownership) -> None:
        self._common = common
        self._must_be_sure = ownership.must_be_sure
        self._under_way = False
        self._again: dict[PurePosixPath, tuple[float, float]] = {}
        """When a folder that failed is tried again, in monotonic time, and how long that waited."""
        self._not_before = float("-inf")
        self._told: dict[PurePosixPath, str] = {}
        """What was said to be wrong."""

    def step(self) -> float:
        """Hand on the folders that are due; return the monotonic time of the next ones. For the owner of the outbox."""
        common = self._common
        if self._under_way or "outbox" in common.away:
            return float("inf")
        if common.now.mono < self._not_before:
            return self._not_before
        due = common.ledger.unbundled(self._may_try, AT_ONCE)
        if not due:
            return min((at for at, _ in self._again.values()), default=float("inf"))
        folders = {folder: self._members(folder) for folder in due}
        self._under_way = True
        common.hands.do(
            "writing bundles",
            lambda: self._carry_out(folders),
            lambda troubles: self._done(due, troubles),
            self._failed,
        )
        return float("inf")

    def _may_try(self, folder: PurePosixPath) -> bool:
        return self._again.get(folder, (0.0, 0.0))[0] <= self._common.now.mono

    def _members(self, folder: PurePosixPath) -> list[Member]:
        return [member for role in ROLES for member in self._common.ledger.members(folder, role, MOST)]

    def _done(self, due: Mapping[PurePosixPath, int], troubles: Mapping[PurePosixPath, str]) -> None:
        self._under_way = False
        self._common.ledger.bundled(turn for folder, turn in due.items() if folder not in troubles)
        for folder in due:
            waited = self._again.pop(folder, (0.0, FIRST_RETRY_S / 2))[1]
            told = self._told.pop(folder, None)
            if (trouble := troubles.get(folder)) is None:
                continue
            wait_s = min(LAST_RETRY_S, 2 * waited)
            self._again[folder] = self._common.now.mono + wait_s, wait_s
            if told != trouble and trouble not in self._told.values():
                self._common.log.warning("bundle.failed", file=shown(folder / bundle.NAME), reason=trouble)
            self._told[folder] = trouble

    def _failed(self, error: Exception) -> None:
        """The share went away, or it may be another's now."""
        self._under_way = False
        self._not_before = self._common.now.mono + FIRST_RETRY_S
        self._common.heard(error)

    # --- for the hands -------------------------------------------------------------------------------------------

    def _carry_out(self, folders: Mapping[PurePosixPath, Sequence[Member]]) -> dict[PurePosixPath, str]:
        """Write or remove the bundles; return what went wrong, by folder: one that fails does not keep the others.

        Raises:
            AwayError: if the outbox is away.
            NotOwnerError: if another daemon may have taken over.
        """
        troubles = {}
        for folder, members in folders.items():
            try:
                self._may_write()
                self._look_after(folder, members)
            except (NotOwnerError, AwayError):
                raise
            except NameTaken as error:
                troubles[folder] = f"{error.found['name']} is there already and is no folder"
            except (OSError, ShareAwayError) as error:
                troubles[folder] = plain(getattr(error, "strerror", None) or str(error))
        self._may_write()  # in a folder beneath a mount point everything seems to be gone
        return troubles

    def _may_write(self) -> None:
        self._common.homes.check("outbox")  # not into the empty folder beneath a mount point
        self._must_be_sure()

    def _look_after(self, folder: PurePosixPath, members: Sequence[Member]) -> None:
        outbox, publish = self._common.settings.outbox, self._common.settings.publish
        file = BoardFile(outbox, folder / bundle.NAME, (bundle.BEGINNING,))
        there = [member for member in members if self._lies(member.sidecar)]
        if not bundle.belong_together(there):
            take_down(file)
            return
        try:
            rights = Rights(publish.mode, publish.folder_mode, publish.gid)
        except KeyError as error:
            raise OSError(f"there is no group {publish.group} any more") from error
        instance = self._common.ledger.instance
        put_up(file, bundle.text(there, instance), rights, f"{instance}bundle", self._may_write)

    def _lies(self, file: Published) -> bool:
        """Say whether this sidecar is still there: somebody may have taken the whole folder away."""
        try:
            with open_folder(self._common.settings.outbox, file.path.parent) as folder:
                found = os.stat(file.path.name, dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            if error.errno not in GONE:
                raise
            return False
        return stat.S_ISREG(found.st_mode) and found.st_size == file.bytes
