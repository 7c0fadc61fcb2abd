"""A worker process without torch that does what a request's id begins with, or else what is written in its voice.

A Dask worker that loads this first (`dask worker --preload cluster_stand_in`) starts it in the place of the real one.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path


def dask_setup(_: object) -> None:
    """Take the place of the real one; Dask calls this in a worker that loads this first, and nobody else does."""
    from voicekiln.worker import parent  # noqa: PLC0415 - the stand-in itself has no use for it

    parent._child_command = lambda *_: [sys.executable, "-P", __file__]


def wait(path: Path) -> str:
    """Return what a voice says that is done when there is something at `path`."""
    return f"please wait {path};"


LEAVE = "please leave;"
"""What a voice says that ends its process."""
KILL = "please kill;"
"""What a voice says that ends the Dask worker above its process."""


def obey(content: bytes) -> None:
    """Do what is written in a voice."""
    asked = re.search(rb"please (\w+) ?([^;]*);", content)
    match asked and asked[1]:
        case b"wait":
            while asked and not Path(os.fsdecode(asked[2])).exists():
                time.sleep(0.02)
        case b"leave":
            os._exit(1)
        case b"kill":
            os.kill(os.getppid(), signal.SIGKILL)
            signal.pause()


def main() -> None:  # noqa: C901 - one for each way to end
    """Answer requests as they come."""
    sys.path.insert(0, str(Path(__file__).parent))
    from endings import converted  # noqa: PLC0415 - the line above finds it
    from voicekiln.errors import Empty  # noqa: PLC0415 - as above
    from voicekiln.worker.wire import (  # noqa: PLC0415 - as above
        Answer,
        Convert,
        Declined,
        Entered,
        Finished,
        Looked,
        Ready,
        decode_request,
        encode,
    )

    def say(answer: Answer) -> None:
        sys.stdout.buffer.write(encode(answer))
        sys.stdout.buffer.flush()

    say(Ready({"kind": "cpu", "name": "a test"}, {"torch": "0"}))
    for line in sys.stdin.buffer:
        request = decode_request(line)
        if request.id.startswith("look"):
            say(Looked(request.id, {"family": "rvc"}, ()))
            continue
        assert isinstance(request, Convert)
        job = request.job
        assert job.source.is_file()
        match job.id.rstrip("0123456789"):
            case "bad":
                say(Declined(job.id, Empty()))
            case "lost":
                os._exit(1)
            case "hang":
                say(Entered(job.id, "load"))
            case "wrong":  # the file is another than it says
                ending = converted(job)
                (job.staging / ending.conversion.files[0].name).write_bytes(b"another")
                say(Finished(job.id, ending.conversion))
            case "link":
                ending = converted(job)
                (job.staging / ending.conversion.files[0].name).unlink()
                (job.staging / ending.conversion.files[0].name).symlink_to("/etc/passwd")
                say(Finished(job.id, ending.conversion))
            case "big":  # of several chunks
                ending = converted(job)
                file = ending.conversion.files[0]
                content = bytes(range(256)) * 80_000
                (job.staging / file.name).write_bytes(content)
                file = replace(file, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
                say(Finished(job.id, replace(ending.conversion, files=(file,))))
            case "absent":
                ending = converted(job)
                (job.staging / ending.conversion.files[0].name).unlink()
                say(Finished(job.id, ending.conversion))
            case _:
                say(Entered(job.id, "load"))
                obey(job.source.read_bytes())
                say(Finished(job.id, converted(job).conversion))


if __name__ == "__main__":
    main()
