"""Two daemons with ledgers of their own on one inbox and one outbox."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kiln import Kiln, voice_bytes
from voicekiln.folders.names import temp_name
from voicekiln.folders.outbox import publish
from voicekiln.folders.owner import MARKER, STALE_S
from voicekiln.folders.voices import State
from voicekiln.loop import LEDGER
from voicekiln.settings import Sweep
from voicekiln.supervisor.common import TROUBLE

NEVER = Sweep(sources=None, results=None, refusals=None)

pytestmark = pytest.mark.requirement(13)


class Pair:
    """Two daemons whose time passes together, unless one is paused."""

    def __init__(self, at: Path) -> None:
        for name in ("one", "two"):
            (at / name).mkdir()
        self.one = Kiln(at / "one", sweep=NEVER)
        self.two = Kiln(at / "two", inbox=self.one.inbox, outbox=self.one.outbox, sweep=NEVER)
        self.running = [self.one, self.two]

    def run(self, seconds: float = 30.0) -> None:
        for _ in range(int(seconds * 2)):
            for kiln in self.running:
                kiln.run(0.5)

    def pause(self, kiln: Kiln) -> None:
        self.running.remove(kiln)

    def wake(self, kiln: Kiln) -> None:
        other = self.running[0]
        kiln.mono, kiln.wall = other.mono, other.wall
        self.running.append(kiln)

    def close(self) -> None:
        self.one.close()
        self.two.close()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    pair = Pair(tmp_path)
    yield pair
    pair.close()


def standing(kiln: Kiln) -> str | None:
    return kiln.service.ownership.told()


def test_the_second_daemon_stands_by_and_says_so(pair: Pair) -> None:
    """It looks at nothing, converts nothing, and its status names the host that works."""
    pair.one.drop("a.pth")
    pair.run(60)
    assert pair.one.results() == {"a.onnx", "a.json"}
    assert standing(pair.one) is None
    assert "standing by: voicekiln on here works on the outbox" in pair.two.service.status()
    assert pair.two.ledger.fact("status") == pair.two.service.status()
    assert (pair.two.asked, pair.two.ledger.voices()) == ([], [])


def test_a_clean_end_hands_over_and_nothing_is_converted_again(pair: Pair) -> None:
    """The spare reads the sidecars first: what it finds there is as good as its own."""
    for name in ("a.pth", "deep/Zoe.pth", "both/b.pth"):
        pair.one.drop(name)
    pair.one.drop("zoe/a.pth", voice_bytes("another"))
    pair.run(60)
    before = {name: (pair.one.outbox / name).read_bytes() for name in pair.one.results()}
    pair.one.service.stop()
    pair.pause(pair.one)
    pair.run(90)
    assert standing(pair.two) is None
    assert pair.two.asked == []
    assert {v.state for v in pair.two.ledger.voices()} == {State.DONE}
    assert len(pair.two.ledger.voices()) == 4
    assert {name: (pair.one.outbox / name).read_bytes() for name in pair.one.results()} == before
    pair.two.drop("new.pth")
    pair.run(30)
    assert "new.json" in pair.two.results()


def test_a_dead_owner_is_followed_when_its_counter_has_stopped(pair: Pair) -> None:
    """What it had not begun is done, its temporary files are cleared away; those of strangers are not."""
    pair.one.drop("a.pth")
    pair.run(30)
    litter = [temp_name("x.onnx", f"{pair.one.ledger.instance}9"), temp_name("x.onnx", "0123abcd9")]
    for name in litter:
        (pair.one.outbox / name).touch()
    pair.pause(pair.one)
    pair.two.drop("b.pth")
    pair.run(STALE_S - 10)
    assert "b.json" not in pair.two.results()
    pair.run(60)
    assert {"a.json", "b.json"} <= pair.two.results()
    assert len(pair.two.asked) == 1
    assert [(pair.one.outbox / name).exists() for name in litter] == [False, True]


def test_a_paused_owner_that_wakes_up_writes_nothing(pair: Pair) -> None:
    """It finds the other one there, stands by, and its own newer result is not laid over the other's."""
    pair.one.drop("a.pth")
    pair.run(30)
    pair.pause(pair.one)
    pair.one.drop("a.pth", voice_bytes("newer"))
    pair.run(STALE_S + 60)
    sidecar = pair.two.read("a.json")
    pair.wake(pair.one)
    pair.run(60)
    assert "standing by" in (standing(pair.one) or "")
    assert pair.two.read("a.json") == sidecar
    assert [len(pair.one.asked), len(pair.two.asked)] == [1, 1]


