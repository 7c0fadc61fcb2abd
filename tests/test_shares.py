"""Shares that do not answer, and watches that the system does not give: the running daemon, told of and served."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from arrivals import in_own_namespace
from kiln import voice_bytes
from quick_worker import PRELUDE
from running import CONFIG, Daemon

STALLING = """
from pathlib import Path
from voicekiln import service
from voicekiln.supervisor import hands, intake

hands.STUCK_S = 0.5
hands.ThreadHands.__init__.__defaults__ = (0.5,)
service.STOP_HANDS_S = 1.0
really_scan = intake.scan

def scan(root, **how):
    if Path({pipe!r}).exists():
        open({pipe!r}).close()  # as a stat on a dead mount: it comes back when somebody opens the other end
    return really_scan(root, **how)

intake.scan = scan
"""


class Systemd:
    """Hears what a daemon tells the service manager."""

    def __init__(self, at: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(at / "notify"))
        self.socket.setblocking(False)  # noqa: FBT003 - socket's own signature
        self.env = {"NOTIFY_SOCKET": str(at / "notify"), "WATCHDOG_USEC": "1000000"}
        self.said: Counter[str] = Counter()

    def hear(self) -> Counter[str]:
        with contextlib.suppress(BlockingIOError):
            while True:
                self.said.update(self.socket.recv(4096).decode().splitlines())
        return self.said


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    systemd = Systemd(tmp_path)
    with systemd.socket:
        yield systemd


@pytest.mark.requirement(19)
@pytest.mark.requirement(4)
def test_a_share_that_never_answers_stops_neither_the_loop_nor_the_watchdog(tmp_path: Path, systemd: Systemd) -> None:
    """The ping goes on, the status says what it hangs on, a stop is quick; when the share answers, work goes on."""
    pipe = tmp_path / "stalled"
    (tmp_path / "inbox").mkdir()
    with Daemon(tmp_path, prelude=PRELUDE + STALLING.format(pipe=str(pipe)), env=systemd.env) as daemon:
        daemon.until(lambda: systemd.hear()["READY=1"] == 1)
        os.mkfifo(pipe)
        (daemon.inbox / "a.pth").write_bytes(voice_bytes("a"))
        daemon.until(lambda: any("still looking through the inbox" in line for line in systemd.hear()))
        pings = systemd.hear()["WATCHDOG=1"]
        daemon.until(lambda: systemd.hear()["WATCHDOG=1"] >= pings + 2)
        assert "still looking through the inbox" in str(daemon.status()["daemon"])
        other = os.open(pipe, os.O_WRONLY)
        pipe.unlink()
        os.close(other)
        daemon.until_there("a.json")
        os.mkfifo(pipe)
        daemon.until(lambda: any("still" in line for line in str(daemon.status()["daemon"]).split(", ")))
        began = time.monotonic()
        daemon.process.terminate()
        assert daemon.process.wait(30) == 0
        assert time.monotonic() - began < 20, "a hung share held up the stop"


LOOPING = """
import time
from pathlib import Path
from voicekiln import service

tick = service.Service.tick

def stalls(self, now):
    while Path({flag!r}).exists():
        time.sleep(0.05)
    return tick(self, now)

