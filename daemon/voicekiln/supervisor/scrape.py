"""Answers `GET /metrics` at a Unix socket: one thread, one question at a time, no network.

Whoever asks is a member of the service's group, so the limits are against mistakes rather than malice: a question has
to be there within two seconds and fit into 8 KiB, the answer to be taken within two more.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

PATIENCE_S = 2.0
PAUSE_S = 0.5
"""After a caller could not be let in."""
MAX_QUESTION = 8192
MODE = 0o660
"""Of the socket."""
BACKLOG = 8
TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Scrape:
    """The socket and its thread."""

    def __init__(self, path: Path, text: Callable[[], bytes]) -> None:
        """`text` is called in the thread."""
        self.trouble: str | None = None
        """Why nobody is answered."""
        self._path = path
        self._text = text
        self._stop_reading, self._stop_writing = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="metrics-socket", daemon=True)
        self._thread.start()

    def close(self, wait_s: float) -> None:
        """Remove the socket and end the thread."""
        os.close(self._stop_writing)
        self._thread.join(wait_s)
        if not self._thread.is_alive():
            os.close(self._stop_reading)

    def _run(self) -> None:
        try:
            listener = listen(self._path)
            ours = self._path.lstat()
        except OSError as error:
            self.trouble = error.strerror or str(error)
            return
        with listener:
            while True:
                ready, _, _ = select.select([listener.fileno(), self._stop_reading], [], [])
                if self._stop_reading in ready:
                    break
                try:
                    asking, _ = listener.accept()
                except OSError:  # gone already; or there is no descriptor left, which does not change at once
                    select.select([self._stop_reading], [], [], PAUSE_S)
                    continue
                with asking, suppress(OSError):  # whoever asked has gone away or is too slow; the next one may ask
                    answer(asking, self._text)
            with suppress(OSError):
                there = self._path.lstat()  # while ours is open, no other file has its number
                if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
                    self._path.unlink()


def listen(path: Path) -> socket.socket:
    """Return a socket that listens at `path`; one that a dead daemon left there is replaced.

    Raises:
        OSError: if there is something else, or somebody answers.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(0, f"{path} is something else than a socket; it was left alone")
        if _answers(path):
            raise FileExistsError(0, f"another program answers at {path}")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.bind(str(path))
        path.chmod(MODE)  # before anybody can be answered
        listener.listen(BACKLOG)
        listener.settimeout(0)  # who has gone away meanwhile must not be waited for
    except OSError:
        listener.close()
        raise
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as caller:
        caller.settimeout(PATIENCE_S)
        try:
            caller.connect(str(path))
        except ConnectionRefusedError:
            return False
        except BlockingIOError:  # somebody is there and has his hands full; local sockets do not wait for him
            return True
    return True


def answer(asking: socket.socket, text: Callable[[], bytes]) -> None:
    """Read one question and answer it.

    Raises:
        OSError: if the other side goes away or is too slow.
    """
    words = _question(asking).split(b" ")
    status, body = "200 OK", b""
    if len(words) != 3 or not words[2].startswith(b"HTTP/1."):  # noqa: PLR2004 - method, path, version
        status = "400 Bad Request"
    elif words[1].partition(b"?")[0] != b"/metrics":
        status = "404 Not Found"
    elif words[0] not in (b"GET", b"HEAD"):
        status = "405 Method Not Allowed\r\nAllow: GET, HEAD"
    else:
        body = text()
    head = f"HTTP/1.1 {status}\r\nContent-Type: {TYPE}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    asking.settimeout(PATIENCE_S)  # for all of it together
    asking.sendall(head.encode() + (b"" if words[0] == b"HEAD" else body))


def _question(asking: socket.socket) -> bytes:
    """Return the first line of what is asked; the rest, up to the empty line, is of no interest."""
    end, heard = time.monotonic() + PATIENCE_S, b""
    while b"\r\n\r\n" not in heard and len(heard) < MAX_QUESTION:
        asking.settimeout(max(0.001, end - time.monotonic()))
        if not (more := asking.recv(MAX_QUESTION)):
            break
        heard += more
    return heard.partition(b"\r\n")[0]
