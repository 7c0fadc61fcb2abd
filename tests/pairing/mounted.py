"""The daemon on `rclone mount`: inbox and outbox lie with somebody else, and rclone shows them as folders."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

from pairing.pair import daemon, sha256, voice
from pairing.programs import Program, until
from pairing.tools import RCLONE

OPTIONS = ("--vfs-cache-mode=writes", "--vfs-write-back=1s", "--dir-cache-time=2s", "--transfers=1")
"""The README's, with shorter waits. One transfer at a time keeps the sidecar behind its file."""
SLOW = "--bwlimit=500K"
"""So that the sidecar could overtake."""


def mounted(at: Path) -> None:
    """Others drop at the far end and fetch there; the daemon sees it within some seconds, and what arrives is whole."""
    far, share = at / "far", at / "share"
    for folder in (far / "inbox", far / "outbox", share):
        folder.mkdir(parents=True)
    command = [*RCLONE, "mount", far, share, *OPTIONS, SLOW, "--cache-dir", at / "cache"]
    with Program(command, at / "mount.log") as mount:
        until(lambda: os.path.ismount(share) or not mount.runs(), mount.said)
        kiln = daemon(at, share)
        with kiln:
            for data in (voice(1), voice(2, 100_000)):
                (far / "inbox/voice.pth").write_bytes(data)
                kiln.until(partial(_has_result, far, sha256(data)))
                onnx = json.loads((far / "outbox/voice.json").read_bytes())["onnx"][0]
                assert onnx["sha256"] == sha256((far / "outbox/voice.onnx").read_bytes()), "the sidecar came first"
            assert not [
                path for path in (far / "outbox").iterdir() if path.suffix == ".part" and "owner" not in path.name
            ]


def _has_result(far: Path, of: str) -> bool:
    try:
        return bool(json.loads((far / "outbox/voice.json").read_bytes())["source"]["sha256"] == of)
    except (FileNotFoundError, json.JSONDecodeError):  # it is not there yet, or being written
        return False