service.Service.tick = stalls
service.LONGEST_NAP_S = 0.2
"""


@pytest.mark.requirement(19)
def test_a_loop_that_hangs_is_not_said_to_be_well(tmp_path: Path, systemd: Systemd) -> None:
    """The ping comes from the loop alone: when that stands still the service manager hears nothing more."""
    flag = tmp_path / "stop"
    with Daemon(tmp_path, prelude=PRELUDE + LOOPING.format(flag=str(flag)), env=systemd.env) as daemon:
        daemon.until(lambda: systemd.hear()["WATCHDOG=1"] >= 2)
        flag.touch()
        time.sleep(1)
        pings = systemd.hear()["WATCHDOG=1"]
        time.sleep(2)  # twice the period that it was given
        assert systemd.hear()["WATCHDOG=1"] == pings
        flag.unlink()
        daemon.until(lambda: systemd.hear()["WATCHDOG=1"] > pings)


LIMIT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from kiln import voice_bytes
from quick_worker import PRELUDE
from running import CONFIG, Daemon

at = Path(sys.argv[1])
for number in range(30):
    (at / "inbox" / f"f{{number}}").mkdir(parents=True)
soon = "\\nfrom voicekiln import loop\\nloop.GROWING_S = 0.5\\n"
config = CONFIG.replace("rescan: 1s", "rescan: 1h")
with Daemon(at, config, PRELUDE + soon) as daemon:
    daemon.until(lambda: daemon.events("watch.failed") != [])
    [told] = daemon.events("watch.failed")
    assert "31 folders" in told["reason"], told
    for number in range(30):
        (daemon.inbox / f"f{{number}}" / "a.pth").write_bytes(voice_bytes(str(number)))
    daemon.until_there(*(f"f{{number}}/a.json" for number in range(30)))
    assert "looking without events" in daemon.status()["daemon"]
    assert len(daemon.events("watch.failed")) == 1
print("all came out")
"""


@pytest.mark.requirement(15)
def test_too_few_watches_are_said_and_every_folder_is_served(tmp_path: Path) -> None:
    """The kernel allows ten watches for thirty-one folders; polling does the work, and the status says why."""
    limit = "echo 10 > /proc/sys/user/max_inotify_watches"
    script = LIMIT.format(tests=str(Path(__file__).parent))
    assert "all came out" in in_own_namespace(limit, script, tmp_path)


NULL_WATCH = """
from voicekiln.folders import watch
watch._Wake.on_any_event = lambda self, event: None
"""


@pytest.mark.requirement(3)
def test_every_file_is_found_without_any_event(tmp_path: Path) -> None:
    """All events are dropped; the scans that come anyway are the truth."""
    (tmp_path / "inbox").mkdir()
    with Daemon(tmp_path, CONFIG, PRELUDE + NULL_WATCH) as daemon:
        for number in range(20):
            (daemon.inbox / f"{number}.pth").write_bytes(voice_bytes(str(number)))
        daemon.until_there(*(f"{number}.json" for number in range(20)))


@pytest.mark.requirement(3)
def test_a_flood_that_overflows_the_queue_of_events_loses_nothing(tmp_path: Path) -> None:
    """The daemon is stopped while thousands of files come; the kernel throws events away."""
    (tmp_path / "inbox").mkdir()
    config = CONFIG.replace("rescan: 1s", "rescan: 5s")
    with Daemon(tmp_path, config, PRELUDE) as daemon:
        daemon.until(lambda: daemon.events("service.ready") != [])
        daemon.process.send_signal(signal.SIGSTOP)
        for number in range(20_000):  # more than fs.inotify.max_queued_events
            (daemon.inbox / f"junk{number}.txt").touch()
        for number in range(20):
            (daemon.inbox / f"{number}.pth").write_bytes(voice_bytes(str(number)))
        daemon.process.send_signal(signal.SIGCONT)
        daemon.until_there(*(f"{number}.json" for number in range(20)))


