"""A laptop and the daemon's machine with Syncthing between them: the README's two ways to set it up, tried."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from pairing.pair import BIG_BYTES, LONG_AGO_S, daemon, has_result, holds, sha256, voice
from pairing.programs import listens, until, version
from pairing.syncthing import IGNORE, Device, Share
from pairing.tools import RATE_KIB
from pairing.witness import Row, Witness, replacement, temporary
from running import Daemon
from voicekiln.folders.owner import MARKER

SYNCTHING = "Syncthing"
NEVER = "sweep: {sources: never, results: never, refusals: never}"
SOON = "sweep: {sources: 1s, results: 1s, refusals: never, every: 1s, max_share: 100%, originals_elsewhere: true}"


class Laptop:
    """The other end: an inbox to drop into and an outbox to fetch from."""

    def __init__(self, at: Path) -> None:
        self.inbox, self.outbox = at / "laptop/inbox", at / "laptop/outbox"
        for folder in (self.inbox, self.outbox):
            folder.mkdir(parents=True)
        self._date_s = LONG_AGO_S

    def drop(self, name: str, data: bytes) -> None:
        """Lay a file of 2023 into the inbox."""
        path = self.inbox / name
        path.parent.mkdir(exist_ok=True)
        temp = path.with_name(f"~{path.name}.tmp")
        temp.write_bytes(data)
        self._date_s += 86_400
        os.utime(temp, (self._date_s, self._date_s))
        temp.rename(path)


class Synced:
    """Both ends and the two Syncthings, which are begun by `with both.laptop_sync, both.kiln_sync`."""

    def __init__(self, at: Path, types: tuple[str, str, str, str], *, ignore: bool) -> None:
        """`types` are those of the inbox on the laptop and here, then those of the outbox."""
        self.at, self.share = at, at / "share"
        self.laptop, self.kiln = Laptop(at), daemon(at, self.share)
        drop, take, give, fetch = types
        laptop, kiln = self.laptop, self.kiln
        self.laptop_sync = Device(
            at / "laptop/sync", [Share("inbox", laptop.inbox, drop), Share("outbox", laptop.outbox, fetch)]
        )
        self.kiln_sync = Device(at / "sync", [Share("inbox", kiln.inbox, take), Share("outbox", kiln.outbox, give)])
        self.laptop_sync.know(self.kiln_sync)
        self.kiln_sync.know(self.laptop_sync)
        if ignore:
            for folder in (kiln.inbox, kiln.outbox):
                (folder / ".stignore").write_text(f"{IGNORE}\n")

    def send(self, name: str, data: bytes) -> None:
        """Drop it on the laptop and wait until it is here."""
        self.laptop.drop(name, data)
        self.laptop_sync.rescan()
        until(lambda: holds(self.kiln.inbox / name, data), self.kiln_sync.program.said)

    def fetch(self, stem: str, data: bytes) -> None:
        """Wait until the result is on the laptop."""
        self.kiln.until(lambda: has_result(self.laptop.outbox, stem, data))

    def look(self) -> None:
        """Let both look at their folders now, not in a minute."""
        self.laptop_sync.rescan()
        self.kiln_sync.rescan()


def one_way(at: Path) -> Row:
    """Voices go one way and results the other; nothing that is removed at one end is lost at the other."""
    row = Row(SYNCTHING, version("syncthing", 1))
    both = Synced(at, ("sendonly", "receiveonly", "sendonly", "receiveonly"), ignore=True)
    laptop, kiln = both.laptop, both.kiln
    with both.laptop_sync, both.kiln_sync:
        with kiln, Witness(kiln.inbox) as witness:
            first, second, big = voice(1), voice(2), voice(3, BIG_BYTES)
            both.send("a folder/é 1.pth", first)
            both.fetch("a folder/é 1", first)
            dated_s = (laptop.inbox / "a folder/é 1.pth").stat().st_mtime
            row.date = "kept" if (kiln.inbox / "a folder/é 1.pth").stat().st_mtime == dated_s else "now"

            both.send("voice.pth", first)
            both.fetch("voice", first)
            witness.seen()
            older = (kiln.inbox / "voice.pth").stat().st_ino
            both.send("voice.pth", second)
            newer = (kiln.inbox / "voice.pth").stat().st_ino
            both.fetch("voice", second)
            row.replaces = replacement(witness.seen(), "voice.pth", same_inode=newer == older)
            both.kiln_sync.set("folders/inbox", versioning={"type": "trashcan"})
            both.send("voice.pth", first)
            both.fetch("voice", first)
            assert (kiln.inbox / ".stversions/voice.pth").read_bytes() == second

            _breaks_off(both, big, row)
            both.fetch("big", big)

            before = len(kiln.events("job.started"))
            (laptop.inbox / "voice.pth").rename(laptop.inbox / "renamed.pth")
            both.look()
            both.fetch("renamed", first)
            until(lambda: not (kiln.inbox / "voice.pth").exists())
            assert (kiln.outbox / "voice.onnx").exists(), "the result under the older name stays"
            assert len(kiln.events("job.started")) == before, "a new name is no new voice"

            (laptop.outbox / "voice.onnx").unlink()
            both.look()
            until(lambda: both.laptop_sync.state("outbox")["receiveOnlyChangedDeletes"] == 1)
            assert (kiln.outbox / "voice.onnx").exists(), "what is removed on the laptop stays here"
            (laptop.inbox / "big.pth").unlink()
            both.look()
            until(lambda: not (kiln.inbox / "big.pth").exists())
            assert (kiln.outbox / "big.onnx").exists()

        assert {event["sha256"] for event in kiln.events("file.settled")} == {sha256(d) for d in (first, second, big)}
        assert not list(laptop.outbox.rglob(".~*")), "hidden names of the daemon have travelled"
        for folder in (kiln.outbox, laptop.outbox):
            assert not [path for path in folder.rglob("*") if "sync-conflict" in path.name or "stversions" in str(path)]
        _swept_at_one_end(both)
    return row


def _breaks_off(both: Synced, data: bytes, row: Row) -> None:
    """Kill the laptop's Syncthing half-way and begin it again."""
    inbox, laptop = both.kiln.inbox, both.laptop_sync
    before = _names(inbox)
    laptop.set("options", maxSendKbps=RATE_KIB)
    both.laptop.drop("big.pth", data)
    laptop.rescan()
    until(lambda: _names(inbox) > before, both.kiln_sync.program.said)
    time.sleep(1)  # a good piece arrives
    during = _names(inbox) - before
    laptop.program.kill()
    until(lambda: not listens(laptop.api))
    left = _names(inbox) - before
    assert "big.pth" not in left
    assert not (both.kiln.outbox / "big.json").exists()
    laptop.__enter__()
    laptop.set("options", maxSendKbps=0)
    until((inbox / "big.pth").exists, laptop.program.said)
    row.arrives = "in place" if "big.pth" in during else "renamed when whole"
    row.temporary, row.broken_off = temporary(list(during), "big.pth"), temporary(list(left), "big.pth")


