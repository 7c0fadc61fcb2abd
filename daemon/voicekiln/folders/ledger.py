"""What voicekiln knows of every file, kept in SQLite so that a restart at any moment loses nothing.

The ledger lies in the state folder on local disk, never on a share. One row a source file (`Voice`); its `state` says
what has to happen next, so that after a crash the service only has to look at the states. Ages are counted by a clock
of the ledger's own from our own publications, never from a file's time stamps. The daemon writes from its loop alone;
the commands `retry` and `forget` write from a process of their own, which is why they touch nothing that is in work.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from heapq import merge
from itertools import islice
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from voicekiln.folders.bundle_parts import Member, Role, role_of
from voicekiln.folders.database import Database, Row
from voicekiln.folders.rows import file_in, known_in, path_of, stamp_in, text_of, voice_in
from voicekiln.folders.tables import TURN, WAITING
from voicekiln.folders.voices import (
    AT_REST,
    IN_WORK,
    WORKING,
    Class,
    Found,
    Item,
    Kind,
    Known,
    Left,
    Place,
    Published,
    State,
    Voice,
    alone,
    ending_json,
    ignores_beside,
    read_ending,
)
from voicekiln.job import NOT_READ, Converted, FileStamp, Recipe, Refused

KEPT_EVERY_S = 600.0
LONGEST_GAP_S = 86400.0
"""The clock of the ledger is written down so often, and goes on by this much at most over a gap; see `pass_time`."""

_SOURCE = "state = 'done' AND source = 'there'"
_SOURCES = f"""
    SELECT * FROM (SELECT id AS voice, rested AS at, relpath, stamp, sha256 FROM voices WHERE {_SOURCE})
    WHERE sha256 IS NOT NULL
"""  # noqa: S608 - ours
_FILES = """
    SELECT * FROM (
        SELECT DISTINCT voice, published AS at FROM files WHERE kind = ?
        AND EXISTS (SELECT 1 FROM voices WHERE id = voice AND state IN ('done', 'refused'))
    ) WHERE TRUE
