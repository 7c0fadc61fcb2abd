"""The nouns that all parts share: what was found, what is wanted, how it ended.

Plain frozen values. No torch here, no file access: this module may be imported by everything.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, Self, get_args

from voicekiln.errors import Refusal

Precision = Literal["fp32", "fp16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

Interface = Literal["rvc", "w-okada", "moevs", "single", "voice-conversion"]
"""A face that the ONNX shows: names and order of inputs and outputs that clients bind to, and what they read beside it.
`rvc` is what a family makes for most clients; `moevs` is the file of `rvc` in the folder that its client wants."""
INTERFACES: tuple[Interface, ...] = get_args(Interface)
OF_TEXT: tuple[Interface, ...] = ("single", "voice-conversion")
"""Those that only voices have which read text."""

Main = Literal[
    "rvc", "w-okada", "moevs", "single", "voice-conversion",
    "so-vits-svc", "diffusion", "kmeans", "index", "vocoder", "decoder", "speaker_encoder",
]  # fmt: skip
Extra = Literal["autof0", "encoder", "denoise", "pred", "after", "alpha", "mel"]
Part = Main | Extra
"""One of the networks that are made of a file: a face of a voice, or a piece of what it needs. An extra one stands
beside the main one and never takes its name."""
EXTRAS: tuple[Extra, ...] = get_args(Extra)
PARTS: tuple[Part, ...] = (*get_args(Main), *EXTRAS)
NAMED: tuple[Main, ...] = ("decoder", "speaker_encoder")
"""Main ones that do not take the voice's name either: by themselves they are not what somebody looks for under it."""

Data = Literal["KMeans", "vectors", "centroids", "lists", "d_vectors"]
"""Numbers that clients read themselves, in a NumPy file beside the ONNX files."""
DATA: tuple[Data, ...] = get_args(Data)

OPSETS = range(17, 21)
"""The ONNX operator sets that can be asked for; 17 is the first with LayerNormalization, 20 the exporter's last."""

Verify = Literal["full", "quick", "off"]
"""How long a file runs beside the PyTorch network before it is published; `off`: not at all."""
VERIFY: tuple[Verify, ...] = get_args(Verify)

Stage = Literal["load", "template", "fill", "verify"]
"""The steps of a conversion in the worker, in their order; each has a deadline of its own."""
STAGES: tuple[Stage, ...] = get_args(Stage)


class Enter(Protocol):
    """In the worker: is told of each stage that begins, and of each step of one whose number of them is known."""

    def __call__(self, stage: Stage, step: int = 0, steps: int = 0, /) -> None:
        """Pass it on."""
        ...


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What tells one state of a file from another, taken from a freshly opened descriptor.

    Without the device: its number changes with every mount of a share, and the files are the same.
    """

    ino: int
    size: int
    """Bytes."""
    mtime_ns: int
    ctime_ns: int
    """Evidence of change only, never an age: sync tools restore the other time stamp."""
    beside: str = ""
    """Of a voice's companions together (see `folders.beside`); empty where it has none, and for all other files."""

    @classmethod
    def of(cls, st: os.stat_result) -> Self:
        """Return the stamp in a stat result."""
        return cls(st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns)


NOT_READ = FileStamp(0, 0, 0, 0)
"""The stamp of what is known without a look at its content."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to make of a voice; a first-level folder of the inbox that bears its name selects it."""

    name: str
    precisions: tuple[Precision, ...] = ("fp32",)
    opset: int = 17
    interfaces: tuple[Interface, ...] = ("rvc",)
    """Each of them once; the first gives its files the plainest names."""
    verify: Verify = "full"
    speaker_mix: bool = False
    """Whether a voice of several speakers is fed a share of each, for every frame, in place of one speaker's number."""

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Self:
        """Return the recipe in decoded JSON that a stranger, or voicekiln before it knew several faces, has written.

        Raises:
            ValueError, KeyError, TypeError: if it is none that this version can make.
        """
        facts = {"speaker_mix": False} | {key: value for key, value in raw.items() if key != "interface"}
        if "interface" in raw:
            facts |= {"interfaces": [raw["interface"]]}
        mix, known = facts["speaker_mix"], {"name", "precisions", "opset", "interfaces", "verify", "speaker_mix"}
        if facts.keys() != known or {"interface", "interfaces"} <= raw.keys() or type(mix) is not bool:
            raise ValueError("a recipe of another version")
        precisions, interfaces = (_some(facts[key], known) for key, known in _SEVERAL)
        if not (facts["verify"] in VERIFY and type(facts["opset"]) is int and facts["opset"] in OPSETS):
            raise ValueError("a recipe of an unknown kind")
        return cls(_text(facts["name"]), precisions, facts["opset"], interfaces, facts["verify"], mix)

    @property
    def fingerprint(self) -> str:
        """Equal for recipes that make equal files of equal standing, whatever their name."""
        facts = {
            "precisions": sorted(self.precisions),
            "opset": self.opset,
            "interfaces": self.interfaces,
            "verify": self.verify,
        } | ({"speaker_mix": True} if self.speaker_mix else {})
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Job:
    """One conversion, or one look, for the worker. Paths are on local disk and absolute."""

    id: str
    """Letters and digits; unique in the ledger."""
    source: Path
    """The spooled copy; read only."""
    staging: Path
    """An empty folder of this job's own, the only place where a conversion writes but for the kept templates."""
    sha256: str
    """Of the source."""
    recipe: Recipe
    beside: Mapping[str, Path | None] = field(default_factory=dict)
    """Where the copies of the companions lie, by their names; None for one that could not be read."""


