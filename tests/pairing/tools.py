"""The real tools, each with the settings of the README, between a person's folder and the daemon's share.

A tool is a function that begins to serve the share, if that needs a server, and gives a `Link`: how to put a file into
the inbox and how to fetch the outbox. Everything runs on the loopback.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from pairing.cloud import USER, Cloud
from pairing.programs import PATIENCE_S, Program, listens, until
from ports import free_port

RATE_KIB = 1000
"""Kibibytes that arrive in a second, where an arrival is to be looked at."""
OURS = ".~*.part"
"""The daemon's hidden names, which nobody else needs."""


ROOT_STAYS = "uid = root\ngid = root\n"
"""For rsync's daemon, which is nobody otherwise, and may be nobody but us if we are not root."""


@dataclass
class Link:
    """A way to and from the share. A command of `put` takes seconds for each megabyte if `slow`."""

    put: Callable[[Path, str, bool], Sequence[str | Path]]
    """Of a file here and its name in the inbox, return the command that brings it there."""
    get: Callable[[Path], Sequence[str | Path]]
    """Of a folder here, return the command that brings all results into it."""
    remove: Callable[[str], Sequence[str | Path]] | None = None
    """Of a name in the inbox, return the command that takes it away; None: the tool has none of its own."""
    got: Callable[[Path], None] = lambda _: None
    """For a tool whose other end is no folder: lays what came there into the folder."""
    env: Mapping[str, str] = field(default_factory=dict)


Serve = Callable[[Path, Path], AbstractContextManager[Link]]
"""Of the share (with the folders inbox and outbox in it) and a folder for what the tool itself needs."""


@dataclass(frozen=True)
class Tool:
    """One row of the README's table."""

    name: str
    programs: tuple[str, ...]
    """The first one's version is told."""
    serve: Serve
    digits: int = 1
    """How many numbers of the version matter for what is told."""
    marks: bool = False
    """Whether it leaves a mark by which the daemon sees that removals go both ways."""


def _rsync(*options: str, daemon: bool = False) -> Serve:
    @contextmanager
    def serve(share: Path, at: Path) -> Iterator[Link]:
        if not daemon:
            yield _rsync_link(f"{share}/", options)
            return
        port = free_port()
        (at / "rsyncd.conf").write_text(
            f"use chroot = no\naddress = 127.0.0.1\nport = {port}\n{ROOT_STAYS if os.geteuid() == 0 else ''}"
            f"[voices]\npath = {share}\nread only = no\n"
        )
        command = ["rsync", "--daemon", "--no-detach", f"--config={at}/rsyncd.conf"]
        with _serving(command, at, port):
            yield _rsync_link(f"rsync://127.0.0.1:{port}/voices/", options)

    return serve


def _rsync_link(place: str, options: Sequence[str]) -> Link:
    def put(here: Path, name: str, slow: bool) -> list[str | Path]:  # noqa: FBT001 - as in Link
        return ["rsync", "-a", *options, *([f"--bwlimit={RATE_KIB}"] if slow else []), here, f"{place}inbox/{name}"]

    return Link(put, lambda there: ["rsync", "-a", f"--exclude={OURS}", f"{place}outbox/", f"{there}/"])


@contextmanager
def _serving(
    command: Sequence[str | Path], at: Path, port: int, env: Mapping[str, str] | None = None
) -> Iterator[None]:
    with Program(command, at / "server.log", env) as server:
        until(lambda: listens(port) or not server.runs(), server.said)
        assert server.runs(), server.said()
        yield


RCLONE: tuple[str | Path, ...] = ("rclone", "--config", "/dev/null")


def _rclone_link(place: str, options: Sequence[str] = (), bring: str = "copyto", fetch: str = "copy") -> Link:
    def put(here: Path, name: str, slow: bool) -> list[str | Path]:  # noqa: FBT001 - as in Link
        limit = [f"--bwlimit={RATE_KIB}K"] if slow else []
        return [*RCLONE, bring, *options, *limit, here, f"{place}inbox/{name}"]

    return Link(
        put,
        lambda there: [*RCLONE, fetch, *options, f"--exclude={OURS}", f"{place}outbox", there],
        lambda name: [*RCLONE, "deletefile", *options, f"{place}inbox/{name}"],
    )


@contextmanager
def _rclone_local(share: Path, at: Path) -> Iterator[Link]:
    nothing = at / "nothing"
    nothing.mkdir()

    def remove(name: str) -> list[str | Path]:
        return [*RCLONE, "sync", f"--include=/{name}", nothing, share / "inbox"]

    yield replace(_rclone_link(f"{share}/", fetch="sync"), remove=remove)


@contextmanager
def _rclone_webdav(share: Path, at: Path) -> Iterator[Link]:
    port = free_port()
    command = [*RCLONE, "serve", "webdav", share, "--addr", f"127.0.0.1:{port}", "--dir-cache-time", "1s"]
    with _serving(command, at, port):
        # Plain WebDAV keeps no dates, so a newer voice of the same size would be left out.
        yield _rclone_link(":webdav:", [f"--webdav-url=http://127.0.0.1:{port}", "--ignore-times"])


