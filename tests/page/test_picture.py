"""The picture of a verification: from text that is not believed to lines that say what was measured."""

from __future__ import annotations

import base64
import re

import pytest

import boards
from voicekiln.page.picture import LEFT, SCALE, SCALE_TOP, drawing

FLAT = {"low": 64, "high": 192, "onnx_low": 64, "onnx_high": 192, "level": 230, "difference": 102}
"""Bytes of the tracks; the last two are -19.6 and -120 dB."""


def text(**tracks: int | tuple[int, ...]) -> str:
    """Return a picture; a track is one value for all columns, or several in turn."""
    values = [value if isinstance(value, tuple) else (value,) for value in (FLAT | tracks).values()]
    data = b"".join(bytes(value) * (100 // len(value)) for value in values)
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def points(path: str) -> list[tuple[int, int]]:
    """Return the corners of `M x y l dx dy ...`, up to the next command."""
    match = re.fullmatch(r"M(\d+ \d+)l([^A-Za-z]*).*", path)
    assert match
    begin, rest = match.groups()
    x, y = map(int, begin.split())
    steps = [int(number) for number in re.findall(r"-?\d+", rest)]
    found = [(x, y)]
    for dx, dy in zip(steps[::2], steps[1::2], strict=True):
        found.append((found[-1][0] + dx, found[-1][1] + dy))
    return found


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        text()[:-1],
        text() + "A",
        text() + "\n",
        text()[:-1] + "=",
        text()[:-1] + "+",
        text()[:-1] + "é",
        text(low=193),
        text(onnx_low=193),
        '"/><script>' + text()[11:],
    ],
)
def test_what_is_no_picture_is_not_drawn(wrong: str) -> None:
    """Another length or alphabet, or a least value above the greatest."""
    assert drawing(wrong) is None


def test_the_curve_of_the_level_goes_through_every_column() -> None:
    """A hundred points, three pixels apart, as deep below 0 dB as the bytes say."""
    drawn = drawing(text(level=255, difference=0))
    assert drawn
    assert points(drawn.level) == [(LEFT + 3 * column, SCALE_TOP) for column in range(100)]
    assert points(drawn.difference)[50] == (LEFT + 150, SCALE_TOP + SCALE)


def test_steps_up_and_down_are_followed() -> None:
    """Lines end where the last column says, whatever lies between."""
    picture = boards.picture(7)
    data = base64.urlsafe_b64decode(picture)
    drawn = drawing(picture)
    assert drawn
    depths = [SCALE_TOP + round((255 - byte) * SCALE / 255) for byte in data[400:500]]
    assert [y for _, y in points(drawn.level)] == depths
    heights = [2 + round((255 - byte) * 38 / 255) for byte in data[100:200]]
    assert [y for _, y in points(drawn.original)] == heights


def test_the_bracket_spans_the_signal_to_noise_ratio() -> None:
    """From the mean power of the original down to that of the difference: 100 dB are half of the scale."""
    drawn = drawing(text(level=255, difference=128))
    assert drawn
    assert (drawn.top, drawn.bottom) == (SCALE_TOP, SCALE_TOP + 30)
    quieter = drawing(text(level=(255, 0), difference=0))
    assert quieter
    assert (quieter.top, quieter.bottom) == (SCALE_TOP + 1, SCALE_TOP + SCALE)  # half of the power is 3 dB less


def test_equal_waves_are_equal_lines_and_others_are_not() -> None:
    """The second wave is drawn from its own numbers."""
    same, other = drawing(text()), drawing(text(onnx_high=255))
    assert same
    assert other
    assert same.onnx == same.original
    assert other.onnx != other.original