"""
_HEADS: dict[Class, Kind] = {"results": "sidecar", "refusals": "refusal"}
"""A file of this kind stands for all that are swept together with it."""


class Ledger(Database):
    """See the module. Times are wall-clock seconds and come in as `at`; `pass_time` comes before all publications."""

    def __init__(self, path: Path) -> None:
        """Open or create the ledger. Raises as `Database` does."""
        self.clock = 0.0
        """Seconds by which ages are counted; see `pass_time`."""
        self._at: tuple[float, float] | None = None
        self._kept = float("-inf")
        super().__init__(path)

    # --- looking -----------------------------------------------------------------------------------------------

    def voices(self, *states: State) -> list[Voice]:
        """Return the voices in these states (all, if none is given), the longest known first."""
        some = f"WHERE {_in(states)}" if states else ""
        return [voice_in(row) for row in self._ask(f"SELECT * FROM voices {some} ORDER BY first_seen, id", states)]  # noqa: S608 - question marks only

    def each(self) -> Iterator[Voice]:
        """Give all voices one by one, the longest known first; nothing may be changed before the last."""
        return map(voice_in, self._each("SELECT * FROM voices ORDER BY first_seen, id"))

    def paths(self) -> Iterator[tuple[int, PurePosixPath]]:
        """Give number and path of all voices one by one; nothing may be changed before the last."""
        return ((row["id"], path_of(row["relpath"])) for row in self._each("SELECT id, relpath FROM voices"))

    def first(self, wanted: Callable[[Voice], bool], *states: State) -> Voice | None:
        """Return the voice in these states whose turn comes first (see `Voice.turn`) of those that are `wanted`.

        Those that wait for a time (`wait`) are left out until `due_again`: of thousands, few are looked at. None of the
        states may be one of rest, and `wanted` must not use the ledger.
        """
        sql = f"SELECT *, {TURN} AS turn FROM voices WHERE state = ? AND {WAITING} ORDER BY {TURN}, id"  # noqa: S608 - ours
        with ExitStack() as stack:
            queues = [stack.enter_context(closing(self._each(sql, (state,)))) for state in states]
            rows = merge(*queues, key=lambda row: (row["turn"], row["id"]))
            return next((voice for row in rows if wanted(voice := voice_in(row))), None)

    def voice(self, relpath: PurePosixPath) -> Voice | None:
        """Return the row of a source file."""
        row = self._ask_one("SELECT * FROM voices WHERE relpath = ?", (os.fsencode(relpath),))
        return None if row is None else voice_in(row)

    def by_id(self, voice: int) -> Voice | None:
        """Return the row with this number."""
        row = self._ask_one("SELECT * FROM voices WHERE id = ?", (voice,))
        return None if row is None else voice_in(row)

    def known(self) -> Iterator[tuple[PurePosixPath, Known]]:
        """Give what a scan has to be compared with, one by one; nothing may be changed before the last.

        A voice at rest whose source is gone is not among them: a file that appears there is as good as new.
        """
        what = "SELECT id, relpath, stamp, state, source, job FROM voices WHERE"
        sql = f"{what} source = 'there' UNION ALL {what} {_in(WORKING)} AND source != 'there'"
        for r in self._each(sql, WORKING):
            yield path_of(r["relpath"]), known_in(r)

    def files(self, voice: int) -> list[tuple[float, Published]]:
        """Return what of a voice lies in the outbox, each with the time of its publication."""
        rows = self._ask("SELECT * FROM files WHERE voice = ? ORDER BY published, path", (voice,))
        return [(r["published"], file_in(r)) for r in rows]

    def twin(self, voice: Voice) -> Voice | None:
        """Return another voice at rest with the same key, so that its ending is this one's too.

        Or one of the same content whose family does not look for companions, be they what they may.
        """
        sql = "SELECT * FROM voices WHERE key = ? AND id != ? AND state IN (?, ?) AND ending IS NOT NULL LIMIT 1"
        for key in dict.fromkeys((voice.key, alone(voice.key or ""))):
            if (row := self._ask_one(sql, (key, voice.id, *AT_REST))) is not None:
                twin = voice_in(row)
                if key == voice.key or ignores_beside(twin.ending):
                    return twin
        return None

    def keys_in_work(self) -> set[str]:
        """Return the keys (`alone`) whose ending is near, so that copies of the same content wait for it.

        They do not wait for a publication that is stuck.
        """
        rows = self._ask(
            "SELECT DISTINCT key FROM voices WHERE state IN (?, ?, ?) AND reason = '' AND key IS NOT NULL",
            IN_WORK,
        )
        return {alone(row["key"]) for row in rows}

    def jobs(self) -> set[str]:
        """Return the jobs to which a spooled copy or a staging folder may belong."""
        return {row["job"] for row in self._ask("SELECT job FROM voices WHERE job IS NOT NULL")}

    def counts(self) -> dict[State, int]:
        """Return how many voices there are in each state."""
        return {State(r["state"]): r["voices"] for r in self._ask("SELECT * FROM tally")}

    def waiting_since(self, at: float) -> float | None:
        """Return since when the oldest voice that is not at rest has waited; None if there is none.

        One that was replaced waits since it changed, as its file says: evidence that is good enough for an alert,
        unless it says that this is still to come.
        """
        since = "CASE WHEN changed <= ? THEN max(first_seen, changed) ELSE first_seen END"
        voices = f"SELECT first_seen, json_extract(stamp, '$[3]') / 1e9 AS changed FROM voices WHERE {_in(WORKING)}"  # noqa: S608 - question marks only
        [row] = self._ask(f"SELECT min({since}) AS since FROM ({voices})", (at, *WORKING))  # noqa: S608 - ours
        return None if row["since"] is None else float(row["since"])

    # --- ages ---------------------------------------------------------------------------------------------------

    def clock_at(self, wall: float) -> float:
        """Return what the ledger's clock shows at `wall`, as far as one can tell that does not keep it running.

        Over a gap in which nobody kept it, it goes on as the wall clock does, but not back and by a day at most.
        """
        kept = self.fact("clock")
        if kept is None:  # new, or from before there was a clock
            [row] = self._ask("SELECT max((SELECT max(published) FROM files), (SELECT max(finished) FROM voices)) AS m")
            clock = was = wall if row["m"] is None else float(row["m"])
        else:
            clock, was = json.loads(kept)
        return float(clock + min(max(0.0, wall - was), LONGEST_GAP_S))

    def pass_time(self, mono: float, wall: float) -> None:
        """Move the ledger's clock on; called at every tick.

        While the daemon runs, only its monotonic clock moves this one, so that a wall clock that is set wrong by ten
        years, in whichever direction, makes nothing old at once and keeps nothing from growing old.
        """
        if self._at is None:
            self._at = mono, self.clock_at(wall)
        self.clock = self._at[1] + mono - self._at[0]
        if mono >= self._kept + KEPT_EVERY_S:
            self._kept = mono
            self.set_fact("clock", json.dumps([self.clock, wall]))

    # --- sweeping ------------------------------------------------------------------------------------------------

    def size(self) -> int:
        """Return how many files the ledger knows: all in the outbox, and in the inbox those that were converted."""
        [row] = self._ask(f"SELECT (SELECT count(*) FROM files) + (SELECT count(*) FROM voices WHERE {_SOURCE}) AS n")  # noqa: S608 - ours
        return int(row["n"])

    def aged(self, of: Class, until: float, after: Place, most: int) -> list[Item]:
        """Return what has lain there since `until` (of the ledger's clock) or longer and is not in work.

        The oldest first, from behind `after`, and no more than `most`.
        """
        what = _SOURCES if of == "sources" else _FILES
        kind = () if of == "sources" else (_HEADS[of],)
        sql = f"{what} AND at <= ? AND (at, voice) > (?, ?) ORDER BY at, voice LIMIT ?"
        return [self._item(of, row) for row in self._ask(sql, (*kind, until, *after, most))]

    def _item(self, of: Class, row: Row) -> Item:
        if of == "sources":
            stamp = replace(stamp_in(row["stamp"]), beside="")  # they stay: they may belong to others
            files = [Published(path_of(row["relpath"]), "source", row["sha256"], stamp.size, stamp)]
        else:
            known = self.files(row["voice"])
            files = [file for _, file in known if (file.kind == "refusal") == (of == "refusals")]
            files.sort(key=lambda file: (file.kind != "sidecar", file.path))
        return Item(row["voice"], of, tuple(files), row["at"])

    def due(self, of: Class, until: float, after: Place) -> int:
        """Return how much `aged` would give if there was no end to it, and what is in work."""
        if of == "sources":
            sql = f"SELECT count(*) AS n FROM voices WHERE {_SOURCE} AND rested <= ? AND (rested, id) > (?, ?)"  # noqa: S608 - ours
            [row] = self._ask(sql, (until, *after))
        else:
            sql = "SELECT count(*) AS n FROM files WHERE kind = ? AND published <= ? AND (published, voice) > (?, ?)"
            [row] = self._ask(sql, (_HEADS[of], until, *after))
        return int(row["n"])

    def left(self, after: int, most: int) -> list[Left]:
        """Return voices whose source is gone, and what lay in the outbox of theirs; by number, from behind `after`."""
        sql = f"SELECT id FROM voices WHERE source != 'there' AND {_in(AT_REST)} AND id > ? ORDER BY id LIMIT ?"  # noqa: S608 - question marks only
        rows = self._ask(sql, (*AT_REST, after, most))
        return [Left(row["id"], tuple(file for _, file in self.files(row["id"]))) for row in rows]

    # --- bundles -------------------------------------------------------------------------------------------------

    def unbundled(self, wanted: Callable[[PurePosixPath], bool], most: int) -> dict[PurePosixPath, int]:
        """Return folders in which parts have changed since `bundled`, the longest known first, each with its turn.

        Those are left out that are not `wanted`, which must not use the ledger.
        """
        with closing(self._each("SELECT turn, folder FROM unbundled ORDER BY turn")) as rows:
            folders = ((path_of(row["folder"]), int(row["turn"])) for row in rows)
            return dict(islice((found for found in folders if wanted(found[0])), most))

    def members(self, folder: PurePosixPath, role: Role, most: int) -> list[Member]:
        """Return the published results in a folder that are this in a bundle.

        Of names that end in a number, the one with the highest comes first: the longest, and of these the last.
        """
        rows = self._ask(
            "SELECT files.*, parts.ending FROM parts JOIN files USING (path) WHERE folder = ? AND role = ? "
            "ORDER BY length(path) DESC, path DESC LIMIT ?",
            (os.fsencode(folder), role, most),
        )
        found = [(file_in(row), read_ending(row["ending"])) for row in rows]
        return [Member(role, file, ending.conversion) for file, ending in found if isinstance(ending, Converted)]

    def bundled(self, turns: Iterable[int]) -> None:
        """Note that the bundles of these folders are as they should be, unless something has changed meanwhile."""
        with self.together():
            self._db.executemany("DELETE FROM unbundled WHERE turn = ?", [(turn,) for turn in turns])

    # --- writing, in the order of a voice's way -----------------------------------------------------------------

    def sight(self, relpath: PurePosixPath, recipe: str, stamp: FileStamp, at: float) -> Voice:
        """Note that a file is there in a state not known so far: it has to settle."""
        with self.together():
            self._db.execute(
                "INSERT INTO voices (relpath, recipe, stamp, state, first_seen) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (relpath) DO UPDATE SET recipe = excluded.recipe, stamp = excluded.stamp, "
                "state = excluded.state, reason = '', next_try = NULL, job = NULL, source = 'there'",
                (os.fsencode(relpath), recipe, text_of(stamp), State.SETTLING, at),
            )
            seen = self.voice(relpath)
        assert seen is not None  # noqa: S101 - it was written a line above, in the same transaction
        return seen

    def wait(self, voice: int, state: State, reason: str, next_try: float | None = None) -> None:
        """Note that a voice waits in `state`, and why."""
        self._set(voice, state=state, reason=reason, next_try=next_try)

    def due_again(self, voices: Iterable[int]) -> None:
        """Note that the time has come for which these waited."""
        with self.together():
            self._db.executemany("UPDATE voices SET next_try = NULL WHERE id = ?", [(voice,) for voice in voices])

    def spooled(  # noqa: PLR0913, PLR0917 - what a copy is known by
        self,
        voice: int,
        stamp: FileStamp,
        sha256: str,
        recipe: Recipe,
        key: str,
        job: str,
        beside: Mapping[str, str | None] = MappingProxyType({}),
    ) -> None:
        """Note that the copy of this content lies in the spool under `job`; attempts start anew with new content."""
        with self.together():
            self._db.execute(
                "UPDATE voices SET stamp = ?, sha256 = ?, beside = ?, taken = ?, job = ?, state = ?, reason = '', "
                "next_try = NULL, attempts = CASE WHEN key IS ? THEN attempts ELSE 0 END, "
                "deaths = CASE WHEN key IS ? THEN deaths ELSE 0 END, "
                "ending = CASE WHEN key IS ? THEN ending ELSE NULL END, key = ? WHERE id = ?",
                (
                    text_of(stamp),
                    sha256,
                    json.dumps(dict(beside)) if beside else None,
                    json.dumps(asdict(recipe)),
                    job,
                    State.QUEUED,
                    key,
                    key,
                    key,
                    key,
                    voice,
                ),
            )

    def start(self, voice: Voice) -> Voice | None:
        """Count an attempt, on disk, before the work begins; None if a command has just taken the voice back."""
        with self.together():
            self._db.execute(
                "UPDATE voices SET state = ?, attempts = attempts + 1, reason = '', next_try = NULL "
                "WHERE id = ? AND state = ? AND job = ?",
                (State.CONVERTING, voice.id, State.QUEUED, voice.job),
            )
            started = self.by_id(voice.id)
        return started if started is not None and started.state is State.CONVERTING else None

    def inherit(self, voice: Voice, ending: Converted | Refused, *, of_content: bool = True) -> bool:
        """End a queued voice without a worker, as its twin did; False if a command has just taken the voice back."""
        with self.together():
            current = self.by_id(voice.id)
            if current is None or current.state is not State.QUEUED or current.key != voice.key:
                return False
            self.ended(voice.id, ending, of_content=of_content)
            return True

    def died(self, voice: int) -> int:
        """Note that the daemon itself went down with this voice; give the attempt back, return how often it has."""
        with self.together():
            self._db.execute(
                "UPDATE voices SET state = ?, reason = ?, deaths = deaths + 1, attempts = max(0, attempts - 1) "
                "WHERE id = ?",
                (State.QUEUED, "the converter itself was stopped in the middle", voice),
            )
            [row] = self._ask("SELECT deaths FROM voices WHERE id = ?", (voice,))
            return int(row["deaths"])

    def lost(self, voice: int, reason: str, next_try: float | None, *, counts: bool) -> None:
        """Note that the attempt came to nothing and will be made again; one that does not count is given back."""
        back = 0 if counts else 1
        with self.together():
            self._db.execute(
                "UPDATE voices SET state = ?, reason = ?, next_try = ?, attempts = max(0, attempts - ?) WHERE id = ?",
                (State.QUEUED, reason, next_try, back, voice),
            )

    def ended(self, voice: int, ending: Converted | Refused, *, of_content: bool = True) -> None:
        """Note how it ended; what remains is to publish that.

        `of_content` is False where the ending does not follow from the content alone (the worker was lost, the file
        is a link), so that no twin may inherit it.
        """
        state = State.CONVERTED if isinstance(ending, Converted) else State.REFUSING
        changes: dict[str, object] = {"state": state, "ending": ending_json(ending), "reason": "", "next_try": None}
        changes["took_ms"] = _took_ms(ending)
        with self.together():
            row = self.by_id(voice) if ignores_beside(ending) else None
            if row is not None and row.key is not None:
                changes["key"] = alone(row.key)
            self._set(voice, **(changes if of_content else changes | {"key": None}))

    def claim_base(self, voice: int, base: PurePosixPath, folds: Iterable[str]) -> bool:
        """Reserve an output path and the folded names that come with it for this voice; False if one is taken."""
        with self.together():
            wanted = [os.fsencode(fold) for fold in folds]  # names may hold bytes that are no text
            taken = self._ask(f"SELECT 1 FROM names WHERE {_folds(wanted)} AND voice != ?", (*wanted, voice))  # noqa: S608 - question marks only
            if taken:
                return False
            self._name(voice, base, wanted)
        return True

    def published(self, voice: int, files: Sequence[Published], gone: Iterable[PurePosixPath], at: float) -> None:
        """Note that the ending lies in the outbox; `gone` are files of ours that it replaced."""
        with self.together():
            self._forget_files(gone)
            self._keep_files(voice, files)
            self._rest(voice, at)

    def also_published(self, voice: int, files: Sequence[Published]) -> None:
        """Note files that were published while the ending itself still waits."""
        with self.together():
            self._keep_files(voice, files)

    def unchanged(self, voice: int, stamp: FileStamp, at: float) -> None:
        """Note that a file seen anew has the content that its results, still there, were made from."""
        with self.together():
            self._db.execute("UPDATE voices SET stamp = ? WHERE id = ?", (text_of(stamp), voice))
            self._rest(voice, at)

    def heed(self, voice: int, stamp: FileStamp) -> bool:
        """Note that only companions of a voice have changed; False if its ending may change with them."""
        made = "json_type(ending, '$.converted.model')"
        looked = "json_type(ending, '$.converted.model.companions')"
        with self.together():
            done = self._db.execute(
                f"UPDATE voices SET stamp = ? WHERE id = ? AND state = ? AND {made} = 'object' AND {looked} IS NULL",  # noqa: S608 - ours
                (text_of(stamp), voice, State.DONE),
            )
            return done.rowcount == 1

    def start_over(self, voice: int, *, counts: bool = False) -> None:
        """Note that what was made of a voice is lost, so that the source has to be taken again.

        Where that `counts`, the same content goes on from the attempts that it has had.
        """
        changes: dict[str, object] = {
            "state": State.SETTLING,
            "job": None,
            "ending": None,
            "reason": "",
            "next_try": None,
        }
        with self.together():
            self._set(voice, **(changes if counts else changes | {"key": None}))
            self._drop_if_spent(voice)

    def vanished(self, voice: int) -> None:
        """Note that the source is no longer in the inbox; a row with nothing to show for it goes."""
        with self.together():
            self._db.execute("UPDATE voices SET source = 'gone' WHERE id = ? AND source = 'there'", (voice,))
            self._drop_if_spent(voice)

    def swept_source(self, voice: int) -> None:
        """Note that the sweeper removed the source."""
        with self.together():
            self._db.execute("UPDATE voices SET source = 'swept' WHERE id = ?", (voice,))
            self._drop_if_spent(voice)

    def swept_files(self, voice: int, files: Iterable[Published]) -> None:
        """Note that these files are ours no longer: removed, or found to be somebody else's.

        A file that was published anew under the same name meanwhile stays ours.
        """
        with self.together():
            self._db.executemany(
                "DELETE FROM files WHERE path = ? AND sha256 = ?", [(os.fsencode(f.path), f.sha256) for f in files]
            )
            self._drop_if_spent(voice)

    def adopt(self, found: Found, key: str | None, folds: Sequence[str], at: float) -> bool:
        """Take what lies in the outbox for a source as this ledger's own; False if there is nothing new in it.

        `folds` are the folded names that its results take: whoever had claimed one has lost it to this voice. A voice
        in work is left as it is. The source itself is looked at anew, and converted unless it has this content.
        """
        with self.together():
            row = self.voice(found.relpath)
            if row is not None and (row.state in IN_WORK or self._has(row, found)):
                return False
            if found.ending is not None and found.recipe is not None:
                self._adopt_result(row, found, key, at)
            elif row is None:
                self._insert(found.relpath, "default", State.REFUSED, at)
            adopted = self.voice(found.relpath)
            assert adopted is not None  # noqa: S101 - it was written a line above, in the same transaction
            self._seize(adopted.id, found.base, folds)
            self._keep_files(adopted.id, found.files)
        return True

    def _has(self, row: Voice, found: Found) -> bool:
        known = {file.path: file.sha256 for _, file in self.files(row.id)}
        return all(known.get(file.path) == file.sha256 for file in found.files)

    def _adopt_result(self, row: Voice | None, found: Found, key: str | None, at: float) -> None:
        assert found.recipe is not None and found.ending is not None  # noqa: S101, PT018 - the caller has looked
        if row is None:
            self._insert(found.relpath, found.recipe.name, State.DONE, at)
        elif row.sha256 != found.sha256:
            self._db.execute("UPDATE voices SET stamp = ? WHERE id = ?", (text_of(NOT_READ), row.id))
        self._db.execute(
            "UPDATE voices SET state = ?, reason = '', next_try = NULL, job = NULL, finished = ?, rested = ?, "
            "sha256 = ?, key = ?, taken = ?, ending = ?, took_ms = ?, attempts = 0, deaths = 0 WHERE relpath = ?",
            (
                *(State.DONE, at, self.clock, found.sha256, key),
                *(json.dumps(asdict(found.recipe)), ending_json(found.ending), _took_ms(found.ending)),
                os.fsencode(found.relpath),
            ),
        )
        if row is not None:
            mine = [file.path for _, file in self.files(row.id)]
            self._forget_files(mine)

    def _insert(self, relpath: PurePosixPath, recipe: str, state: State, at: float) -> None:
        self._db.execute(
            "INSERT INTO voices (relpath, recipe, stamp, state, first_seen, finished) VALUES (?, ?, ?, ?, ?, ?)",
            (os.fsencode(relpath), recipe, text_of(NOT_READ), state, at, at),
        )

    def _seize(self, voice: int, base: PurePosixPath, folds: Iterable[str]) -> None:
        """Give names to a voice, whoever has them; those who lose one claim others when they publish again."""
        wanted = [os.fsencode(fold) for fold in folds]
        losers = f"SELECT voice FROM names WHERE {_folds(wanted)}"  # noqa: S608 - question marks only
        self._db.execute(f"UPDATE voices SET base = NULL WHERE id != ? AND id IN ({losers})", (voice, *wanted))  # noqa: S608 - as above
        self._db.execute(f"DELETE FROM names WHERE {_folds(wanted)}", wanted)  # noqa: S608 - as above
        self._name(voice, base, wanted)

    def _name(self, voice: int, base: PurePosixPath, folds: Sequence[bytes]) -> None:
        """Let a voice have these names and no others; nobody else has them."""
        self._db.execute("DELETE FROM names WHERE voice = ?", (voice,))
        self._db.executemany("INSERT INTO names VALUES (?, ?)", [(fold, voice) for fold in folds])
        self._db.execute("UPDATE voices SET base = ? WHERE id = ?", (os.fsencode(base), voice))

    def nothing_planned(self) -> None:
        """Forget the times of next tries, which the loop that is gone had in mind."""
        with self.together():
            self._db.execute("UPDATE voices SET next_try = NULL WHERE next_try IS NOT NULL")

    def retry(self, voice: int) -> bool:
        """Let a voice at rest or waiting go through everything again; False while it is in work."""
        with self.together():
            done = self._db.execute(
                "UPDATE voices SET state = ?, attempts = 0, deaths = 0, key = NULL, ending = NULL, job = NULL, "
                "reason = '', next_try = NULL WHERE id = ? AND state NOT IN (?, ?, ?) AND source = 'there'",
                (State.SETTLING, voice, *IN_WORK),
            )
            return done.rowcount == 1

    def forget(self, voice: int) -> bool:
        """Remove all knowledge of a voice; its files stay where they are. False while it is in work."""
        with self.together():
            done = self._db.execute(
                "DELETE FROM voices WHERE id = ? AND state NOT IN (?, ?, ?)",
                (voice, *IN_WORK),
            )
            return done.rowcount == 1

    def _set(self, voice: int, **columns: object) -> None:
        names = ", ".join(f"{name} = ?" for name in columns)
        with self.together():
            self._db.execute(f"UPDATE voices SET {names} WHERE id = ?", (*columns.values(), voice))  # noqa: S608 - our names

    def _rest(self, voice: int, finished: float) -> None:
        row = self.by_id(voice)
        if row is None:  # a command has just forgotten it
            return
        state = State.DONE if isinstance(row.ending, Converted) else State.REFUSED
        self._db.execute(
            "UPDATE voices SET state = ?, reason = '', next_try = NULL, job = NULL, finished = ?, rested = ? "
            "WHERE id = ?",
            (state, finished, self.clock, voice),
        )
        self._drop_if_spent(voice)

    def _keep_files(self, voice: int, files: Sequence[Published]) -> None:
        self._db.executemany(
            "INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (path) DO UPDATE SET "  # seen by triggers
            "voice = excluded.voice, kind = excluded.kind, sha256 = excluded.sha256, bytes = excluded.bytes, "
            "published = excluded.published, stamp = excluded.stamp",
            [
                (os.fsencode(f.path), voice, f.kind, f.sha256, f.bytes, self.clock, f.stamp and text_of(f.stamp))
                for f in files
            ],
        )
        for file in files:
            self._keep_part(voice, file)

    def _keep_part(self, voice: int, file: Published) -> None:
        """Keep with a sidecar what a bundle tells of its files, which stay when the source is judged anew."""
        if file.kind != "sidecar":
            return
        path, row = os.fsencode(file.path), self.by_id(voice)
        self._db.execute("DELETE FROM parts WHERE path = ?", (path,))
        if row is not None and isinstance(row.ending, Converted) and (role := role_of(row.ending.conversion)):
            values = (path, os.fsencode(file.path.parent), role, ending_json(row.ending))
            self._db.execute("INSERT INTO parts VALUES (?, ?, ?, ?)", values)

    def _forget_files(self, paths: Iterable[PurePosixPath]) -> None:
        self._db.executemany("DELETE FROM files WHERE path = ?", [(os.fsencode(path),) for path in paths])

    def _drop_if_spent(self, voice: int) -> None:
        """Delete the row of a voice whose source is gone, that is not in work and has nothing in the outbox."""
        self._db.execute(
            "DELETE FROM voices WHERE id = ? AND source != 'there' AND state IN (?, ?, ?, ?) "
            "AND NOT EXISTS (SELECT 1 FROM files WHERE files.voice = voices.id)",
            (voice, State.SETTLING, State.INCOMPLETE, *AT_REST),
        )


def _took_ms(ending: Converted | Refused) -> int | None:
    """Return how long a conversion took, in whole numbers, which can be added and taken away without end."""
    match ending:
        case Converted(conversion) if conversion.seconds:
            return round(min(max(sum(conversion.seconds.values()), 0.0), 1e9) * 1000)  # whatever a worker says
    return None


def _folds(wanted: Sequence[bytes]) -> str:
    return f"fold IN ({','.join('?' * len(wanted))})"


def _in(states: Sequence[State]) -> str:
    return f"state IN ({','.join('?' * len(states))})"
