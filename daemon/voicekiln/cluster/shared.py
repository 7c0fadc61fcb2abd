"""The shared folder as the daemon has it: which Dask workers see it, and what jobs leave in it.

Before a Dask worker is given a job it has to read a file that lies there as a job's would, and to write one beside it.
Who cannot is asked again at growing distances, and so is everybody with whom a job failed for the folder's sake. What
an earlier start of this daemon has left is removed; names begin with the ledger's mark, so others' is left alone.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from distributed import Client

from voicekiln.cluster.ferry import (
    ABSENT,
    ANOTHER,
    ANSWER,
    DENIED,
    PROBE,
    SEES,
    JobFolder,
    answer,
    answer_of,
)
from voicekiln.cluster.hand import Hand, SharedFolderError
from voicekiln.errors import plain
from voicekiln.folders.files import remove_tree

FIRST_PAUSE_S = 3.0
LAST_PAUSE_S = 60.0
"""Between two probes of a Dask worker that fails them; each pause is twice as long as the one before."""

ANSWER_S = 30.0
"""What a Dask worker is given to answer."""

AT_ONCE = 32
"""Probes; one that hangs shall not keep the others waiting."""

CONTENT_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Sight:
    """What a Dask worker sees."""

    trouble: str | None
    """Why it is not the shared folder, for people."""
    due: float
    """When it is asked again, in seconds of the loop's clock."""
    pause_s: float


class SharedFolder:
    """See the module. Lives in the line's thread."""

    def __init__(self, root: Path, mark: str) -> None:
        """`mark` begins all names of this daemon's."""
        self.root = root
        self.news = False
        """Whether somebody sees it who did not, or the other way round, since this was set to False."""
        self._mark = mark
        self._names: set[str] = set()
        self._sights: dict[str, Sight] = {}
        self._looking: dict[str, asyncio.Task[None]] = {}
        self._room = asyncio.Semaphore(AT_ONCE)
        self._hand = Hand(root)

    @property
    def trouble(self) -> str | None:
        """Which Dask workers do not see it, for people."""
        troubles = [sight.trouble for sight in self._sights.values() if sight.trouble is not None]
        others = len(set(troubles)) - 1
        first = min(troubles, default=None)
        return f"{first}; {others} more Dask workers have such trouble" if others > 0 else first

    def folder(self, hand: Hand | None = None) -> JobFolder:
        """Return a folder for a job; it is not made yet."""
        name = f"{self._mark}-{secrets.token_hex(8)}"
        self._names.add(name)
        return JobFolder(self.root, name, hand)

    @staticmethod
    async def make(folder: JobFolder) -> None:
        """Make the folder of a job.

        Raises:
            SharedFolderError: if that does not work.
        """
        await folder.hand.do(folder.path.mkdir, 0o700)

    def leave(self, folder: JobFolder) -> None:
        """Remove the folder of a job as soon as that can be."""
        folder.close()
        folder.hand.later(remove_tree, folder.path)
        folder.hand.later(self._names.discard, folder.path.name)

    def clear(self) -> None:
        """Remove what earlier jobs have left."""
        self._hand.later(self._clear)

    def _clear(self) -> None:
        # What `remove_tree` has begun with lies beside a folder, under its name with a dot and more behind.
        for name in os.listdir(self.root):  # noqa: PTH208 - names are all that is wanted
            if name.startswith(f"{self._mark}-") and name.partition(".")[0] not in self._names:
                remove_tree(self.root / name)

    def seen_by(self, client: Client, present: Collection[str]) -> list[str]:
        """Return who of those present sees it, by address; ask those of whom that is not known, or no more."""
        self.news = False
        self._sights = {address: sight for address, sight in self._sights.items() if address in present}
        now = asyncio.get_running_loop().time()
        for address in present:
            sight = self._sights.get(address)
            if sight is None or now >= sight.due:
                self._look(client, address)
        return [address for address in present if address in self._sights and self._sights[address].trouble is None]

    async def trouble_of(self, client: Client, address: str) -> str | None:
        """Return why a Dask worker does not see it, and ask if that is not known."""
        if address not in self._sights:
            await asyncio.wait({self._look(client, address)})
        sight = self._sights.get(address)
        return self._in_words(address, None) if sight is None else sight.trouble

    def doubt(self, address: str) -> None:
        """Let a Dask worker be asked again before it is given another job."""
        self._sights.pop(address, None)
        self.news = True

    def forget(self) -> None:
        """Know nothing of any Dask worker; the scheduler has gone."""
        for task in self._looking.values():
            task.cancel()
        self._sights.clear()

    def _look(self, client: Client, address: str) -> asyncio.Task[None]:
        if address not in self._looking:
            task = self._looking[address] = asyncio.create_task(self._ask(client, address))
            task.add_done_callback(lambda _: self._looking.pop(address, None))
        return self._looking[address]

    async def _ask(self, client: Client, address: str) -> None:
        async with self._room:
            trouble = await self._probe(client, address)
        before = self._sights.get(address)
        pause_s = FIRST_PAUSE_S if before is None else min(2 * before.pause_s, LAST_PAUSE_S)
        due = float("inf") if trouble is None else asyncio.get_running_loop().time() + pause_s
        self._sights[address] = Sight(trouble, due, pause_s)
        self.news = True

    async def _probe(self, client: Client, address: str) -> str | None:
        """Return why a Dask worker does not see the folder."""
        folder, probe = self.folder(self._hand), secrets.token_bytes(CONTENT_BYTES)
        try:
            await self.make(folder)
            await folder.write(PROBE, 0, probe, last=True)
            run = client.run(answer, self.root, folder.path.name, workers=[address], on_error="return")
            said: object = (await asyncio.wait_for(run, ANSWER_S)).get(address)
            if said == (SEES, "") and not await _answered(folder, probe):
                said = ANOTHER, ""
        except SharedFolderError as error:
            return str(error)
        except (OSError, TimeoutError, RuntimeError) as error:
            said = error
        finally:
            self.leave(folder)
        return self._in_words(address, said)

    def _in_words(self, address: str, said: object) -> str | None:
        folder = plain(str(self.root))
        if isinstance(said, SharedFolderError):
            return f"on the Dask worker at {address}: {said}"
        code, why = said if isinstance(said, tuple) else ("", "no answer" if said is None else plain(repr(said), 100))
        if code == SEES:
            return None
        if code == ABSENT:
            return f"the Dask worker at {address} has no folder {folder}; mount it there"
        if code == ANOTHER:
            return f"the Dask worker at {address} has another folder at {folder}; mount the same one there"
        if code == DENIED:
            return (
                f"the Dask worker at {address} may not use {folder} ({why}); start it as the user with the number "
                f"{os.geteuid()}, and let its unit write there"
            )
        return f"the Dask worker at {address} cannot use {folder} ({why})"


async def _answered(folder: JobFolder, probe: bytes) -> bool:
    """Say whether the answer is there: a copy that is only synced would not have it yet."""
    try:
        return (await folder.read(ANSWER))[0] == answer_of(probe)
    except SharedFolderError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return False
        raise