def _swept_at_one_end(both: Synced) -> None:
    """What is swept here stays in the laptop's inbox, and in its outbox for as long as it ignores deletions."""
    laptop, kiln = both.laptop, both.kiln
    both.laptop_sync.set("folders/outbox", ignoreDelete=True)
    with _with_sweep(kiln, SOON):
        kiln.until(lambda: not list(kiln.inbox.glob("*.pth")) and not list(kiln.outbox.glob("*.onnx")))
    both.look()
    until(lambda: both.kiln_sync.state("inbox")["receiveOnlyChangedDeletes"] >= 2)
    both.send("later.pth", voice(9))  # whatever was on its way before has arrived, too
    assert (laptop.inbox / "renamed.pth").exists()
    assert not (kiln.inbox / "renamed.pth").exists(), "what was swept came back"
    until(lambda: both.laptop_sync.state("outbox")["state"] == "idle")
    assert (laptop.outbox / "renamed.onnx").exists()
    both.laptop_sync.set("folders/outbox", ignoreDelete=False)
    until(lambda: not (laptop.outbox / "renamed.onnx").exists())
    both.kiln_sync.ask("db/revert?folder=inbox", "POST")
    until((kiln.inbox / "renamed.pth").exists)


def two_way(at: Path) -> None:
    """Everything goes both ways, removals too; without our line in `.stignore`."""
    both = Synced(at, ("sendreceive",) * 4, ignore=False)
    laptop, kiln = both.laptop, both.kiln
    with both.laptop_sync, both.kiln_sync:
        with kiln:
            first, ours, theirs = voice(1), voice(2), voice(3)
            both.send("voice.pth", first)
            both.fetch("voice", first)
            until((laptop.outbox / MARKER).exists)

            both.laptop_sync.set("folders/inbox", paused=True)
            (kiln.inbox / "voice.pth").write_bytes(ours)
            kiln.until(lambda: has_result(kiln.outbox, "voice", ours))
            both.kiln_sync.rescan()
            laptop.drop("voice.pth", theirs)
            both.laptop_sync.set("folders/inbox", paused=False)
            kiln.until(lambda: bool(list(kiln.outbox.glob("voice.sync-conflict-*.error.json"))))
            [refusal] = kiln.outbox.glob("voice.sync-conflict-*.error.json")
            assert json.loads(refusal.read_bytes())["code"] == "conflict-copy"

            both.fetch("voice", ours)  # a removal here and a change there would be another conflict
            (laptop.outbox / "voice.onnx").unlink()
            both.look()
            until(lambda: not (kiln.outbox / "voice.onnx").exists())
            both.send("last.pth", first)
            both.fetch("last", first)
            assert not (kiln.outbox / "voice.onnx").exists(), "who removes a result does not get it again"

        told = _refuses_to_start(kiln)
        assert ".stfolder" in told
        assert "sources: never" in told
        assert "originals_elsewhere: true" in told
        with _with_sweep(kiln, SOON):
            kiln.until(lambda: not (kiln.inbox / "last.pth").exists())
        both.look()
        until(lambda: not (laptop.inbox / "last.pth").exists())


def _names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def _with_sweep(kiln: Daemon, sweep: str) -> Daemon:
    config = kiln.config.read_text()
    assert NEVER in config
    kiln.config.write_text(config.replace(NEVER, sweep))
    return kiln


def _refuses_to_start(kiln: Daemon) -> str:
    """Run the daemon with its default for sources; return what it says."""
    config = kiln.config.read_text()
    kiln.config.write_text(config.replace("sources: never, ", ""))
    code = "import sys\nfrom voicekiln.cli import main\nsys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "run", "--config", str(kiln.config)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    kiln.config.write_text(config)
    assert done.returncode == 78, done.stderr
    return done.stderr
