"""Reads in the source what is said to people, as far as the catalogue has to know it.

A sentence is found where it is handed to something that tells people: an argument of a refusal, of `NotYet`, of `Lost`
and the like. What reaches such a place from elsewhere, as a variable, is returned as it stands, for a test to know.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import voicekiln
from voicekiln.errors import REFUSALS

ROOT = Path(voicekiln.__file__).parent
GAP = "7"
"""Stands for what fills a gap."""

PLACES: dict[str, tuple[int, str]] = {
    **dict.fromkeys(("Incomplete", "StillEmpty", "contradiction", "_Kind"), (0, "what")),
    **dict.fromkeys(("Changed", "Unproven", "NotOwnerError", "ShareAwayError", "Lost", "condemn"), (0, "reason")),
    **dict.fromkeys(("LostError", "ParcelError", "SharedFolderError", "_is"), (0, "reason")),
    **dict.fromkeys(("AwayError", "lost"), (1, "reason")),
    "BlockingIOError": (0, "reason"),
    "wait": (2, "reason"),
    "NotMine": (0, "missed"),
    **dict.fromkeys(("hands.do", "_hands.do", "_pulse.do"), (0, "doing")),
    "_unfaithful": (0, "snr_db"),
}
"""Which argument of a call is told, and the section of the catalogue to which it belongs."""

CONSTANTS: dict[str | tuple[str, str], str] = {
    "TRAINING_NOTE": "reason",
    "UNVERIFIED": "reason",
    "STORED_AS_HALF": "reason",
    "NO_FILE": "reason",
    "NO_MOEVS": "why",
    "NO_LIVE": "why",
    "NO_PREDICTION": "why",
    "NO_TEXT": "why",
    "NO_POSTERIOR": "why",
    "TWO_RATES": "why",
    ("families/coqui.py", "ONE_SPEAKER"): "why",
    "ONE_SPEAKER": "reason",
    "LICENCE": "reason",
    "YOURTTS_LICENCE": "reason",
    "IN_FLOAT32": "reason",
    "CLEANED": "reason",
    "NO_ROOM": "reason",
    "NO_SYMBOLS": "reason",
    "MARKED": "reason",
    "STAYS": "reason",
    "LEAVING": "reason",
    "GIVEN_UP": "reason",
    "UNANSWERED": "reason",
    "UNNEEDED": "reason",
    "UNSEEN": "reason",
    "UNLIKE": "reason",
    "ALTERED": "reason",
    "UNEQUAL": "reason",
}
"""Names that hold what is told; with their module where two have one name."""

TELLERS = {
    ("service.py", "troubles"): "reason",
    ("supervisor/ownership.py", "trouble"): "reason",
    ("supervisor/intake.py", "_copy"): "reason",
    ("supervisor/delivery.py", "_publish"): "reason",
    ("worker/process.py", "how_it_ended"): "reason",
    ("worker/shift.py", "_too_much"): "reason",
    ("worker/shift.py", "_too_long"): "reason",
    ("worker/child.py", "_reason"): "reason",
    ("cluster/connection.py", "why_unreachable"): "reason",
    ("cluster/crew.py", "trouble"): "reason",
    ("cluster/host.py", "door"): "reason",
    ("cluster/line.py", "_barrier"): "reason",
    ("cluster/line.py", "_went_away"): "reason",
    ("cluster/line.py", "_why_not"): "reason",
    ("cluster/shared.py", "trouble"): "reason",
    ("cluster/shared.py", "_in_words"): "reason",
    ("cluster/versions.py", "trouble"): "reason",
    ("folders/inbox.py", "kind_of"): "what",
    ("convert/glance.py", "_archive"): "what",
    ("families/tensors.py", "compare"): "what",
    ("families/__init__.py", "choose"): "reasons",
    ("families/rvc.py", "_disagreements"): "reason",
    ("families/rvc_settings.py", "_differences"): "reason",
    ("families/rvc_settings.py", "_rebuilt"): "reason",
    ("families/companions.py", "unread"): "reason",
    ("families/companions.py", "another"): "reason",
    ("families/diffusion_settings.py", "read"): "reason",
    ("families/diffusion_settings.py", "_assumed"): "reason",
    ("families/nsf_hifigan_settings.py", "_rebuilt"): "reason",
    ("families/coqui_settings.py", "_configured"): "reason",
    ("families/coqui_settings.py", "_otherwise"): "reason",
    ("families/coqui_speakers.py", "_first"): "reason",
    ("families/coqui_speakers.py", "_unnamed"): "reason",
    ("families/coqui_speakers.py", "_numbers"): "reason",
    ("families/coqui_speakers.py", "_unwanted_speakers"): "why",
    ("families/coqui_speakers.py", "_unwanted_languages"): "why",
    ("families/speaker_encoder_settings.py", "_assumed"): "reason",
    ("families/so_vits_svc_units.py", "unsure"): "reason",
    ("families/so_vits_svc_settings.py", "read"): "reason",
    ("families/so_vits_svc_settings.py", "_assumed"): "reason",
    ("families/so_vits_svc_settings.py", "_left_out"): "reason",
    ("families/so_vits_svc_settings.py", "_differences"): "reason",
    ("families/clusters.py", "numbering"): "reason",
    ("families/clusters.py", "renumbered"): "reason",
    ("families/kmeans.py", "_assumed"): "reason",
    ("families/feature_index.py", "_probes"): "reason",
    ("convert/glance.py", "_MAGICS"): "kind",
}
"""Functions and tables, by module: every text of several words in them is told."""

PASSED_ON = {
    "cluster/keeper.py: plain(repr(error), 300)",
    "cluster/letters.py: body['reason']",
    "cluster/keeper.py: plain(str(error), 300)",
    "cluster/line.py: plain(trouble, 300)",
    "cluster/letters.py: reason",
    "cluster/line.py: trouble or (UNSEEN if self.unusable else None)",
    "supervisor/dispatch.py: STOPPED.reason",
    "worker/shift.py: UNNEEDED",
    "cluster/ways.py: ALTERED",
    "cluster/ways.py: UNLIKE",
    "cluster/line.py: self._went_away()",
    "cluster/line.py: self._went_away() if gone.done() else self._why_not(task)",
    "convert/arrays.py: ', '.join((plain(table, 40) for table in [*tables][:6])) or 'nothing at all'",
    "convert/checkpoint.py: ', '.join((plain(key, 40) for key in list(entries)[:6])) or 'nothing at all'",
    "convert/glance.py: _archive(names)",
    "convert/verify.py: round(found.snr_db, 1) if math.isfinite(found.snr_db) else 'no'",
    "errors.py: self.why",
    "families/__init__.py: '; '.join(missed + claimed)",
    "families/__init__.py: what",
    "families/foreign.py: found or 'nothing at all'",
    "families/diffusion.py: problems",
    "families/companions.py: problem.found['what']",
    "families/coqui.py: problems",
    "families/coqui.py: why",
    "families/coqui_settings.py: problems",
    "families/feature_index.py: problems",
    "families/kmeans.py: problems",
    "families/nsf_hifigan.py: problems",
    "families/rvc.py: NO_TEXT",
    "families/rvc.py: problems",
    "families/so_vits_svc.py: feeding.NO_LIVE",
    "families/so_vits_svc.py: feeding.NO_PREDICTION",
    "families/so_vits_svc.py: NO_TEXT",
    "families/so_vits_svc.py: problems",
    "families/so_vits_svc_settings.py: problems",
    "families/rvc.py: rvc_feed.NO_MOEVS",
    "families/rvc.py: said",
    "families/speaker_encoder.py: problems",
    "families/speaker_encoder.py: what",
    "families/rvc.py: vocoder",
    "families/tensors.py: problems[0] + rest",
    "families/rvc_settings.py: min(problems, _by_config(sizes | hints, decoder, shapes) or problems, key=len)",
    "oneoff.py: what",
    "supervisor/delivery.py: reason",
    "supervisor/dispatch.py: lost.reason",
    "supervisor/dispatch.py: reason or 'for an unknown reason'",
    "supervisor/intake.py: error.why",
    "supervisor/intake.py: plain(str(error))",
    "supervisor/intake.py: reason",
    "supervisor/intake.py: t",
    "supervisor/intake.py: what",
    "supervisor/intake.py: why",
    "worker/parent.py: answer.reason",
    "worker/shift.py: how_it_ended(status)",
    "worker/shift.py: reason",
    "worker/shift.py: self._too_long()",
}
"""Expressions that are known to be told and whose words stand elsewhere: in other places, in tellers, in the system."""


@dataclass
class Said:
    """What was found."""

    sentences: set[tuple[str, str]] = field(default_factory=set)
    """Section and text, with `GAP` in its gaps."""
    passed_on: set[str] = field(default_factory=set)
    """Expressions that are told and whose words stand elsewhere."""


def said() -> Said:
    """Read all modules."""
    found = Said()
    for path in sorted(ROOT.rglob("*.py")):
        name = str(path.relative_to(ROOT))
        _Reader(name, ast.parse(path.read_text()), found).read()
    return found


def filled(template: str) -> str:
    """Return a template with all of its gaps filled."""
    return re.sub(r"{\w+}", GAP, template)


class _Reader:
    """One module."""

    def __init__(self, name: str, tree: ast.Module, found: Said) -> None:
        self._name = name
        self._tree = tree
        self._found = found

    def read(self) -> None:
        self._within(self._tree, self._tree)

    def _within(self, node: ast.AST, scope: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            inner = child if isinstance(child, ast.FunctionDef) else scope
            match child:
                case ast.FunctionDef(name=name) if (section := TELLERS.get((self._name, name))) is not None:
                    self._all(child, section)
                case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)) if child.value:
                    self._table(name, child.value)
                case ast.Call():
                    self._call(child, scope)
            self._within(child, inner)

    def _table(self, name: str, value: ast.expr) -> None:
        if (section := TELLERS.get((self._name, name))) is not None:
            self._all(value, section)
        if (section := CONSTANTS.get((self._name, name)) or CONSTANTS.get(name)) is not None:
            self._take(section, value, value)

    def _all(self, node: ast.AST, section: str) -> None:
        """Take each text below `node` that has a blank in it and is no docstring and no part of a longer one."""
        parts = {id(part) for text in ast.walk(node) if isinstance(text, ast.JoinedStr) for part in ast.walk(text)}
        parts -= {id(text) for text in ast.walk(node) if isinstance(text, ast.JoinedStr)}
        documents = {id(below.value) for below in ast.walk(node) if isinstance(below, ast.Expr)}
        for text in ast.walk(node):
            if isinstance(text, ast.JoinedStr | ast.Constant) and id(text) not in parts | documents:
                for sentence in self._texts(text, node):
                    if " " in sentence:
                        self._add(section, sentence)

    def _call(self, call: ast.Call, scope: ast.AST) -> None:
        callee = getattr(call.func, "id", getattr(call.func, "attr", ""))
        if callee in {kind.__name__ for kind in REFUSALS.values()}:
            for keyword in call.keywords:
                if keyword.arg in {"what", "reason", "reasons", "vocoder", "keys", "tool", "why"}:
                    self._take(keyword.arg, keyword.value, scope)
        else:
            place = PLACES.get(callee) or PLACES.get(".".join(ast.unparse(call.func).split(".")[-2:]))
            position, section = place or (len(call.args), "")
            if len(call.args) > position:
                self._take(section, call.args[position], scope)

    def _take(self, section: str, value: ast.expr, scope: ast.AST) -> None:
        texts = self._texts(value, scope)
        if GAP in texts:
            self._found.passed_on.add(f"{self._name}: {ast.unparse(value)}")
        for text in texts:
            self._add(section, text)

    def _add(self, section: str, text: str) -> None:
        if re.search("[A-Za-z]", text := filled(text)):
            self._found.sentences.add((section, text))

    def _texts(self, node: ast.expr, scope: ast.AST) -> list[str]:  # noqa: PLR0911 - one for each form of expression
        """Return every text that the expression can be; `GAP` where its words stand elsewhere."""
        match node:
            case ast.Constant(value=str(text)):
                return [text]
            case ast.JoinedStr(values=values):
                return [*map("".join, itertools.product(*(self._texts(value, scope) for value in values)))]
            case ast.FormattedValue(value=inner):
                return self._texts(inner, scope)
            case ast.IfExp(body=one, orelse=other) | ast.BoolOp(values=[one, other]):
                return [*self._texts(one, scope), *self._texts(other, scope)]
            case ast.BinOp(op=ast.Add(), left=left, right=right):
                return [*map("".join, itertools.product(self._texts(left, scope), self._texts(right, scope)))]
            case ast.Call(func=ast.Name(id="plain"), args=[inner, *_]):
                return self._texts(inner, scope)
            case ast.List(elts=[inner]):
                return self._texts(inner, scope)
            case ast.Name(id=name):
                values = [*_assigned(name, scope)] or [*_assigned(name, self._tree)]
                return [text for value in values for text in self._texts(value, scope)] or [GAP]
        return [GAP]


def _assigned(name: str, scope: ast.AST) -> Iterator[ast.expr]:
    for node in ast.walk(scope):
        match node:
            case ast.Assign(targets=[ast.Name(id=target)], value=value) if target == name:
                yield value
