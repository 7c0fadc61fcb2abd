"""What is wrong with a file that is not its voice: faults that exporters are known for, each tried on the file itself.

A fault is named only if a trial shows it: the file agrees once the voice is made wrong in the same way, or two runs
that should differ in one thing do. The evidence is told with it. Where no trial fits, that is said.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from voicekiln.convert.verify import difference
from voicekiln.families.rvc_feed import glide
from voicekiln.families.rvc_settings import FRAMES_PER_S
from voicekiln.judge import sine
from voicekiln.judge.client import RunError
from voicekiln.judge.comparison import EQUAL_DB, Pair, Run
from voicekiln.judge.likeness import likeness, listed
from voicekiln.judge.original import say_to
from voicekiln.nets.rvc import RND_SCALE

ENOUGH: Final = 90
"""Frames in which a fault shows; more would only take longer."""
MOSTLY: Final = 0.5
"""Of a file's weights; with fewer that are the voice's own it is another voice."""
FLAT: Final = 3
"""Samples at the very same height that make a clipped wave."""
PRIORS: Final = {0.0: "it adds no noise to the prior", RND_SCALE: "it multiplies its noise by 0.66666 once more",
                 1 / RND_SCALE: "it does not multiply its noise by 0.66666"}  # fmt: skip
LOUDER_DB: Final = 6.0
"""By which the power of one and the same noise never differs from run to run."""
SOURCES: Final = {0.0: "its source draws no noise", 0.5: "the noise of its source is half as strong",
                  2.0: "the noise of its source is twice as strong"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault."""

    code: str
    """For programs."""
    says: str
    """A sentence or two for a person."""
    evidence: str
    """What was measured."""


def diagnose(pair: Pair, runs: Sequence[Run], wanted_db: float) -> list[Finding]:
    """Return what is wrong, the most telling first; one that says so if nothing fits."""
    found = list(_running(pair, runs))
    compared = [run for run in runs if not run.trouble]
    if not compared:
        return [*found, *_weights(pair)]
    unlike = sorted((run for run in compared if not run.snr_db >= wanted_db), key=lambda run: run.frames)
    if not unlike:
        return found
    bad = next((run for run in unlike if run.frames >= ENOUGH), unlike[-1])
    try:
        found += _sound(pair, bad, wanted_db)
    except RunError as error:
        says = f"Why it differs could not be found out, as it does not run on all that was tried: {error}."
        found.append(Finding("unexplained", says, f"{bad.snr_db:.1f} dB at {bad.frames} frames"))
    unexplained = Finding(
        "unexplained",
        "Nothing that is known to go wrong in exports explains the difference.",
        f"{bad.snr_db:.1f} dB at {bad.frames} frames",
    )
    return found or [unexplained]


def _running(pair: Pair, runs: Sequence[Run]) -> Iterator[Finding]:
    """Find why it does not run at some length."""
    failed, ran = [run for run in runs if run.trouble], [run for run in runs if not run.trouble]
    if not failed:
        return
    others = [run for run in failed if not run.stopped]
    lengths = ", ".join(str(run.frames) for run in failed)
    if others:
        yield Finding(
            "other-hop", f"It is of another sample rate: {others[0].trouble}.", f"{others[0].frames} frames were run"
        )
    elif len(ran) == 1 and ran[0].frames == pair.only_length:
        only = ran[0].frames
        yield Finding(
            "fixed-length",
            f"It takes only {only} frames ({only / FRAMES_PER_S:g} s) and nothing else: the length was frozen.",
            f"it runs at {only} frames, not at {lengths}: {failed[0].trouble}",
        )
    else:
        where = f"at {lengths} frames" if ran else "at any length that was tried"
        yield Finding("does-not-run", f"It does not run {where}.", failed[0].trouble)


def _sound(pair: Pair, bad: Run, wanted_db: float) -> list[Finding]:
    """Find what is wrong with the sound of a run."""
    if not np.isfinite(bad.got).all():
        count = int((~np.isfinite(bad.got)).sum())
        says = "What it gives is not finite (NaN or infinity)."
        return [Finding("not-finite", says, f"{count} of {len(bad.got)} samples at {bad.frames} frames")]
    if (level := _level(bad, wanted_db)) is not None:
        return [level]
    said = say_to(pair.voice, glide(bad.frames), speaker=bad.speaker)
    quiet, again = pair.quietly(said), pair.quietly(said)
    if not difference(quiet.got, again.got).snr_db >= EQUAL_DB and quiet.got.any():
        says = "Its noise cannot be switched off: it draws random numbers that are not known as such."
        same = difference(quiet.got, again.got).snr_db
        return [Finding("noise-stays", says, f"two equal runs without noise agree only to {same:.1f} dB")]
    if quiet.snr_db >= wanted_db:
        return _noise(pair, quiet, wanted_db)
    if not pair.voice.settings.f0 and pair.client.face.has("f0"):
        return [*_untrained(pair, quiet), *_weights(pair)]
    found = [*_weights(pair), *_speaker(pair, bad.frames)]
    if pair.client.face.has("f0"):
        found += [Finding(*facts) for facts in sine.faults(pair, bad.frames, wanted_db)]
        found += _missing_hiss(pair, bad.frames) if found else []
    return found


