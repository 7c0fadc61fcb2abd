"""Files as they arrive in an inbox, built in code, and the places where a kernel is needed to make them fail."""

from __future__ import annotations

import io
import os
import random
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from voicekiln.folders.inbox import scan
from voicekiln.job import FileStamp


class Stream(io.RawIOBase):
    """A sink that cannot seek, so that zipfile has to write sizes and checksums after the parts."""

    def __init__(self) -> None:
        self.got = bytearray()

    def writable(self) -> bool:
        """Only that."""
        return True

    def write(self, data: object) -> int:
        """Keep it."""
        self.got += bytes(data)  # type: ignore[call-overload]  # whatever zipfile hands over
        return len(bytes(data))  # type: ignore[call-overload]  # as above


def noise(count: int, seed: int = 1) -> bytes:
    """Return `count` bytes, none of them zero."""
    return bytes(random.Random(seed).choices(range(1, 256), k=count))  # noqa: S311 - test data, no secret


def archive(
    parts: dict[str, bytes] | None = None,
    *,
    method: int = zipfile.ZIP_STORED,
    comment: bytes = b"",
    streamed: bool = False,
) -> bytes:
    """Return a ZIP laid out like a modern checkpoint: stored parts, the table of contents at the end."""
    if parts is None:
        parts = {"voice/data.pkl": noise(500), "voice/data/0": noise(40_000, 2), "voice/data/1": noise(30_000, 3)}
    sink: Stream | io.BytesIO = Stream() if streamed else io.BytesIO()
    with zipfile.ZipFile(sink, "w", method) as made:
        made.comment = comment
        for name, data in parts.items():
            made.writestr(zipfile.ZipInfo(name), data, method)  # dated 1980, so the bytes are the same every day
    return bytes(sink.got) if isinstance(sink, Stream) else sink.getvalue()


def legacy() -> bytes:
    """Return bytes laid out like a checkpoint of the old form: pickles, then raw numbers."""
    return b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03." + noise(90_000)


def stamp_in(root: Path, relpath: str = "voice.pth") -> FileStamp:
    """Return the stamp that a scan of `root` finds."""
    return scan(root).files[PurePosixPath(relpath)]


def in_own_namespace(setup: str, script: str, *args: object, unshare: str = "-Urm") -> str:
    """Run `script` in a new user and mount namespace after the shell lines `setup`; return what it printed.

    There, mounts and kernel limits can be made without being root; with "-U" not even root may read everything.
    Skips where the kernel refuses.
    """
    command = ["unshare", unshare, "sh", "-ec", f'script=$1; shift\n{setup}\nexec "$PYTHON" -c "$script" "$@"', "sh"]
    if shutil.which("unshare") is None or _run(["unshare", unshare, "true"]).returncode:
        pytest.skip("this kernel grants its users no user namespace")
    done = _run([*command, script, *map(str, args)])
    assert done.returncode == 0, done.stderr
    return done.stdout


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHON": sys.executable, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=240, env=env)
