"""A worker process without torch, to measure the way to it: it makes results of as many megabytes as a job's id says.

`job(3, 110)` is such an id. A Dask worker that loads this first (`dask worker --preload benchmarks.stand_in`) starts it
in the place of the real one.
"""

from __future__ import annotations

import hashlib
import sys
from functools import cache

COMMAND = [sys.executable, "-P", __file__]
MB = 1_000_000
BLOCK = bytes(range(250)) * (MB // 250)


def dask_setup(_: object) -> None:
    """Take the place of the real worker process; Dask calls this in a worker that loads this first."""
    from voicekiln.worker import parent  # noqa: PLC0415 - the stand-in itself has no use for it

    parent._child_command = lambda *_: COMMAND  # noqa: SLF001 - it is nobody's setting


def job(number: int, megabytes: int = 0) -> str:
    """Return the id of a job with a result of this size; of 0 megabytes, it has a few bytes."""
    return f"{number}-{megabytes}"


@cache
def _hash(megabytes: int) -> str:
    """Return the hash of a result; taken once, for nobody asks what it costs to make one."""
    content = hashlib.sha256()
    for _ in range(megabytes):
        content.update(BLOCK)
    return content.hexdigest()


def main() -> None:
    """Answer requests as they come."""
    from voicekiln.job import Conversion, OnnxFile, Port, staged  # noqa: PLC0415 - a Dask worker has no use for them
    from voicekiln.worker.wire import Convert, Entered, Finished, Ready, decode_request, encode  # noqa: PLC0415 - as above

    def say(answer: Ready | Entered | Finished) -> None:
        sys.stdout.buffer.write(encode(answer))
        sys.stdout.buffer.flush()

    say(Ready({"kind": "cpu", "name": "a stand-in"}, {"torch": "0"}))
    ports = (Port("phone", "float32", (1, "frames", 768)),)
    for line in sys.stdin.buffer:
        request = decode_request(line)
        if not isinstance(request, Convert):
            raise TypeError("only conversions are measured")
        megabytes = int(request.job.id.rpartition("-")[2])
        name = staged("rvc", "fp32")
        with (request.job.staging / name).open("wb") as file:
            for _ in range(megabytes):
                file.write(BLOCK)
        made = OnnxFile(name, "fp32", _hash(megabytes), megabytes * MB, 17, ports, ports, ())
        say(Entered(request.job.id, "load"))
        say(Finished(request.job.id, Conversion((made,), {"family": "rvc"}, {}, (), {}, {}, {})))


if __name__ == "__main__":
    main()
