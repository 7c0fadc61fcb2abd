"""What systemd hears: real datagrams on a real socket."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from voicekiln.notify import Notifier

PID = 4711


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """A socket like systemd's, with what stands in NOTIFY_SOCKET."""
    path = f"{tmp_path}/notify"
    named, address = (path, path) if request.param == "path" else (f"@{path}", f"\0{path}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address)
        receiver.settimeout(5)
        yield named, receiver


def test_messages_arrive_in_the_words_of_the_protocol(systemd: tuple[str, socket.socket]) -> None:
    """By path and by abstract name, one datagram each."""
    named, receiver = systemd
    notifier = Notifier.from_env({"NOTIFY_SOCKET": named}, PID)
    assert notifier.ready()
    assert notifier.status("queue 3, converting x.pth")
    assert notifier.reloading(12_345)
    assert notifier.stopping()
    assert [receiver.recv(4096) for _ in range(4)] == [
        b"READY=1",
        b"STATUS=queue 3, converting x.pth",
        b"RELOADING=1\nMONOTONIC_USEC=12345",
        b"STOPPING=1",
    ]


def test_a_status_cannot_smuggle_in_a_second_message(systemd: tuple[str, socket.socket]) -> None:
    """A file named `x, newline, STOPPING=1` stays a name."""
    named, receiver = systemd
    Notifier(address=Notifier.from_env({"NOTIFY_SOCKET": named}, PID).address).status("x\nSTOPPING=1\udcff" + "y" * 999)
    message = receiver.recv(4096).decode()
    assert message.startswith("STATUS=x STOPPING=1")
    assert "\n" not in message
    assert len(message) < 300


def test_progress_is_told_often_enough_and_not_at_every_turn(systemd: tuple[str, socket.socket]) -> None:
    """With 90 s allowed, systemd hears every 22.5 s, however often the loop turns."""
    named, receiver = systemd
    notifier = Notifier.from_env({"NOTIFY_SOCKET": named, "WATCHDOG_USEC": "90000000", "WATCHDOG_PID": f"{PID}"}, PID)
    assert notifier.watchdog_every_s == 45
    assert [second for second in range(100, 200) if notifier.watchdog(second)] == [100, 123, 146, 169, 192]
    assert receiver.recv(4096) == b"WATCHDOG=1"


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "-5"},
        {"WATCHDOG_USEC": "90000000", "WATCHDOG_PID": "1"},
    ],
)
def test_without_a_watchdog_for_this_process_there_are_no_pings(env: dict[str, str]) -> None:
    """Not asked for, nonsense, or meant for the process that started us."""
    notifier = Notifier.from_env(env | {"NOTIFY_SOCKET": "/nowhere"}, PID)
    assert notifier.watchdog_every_s is None
    assert not notifier.watchdog(1.0)


@pytest.mark.parametrize("named", ["", "/no/such/socket", "vsock:2:1234", "@", "/" + "x" * 200, "relative"])
def test_where_nobody_listens_nothing_happens(named: str) -> None:
    """No socket, a strange or a dead one: the daemon works all the same."""
    notifier = Notifier.from_env({"NOTIFY_SOCKET": named, "WATCHDOG_USEC": "90000000"}, PID)
    assert not notifier.ready()
    assert not notifier.status("x")
    assert not notifier.watchdog(1.0)
    assert not Notifier.from_env({}).ready()
