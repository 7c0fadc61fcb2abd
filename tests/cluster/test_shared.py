"""Files by path, through a folder that both ends have mounted, against real Dask workers; and what becomes of it."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from distributed import Client

from cluster.test_daemon_on_a_cluster import daemon, drop
from cluster.test_dask_keeper import convert, run, terms
from cluster_running import Cluster, until
from keeper_contract import KeeperContract
from kiln import Lines
from stub_worker import VOICE, ending, has
from stub_worker import until as polled
from voicekiln.cluster import ferry, hand
from voicekiln.cluster import shared as shared_folder
from voicekiln.cluster.crew import Crew
from voicekiln.cluster.keeper import DaskKeeper
from voicekiln.cluster.line import Line
from voicekiln.cluster.parcels import Incoming
from voicekiln.cluster.shared import SharedFolder
from voicekiln.job import Converted, Lost, staged_files
from voicekiln.worker.keeper import At, Ended, Event, Keeper

NAMESPACE = ["unshare", "--map-root-user", "--mount"]
"""In front of a command, which then has mounts of its own."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Return a cluster of one worker."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Cluster]:
    """Return a cluster that is not started yet."""
    own = Cluster(tmp_path)
    yield own
    own.__exit__()


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """Return the shared folder."""
    spool = tmp_path / "spool"
    spool.mkdir()
    return spool


@pytest.fixture
def woken() -> threading.Event:
    """Return what the keeper wakes."""
    return threading.Event()


@pytest.fixture
def line(cluster: Cluster, woken: threading.Event, spool: Path) -> Iterator[Line]:
    """Return a line to the cluster whose worker has shown that it sees the folder."""
    line = Line(cluster.address, None, "test", woken.set, spool)
    until(lambda: line.places)
    yield line
    line.close()


@pytest.fixture
def keeper(line: Line, woken: threading.Event) -> Iterator[DaskKeeper]:
    """Return a place in the cluster, empty after the test."""
    keeper = DaskKeeper(line, terms(), woken.set)
    yield keeper
    keeper.close(1.0)


def lost(events: list[Event]) -> Lost:
    how = ending(events)
    assert isinstance(how, Lost)
    return how


class TestByPath(KeeperContract):
    """The one whose files lie in a folder that both hosts have mounted."""

    @pytest.fixture(autouse=True)
    def on(self, line: Line) -> None:
        """Go through that line."""
        self.line = line

    def make(self, tmp_path: Path, woken: threading.Event, idle_s: float = 30.0) -> Keeper:
        """Keep a place in the cluster."""
        (tmp_path / "voice.pth").write_bytes(VOICE)
        return DaskKeeper(self.line, terms(idle_s), woken.set)


