"""What is asked of a finished ONNX file, anybody's: is it the voice, and how does it sound? The worker opens it."""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from voicekiln.commands.common import FOR_LIMITS, NOT_DONE, OK, settings_or_defaults, tell_failure, templates_folder
from voicekiln.commands.parsing import Commands
from voicekiln.commands.terminal import Tell, complain, progress, say
from voicekiln.errors import Refusal, ShareAwayError, plain
from voicekiln.job import Speech
from voicekiln.oneoff import Desk, NotDoneError

MAX_SIDECAR: Final = 1_000_000
"""Bytes of a sidecar that is looked into for a sample rate."""
TOP_DB: Final = range(0, -160, -20)
"""The upper end of each row of the drawing."""
ROW_DB: Final = 20


def add(commands: Commands) -> None:
    """Describe the commands of this module to the parser."""
    verify = commands.add(
        "verify",
        "compare an ONNX file with the voice it was made from",
        _verify,
        wish="Listen and compare",
        more="The file may be of any tool that exports RVC voices. It runs beside the original network, and where it "
        "differs, it is tried out what is wrong. The exit status is 0 for a faithful file and 1 for another.",
        example="voicekiln verify voice.onnx --against voice.pth",
        config=FOR_LIMITS,
    )
    verify.add_argument("model", type=Path, metavar="MODEL.onnx", help="the file to judge")
    verify.add_argument("--against", type=Path, required=True, metavar="VOICE.pth", help="the voice it should be")
    verify.add_argument(
        "--long", action="store_true", help="compare ten seconds as well, as some faults grow with time"
    )
    verify.add_argument("--json", action="store_true", help="for programs")

    listen = commands.add(
        "listen",
        "let an ONNX file speak: features and pitch in, a WAV file out",
        _listen,
        wish="Listen and compare",
        more="Features are those of the voice's speech encoder, 50 or 100 frames a second; f0 is in Hz, 100 a second, "
        "0 where unvoiced. Both are arrays as numpy.save writes them.",
        example="voicekiln listen voice.onnx --features f.npy --f0 g.npy -o out.wav",
        config=FOR_LIMITS,
    )
    listen.add_argument("model", type=Path, metavar="MODEL.onnx", help="the voice")
    listen.add_argument("--features", type=Path, required=True, metavar="F.npy", help="(frames, width)")
    listen.add_argument("--f0", type=Path, metavar="G.npy", help="(frames,); a voice without f0 needs none")
    listen.add_argument("-o", "--out", type=Path, required=True, metavar="OUT.wav", help="replaced if it is there")
    listen.add_argument("--speaker", type=_whole, default=0, metavar="N", help="counted from 0 (default: 0)")
    listen.add_argument("--seed", type=_whole, default=0, metavar="N", help="of the noise (default: 0)")
    listen.add_argument("--rate", type=_rate, metavar="HZ", help="sample rate, for a file that does not say its own")


def _verify(options: argparse.Namespace) -> int:
    settings = settings_or_defaults(options.config)
    try:
        with Desk(settings, templates_folder(options, settings)) as desk:
            if options.json:
                found = desk.verify(options.model, options.against, lambda *_: None, long=options.long)
            else:
                with progress(options.model.name) as tell:
                    found = desk.verify(options.model, options.against, partial(_told, tell), long=options.long)
    except Refusal as refusal:
        if not options.json:
            tell_failure(options.against, refusal)
            return NOT_DONE
        found = {"trouble": refusal.text, "hint": refusal.advice}
    except (NotDoneError, ShareAwayError, OSError) as error:
        tell_failure(options.model, error)
        return NOT_DONE
    if options.json:
        say(json.dumps(found, indent=2, ensure_ascii=False))
    elif not _tell_trouble(options.model, found):
        for line in _judgement(found):
            say(line)
        if sys.stdout.isatty() and (levels := found.get("levels")):
            for line in drawing(levels):
                say(line)
    return OK if found.get("faithful") is True else NOT_DONE


def _listen(options: argparse.Namespace) -> int:
    settings = settings_or_defaults(options.config)
    speech = Speech(
        model=options.model,
        features=options.features,
        f0=options.f0,
        target=options.out,
        speaker=options.speaker,
        seed=options.seed,
        rate=options.rate,
        rate_beside=_rate_beside(options.model),
    )
    if not options.out.absolute().parent.is_dir() or options.out.is_dir():
        complain(f"{options.out}: cannot be written, for it is a folder or lies in none")
        return NOT_DONE
    if os.path.lexists(options.out) and not stat.S_ISREG(options.out.lstat().st_mode):
        complain(f"{options.out}: is a link, a pipe or a device, and would be replaced; name a plain file")
        return NOT_DONE
    if os.path.realpath(options.out) in map(os.path.realpath, filter(None, (speech.model, speech.features, speech.f0))):
        complain(f"{options.out}: is one of the files to read, and would be lost")
        return NOT_DONE
    try:
        with Desk(settings, templates_folder(options, settings)) as desk, progress(options.model.name) as tell:
            words = {"load": "read", "verify": "speak"}
            looked = desk.listen(speech, lambda stage, step, steps: tell(words.get(stage, stage), step, steps))
    except (Refusal, NotDoneError, ShareAwayError, OSError) as error:
        tell_failure(options.model, error)
        return NOT_DONE
    if _tell_trouble(options.model, looked.model):
        return NOT_DONE
    for line in _sound(options.out, looked.model, looked.notes):
        say(line)
    return OK