@dataclass(frozen=True, slots=True)
class Speech:
    """What a voice shall say, for the worker. Paths are on local disk and absolute."""

    model: Path
    """The ONNX file."""
    features: Path
    """`.npy`, (frames, width) or (1, frames, width)."""
    f0: Path | None
    """`.npy`, Hz, 0 where unvoiced, (frames,) or (1, frames); None for a voice without f0."""
    target: Path
    """Where the WAV file goes."""
    speaker: int
    seed: int
    """Of the noise."""
    rate: int | None
    """Sample rate in Hz, whatever the file says."""
    rate_beside: int | None
    """The same, where the file says nothing: what its sidecar does."""


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of an ONNX file."""

    name: str
    dtype: str
    """As NumPy names it: `float32`, `int64`."""
    axes: tuple[str | int, ...]
    """A number is a fixed size, a name a dynamic one."""


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How closely a published file agrees with the PyTorch network on the real weights."""

    provider: str
    """The ONNX Runtime execution provider that ran, such as `CPUExecutionProvider`."""
    frames: tuple[int, ...]
    """The lengths that were run; none of them was traced."""
    snr_db: float
    """Signal-to-noise ratio of the AC part, the worst of the lengths."""
    max_abs: float
    """Largest absolute difference of any sample; full scale is 1."""
    wanted_db: float
    """The least `snr_db` with which a file of this precision is published."""


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """A finished file in the job's staging folder."""

    name: str
    """File name within the staging folder, see `staged`."""
    precision: Precision
    sha256: str
    bytes: int
    opset: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    fidelity: tuple[Fidelity, ...]
    """One per execution provider; none if the recipe does without verification."""
    interface: Part = "rvc"
    client: dict[str, Any] = field(default_factory=dict)
    """What the interface's client wants in a file of its own, but for the voice's name (JSON values); or nothing."""


def staged(part: Part, precision: Precision) -> str:
    """Return the name that a finished file has in staging; faces that are one and the same file have one name."""
    return f"{'rvc' if part == 'moevs' else part}.{precision}.onnx"


@dataclass(frozen=True, slots=True)
class DataFile:
    """A finished NumPy file in the job's staging folder."""

    name: Data
    """The file's is `NAME.npy`."""
    sha256: str
    bytes: int
    dtype: str
    """As NumPy names it."""
    shape: tuple[int, ...]


PICTURE = re.compile(r"[A-Za-z0-9_-]{800}", re.ASCII)
"""600 bytes as URL-safe base64 without padding, six tracks of 100 columns: least and greatest value of the network's
wave, those of the ONNX file's (0 .. 255 is -1 .. 1 of the network's peak), then the levels of the network's wave and of
the difference (0 .. 255 is -200 .. 0 dB of that peak)."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """All that the worker says of a finished conversion; the sidecar is made from it."""

    files: tuple[OnnxFile, ...]
    model: dict[str, Any]
    """What `inspect` shows: family, version, rate, speakers ... (JSON values)."""
    feed: dict[str, Any]
    """How to feed the ONNX: feature encoder and layer, hop, noise, pitch (JSON values)."""
    notes: tuple[str, ...]
    """Sentences for the person: what was assumed or repaired."""
    seconds: dict[str, float]
    """Wall seconds per stage."""
    device: dict[str, Any]
    versions: dict[str, str]
    picture: str = ""
    """Of the verification of the least faithful file: what `PICTURE` says; empty where there was none."""
    data: tuple[DataFile, ...] = ()

    @property
    def looked_beside(self) -> bool:
        """Whether the family looks for companions: where it does not, they cannot change what it makes."""
        return "companions" in self.model

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Self:
        """Return the conversion in decoded JSON, with the types of all that the supervisor relies on checked.

        Raises:
            ValueError, KeyError, TypeError: if something is missing, unknown or of another type.
        """
        return cls(
            files=tuple(_onnx_file(f) for f in raw["files"]),
            model=_mapping(raw["model"]),
            feed=_mapping(raw["feed"]),
            notes=tuple(_text(n) for n in raw["notes"]),
            seconds={_text(k): _number(v) for k, v in _mapping(raw["seconds"]).items()},
            device=_mapping(raw["device"]),
            versions={_text(k): _text(v) for k, v in _mapping(raw["versions"]).items()},
            # Older sidecars and ledgers lack these.
            picture=_picture(raw.get("picture", "")),
            data=tuple(_data_file(f) for f in raw.get("data", ())),
        )


def staged_files(conversion: Conversion, staging: Path) -> dict[str, Path]:
    """Return where the bytes of all of a conversion's files lie in its staging folder, by hash."""
    names = {file.sha256: file.name for file in conversion.files}
    names |= {array.sha256: f"{array.name}.npy" for array in conversion.data}
    return {sha256: staging / name for sha256, name in names.items()}


