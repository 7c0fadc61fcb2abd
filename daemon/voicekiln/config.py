"""The configuration: YAML in, `Settings` out. The only door to yaml.

All problems are found in one go, each a line with its dotted key first. Every value is read as the text that the
person wrote, so YAML's surprises (0644 as a number, off as a boolean, 1:30 as 90) cannot happen, and the reader
follows what it knows, never what the file nests or repeats. Defaults stand in `settings`, documented for people in
config.example.yaml; how a value is written is for `values`, and whether the folders can be used for `fences` to say.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml

from voicekiln import fences, values
from voicekiln.errors import ConfigError, plain
from voicekiln.folders.names import fold
from voicekiln.job import OPSETS, VERIFY, Recipe
from voicekiln.settings import FOLDERS, Recipes, Settings

_Section = TypeVar("_Section")
_NO_KEYS = ("beside",)
"""Fields of settings that are not read from the file."""
_RECIPE_KEYS = ("precision", "opset", "interface", "verify", "speaker_mix")


def load(path: Path) -> Settings:
    """Return the settings in the file at `path`; touches nothing else.

    Raises:
        ConfigError: with all problems in the file, or that it cannot be read.
    """
    settings, problems = _read(path)
    if problems:
        raise ConfigError(problems)
    return settings


def load_prepared(path: Path) -> Settings:
    """Return the settings in the file at `path` after `fences` has tried them out, all problems in one go.

    Raises:
        ConfigError: with all of them. Folders were made only if the file itself is right.
    """
    settings, problems = _read(path)
    wrong = {_key(line) for line in problems}
    if wrong.isdisjoint(FOLDERS):
        more = fences.problems(settings, make=not problems)
        problems += [line for line in more if _key(line) not in wrong]
    if problems:
        raise ConfigError(problems)
    return settings


def _key(problem: str) -> str:
    return problem.partition(":")[0]


def _read(path: Path) -> tuple[Settings, list[str]]:
    """Return the settings, with the default for whatever is wrong, and the problems.

    Raises:
        ConfigError: if the file cannot be read at all.
    """
    try:
        root = yaml.compose(path.read_bytes(), Loader=yaml.BaseLoader)
    except OSError as error:
        raise ConfigError([f"{plain(str(path))}: cannot be read: {error.strerror}"]) from error
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ConfigError([f"{plain(str(path))}: is not YAML: {line}{plain(error.problem or '')}"]) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError([f"{plain(str(path))}: is not YAML: {plain(str(error), 200)}"]) from error
    if root is not None and not isinstance(root, yaml.MappingNode):
        raise ConfigError([f"{plain(str(path))}: has to consist of lines like `inbox: /srv/voices`"])
    here = path.absolute().parent
    file = _File(here)
    settings = file.section(root, Settings.in_folder(here), "")
    return replace(settings, beside=frozenset(FOLDERS) - file.elsewhere), file.problems


class _File:
    """Goes through the keys that are known and gathers what is wrong with them."""

    def __init__(self, here: Path) -> None:
        self.problems: list[str] = []
        self.elsewhere: set[str] = set()
        """The folders that are not given relative to `here`."""
        self._here = here

    def section(self, node: yaml.Node | None, defaults: _Section, at: str) -> _Section:
        """Return `defaults`, a dataclass, with what the mapping `node` sets. `at` is its dotted key."""
        known = [f.name for f in fields(defaults) if f.name not in _NO_KEYS]  # type: ignore[arg-type]  # a dataclass
        hints = get_type_hints(type(defaults), include_extras=True)
        found = self._entries(node, known, at)
        read = {
            name: self._value(found[name], hints[name], getattr(defaults, name), _under(at, name)) for name in found
        }
        return replace(defaults, **read)  # type: ignore[type-var]  # as above

    def _entries(self, node: yaml.Node | None, known: Sequence[str], at: str) -> dict[str, yaml.Node]:
        """Return the entries of a mapping that are known; the others, and doubles, become problems."""
        found: dict[str, yaml.Node] = {}
        for name, value in self._pairs(node, at):
            if name in known:
                found[name] = value
            else:
                self._problem(_under(at, plain(name, 60)), f"unknown key; {_nearest(name, known, at)}")
        return found

    def _pairs(self, node: yaml.Node | None, at: str) -> Iterator[tuple[str, yaml.Node]]:
        if node is None or (isinstance(node, yaml.ScalarNode) and node.value in values.NOTHING):
            return
        if not isinstance(node, yaml.MappingNode):
            self._problem(at, "wants keys of its own below it, indented")
            return
        lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self._problem(at or "configuration", f"a key in line {line} is not a word")
            elif key.value in lines:
                self._problem(
                    _under(at, plain(key.value, 60)), f"is there twice, in lines {lines[key.value]} and {line}"
                )
            else:
                lines[key.value] = line
                yield key.value, value

    def _value(self, node: yaml.Node, hint: Any, default: Any, at: str) -> Any:  # noqa: ANN401 - any field's type
        if is_dataclass(default):
            return self.section(node, default, at)
        if hint == Recipes:
            return self._recipes(node, at)
        if not isinstance(node, yaml.ScalarNode):
            self._problem(at, "wants one value, not a list or keys below it")
            return default
        try:
            return self._folder(node.value, at) if at in FOLDERS else values.read(hint, node.value)
        except ValueError as error:
            self._problem(at, str(error))
            return default

    def _folder(self, text: str, at: str) -> Path:
        path = values.folder(text)
        if path.is_absolute():
            self.elsewhere.add(at)
        return self._here / path

    def _recipes(self, node: yaml.Node, at: str) -> dict[str, Recipe]:
        """Return the recipes; `default` is added where it is missing."""
        recipes = {"default": Recipe("default")}
        seen = {fold("default"): "default"}
        for name, entry in self._pairs(node, at):
            under = _under(at, plain(name, 60))
            if not values.is_folder_name(name):
                self._problem(under, "a recipe's name is a folder's name: letters, digits, - and _ (at most 64)")
            elif seen.setdefault(fold(name), name) != name:
                self._problem(under, f"on many shares this is the same folder as {seen[fold(name)]}; rename one")
            else:
                recipes[name] = self._recipe(name, entry, under)
        return recipes

    def _recipe(self, name: str, node: yaml.Node, at: str) -> Recipe:
        recipe = Recipe(name)
        for key, value in self._entries(node, _RECIPE_KEYS, at).items():
            text = _text(value)
            try:
                match key:
                    case "precision":
                        recipe = replace(recipe, precisions=values.precisions(text))
                    case "opset":
                        recipe = replace(recipe, opset=values.whole(text, OPSETS))
                    case "interface":
                        recipe = replace(recipe, interfaces=values.interfaces(text))
                    case "verify":
                        recipe = replace(recipe, verify=values.one_of(text, VERIFY))
                    case "speaker_mix":
                        recipe = replace(recipe, speaker_mix=values.truth(text))
            except ValueError as error:
                self._problem(_under(at, key), str(error))
        return recipe

    def _problem(self, at: str, what: str) -> None:
        self.problems.append(f"{at}: {what}")


def _text(value: yaml.Node) -> str:
    """Return what the person wrote; the entries of a list with commas between them, as one may write them as well."""
    if isinstance(value, yaml.SequenceNode) and all(isinstance(entry, yaml.ScalarNode) for entry in value.value):
        return ", ".join(entry.value for entry in value.value)
    return value.value if isinstance(value, yaml.ScalarNode) else ""


def _under(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name


def _nearest(name: str, known: Sequence[str], at: str) -> str:
    """Return which known key was probably meant, here or in another section."""
    everywhere = {key.rpartition(".")[2]: key for key in _dotted(Settings.in_folder(Path()), "")}
    if name in everywhere:
        return f"did you mean {everywhere[name]}?"
    near = difflib.get_close_matches(name.casefold(), known, 1)
    return f"did you mean {_under(at, near[0])}?" if near else f"known here: {', '.join(known)}"


def _dotted(section: Any, at: str) -> Iterator[str]:  # noqa: ANN401 - any dataclass of settings
    for f in fields(section):
        value, key = getattr(section, f.name), _under(at, f.name)
        if f.name not in _NO_KEYS:
            yield key
        if is_dataclass(value):
            yield from _dotted(value, key)