SMALL = """
import subprocess, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from kiln import voice_bytes
from quick_worker import PRELUDE
from running import CONFIG, Daemon

at = Path(sys.argv[1])
(at / "inbox").mkdir()
soon = "\\nfrom voicekiln.supervisor import common\\ncommon.FIRST_RETRY_S = common.LAST_RETRY_S = 0.5\\n"
with Daemon(at, CONFIG, PRELUDE + soon) as daemon:
    daemon.until(lambda: daemon.events("service.ready") != [])

    def through(name, trouble, mend, words):
        trouble()
        (daemon.inbox / f"{{name}}.pth").write_bytes(voice_bytes(name))
        daemon.until(lambda: words in str(daemon.status()))
        daemon.until(lambda: daemon.status()["files"][-1]["state"] == "converted")
        # Between two tries; a part that is left stays.
        daemon.until(lambda: not [path for path in daemon.outbox.iterdir() if name in path.name])
        print(name)
        mend()
        daemon.until_there(f"{{name}}.json", f"{{name}}.onnx")

    filler = daemon.outbox / "filler"

    def fill():
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 512)
            except OSError:
                return

    def remount(how):
        subprocess.run(["mount", "-o", f"remount,{{how}}", daemon.outbox], check=True)

    through("full", fill, filler.unlink, "No space left on device")
    through("locked", lambda: remount("ro"), lambda: remount("rw"), "Read-only file system")
    assert len(daemon.events("job.started")) == 2
"""


@pytest.mark.requirement(9)
def test_a_full_or_locked_outbox_is_waited_out(tmp_path: Path) -> None:
    """Real ENOSPC and real EROFS: the voice waits with its reason, no part is left, and it comes out by itself."""
    (tmp_path / "outbox").mkdir()
    mount = f"mount -t tmpfs -o size=256k none {tmp_path}/outbox"
    told = in_own_namespace(mount, SMALL.format(tests=str(Path(__file__).parent)), tmp_path)
    assert told.split() == ["full", "locked"]


UNMOUNTED = """
import subprocess, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from kiln import voice_bytes
from quick_worker import PRELUDE
from running import CONFIG, Daemon

at, events = Path(sys.argv[1]), sys.argv[2]
share, hold = at / "share", at / "hold"
shares = f"inbox: {{share}}/inbox\\noutbox: {{share}}/outbox\\n"
config = shares + CONFIG.replace("poll: 1s", f"poll: 1s, events: {{events}}")
config = config.replace("sources: never, results: never", "sources: 1h, results: 1h, every: 1s")
daemon = Daemon(at, config, PRELUDE)
daemon.inbox, daemon.outbox = share / "inbox", share / "outbox"

def mount():
    subprocess.run(["mount", "--bind", hold, share], check=True)

def rows():
    return [(f["file"], f["state"], f["source"], f["sha256"]) for f in daemon.status()["files"]]

mount()
with daemon:
    (daemon.inbox / "a.pth").write_bytes(voice_bytes("a"))
    daemon.until_there("a.json")
    daemon.until(lambda: rows()[0][1] == "done")
    before, lost = rows(), len(daemon.events("share.lost"))
    subprocess.run(["umount", "-l", share], check=True)
    daemon.until(lambda: len(daemon.events("share.lost")) > lost)
    (daemon.inbox / "decoy.pth").write_bytes(voice_bytes("decoy"))
    time.sleep(3)
    assert rows() == before, rows()
    assert [path.name for path in daemon.outbox.iterdir()] == []
    assert [path.name for path in daemon.inbox.iterdir()] == ["decoy.pth"]
    mount()
    daemon.until(lambda: daemon.events("share.returned") != [])
    (daemon.inbox / "new.pth").write_bytes(voice_bytes("new"))
    daemon.until_there("a.json", "new.json")
    assert len(daemon.events("job.started")) == 2
print("held")
"""


@pytest.mark.requirement(4)
@pytest.mark.parametrize("events", ["on", "off"])
def test_an_unmounted_share_is_neither_empty_nor_written_to(tmp_path: Path, events: str) -> None:
    """The folders beneath the mount point have the same names; no row changes, nothing lands there, and it goes on."""
    for name in ("share/inbox", "share/outbox", "hold"):
        (tmp_path / name).mkdir(parents=True)
    mount = f"mount -t tmpfs none {tmp_path}/hold && mkdir {tmp_path}/hold/inbox {tmp_path}/hold/outbox"
    script = UNMOUNTED.format(tests=str(Path(__file__).parent))
    assert in_own_namespace(mount, script, tmp_path, events).strip() == "held"
