"""Outlines with a little of them spoilt, so that looking at them gets far: what all families' hostile tests draw."""

from __future__ import annotations

from hypothesis import strategies as st

from voicekiln.families.base import TensorInfo

sizes = st.one_of(
    st.integers(-3, 40), st.sampled_from([0, 1, 255, 256, 768, 2**16, 2**31, 2**63, 10**12, 10**400]), st.integers()
)
shapes = st.lists(sizes, max_size=9).map(tuple)
infos = st.builds(TensorInfo, shapes, st.sampled_from(["float16", "float32", "bfloat16", "int64", "complex64", "x"]))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), sizes, st.floats(), st.text(max_size=9), st.sampled_from(["1", "2", "40k"])),
    lambda inner: st.one_of(st.lists(inner, max_size=19), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=19,
)
"""Whatever may stand in a file's plain data."""

OF_TENSORS = ("drop", "replace", "size", "add")
"""What `spoil_tensors` can do."""


def spoil_tensors(
    draw: st.DrawFn, how: str, tensors: dict[str, TensorInfo], name: str, names: st.SearchStrategy[str]
) -> bool:
    """Spoil a table of tensors in one of the ways `OF_TENSORS`; False if that cannot be, or is none of them.

    Args:
        draw: hypothesis' own.
        how: to spoil it.
        tensors: changed in place.
        name: of the tensor that is dropped, replaced, or given another size.
        names: of those that may be added.
    """
    match how:
        case "drop":
            tensors.pop(name, None)
        case "replace":
            tensors[name] = draw(infos)
        case "size" if name in tensors:
            axis, size = draw(st.integers(0, 2)), draw(sizes)
            old = tensors[name]
            shape = tuple(size if at == axis else before for at, before in enumerate(old.shape))
            tensors[name] = TensorInfo(shape, old.dtype)
        case "add":
            tensors[draw(names)] = draw(infos)
        case _:
            return False
    return True