class TestFiles:
    """What goes through the folder is what it was, or the job is lost."""

    def test_no_byte_goes_over_dask_and_none_stays(  # noqa: PLR0913, PLR0917 - fixtures
        self,
        keeper: DaskKeeper,
        line: Line,
        woken: threading.Event,
        tmp_path: Path,
        spool: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A result of several chunks lies in the staging folder as it was named, and the shared folder is empty."""
        ask, doors = line.ask, set[str]()

        async def asked(where: Any, door: str, **values: Any) -> dict[str, Any]:
            doors.add(door)
            return await ask(where, door, **values)

        monkeypatch.setattr(line, "ask", asked)
        converted = ending(run(keeper, woken, tmp_path, "big1"))
        assert isinstance(converted, Converted)
        files = staged_files(converted.conversion, tmp_path / "staging-big1")
        assert {hashlib.sha256(path.read_bytes()).hexdigest() for path in files.values()} == set(files)
        assert doors == {"collect", "begin", "hear", "lay"}
        until(lambda: not list(spool.iterdir()))

    @pytest.mark.parametrize("name", ["bad1", "lost1", "wrong1", "hang1"])
    def test_nothing_stays_whatever_the_ending(
        self, keeper: DaskKeeper, woken: threading.Event, tmp_path: Path, spool: Path, name: str
    ) -> None:
        """A stop in the middle is one, too."""
        keeper.begin(convert(tmp_path, name), time.monotonic())
        if name == "hang1":
            polled(keeper, woken, has(At), 30.0)
            assert [path.stat().st_mode & 0o777 for path in spool.iterdir()] == [0o700]
            keeper.stop(time.monotonic())
        polled(keeper, woken, has(Ended), 30.0)
        until(lambda: not list(spool.iterdir()))

    @pytest.mark.parametrize(
        ("name", "reason"),
        [("wrong1", "another hash"), ("link1", "no plain file"), ("absent1", "no plain file")],
    )
    def test_a_result_that_is_not_what_was_named_counts(
        self, keeper: DaskKeeper, woken: threading.Event, tmp_path: Path, name: str, reason: str
    ) -> None:
        """That is the caged process's doing, whichever way its files go."""
        how = lost(run(keeper, woken, tmp_path, name))
        assert reason in how.reason
        assert how.counts
        assert list((tmp_path / f"staging-{name}").iterdir()) == []

    @pytest.mark.parametrize("door", ["collect", "lay"])
    @pytest.mark.parametrize("how", ["altered", "link", "another's folder", "gone"])
    def test_what_a_stranger_does_there_is_not_the_voices_fault(  # noqa: PLR0913, PLR0917 - fixtures
        self,
        keeper: DaskKeeper,
        line: Line,
        woken: threading.Event,
        tmp_path: Path,
        spool: Path,
        monkeypatch: pytest.MonkeyPatch,
        door: str,
        how: str,
    ) -> None:
        """Other bytes, a link instead of the file or of its folder, nothing: none of it is taken, at either end."""
        ask = line.ask

        async def strange(where: Any, at: str, **values: Any) -> dict[str, Any]:
            if at == door == "collect":
                spoil(spool, how)
            answer = await ask(where, at, **values)
            if at == door == "lay":
                spoil(spool, how)
            return answer

        monkeypatch.setattr(line, "ask", strange)
        found = lost(run(keeper, woken, tmp_path, "good1"))
        assert not found.counts
        assert ("does not give back" if how == "altered" else "fails (") in found.reason
        assert list((tmp_path / "staging-good1").iterdir()) == []
        monkeypatch.undo()
        until(lambda: line.places)
        assert isinstance(ending(run(keeper, woken, tmp_path, "good2")), Converted)

    def test_a_full_disk_there_does_not_count(
        self, keeper: DaskKeeper, woken: threading.Event, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is said which folder is full."""

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(Incoming, "write", full)
        how = lost(run(keeper, woken, tmp_path, "good1"))
        assert how.reason == f"the folder {tmp_path}/spool fails (No space left on device)"
        assert not how.counts

    def test_a_file_server_that_hangs_does_not_count(  # noqa: PLR0913, PLR0917 - fixtures
        self,
        keeper: DaskKeeper,
        line: Line,
        woken: threading.Event,
        tmp_path: Path,
        spool: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The job is lost after a while, its folder is removed when the server answers again, and all goes on."""
        monkeypatch.setattr(hand, "STUCK_S", 0.5)
        answers, read = threading.Event(), ferry.JobFolder._read

        def hang(folder: ferry.JobFolder, file: str) -> tuple[bytes, str]:
            answers.wait()
            return read(folder, file)

        monkeypatch.setattr(ferry.JobFolder, "_read", hang)
        how = lost(run(keeper, woken, tmp_path, "good1"))
        assert how.reason == f"the folder {spool} does not answer"
        assert not how.counts
        assert list((tmp_path / "staging-good1").iterdir()) == []
        answers.set()
        until(lambda: line.places)
        assert isinstance(ending(run(keeper, woken, tmp_path, "good2")), Converted)
        until(lambda: not list(spool.iterdir()))


def spoil(spool: Path, how: str) -> None:
    """Do something to the one file of the one job there, if it lies there."""
    (folder,) = (path for path in spool.iterdir() if not list(path.glob("probe")))
    file = max(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    match how:
        case "altered":
            file.write_bytes(b"!" + file.read_bytes()[1:])
        case "link":
            file.rename(spool.parent / "elsewhere")
            file.symlink_to(spool.parent / "elsewhere")
        case "another's folder":
            folder.rename(spool.parent / "elsewhere")
            folder.symlink_to(spool.parent / "elsewhere")
        case "gone":
            file.unlink()


def test_what_an_earlier_start_left_is_removed(cluster: Cluster, spool: Path) -> None:
    """Of this daemon; another one's jobs go through the same folder."""
    for name in ("voicekiln-test-0123", "voicekiln-test-4567.89", "voicekiln-other-0123", "mine"):
        (spool / name / "deeper").mkdir(parents=True)
        (spool / name / "deeper" / "0").write_bytes(VOICE)
    line = Line(cluster.address, None, "test", lambda: None, spool)
    until(lambda: sorted(path.name for path in spool.iterdir()) == ["mine", "voicekiln-other-0123"])
    line.close()


MOUNTS: dict[str, tuple[str, str]] = {
    "another": ("mount -t tmpfs none {spool}", "has another folder at {spool}; mount the same one there"),
    "absent": ("mount -t tmpfs none {spool}/..", "has no folder {spool}; mount it there"),
    "denied": ("mount --bind {spool} {spool} && mount -o remount,ro,bind {spool}", "may not use {spool} ("),
}
"""How another host sees it, and what is said of that."""


def start_elsewhere(cluster: Cluster, spool: Path, mount: str) -> None:
    """Start a Dask worker that sees something else at the place of the shared folder."""
    if subprocess.run([*NAMESPACE, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    before = cluster.before["worker"]
    cluster.before["worker"] = [*NAMESPACE, "sh", "-c", f'{mount.format(spool=spool)} && exec "$@"', "sh"]
    cluster.start_worker()
    cluster.before["worker"] = before


class TestWorkers:
    """Who does not see the folder is given no jobs."""

    @pytest.mark.parametrize("how", MOUNTS)
    def test_one_that_does_not_see_it_gets_no_job(
        self, own: Cluster, woken: threading.Event, tmp_path: Path, spool: Path, how: str
    ) -> None:
        """Its places do not count, the trouble is told, and those who see it do the work."""
        mount, words = MOUNTS[how]
        own.start_scheduler()
        line = Line(own.address, None, "test", woken.set, (below := spool / "below"))
        below.mkdir()
        crew = Crew(line, terms(), woken.set, [], Lines())
        until(lambda: len(crew) == 2)
        start_elsewhere(own, below, mount)
        until(lambda: words.format(spool=below) in str(crew.trouble()))
        assert list(crew) == []
        assert line.places == 0
        own.start_worker()
        until(lambda: line.places == 1)
        assert words.format(spool=below) in str(crew.trouble())
        keeper = DaskKeeper(line, terms(), woken.set)
        for number in range(4):
            assert isinstance(ending(run(keeper, woken, tmp_path, f"good{number}")), Converted)
        line.close()

    def test_one_that_comes_to_a_job_has_to_see_it_first(
        self, own: Cluster, woken: threading.Event, tmp_path: Path, spool: Path
    ) -> None:
        """A cluster that grows with its work has a job before it has a worker."""
        own.start_scheduler()
        line = Line(own.address, None, "test", woken.set, (below := spool / "below"))
        below.mkdir()
        until(lambda: line.connected)
        keeper = DaskKeeper(line, terms(), woken.set)
        keeper.begin(convert(tmp_path, "good1"), time.monotonic())
        start_elsewhere(own, below, MOUNTS["another"][0])
        how = lost(polled(keeper, woken, has(Ended), 30.0))
        assert "has another folder" in how.reason
        assert not how.counts
        line.close()

    def test_a_job_does_not_wait_for_those_who_have_left(
        self, own: Cluster, woken: threading.Event, tmp_path: Path, spool: Path
    ) -> None:
        """The scheduler would keep it for them for ever."""
        with own:
            line = Line(own.address, None, "test", woken.set, spool)
            until(lambda: line.places)
            first, second = (DaskKeeper(line, terms(), woken.set) for _ in range(2))
            first.begin(convert(tmp_path, "hang1"), time.monotonic())
            polled(first, woken, has(At), 30.0)
            second.begin(convert(tmp_path, "good2"), time.monotonic())
            own.kill(own.workers[0])
            how = lost(polled(second, woken, has(Ended), 60.0))
            assert how == Lost("the Dask workers that it waited for have left", counts=False)
            own.start_worker()
            until(lambda: line.places)
            assert isinstance(ending(run(second, woken, tmp_path, "good3")), Converted)
            line.close()

    def test_one_with_whom_a_job_failed_is_asked_again(
        self, line: Line, keeper: DaskKeeper, woken: threading.Event, tmp_path: Path, spool: Path
    ) -> None:
        """So that a mount which goes away takes no more jobs; and again, until it is back."""
        crew = Crew(line, terms(), woken.set, [], Lines())
        keeper.begin(convert(tmp_path, "hang1"), time.monotonic())
        polled(keeper, woken, has(At), 30.0)
        keeper.stop(time.monotonic())
        polled(keeper, woken, has(Ended), 30.0)
        spool.rename(tmp_path / "away")
        assert not lost(run(keeper, woken, tmp_path, "good1")).counts
        until(lambda: f"the folder {spool} fails" in str(crew.trouble()))
        assert list(crew) == []
        (tmp_path / "away").rename(spool)
        until(lambda: crew.trouble() is None)
        until(lambda: len(crew) > 0)
        assert isinstance(ending(run(keeper, woken, tmp_path, "good2")), Converted)


AS_US = f"start it as the user with the number {os.geteuid()}, and let its unit write there"


class Asked:
    """In the place of Dask's client: Dask workers that all say the same of the folder."""

    def __init__(self, said: object) -> None:
        self.said = said
        self.times = 0

    async def run(self, *_: object, workers: list[str], **__: object) -> dict[str, object]:
        self.times += 1
        return {workers[0]: self.said}


class TestSights:
    """What Dask workers say of the folder, in words, and how often they are asked."""

    @pytest.mark.parametrize(
        ("said", "words"),
        [
            (("absent", ""), "the Dask worker at tcp://a:1 has no folder {spool}; mount it there"),
            (("another", ""), "the Dask worker at tcp://a:1 has another folder at {spool}; mount the same one there"),
            (("fails", "stale file handle"), "the Dask worker at tcp://a:1 cannot use {spool} (stale file handle)"),
            (
                ("denied", "permission denied"),
                f"the Dask worker at tcp://a:1 may not use {{spool}} (permission denied); {AS_US}",
            ),
            (hand.SharedFolderError("the folder is full"), "on the Dask worker at tcp://a:1: the folder is full"),
            (
                ImportError("no voicekiln"),
                "the Dask worker at tcp://a:1 cannot use {spool} (ImportError('no voicekiln'))",
            ),
            (  # and there is no answer beside the probe
                ("sees", ""),
                "the Dask worker at tcp://a:1 has another folder at {spool}; mount the same one there",
            ),
        ],
    )
    def test_each_trouble_has_its_words(self, spool: Path, said: object, words: str) -> None:
        """Which Dask worker it is, what is wrong, and what to do."""

        async def asked() -> str | None:
            return await SharedFolder(spool, "voicekiln-test").trouble_of(client(Asked(said)), "tcp://a:1")

        assert asyncio.run(asked()) == words.format(spool=spool)

    def test_of_many_one_is_named(self, spool: Path) -> None:
        """The sentence has to fit into a line; who has left is not counted."""

        async def troubles() -> list[str | None]:
            shared, asked, told = SharedFolder(spool, "voicekiln-test"), client(Asked(("absent", ""))), []
            for present in (["tcp://a:1", "tcp://b:1", "tcp://c:1"], ["tcp://b:1"]):
                for address in present:
                    await shared.trouble_of(asked, address)
                assert shared.seen_by(asked, present) == []
                told.append(shared.trouble)
            return told

        words = f"has no folder {spool}; mount it there"
        assert asyncio.run(troubles()) == [
            f"the Dask worker at tcp://a:1 {words}; 2 more Dask workers have such trouble",
            f"the Dask worker at tcp://b:1 {words}",
        ]

    def test_who_does_not_see_it_is_asked_at_growing_distances(
        self, spool: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Up to a longest one; nobody is asked twice at a time."""
        monkeypatch.setattr(shared_folder, "FIRST_PAUSE_S", 0.01)
        monkeypatch.setattr(shared_folder, "LAST_PAUSE_S", 0.03)
        asked = Asked(("absent", ""))

        async def pauses() -> list[float]:
            shared, found = SharedFolder(spool, "voicekiln-test"), list[float]()
            while len(found) < 4:
                shared.seen_by(client(asked), ["tcp://a:1"])
                shared.seen_by(client(asked), ["tcp://a:1"])
                await asyncio.sleep(0.001)
                if shared.news:
                    found.append(shared._sights["tcp://a:1"].pause_s)
            return found

        assert asyncio.run(pauses()) == [0.01, 0.02, 0.03, 0.03]
        assert asked.times == 4


def client(asked: Asked) -> Client:
    return cast("Client", asked)


class TestDaemon:
    """The whole of it."""

    def test_voices_go_through_the_folder(self, own: Cluster, tmp_path: Path, spool: Path) -> None:
        """They are published, also when the folder was away for a while: that is told, and nobody is refused."""
        with own, daemon(tmp_path / "d", own.address, f", spool: {spool}") as at:
            drop(at, *range(5))
            at.until_there(*(f"v{number}.json" for number in range(5)))
            spool.rename(tmp_path / "away")
            drop(at, *range(5, 10))
            at.until(lambda: f"the folder {spool} fails" in json.dumps(at.status()))
            (tmp_path / "away").rename(spool)
            at.until_there(*(f"v{number}.json" for number in range(10)))
            at.until(lambda: str(spool) not in json.dumps(at.status()))
        assert list(at.outbox.glob("*.error.json")) == []
        assert list(spool.iterdir()) == []

    def test_a_daemon_that_was_killed_leaves_nothing_to_the_next(
        self, own: Cluster, tmp_path: Path, spool: Path
    ) -> None:
        """What it had in the folder is removed, and the voices are converted."""
        at = daemon(tmp_path / "d", own.address, f", spool: {spool}")
        with own:
            drop(at, *range(30))
            with at:
                at.until(lambda: bool(list(spool.glob("*/0"))))
                at.process.kill()
                at.process.wait()
            with at:
                at.until_there(*(f"v{number}.json" for number in range(30)))
                at.until(lambda: not list(spool.iterdir()))
        assert list(at.outbox.glob("*.error.json")) == []
