"""Which face an ONNX file of an RVC voice shows: the inputs that its clients bind to, and what each of them takes.

A face is known by the names of its inputs; types and ranks have to fit as well. RVC-WebUI's own client feeds by
position and never looks at a name, so a file whose inputs only look like that face's is taken for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, cast

from voicekiln.job import Port

Role = Literal["features", "lengths", "pitch", "f0", "speaker", "noise", "rate", "head", "returned", "formant"]
"""What an input takes. `rate` is the share of the frames that is wanted; `head` how many frames are left out at the
beginning, `returned` and `formant` how many come back."""

FACES: Final[tuple[tuple[str, str], ...]] = (
    ("RVC-WebUI", "phone:features phone_lengths:lengths pitch:pitch pitchf:f0 ds:speaker rnd:noise"),
    ("RVC-WebUI, noise inside", "phone:features phone_lengths:lengths pitch:pitch pitchf:f0 ds:speaker"),
    ("w-okada", "feats:features p_len:lengths pitch:pitch pitchf:f0 sid:speaker"),
    (
        "w-okada as forked by deiteris and tg-develop",
        (
            "feats:features p_len:lengths pitch:pitch pitchf:f0 sid:speaker "
            "skip_head:head return_length:returned formant_length:formant"
        ),
    ),
    ("Vietnamese-RVC", "phone:features phone_lengths:lengths sid:speaker rate:rate pitch:pitch nsff0:f0"),
)
"""Faces of voices with f0, input by input in their order; without f0 each lacks `pitch` and `f0`."""
PITCHED_ONLY: Final = (("obs-rvc", "phone:features pitch:pitch pitchf:f0"),)

_TYPES: Final = {"float": ("float16", "float32", "float64"), "int": ("int32", "int64")}
_KINDS: Final[dict[Role, tuple[Literal["float", "int"], tuple[int, ...]]]] = {
    "features": ("float", (3,)),
    "lengths": ("int", (1,)),
    "pitch": ("int", (2,)),
    "f0": ("float", (2,)),
    "speaker": ("int", (1,)),
    "noise": ("float", (3,)),
    "rate": ("float", (0, 1)),
    "head": ("int", (0, 1)),
    "returned": ("int", (0, 1)),
    "formant": ("int", (0, 1)),
}
"""Type and ranks of what an input takes."""

AXES_SHOWN: Final = 6

FRAME_AXES: Final[dict[Role, int]] = {"features": 1, "pitch": 1, "f0": 1, "noise": 2}
"""The axis of an input that counts frames."""


class UnfitError(Exception):
    """What was given cannot be used as what it was given for; the text says why, to a person, `hint` what would do.

    `choices` are lines below the hint, of what there is to choose from.
    """

    def __init__(self, says: str, hint: str = "", choices: tuple[str, ...] = ()) -> None:
        super().__init__(says)
        self.hint = hint
        self.choices = choices


@dataclass(frozen=True, slots=True)
class Face:
    """See the module."""

    title: str
    roles: dict[Role, Port]

    def has(self, role: Role) -> bool:
        """Say whether there is an input for it."""
        return role in self.roles

    def fixed_frames(self) -> tuple[int, ...]:
        """Return the numbers of frames that the inputs declare as the only ones; none as a rule."""
        axes = (self.roles[role].axes[axis] for role, axis in FRAME_AXES.items() if role in self.roles)
        return tuple(sorted({axis for axis in axes if isinstance(axis, int)}))

    def width(self, role: Literal["features", "noise"]) -> int | None:
        """Return how many numbers an input takes for each frame; None where the file does not say."""
        port = self.roles.get(role)
        size = None if port is None else port.axes[2 if role == "features" else 1]
        return size if isinstance(size, int) else None


def shown(port: Port) -> str:
    """Return an input as people read it: `phone float32[1, frames, 768]`."""
    more = ", ..." if len(port.axes) > AXES_SHOWN else ""
    return f"{port.name} {port.dtype}[{', '.join(map(str, port.axes[:AXES_SHOWN]))}{more}]"


def recognise(inputs: Sequence[Port]) -> Face:
    """Return the face that these inputs make.

    Raises:
        UnfitError: if none is known that does; it lists the inputs and the known faces.
    """
    names = {port.name for port in inputs}
    if "energy" in names:
        raise UnfitError("It has an input energy, as Advanced-RVC makes for voices of its own; that is not supported.")
    for title, roles in _known():
        if names == roles.keys():
            face = Face(title, {roles[port.name]: port for port in inputs})
            if misfits := [port for role, port in face.roles.items() if not _fits(role, port)]:
                raise UnfitError(
                    f"Its inputs have the names of {title}, but of another type or rank: {_listed(misfits)}."
                )
            return face
    for title, roles in _known()[:2]:  # RVC-WebUI's, which is fed by position
        if len(inputs) == len(roles) and all(map(_fits, roles.values(), inputs)):
            return Face(f"{title}, by position", dict(zip(roles.values(), inputs, strict=True)))
    known = tuple(f"{title}: {', '.join(_roles(words))}" for title, words in (*FACES, *PITCHED_ONLY))
    raise UnfitError(
        f"Its inputs are those of no RVC client that is known: {_listed(inputs)}.",
        "Known are the inputs of these clients, but for the last also those without pitch and f0:",
        known,
    )


def _known() -> list[tuple[str, dict[str, Role]]]:
    """Return the names and roles of each face, those with f0 and those without side by side."""
    known = []
    for title, words in FACES:
        roles = _roles(words)
        plain = {name: role for name, role in roles.items() if role not in ("pitch", "f0")}
        known += [(title, roles), (f"{title}, no f0", plain)]
    return known + [(title, _roles(words)) for title, words in PITCHED_ONLY]


def _roles(words: str) -> dict[str, Role]:
    pairs = (word.split(":") for word in words.split())
    return {name: cast("Role", role) for name, role in pairs}


def _fits(role: Role, port: Port) -> bool:
    kind, ranks = _KINDS[role]
    return port.dtype in _TYPES[kind] and len(port.axes) in ranks


def _listed(inputs: Sequence[Port]) -> str:
    return ", ".join(map(shown, inputs[:16])) or "none"