@dataclass(frozen=True, slots=True)
class Converted:
    """Ending: the files lie finished in the staging folder."""

    conversion: Conversion


@dataclass(frozen=True, slots=True)
class Refused:
    """Ending: the file's own fault; final until the file changes."""

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Lost:
    """Ending: not the file's fault as far as one can tell; tried again."""

    reason: str
    counts: bool = True
    """False where the cause is known to lie outside (disk full): such an end is no attempt used up."""


Ending = Converted | Refused | Lost


def _mapping(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, got {type(value).__name__}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {type(value).__name__}")
    return value


def _picture(value: object) -> str:
    text = _text(value)
    if text and not PICTURE.fullmatch(text):
        raise ValueError("not a picture")
    return text


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("expected a whole number")
    return value


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError("expected a finite number")
    return float(value)


def _port(raw: object) -> Port:
    facts = _mapping(raw)
    axes = tuple(a if isinstance(a, str) else _whole(a) for a in facts["axes"])
    return Port(_text(facts["name"]), _text(facts["dtype"]), axes)


def _fidelity(raw: object) -> Fidelity:
    facts = _mapping(raw)
    return Fidelity(
        provider=_text(facts["provider"]),
        frames=tuple(_whole(f) for f in facts["frames"]),
        snr_db=_number(facts["snr_db"]),
        max_abs=_number(facts["max_abs"]),
        wanted_db=_number(facts["wanted_db"]),
    )


_SEVERAL: tuple[tuple[str, tuple[Any, ...]], ...] = (("precisions", PRECISIONS), ("interfaces", INTERFACES))


def _some(value: object, known: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a list of known words, each of them once and at least one."""
    several = value if isinstance(value, list | tuple) else []
    if not several or len(set(several)) != len(several) or not set(several) <= set(known):
        raise ValueError("a recipe of an unknown kind")
    return tuple(several)


def _onnx_file(raw: object) -> OnnxFile:
    facts = _mapping(raw)
    interface, precision = facts.get("interface", "rvc"), facts["precision"]
    if interface not in PARTS or precision not in PRECISIONS:
        raise ValueError("a file of an unknown interface or precision")
    named = [staged(interface, precision)]
    if interface == "rvc":  # before there was more than one face, none was named
        named.append(f"{precision}.onnx")
    if interface == "moevs":  # the same file as the family's own face
        named.append(staged("so-vits-svc", precision))
    if facts["name"] not in named:
        raise ValueError("a file of an unknown name")
    fidelity = tuple(_fidelity(f) for f in facts["fidelity"])
    if not all(f.snr_db >= f.wanted_db for f in fidelity):
        raise ValueError("a file that is not faithful")
    return OnnxFile(
        name=facts["name"],
        precision=precision,
        sha256=_text(facts["sha256"]),
        bytes=_whole(facts["bytes"]),
        opset=_whole(facts["opset"]),
        inputs=tuple(_port(p) for p in facts["inputs"]),
        outputs=tuple(_port(p) for p in facts["outputs"]),
        fidelity=fidelity,
        interface=interface,
        client=_mapping(facts.get("client", {})),
    )


def _data_file(raw: object) -> DataFile:
    facts = _mapping(raw)
    if facts["name"] not in DATA:
        raise ValueError("data of an unknown name")
    shape = tuple(_whole(size) for size in facts["shape"])
    return DataFile(facts["name"], _text(facts["sha256"]), _whole(facts["bytes"]), _text(facts["dtype"]), shape)