@contextmanager
def _rclone_sftp(share: Path, at: Path) -> Iterator[Link]:
    port = free_port()
    words = ["--addr", f"127.0.0.1:{port}", "--no-auth", "--dir-cache-time", "1s"]
    hidden = subprocess.run(
        [*RCLONE, "obscure", "any"], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    ).stdout.strip()
    options = ["--sftp-host=127.0.0.1", f"--sftp-port={port}", "--sftp-user=any", f"--sftp-pass={hidden}"]
    with _serving([*RCLONE, "serve", "sftp", share, *words], at, port, {"XDG_CACHE_HOME": str(at)}):
        yield _rclone_link(":sftp:", options, bring="moveto")


FEED = """
import sys, time
with open(sys.argv[1], "rb") as file:
    while piece := file.read(256 * 1024):
        sys.stdout.buffer.write(piece)
        sys.stdout.flush()
        time.sleep(0.25)
"""
"""smbclient has no limit of its own; it reads no faster than it is fed."""


@contextmanager
def _smb(share: Path, at: Path) -> Iterator[Link]:
    port = free_port()
    own = ("lock directory", "state directory", "cache directory", "pid directory", "private dir", "ncalrpc dir")
    (at / "smb.conf").write_text(
        f"[global]\nsmb ports = {port}\ninterfaces = 127.0.0.1\nbind interfaces only = yes\ndisable netbios = yes\n"
        "server role = standalone server\nload printers = no\nprintcap name = /dev/null\ndisable spoolss = yes\n"
        f"map to guest = Bad User\nguest account = {pwd.getpwuid(os.geteuid()).pw_name}\nlog file = {at}/smbd.log\n"
        f"smb2 max write = 65536\n{''.join(f'{name} = {at}' + chr(10) for name in own)}"
        f"[voices]\npath = {share}\nguest ok = yes\nread only = no\nveto files = /{OURS}/\n"
        "create mask = 0664\ndirectory mask = 2775\n"
    )
    client = ["smbclient", "//127.0.0.1/voices", "-s", f"{at}/smb.conf", "-p", str(port), "-N", "-c"]

    def put(here: Path, name: str, slow: bool) -> list[str | Path]:  # noqa: FBT001 - as in Link
        if not slow:
            return [*client, f'put "{here}" "inbox/{name}"']
        pipe = '"$1" -c "$2" "$3" | { shift 3; exec "$@"; }'
        return ["sh", "-c", pipe, "sh", sys.executable, FEED, here, *client, f'put - "inbox/{name}"']

    with _serving(["smbd", "--foreground", "--no-process-group", "-s", at / "smb.conf"], at, port):
        yield Link(
            put,
            lambda there: [*client, f'recurse; prompt; lcd "{there}"; cd outbox; mget *'],
            lambda name: [*client, f'del "inbox/{name}"'],
        )


@contextmanager
def _nextcloud(share: Path, at: Path) -> Iterator[Link]:
    with Cloud() as cloud:
        client = ["nextcloudcmd", "--silent", "--non-interactive", "-u", USER, "-p", "any"]

        def put(here: Path, name: str, slow: bool) -> list[str | Path]:  # noqa: FBT001 - as in Link
            cloud.put(f"inbox/{name}", here.read_bytes(), int(here.stat().st_mtime))
            return [*client, *(["--downlimit", str(RATE_KIB)] if slow else []), share, cloud.url]

        def got(there: Path) -> None:
            for name, (content, _) in cloud.files.items():
                if name.startswith("outbox/"):
                    path = there / name.removeprefix("outbox/")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)

        def remove(name: str) -> list[str | Path]:
            cloud.remove(f"inbox/{name}")
            return [*client, share, cloud.url]

        env = {"HOME": str(at), "QT_QPA_PLATFORM": "offscreen"}
        yield Link(put, lambda _: [*client, share, cloud.url], remove, got, env)


TOOLS = (
    Tool("rsync", ("rsync",), _rsync()),
    Tool("rsync to a daemon", ("rsync",), _rsync(daemon=True)),
    Tool("`rsync --delay-updates`", ("rsync",), _rsync("--delay-updates")),
    Tool("`rsync --partial`", ("rsync",), _rsync("--partial")),
    Tool("`rsync --partial-dir`", ("rsync",), _rsync("--partial-dir=.rsync-partial")),
    Tool("`rsync --inplace`", ("rsync",), _rsync("--inplace")),
    Tool("rclone to a folder", ("rclone",), _rclone_local, digits=2),
    Tool("rclone to WebDAV", ("rclone",), _rclone_webdav, digits=2),
    Tool("rclone to SFTP", ("rclone",), _rclone_sftp, digits=2),
    Tool("`smbclient` to Samba", ("smbclient", "smbd"), _smb),
    Tool("`nextcloudcmd`", ("nextcloudcmd",), _nextcloud, marks=True),
)
