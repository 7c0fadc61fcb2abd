"""The daemon as a whole tells others: a bad file runs the command once, and Prometheus finds it in file and socket."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kiln import voice_bytes
from quick_worker import PRELUDE
from running import CONFIG, Daemon

pytestmark = pytest.mark.requirement(18)

COMMAND = """#!/bin/sh
test -f "$2" && printf '%s|%s|%s|%s\\n' "$1" "$2" "$VOICEKILN_EVENT" "$VOICEKILN_CODE" >> "$(dirname "$0")/ran"
echo "told of $VOICEKILN_FILE"
"""
SOON = "from voicekiln.supervisor import exporting\nexporting.EVERY_S = 0.5\n"
"""In place of a quarter of a minute."""


def read(text: str) -> dict[str, float]:
    """Every sample of the metrics, with its labels as they are written."""
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return {f"{s.name}{''.join(sorted(s.labels.values()))}": s.value for s in samples}


def ask(path: Path) -> str:
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))
        caller.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        with caller.makefile("rb") as answer:
            head, _, body = answer.read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    return body.decode()


def answers(path: Path) -> bool:
    try:
        return "voicekiln_active" in ask(path)
    except OSError:
        return False


def test_a_bad_file_is_told_of(tmp_path: Path) -> None:
    """The command ran once, with the path of the answer; file and socket count it; a stop leaves what it should."""
    command, textfile, local = tmp_path / "tell", tmp_path / "voicekiln.prom", tmp_path / "metrics.sock"
    command.write_text(COMMAND)
    command.chmod(0o755)
    more = f"metrics: {{textfile: {textfile}, socket: {local}}}\nnotify: {{command: {command} --of}}\n"
    bad, good = tmp_path / "bad", tmp_path / "good"
    bad.touch()
    good.write_bytes(voice_bytes())
    with Daemon(tmp_path, CONFIG + more, PRELUDE + SOON) as daemon:
        daemon.until(daemon.inbox.is_dir)
        daemon.drop(bad, "-bad.pth")
        daemon.drop(good, "good.pth")
        daemon.until_there("-bad.error.json", "good.json")
        daemon.until(lambda: daemon.events("notice.finished") != [])
        daemon.until(lambda: read(textfile.read_text())["voicekiln_notices_totaldone"] == 1)
        daemon.until(lambda: read(textfile.read_text())["voicekiln_voicesdone"] == 1)
        told = read(textfile.read_text())
        assert told["voicekiln_refusals_totalempty"] == 1
        assert told["voicekiln_conversions_totalrefused"] == 1
        assert told["voicekiln_conversions_totalconverted"] == 1
        assert told["voicekiln_up"] == 1
        asked = read(ask(local))
        assert asked["voicekiln_refusals_totalempty"] == 1
        assert asked.keys() == told.keys()
        assert textfile.stat().st_mode & 0o777 == 0o644
        assert local.stat().st_mode & 0o777 == 0o660
    assert daemon.process.returncode == 0
    assert (tmp_path / "ran").read_text() == f"--of|{daemon.outbox}/-bad.error.json|refused|empty\n"
    [line] = daemon.events("notice.finished")
    assert (line["status"], line["said"]) == (0, ["told of -bad.pth"])
    assert not local.exists()
    assert read(textfile.read_text())["voicekiln_up"] == 0


def test_what_is_switched_off_costs_nothing(tmp_path: Path) -> None:
    """Without metrics, the library of Prometheus is not in the daemon's process."""
    maps = "import sys, atexit; atexit.register(lambda: print('prometheus_client' in sys.modules, file=sys.stderr))"
    with Daemon(tmp_path, CONFIG, f"{PRELUDE}\n{maps}") as daemon:
        daemon.until(lambda: daemon.events("service.ready") != [])
    assert daemon.log.read_text().splitlines()[-1] == "False"


def test_a_daemon_that_was_killed_does_not_keep_the_next_one_from_answering(tmp_path: Path) -> None:
    """Its socket is still there, and is replaced."""
    local = tmp_path / "metrics.sock"
    config = f"{CONFIG}metrics: {{socket: {local}}}\n"
    with Daemon(tmp_path, config, PRELUDE + SOON) as daemon:
        daemon.until(lambda: answers(local))
        daemon.process.kill()
        daemon.process.wait()
    assert local.is_socket()
    assert not answers(local)
    with Daemon(tmp_path, config, PRELUDE + SOON) as daemon:
        daemon.until(lambda: answers(local))
    assert not local.exists()
