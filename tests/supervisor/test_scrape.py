"""The socket of the metrics: answers whoever asks in time, removes nothing of others', and cannot be blocked."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest

from voicekiln.supervisor import scrape
from voicekiln.supervisor.scrape import Scrape


class Local(HTTPConnection):
    """The library's client at a local socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("local", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = connected(self._path)


def connected(path: Path) -> socket.socket:
    caller = socket.socket(socket.AF_UNIX)
    caller.settimeout(20)
    caller.connect(str(path))
    return caller


def ask(path: Path, method: str = "GET", what: str = "/metrics") -> tuple[HTTPResponse, bytes]:
    client = Local(path)
    client.request(method, what)
    answer = client.getresponse()
    body = answer.read()
    client.close()
    return answer, body


def until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.sock"


@pytest.fixture
def serve(path: Path) -> Iterator[Callable[..., Scrape]]:
    made: list[Scrape] = []

    def start(text: Callable[[], bytes] = lambda: b"a 1\n") -> Scrape:
        served = Scrape(path, text)
        made.append(served)
        until(lambda: served.trouble is not None or (path.is_socket() and path.stat().st_mode & 0o777 == 0o660))
        return served

    yield start
    for each in made:
        if each._thread.is_alive():
            each.close(20)


def test_it_answers(serve: Callable[..., Scrape], path: Path) -> None:
    """With what holds at the time of the question, as often as one likes."""
    told = iter([b"a 1\n", b"a 2\n"])
    serve(lambda: next(told))
    for expected in (b"a 1\n", b"a 2\n"):
        answer, body = ask(path)
        assert (answer.status, body) == (200, expected)
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize(
    ("method", "what", "status"),
    [("GET", "/metrics?a=b", 200), ("HEAD", "/metrics", 200), ("GET", "/", 404), ("POST", "/metrics", 405)],
)
def test_it_answers_nothing_else(serve: Callable[..., Scrape], path: Path, method: str, what: str, status: int) -> None:
    """One thing can be asked for, in two ways."""
    serve()
    answer, body = ask(path, method, what)
    assert answer.status == status
    assert body == (b"a 1\n" if (method, status) == ("GET", 200) else b"")


@pytest.mark.parametrize("question", [b"\r\n\r\n", b"nonsense\r\n\r\n", b"GET /metrics SPDY/9\r\n\r\n", b"\xff" * 9000])
def test_nonsense_is_answered_and_harms_nobody(serve: Callable[..., Scrape], path: Path, question: bytes) -> None:
    """Neither what is no question nor a very long one."""
    serve()
    with connected(path) as caller:
        caller.sendall(question)
        assert caller.recv(100).startswith(b"HTTP/1.1 400 ")
    assert ask(path)[1] == b"a 1\n"


def test_whoever_says_nothing_is_not_waited_for(
    serve: Callable[..., Scrape], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither one who is silent, nor one who spells his question letter by letter, nor one who does not listen."""
    monkeypatch.setattr(scrape, "PATIENCE_S", 0.5)
    much = b"a 1\n" * 250_000  # more than a socket holds for one who does not listen
    serve(lambda: much)
    stop = threading.Event()

    def spell(caller: socket.socket) -> None:
        try:
            while not stop.wait(0.05):
                caller.sendall(b"G")
        except OSError:
            pass

    with connected(path), connected(path) as speller, connected(path) as deaf:
        deaf.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        thread = threading.Thread(target=spell, args=(speller,))
        thread.start()
        assert ask(path)[1] == much
        stop.set()
        thread.join()


def test_only_the_group_may_ask(serve: Callable[..., Scrape], path: Path) -> None:
    """Whatever the umask says."""
    before = os.umask(0)
    try:
        serve()
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o660


def test_it_goes_with_the_daemon(serve: Callable[..., Scrape], path: Path) -> None:
    """A clean stop leaves no socket and no thread, nor waits for one who says nothing."""
    served = serve()
    with connected(path):
        served.close(20)
    assert not served._thread.is_alive()
    assert not path.exists()


def test_one_that_a_dead_daemon_left_is_replaced(serve: Callable[..., Scrape], path: Path) -> None:
    """Nobody answers there any more."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert serve().trouble is None
    assert ask(path)[1] == b"a 1\n"


def test_one_that_answers_is_left_alone(serve: Callable[..., Scrape], path: Path) -> None:
    """Another program has it; that is told, and it goes on."""
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(path))
        living.listen()
        served = serve()
        assert served.trouble == f"another program answers at {path}"
        served.close(20)
        assert path.is_socket()


def test_one_that_has_its_hands_full_is_left_alone(serve: Callable[..., Scrape], path: Path) -> None:
    """It answers nobody now, but it is there."""
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(path))
        living.listen(0)
        with connected(path):
            assert serve().trouble == f"another program answers at {path}"
    assert path.is_socket()


def test_without_descriptors_it_rests_and_goes_on(
    serve: Callable[..., Scrape], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not try without end as long as there is none to let a caller in with."""
    monkeypatch.setattr(scrape, "PAUSE_S", 0.1)
    tried = 0
    real = socket.socket.accept

    def accept(listener: socket.socket) -> tuple[socket.socket, object]:
        nonlocal tried
        tried += 1
        if tried <= 2:
            raise OSError(errno.EMFILE, "Too many open files")
        return real(listener)

    monkeypatch.setattr(socket.socket, "accept", accept)
    serve()
    began = time.monotonic()
    assert ask(path)[1] == b"a 1\n"
    assert (tried, time.monotonic() - began >= 2 * scrape.PAUSE_S) == (3, True)


def test_another_file_is_left_alone(serve: Callable[..., Scrape], path: Path) -> None:
    """Also a link, wherever it leads."""
    path.write_text("mine")
    assert "something else" in str(serve().trouble)
    assert path.read_text() == "mine"
    path.unlink()
    path.symlink_to("elsewhere")
    assert "something else" in str(serve().trouble)
    assert path.is_symlink()


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    """It is no reason to end."""
    served = Scrape(tmp_path / "no" / "such.sock", lambda: b"")
    until(lambda: served.trouble is not None)
    assert served.trouble == "No such file or directory"
    served.close(20)


def test_a_socket_that_somebody_else_has_put_there_is_not_removed(serve: Callable[..., Scrape], path: Path) -> None:
    """Only our own goes."""
    served = serve()
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        served.close(20)
        assert path.is_socket()
