"""The text files beside a voice, read as plain data. Here, in the cage, because strangers wrote them too.

JSON by the standard library and YAML by PyYAML's own reader in Python: the one in C takes nesting to the stack's end.
What two readers could understand differently is not understood at all: a key that is there twice, a code other than
UTF-8 (a mark at its beginning is let pass, because editors leave one). Numbers that are not finite become texts, as in
a checkpoint (`data.plain_data`): Coqui writes Infinity into every config. YAML's merging of tables (`<<`) could make
gigabytes of a page and is not known here; its dates are texts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from voicekiln.convert.data import MAX_DEPTH, MAX_TEXT, MAX_VALUES, NotPlainError, plain_data
from voicekiln.errors import plain

NOTHING: Final[Mapping[str, Path | None]] = {}
"""A voice that lies alone."""

UNREADABLE: Final = (NotPlainError, yaml.YAMLError, ValueError, TypeError, LookupError, RecursionError, OverflowError)
"""What comes of text that is not what its name says: the readers of both languages raise what they happen to."""


def read(copies: Mapping[str, Path | None]) -> dict[str, Any]:
    """Return what stands in the companions, by their names made plain; None for one that cannot be read.

    A sidecar of our own that somebody has laid beside his voice, or `voicekiln convert` has, is no companion.

    Args:
        copies: where each lies on local disk; None where nobody could read it.

    Raises:
        OSError: if the machine fails.
    """
    beside = {plain(name): None if path is None else _read(name, path.read_bytes()) for name, path in copies.items()}
    return {name: value for name, value in beside.items() if not is_ours(value)}


def _read(name: str, text: bytes) -> Any:  # noqa: ANN401 - plain data of any kind
    """Return what the text says, None if it cannot be told."""
    try:
        return plain_data(json_in(text) if name.casefold().endswith(".json") else _yaml(text))
    except UNREADABLE:
        return None


def is_ours(value: Any) -> bool:  # noqa: ANN401 - as above
    """Return whether it is a sidecar of our own."""
    return (
        isinstance(value, dict)
        and isinstance(made_by := value.get("made_by"), dict)
        and (made_by.get("name") == "voicekiln")
    )


def json_in(text: bytes) -> Any:  # noqa: ANN401 - as above
    """Return what the JSON says, infinity and NaN among it; raises one of `UNREADABLE` if it cannot be told."""
    return json.loads(text.decode("utf-8-sig"), object_pairs_hook=_table)


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a key that is there twice")
    return table


class _Loader(yaml.SafeLoader):
    """See the module. Stops before it has made more than there may be."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = 0
        self._deep = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:  # noqa: ANN401 - as in PyYAML
        """Return the next node, unless there are too many, or too deep."""
        self._nodes += 1
        self._deep += 1
        if self._nodes > 2 * MAX_VALUES or self._deep > MAX_DEPTH:  # keys are nodes as well
            raise NotPlainError
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.ScalarNode) and len(node.value) > MAX_TEXT:
            raise NotPlainError  # before it is read as a number to the base of 60, which could take a minute
        self._deep -= 1
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge nothing."""
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise NotPlainError

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - as in PyYAML
        """Return a table whose keys are there once."""
        table = super().construct_mapping(node, deep=deep)
        if len(table) < len(node.value):
            raise NotPlainError
        return table

    def construct_as_written(self, node: yaml.ScalarNode) -> str:
        """Return the text that stands there."""
        return str(self.construct_scalar(node))


_Loader.add_constructor("tag:yaml.org,2002:timestamp", _Loader.construct_as_written)


def _yaml(text: bytes) -> Any:  # noqa: ANN401 - as above
    loader = _Loader(text.decode("utf-8-sig"))
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()
