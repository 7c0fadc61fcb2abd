"""Where inbox and outbox belong, so that the empty folder beneath a mount point is never taken for the share.

Kept in a file of the state folder, over restarts: a machine that comes up without its network drive finds the folder
on the disk below, and must not conclude that everybody has taken his voices away. A folder is away if the mount point
above it is gone; another drive mounted at the same place is none of our business.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from voicekiln.errors import ShareAwayError
from voicekiln.folders.watch import FileSystem, file_system
from voicekiln.settings import Settings

Share = Literal["inbox", "outbox"]
SHARES: tuple[Share, ...] = ("inbox", "outbox")

FILE = "homes.json"
"""In the state folder: the mount point of each folder that was ever at home."""


class AwayError(ShareAwayError):
    """One of the two shares is away; `which` says which."""

    def __init__(self, which: Share, why: str) -> None:
        super().__init__(why)
        self.which = which


@dataclass(frozen=True, slots=True)
class Homes:
    """See the module. Its methods touch the shares, so they are for the hands, and for the start."""

    settings: Settings
    mount_points: dict[str, str]
    """By configured path."""

    @classmethod
    def of(cls, settings: Settings) -> Homes:
        """Return what is known from earlier runs; a folder that is new here is at home where it is now."""
        file = settings.state / FILE
        try:
            known = {str(k): str(v) for k, v in json.loads(file.read_text()).items()}
        except (OSError, ValueError, AttributeError):
            known = {}
        now = {str(path): str(file_system(path).mount_point) for path in (settings.inbox, settings.outbox)}
        points = {path: known.get(path, point) for path, point in now.items()}
        for path, point in now.items():
            if len(Path(point).parts) > len(Path(points[path]).parts):  # a share was mounted since
                points[path] = point
        if points != known:
            part = file.with_name(file.name + ".part")
            with suppress(OSError):  # a full disk: remembered next time
                part.write_text(json.dumps(points))
                part.replace(file)
        return cls(settings, points)

    def check(self, which: Share) -> FileSystem:
        """Return on what file system the share lies.

        Raises:
            AwayError: if it cannot be opened, or the mount point above it is gone.
        """
        path: Path = getattr(self.settings, which)
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))  # opening lets an automount come
        except OSError as error:
            raise AwayError(which, f"the folder cannot be opened: {error.strerror}") from error
        now = file_system(path)
        home = self.mount_points[str(path)]
        if len(now.mount_point.parts) < len(Path(home).parts):
            moved = f"if the {which} has moved for good, delete {FILE} in the state folder and restart"
            raise AwayError(which, f"{home} is not mounted ({moved})")
        return now

    def name_max(self) -> int:
        """Return how many bytes a file name in the outbox may have."""
        try:
            return os.pathconf(self.settings.outbox, "PC_NAME_MAX")
        except OSError:
            return 255