def _level(run: Run, wanted_db: float) -> Finding | None:
    """Find an output that is scaled, shifted or clipped: what is left after undoing that is the voice."""
    top = float(np.max(np.abs(run.got)))
    whole = np.abs(run.got) < 0.999 * top
    flat = int((np.abs(run.got) >= top * (1 - 1e-6)).sum())
    clipped = flat >= FLAT and int(whole.sum()) >= len(whole) // 10
    used = whole if clipped else np.ones_like(whole)
    factor, offset = np.polyfit(run.wanted[used].astype(np.float64), run.got[used], 1)
    undone = factor * run.wanted.astype(np.float64) + offset
    undone = np.clip(undone, -top, top) if clipped else undone
    left = difference(undone, run.got).snr_db
    if not left >= wanted_db:
        return None
    scaled, shifted = bool(abs(factor - 1) > 1e-4), bool(abs(offset) > 1e-5)  # noqa: PLR2004 - 100 dB below
    says = [f"multiplied by {factor:.4g}"] * scaled + [f"shifted by {offset:.2g}"] * shifted
    says += [f"clipped at {top:.3g}"] * clipped
    if not says:
        return None
    code = "clipped" if clipped and not scaled else "scaled"
    flattened = f"; {flat} samples are flat" if clipped else ""
    return Finding(
        code, f"Its output is {' and '.join(says)}.", f"with that undone it agrees at {left:.1f} dB{flattened}"
    )


def _noise(pair: Pair, quiet: Run, wanted_db: float) -> list[Finding]:
    """Find which noise is wrong where all is right without: the voice's is scaled until it agrees."""
    said = pair.client.as_fed(say_to(pair.voice, glide(quiet.frames), speaker=quiet.speaker))
    heard = pair.client.run(said)
    for prior in (1.0, *PRIORS):
        for source in (1.0, *SOURCES):
            agreed = difference(pair.noisy(said, heard, prior=prior, source=source), heard.audio).snr_db
            if agreed >= wanted_db:
                says = " and ".join(filter(None, (PRIORS.get(prior, ""), SOURCES.get(source, ""))))
                evidence = (
                    f"without noise it agrees at {quiet.snr_db:.1f} dB, with the voice's changed so at {agreed:.1f} dB"
                )
                return (
                    [Finding("noise-differs", f"{says[:1].upper()}{says[1:]}, unlike the original.", evidence)]
                    if says
                    else []
                )
    evidence = f"without any noise it agrees at {quiet.snr_db:.1f} dB"
    return [Finding("noise-differs", "Its noise is not the original's.", evidence)]


def noise_level(pair: Pair, frames: int) -> list[Finding]:
    """Find noise that is of another strength, where nothing else can be told of it, or that keeps it from running."""
    try:
        louder = pair.noise_db(say_to(pair.voice, glide(frames)))
    except RunError as error:
        return [Finding("does-not-run", "It does not run unless its noise is switched off.", str(error))]
    if math.isnan(louder) or abs(louder) <= LOUDER_DB:
        return []
    how = f"{abs(louder):.0f} dB {'louder' if louder > 0 else 'quieter'} than" if math.isfinite(louder) else "unlike"
    evidence = "the power by which a run with noise differs from one without, of the file and of the voice"
    return [Finding("noise-differs", f"Its noise is {how} the original's.", evidence)]


def _missing_hiss(pair: Pair, frames: int) -> list[Finding]:
    """Say that the source has no noise where the file draws none; what it changes could not be heard apart."""
    said = say_to(pair.voice, glide(frames))
    if pair.client.hidden_noise or pair.drawn(said, pair.client.run(said))[1] is not None:
        return []
    says = "Its source draws no noise either, which the original has under its sine and in its place where unvoiced."
    return [Finding("no-source-noise", says, "no node of its graph draws a random number for each sample")]


def _untrained(pair: Pair, quiet: Run) -> Iterator[Finding]:
    """Find layers for a pitch in a file whose voice has none."""
    low, high = (
        pair.silent.run(say_to(pair.voice, np.full(quiet.frames, hz, np.float32))).audio for hz in (150.0, 400.0)
    )
    change = difference(low, high).snr_db
    if change >= EQUAL_DB:
        return
    unknown = tuple(n for n in likeness(pair.client, pair.voice).unknown if "emb_pitch" in n or "dec." in n)
    layers = f" ({listed(unknown)})" if unknown else ""
    yield Finding(
        "untrained-f0",
        f"The voice has no f0, but the file takes a pitch and sings by it: its layers for that{layers} are in no "
        "checkpoint of this voice, so their numbers are nobody's.",
        f"with 150 Hz and with 400 Hz in place of each other its sound agrees only to {change:.1f} dB",
    )


def _weights(pair: Pair) -> Iterator[Finding]:
    """Find weights that are not the voice's."""
    like = likeness(pair.client, pair.voice)
    if not like.numbers:
        return
    evidence = f"{100 * like.share:.1f} % of the {like.numbers} numbers in its weights are the voice's"
    if like.share < MOSTLY:
        yield Finding("other-voice", "Its weights are not this checkpoint's: it is another voice.", evidence)
    elif like.strange:
        says = f"Some of its weights are not this checkpoint's: {listed(like.strange)}."
        yield Finding("other-weights", says, evidence)


def _speaker(pair: Pair, frames: int) -> Iterator[Finding]:
    """Find a file that takes a speaker and does not care."""
    last = pair.voice.settings.speakers - 1
    if not last or not pair.client.face.has("speaker"):
        return
    one, other = (pair.quietly(say_to(pair.voice, glide(frames), speaker=speaker)) for speaker in (0, last))
    file, voice = difference(one.got, other.got).snr_db, difference(one.wanted, other.wanted).snr_db
    if file >= EQUAL_DB > voice:
        says = f"It does not care which speaker it is told: 0 and {last} sound the same."
        yield Finding(
            "speaker-ignored", says, f"they agree at {file:.1f} dB, those of the voice only to {voice:.1f} dB"
        )