def test_a_publication_that_was_paused_in_the_midst_is_given_up(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files lay ready under their hidden names; the clock says that somebody else may have come."""
    pair.pause(pair.two)
    one = pair.one

    def slow(*arguments: object) -> object:
        one.mono += 3600  # from here to the renames
        return publish(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("voicekiln.supervisor.delivery.publish", slow)
    one.drop("a.pth")
    one.run(6)
    assert one.results() == set()
    assert one.voice("a.pth").state is State.CONVERTED
    monkeypatch.undo()
    one.run(60)
    assert one.results() == {"a.onnx", "a.json"}
    assert len(one.asked) == 1


def test_who_comes_back_learns_what_the_other_has_done(pair: Pair) -> None:
    """Its ledger was right when it left; replaced, new and vanished voices are taken over from the sidecars."""
    for name in ("same.pth", "replaced.pth", "gone.pth"):
        pair.one.drop(name)
    pair.run(40)
    pair.pause(pair.one)
    pair.one.service.stop()
    pair.two.drop("replaced.pth", voice_bytes("newer"))
    pair.two.drop("new.pth")
    (pair.two.inbox / "gone.pth").unlink()
    pair.run(60)
    done = {name: (pair.two.outbox / name).read_bytes() for name in pair.two.results()}
    pair.two.service.stop()
    pair.pause(pair.two)
    pair.running = [pair.one]
    pair.one.mono, pair.one.wall = pair.two.mono, pair.two.wall
    pair.one.crash()
    pair.run(90)
    assert pair.one.asked == []
    assert {name: (pair.two.outbox / name).read_bytes() for name in pair.two.results()} == done
    assert pair.one.voice("replaced.pth").sha256 == pair.two.read("replaced.json")["source"]["sha256"]


def test_a_name_that_the_other_gave_away_is_not_taken_back(pair: Pair) -> None:
    """Two sources fold to one name; whoever holds the files keeps them, and nothing is overwritten."""
    pair.one.drop("Zoe.pth", voice_bytes("first"))
    pair.run(30)
    pair.pause(pair.one)
    pair.one.service.stop()
    (pair.two.inbox / "Zoe.pth").unlink()
    (pair.two.outbox / "Zoe.json").unlink()
    (pair.two.outbox / "Zoe.onnx").unlink()
    pair.two.drop("zoe.pth", voice_bytes("second"))
    pair.run(60)
    assert "zoe.json" in pair.two.results()
    pair.two.service.stop()
    pair.running = [pair.one]
    pair.one.mono, pair.one.wall = pair.two.mono, pair.two.wall
    pair.one.crash()
    pair.one.drop("Zoe.pth", voice_bytes("first"))
    pair.run(90)
    assert pair.one.read("zoe.json")["source"]["path"] == "zoe.pth"
    [other] = [name for name in pair.one.results() if name.startswith("Zoe") and name.endswith(".json")]
    assert pair.one.read(other)["source"]["path"] == "Zoe.pth"
    assert other.startswith("Zoe~")


def test_an_outbox_that_is_full_is_no_reason_to_stop_looking(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The marker cannot be written: voices are taken and converted, and published when it can."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    pair.pause(pair.two)
    monkeypatch.setattr("voicekiln.folders.owner._fill", full)
    pair.one.drop("a.pth")
    pair.run(60)
    assert pair.one.voice("a.pth").state is State.CONVERTED
    assert "publishing nothing: No space left on device" in pair.one.service.status()
    assert "publishing nothing: No space left on device" in (pair.one.ledger.fact(TROUBLE) or "")
    monkeypatch.undo()
    pair.run(60)
    assert pair.one.results() == {"a.onnx", "a.json"}


def test_an_outbox_that_goes_away_while_it_is_read_is_waited_for(tmp_path: Path) -> None:
    """Nothing spins, little is said, and what lay there is known when it is back."""
    kiln = Kiln(tmp_path)
    kiln.drop("a.pth")
    kiln.run(30)
    kiln.service.stop()
    kiln.close()
    for path in kiln.settings.state.glob(f"{LEDGER}*"):
        path.unlink()
    kiln.start()
    while not kiln.service.adoption._reading:
        kiln.service.tick(kiln.now)
        kiln.mono += 1
    kiln.outbox.rename(tmp_path / "away")
    kiln.run(300)
    assert len(kiln.log.events) < 10
    (tmp_path / "away").rename(kiln.outbox)
    kiln.run(120)
    assert kiln.asked == []
    assert kiln.voice("a.pth").state is State.DONE
    kiln.close()


def test_a_copy_of_the_state_folder_is_another_daemon(tmp_path: Path) -> None:
    """A cloned machine, with the same ledger and the same name: of the two, one works."""
    one = Kiln(tmp_path)
    one.drop("a.pth")
    one.run(30)
    shutil.copytree(one.settings.state, tmp_path / "copy")
    two = Kiln(tmp_path, state=tmp_path / "copy")
    tokens = {kiln.service.post._run for kiln in (one, two)}
    for _ in range(200):
        one.run(0.5)
        two.mono, two.wall = one.mono, one.wall
        two.run(0.5)
    assert sorted(kiln.service.ownership.sure for kiln in (one, two)) == [False, True]
    assert len(tokens) == 2, "they would write into each other's temporary files"
    one.close()
    two.close()


def test_a_ledger_from_a_backup_learns_what_came_after(tmp_path: Path) -> None:
    """Its daemon was another then; what lies in the outbox is read first, and nothing converted again."""
    kiln = Kiln(tmp_path)
    kiln.drop("old.pth")
    kiln.run(30)
    kiln.service.stop()
    kiln.close()
    shutil.copytree(kiln.settings.state, tmp_path / "backup")
    kiln.start()
    kiln.drop("new.pth")
    kiln.drop("old.pth", voice_bytes("newer"))
    kiln.run(60)
    assert len(kiln.asked) == 2
    kiln.service.stop()
    kiln.close()
    shutil.rmtree(kiln.settings.state)
    (tmp_path / "backup").rename(kiln.settings.state)
    kiln.start()
    kiln.run(90)
    assert kiln.asked == []
    assert {v.state for v in kiln.ledger.voices()} == {State.DONE}
    kiln.close()


def test_a_slow_stop_releases_the_outbox_all_the_same(tmp_path: Path) -> None:
    """A copy that was finished first took longer than the owner is sure; the marker says that it still is."""
    kiln = Kiln(tmp_path)
    kiln.run(10)
    kiln.mono += 600
    kiln.service.stop()
    assert json.loads((kiln.outbox / MARKER).read_bytes())["released"]
    kiln.close()


def test_a_lost_ledger_is_filled_from_the_outbox(tmp_path: Path) -> None:
    """Everything is known again, nothing is converted, and what was refused is judged anew."""
    kiln = Kiln(tmp_path)
    kiln.drop("a.pth")
    kiln.drop("fp16/b.pth")
    kiln.drop("bad.pth", b"no voice")
    kiln.run(120)
    before = {path: path.read_bytes() for path in kiln.outbox.rglob("*.onnx")}
    kiln.service.stop()
    kiln.close()
    for path in kiln.settings.state.glob(f"{LEDGER}*"):
        path.unlink()
    kiln.start()
    kiln.run(180)
    assert [request for request in kiln.asked if "bad" in str(request)] == kiln.asked[:1]
    assert {path: path.read_bytes() for path in kiln.outbox.rglob("*.onnx")} == before
    assert {v.state for v in kiln.ledger.voices()} <= {State.DONE, State.REFUSED}
    kiln.close()
