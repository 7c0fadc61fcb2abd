"""`bundle.json`: how the parts of one voice that lie in one folder plug together.

A so-vits-svc voice comes with a diffusion model, k-means centres, an index of features, a vocoder; a voice that reads
text with a speaker encoder: each is a file, and a result, of its own. Where a folder holds one voice and some of the
others, this says which of their ONNX files feeds which, what the caller feeds, and where parts do not fit each other.
All of it follows from what was published with the sidecars; the layout is `bundle.schema.json`'s.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from voicekiln import __version__
from voicekiln.folders import bundle_singing, bundle_speech
from voicekiln.folders.bundle_parts import ROLES, Member, Role, base, names
from voicekiln.folders.names import data_name, shown

NAME = "bundle.json"
"""No result may have it, in no folder."""
SCHEMA = 1
"""Version of the layout; raised when a field is removed or changes its meaning."""
BEGINNING = '{\n  "voicekiln": "bundle",\n'
"""By these words a daemon knows what it, or another one, has written and may write over (`boards`)."""


def belong_together(members: Sequence[Member]) -> bool:
    """Say whether a folder with these has a bundle: one voice and something beside it that it has a use for."""
    voices = [member for member in members if member.role == "voice"]
    if len(voices) != 1:
        return False
    used = bundle_speech.PARTS if voices[0].speaks else bundle_singing.PARTS
    return any(member.role in used for member in members)


def text(members: Sequence[Member], ledger: str) -> Iterator[str]:
    """Give the text of the file; of several in one role the first is taken.

    Args:
        members: that belong together.
        ledger: `Ledger.instance` of the daemon that publishes it.
    """
    yield BEGINNING
    yield json.dumps(_body(members, ledger), indent=2, ensure_ascii=False).removeprefix("{\n") + "\n"


def _body(members: Sequence[Member], ledger: str) -> dict[str, Any]:
    of = {role: [member for member in members if member.role == role] for role in ROLES}
    chosen = {role: some[0] for role, some in of.items() if some}
    told = bundle_speech.told(chosen) if chosen["voice"].speaks else bundle_singing.told(chosen)
    return {
        "schema": SCHEMA,
        "made_by": {"name": "voicekiln", "version": __version__, "ledger": ledger},
        **{role: _part(some) if (some := of[role]) else None for role in ROLES},
        **told,
        "disagreements": [*_several(of), *told["disagreements"]],
    }


def _part(some: Sequence[Member]) -> dict[str, Any]:
    """Return which files are the first one's, and the sidecars of the others."""
    member = some[0]
    files = [
        {"name": shown(PurePosixPath(name)), "part": file.interface, "precision": file.precision}
        for file, name in zip(member.conversion.files, names(member), strict=True)
    ]
    data = [
        {"name": shown(PurePosixPath(data_name(base(member), array.name))), "data": array.name}
        for array in member.conversion.data
    ]
    return {
        "sidecar": {"name": shown(PurePosixPath(member.sidecar.path.name)), "sha256": member.sidecar.sha256},
        "files": files,
        **({"data": data} if data else {}),
        **({"others": [shown(PurePosixPath(other.sidecar.path.name)) for other in some[1:]]} if some[1:] else {}),
    }


def _several(of: Mapping[Role, Sequence[Member]]) -> Iterator[str]:
    for role in ROLES:
        if len(of[role]) > 1:
            taken = shown(PurePosixPath(of[role][0].sidecar.path.name))
            yield f"There are several parts of the kind {role} in this folder; {taken} was taken."
