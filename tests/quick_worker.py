"""A worker process without torch, for tests with many voices or many daemons: its ONNX files are a line of text.

`PRELUDE` lets a daemon in a process of its own (see `running`) start it in the place of the real one.
"""

from __future__ import annotations

import sys
from pathlib import Path

PRELUDE = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from voicekiln.worker import parent
parent._child_command = lambda *_: [sys.executable, "-P", {__file__!r}]
"""


def main() -> None:
    """Answer requests as they come."""
    sys.path.insert(0, str(Path(__file__).parent))
    from endings import converted  # noqa: PLC0415 - the line above finds it
    from voicekiln.worker.wire import Convert, Finished, Ready, decode_request, encode  # noqa: PLC0415 - as above

    def say(answer: Finished | Ready) -> None:
        sys.stdout.buffer.write(encode(answer))
        sys.stdout.buffer.flush()

    say(Ready({"kind": "cpu", "name": "a test"}, {"torch": "0"}))
    for line in sys.stdin.buffer:
        request = decode_request(line)
        assert isinstance(request, Convert)
        say(Finished(request.job.id, converted(request.job).conversion))


if __name__ == "__main__":
    main()