def _told(tell: Tell, stage: str, step: int, steps: int) -> None:
    """Tell of a stage of `verify` in a person's words; one without steps follows where something was found."""
    tell("find out why" if stage == "verify" and not steps else stage, step, steps)


def _tell_trouble(path: Path, found: dict[str, Any]) -> bool:
    """Complain of what kept the worker from doing it; return False if nothing did."""
    if "trouble" not in found:
        return False
    complain(f"{path}: {found['trouble']}")
    if found.get("hint"):
        complain(f"  {found['hint']}")
    for line in found.get("choices", ()):
        complain(f"    {line}")
    return True


def _judgement(found: dict[str, Any]) -> Iterator[str]:
    """Yield the judgement, line by line."""
    file, voice = found["file"], found["voice"]
    yield f"file   {file['face']}, {file['weights']}, opset {file['opset']}, made by {file['made_by']}"
    yield f"voice  {voice['title']}, speakers {voice['speakers']}"
    if found["runs"]:
        yield f"  {'frames':>6}  {'seconds':>7}  {'speaker':>7}  {'SNR dB':>7}  {'largest error':>13}"
    for run in found["runs"]:
        yield f"  {run['frames']:>6}  {run['seconds']:>7.2f}  {run['speaker']:>7}  {_result(run)}"
    yield found["summary"].removesuffix(f" {found['findings'][0]['says']}" if found["findings"] else "")
    for finding in found["findings"]:
        yield f"- {finding['says']}"
        yield f"  Measured: {finding['evidence'].rstrip('.')}."
    for note in (*found["metadata"], *found["notes"]):
        yield f"Note: {note}"


def _result(run: dict[str, Any]) -> str:
    if run["trouble"]:
        return f"no: {run['trouble']}"
    if run["snr_db"] is None or run["max_abs"] is None:
        return "no: silence, or numbers that are not finite"
    return f"{run['snr_db']:>7.1f}  {run['max_abs']:>13.2g}  {'faithful' if run['faithful'] else 'no'}"


def drawing(levels: dict[str, Any]) -> Iterator[str]:
    """Yield a drawing of the levels of signal and error over time: 20 dB a line, the space between them is the SNR."""
    yield f"Level in dB over {levels['seconds']:g} s: █ the sound, ▒ its error"
    signal, error = levels["signal_db"], levels["error_db"]
    for top in TOP_DB:
        yield f"{top - ROW_DB:>6} │" + "".join(_cell(s, e, top) for s, e in zip(signal, error, strict=True))


def _cell(signal: int | None, error: int | None, top: int) -> str:
    """Return the character of a moment in the line below `top` dB; `?` where a level is not finite."""
    if signal is None or error is None:
        return "?"
    middle = top - ROW_DB // 2
    if error >= middle:
        return "▒"
    return "█" if signal >= middle else "▄" if signal >= top - ROW_DB else " "


def _sound(path: Path, facts: dict[str, Any], notes: tuple[str, ...]) -> Iterator[str]:
    yield (
        f"{path}: {facts['seconds']:g} s at {facts['sample_rate']} Hz, peak {facts['peak']:g}, "
        + ("silent" if facts["level_db"] is None else f"level {facts['level_db']:g} dB")
    )
    if facts["clipped"]:
        yield f"Note: {facts['clipped']} samples were louder than full scale and are clipped."
    yield from (f"Note: {note}" for note in notes)


def _rate_beside(model: Path) -> int | None:
    """Return the sample rate that the sidecar of an ONNX file says; None if there is none, or none of this file's."""
    words = model.name.removesuffix(".onnx").split(".")
    for count in range(len(words), 0, -1):  # voice.w-okada.fp16.onnx is told of in voice.json
        beside = model.with_name(f"{'.'.join(words[:count])}.json")
        if not beside.is_file():  # a pipe would be waited for
            continue
        try:
            with beside.open("rb") as file:
                body = json.loads(file.read(MAX_SIDECAR))
            rate = body["feed"]["sample_rate"]
            if model.name in [entry["name"] for entry in body["onnx"]] and type(rate) is int and rate > 0:
                return rate
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
    return None


def _whole(text: str) -> int:
    """Return a number from 0 on that fits into 32 bits."""
    if not text.isascii() or not text.isdecimal() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"{plain(text)} is no number from 0 on")
    return int(text)


def _rate(text: str) -> int:
    """Return a sample rate that a WAV file can have."""
    if not text.isascii() or not text.isdecimal() or not 1000 <= int(text) <= 1_000_000:  # noqa: PLR2004 - told in the line below
        raise argparse.ArgumentTypeError(f"{plain(text)} is no sample rate (1000 to 1000000 Hz)")
    return int(text)
