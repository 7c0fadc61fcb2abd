"""Devices that bring voices to the inbox, replace, rename, copy, touch and delete them, each with a tool of its own.

They write on the side of the server: a share that vanished from the daemon is still there for them. A script tells
what becomes of one name; what lies there in the end follows from the seed alone, however the times fall.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from chaos.contents import Content
from tool_profiles import TOOLS

FOLDERS = ("", "", "", "both", "fp16", "singers/Zoë é", "a/b/c/d")
DEVICES = 6
GOOD = 0.75
REPLACED = 0.6
"""The chance that one more act follows."""

Verb = Literal["bring", "rename", "copy", "touch", "delete"]


@dataclass(frozen=True, slots=True)
class Act:
    """One thing that is done to a name."""

    pause_s: float
    """Before it."""
    verb: Verb
    content: Content | None = None
    tool: str = ""
    hurry: float = 0.02
    """Real seconds for one of the tool's."""


@dataclass(frozen=True, slots=True)
class Script:
    """All that becomes of one name."""

    at_s: float
    path: PurePosixPath
    acts: tuple[Act, ...]


def scripts(seed: int, voices: int, seconds: float) -> list[Script]:
    """Return what the devices do in this run, in the order of time."""
    dice = random.Random(f"{seed} writers")  # noqa: S311 - one seed, one run
    made = [_script(dice, number, voices, seconds) for number in range(voices)]
    return sorted(made, key=lambda script: script.at_s)


def _script(dice: random.Random, number: int, voices: int, seconds: float) -> Script:
    pair = "vV"[number % 2] + str(number // 2)  # met by one that differs by case
    stem = dice.choice((f"voice {number}", f"Stimme-{number} é", "x" * 200 + str(number), pair))
    path = PurePosixPath("case" if stem == pair else dice.choice(FOLDERS), f"{stem}.pth")
    acts = [_bring(dice, voices, first=True)]
    while dice.random() < REPLACED:
        verb: Verb = dice.choice(("bring", "bring", "rename", "copy", "touch", "delete"))
        acts.append(_bring(dice, voices) if verb == "bring" else Act(_pause_s(dice), verb))
    return Script(dice.uniform(0, seconds * 0.8), path, tuple(acts))


def _bring(dice: random.Random, voices: int, *, first: bool = False) -> Act:
    content = Content.draw(dice, good=GOOD, numbers=max(3, voices * 2 // 3))
    hurry = dice.choice((0.001, 0.01, 0.03, 0.08))
    return Act(0.0 if first else _pause_s(dice), "bring", content, dice.choice(sorted(TOOLS)), hurry)


def _pause_s(dice: random.Random) -> float:
    return dice.choice((0.0, 0.3, 1.0, 3.0, 6.0))


class Writers:
    """The devices at work."""

    def __init__(self, inbox: Path, todo: list[Script], tell: Callable[[str], None]) -> None:
        self._inbox = inbox
        self._tell = tell
        self._lock = threading.Lock()
        self.left: dict[PurePosixPath, Content] = {}
        """What lies in the inbox, by its path."""
        self.brought = 0
        self.failed: list[BaseException] = []
        self._todo: queue.SimpleQueue[Script] = queue.SimpleQueue()
        for script in todo:
            self._todo.put(script)
        self._began_s = time.monotonic()
        self._threads = [threading.Thread(target=self._device, daemon=True) for _ in range(DEVICES)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until all scripts have been played.

        Raises:
            BaseException: what a device met that it should not have.
        """
        for thread in self._threads:
            thread.join()
        for error in self.failed:
            raise error

    @property
    def busy(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def _device(self) -> None:
        try:
            while True:
                script = self._todo.get_nowait()
                time.sleep(max(0.0, self._began_s + script.at_s - time.monotonic()))
                self._play(script)
        except queue.Empty:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again by `join`
            self.failed.append(error)

    def _play(self, script: Script) -> None:
        path = script.path
        for number, act in enumerate(script.acts):
            time.sleep(act.pause_s)
            self._tell(f"{act.verb} {path} {act.content or ''} {act.tool}")
            path = self._do(act, path, number)

    def _do(self, act: Act, path: PurePosixPath, number: int) -> PurePosixPath:
        """Do it; return the name under which the script goes on."""
        real = self._inbox / path
        new = path.with_name(f"{act.verb} {number} of {path.name[-100:]}")
        there = self.left.get(path)
        match act.verb:
            case "bring":
                assert act.content is not None
                real.parent.mkdir(parents=True, exist_ok=True)
                for pause in TOOLS[act.tool](real, act.content.data):
                    time.sleep(min(pause, 60) * act.hurry)
                self.brought += 1
                self._is(path, act.content)
            case "rename" if there is not None:
                real.rename(self._inbox / new)
                self._is(path, None)
                self._is(new, there)
                return new
            case "copy" if there is not None:
                (self._inbox / new).write_bytes(real.read_bytes())
                self._is(new, there)
            case "touch" if there is not None:
                real.touch()
                real.chmod(0o600)
            case "delete" if there is not None:
                real.unlink()
                self._is(path, None)
            case _:
                pass
        return path

    def _is(self, path: PurePosixPath, content: Content | None) -> None:
        with self._lock:
            if content is None:
                self.left.pop(path)
            else:
                self.left[path] = content
