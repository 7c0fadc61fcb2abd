"""Single values: what a person may write, and what is refused with a word on how to write it."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicekiln import values


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("5m", 300), ("1h", 3600), ("7d", 604800), ("0.5s", 0.5), ("2 h", 7200)]
)
def test_durations_are_seconds(text: str, seconds: float) -> None:
    """Days and minutes alike come out as seconds."""
    assert values.duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "60", "1w", "-5s", "5 s s", "0s", "0.0h", "inf", "nan", "1e3s", "36501d", "٣s", "never"]
)
def test_what_is_no_duration_is_told_how_to_write_one(text: str) -> None:
    """A number without a unit is a question, not an answer; never is none where it makes no sense."""
    with pytest.raises(ValueError, match=r"like 90s, 5m, 1h or 7d|more than nothing"):
        values.duration(text)


def test_never_is_a_life() -> None:
    """Where something can be kept for ever, `never` says so, and the hint mentions it."""
    assert values.duration_or_never("never") is None
    with pytest.raises(ValueError, match="or write never"):
        values.duration_or_never("for ever")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("2GB", 2_000_000_000),
        ("500MB", 500_000_000),
        ("1.5 gb", 1_500_000_000),
        ("1GiB", 2**30),
        ("64KiB", 65536),
        ("9B", 9),
    ],
)
def test_sizes_are_bytes(text: str, count: int) -> None:
    """Decimal and binary units are told apart."""
    assert values.size(text) == count


@pytest.mark.parametrize("text", ["", "2", "GB", "-2GB", "0MB", "0.1B", "2 bytes", "2XB", "1e9B"])
def test_what_is_no_size_is_refused(text: str) -> None:
    """A bare number could mean anything."""
    with pytest.raises(ValueError, match=r"like 500MB or 2GB|more than nothing"):
        values.size(text)


@pytest.mark.parametrize("text", ["25", "0%", "101%", "-1%", "%", "1e1%"])
def test_what_is_no_share_is_refused(text: str) -> None:
    """Nothing, more than all, or a number without its sign."""
    with pytest.raises(ValueError, match="like 25%"):
        values.share(text)


@pytest.mark.parametrize(("text", "mode"), [("0644", 0o644), ("640", 0o640), ("0o664", 0o664)])
def test_modes_are_octal(text: str, mode: int) -> None:
    """With or without a leading zero, quoted or not."""
    assert values.file_mode(text) == mode


@pytest.mark.parametrize("text", ["", "rw-r--r--", "0844", "44", "0444", "0044", "2770", "0o"])
def test_modes_that_lock_out_or_say_nothing_are_refused(text: str) -> None:
    """The daemon has to be able to replace its own files, and systemd forbids it to set special bits."""
    with pytest.raises(ValueError, match='like "0644"'):
        values.file_mode(text)


def test_a_folder_needs_its_owner_to_enter() -> None:
    """0644 is right for files and wrong for folders."""
    with pytest.raises(ValueError, match='like "0755"'):
        values.folder_mode("0644")


@pytest.mark.parametrize("text", ["yes", "on", "1", "True", ""])
def test_truth_is_written_in_one_way(text: str) -> None:
    """What may mean the loss of files is not guessed."""
    with pytest.raises(ValueError, match="true, false"):
        values.truth(text)


@pytest.mark.parametrize(
    ("text", "group"), [("null", None), ("~", None), ("", None), ("users", "users"), ("100", "100")]
)
def test_a_group_is_a_name_a_number_or_none(text: str, group: str | None) -> None:
    """NAS systems know groups by number."""
    assert values.group(text) == group


@pytest.mark.parametrize("text", ["99999999999", "٣"])
def test_a_number_that_no_group_can_have_is_refused(text: str) -> None:
    """The system call would fail with it, at the first file."""
    with pytest.raises(ValueError, match="no number of a group"):
        values.group(text)


@pytest.mark.parametrize("text", ["", "null", "a\0b", "~no-such-user-here/x"])
def test_what_can_be_no_folder_is_refused(text: str) -> None:
    """A folder cannot be left out or be a name that the system does not take."""
    with pytest.raises(ValueError, match="path"):
        values.folder(text)


@given(st.integers(1, 999_999), st.sampled_from("smhd"))
def test_a_duration_reads_back_as_it_was_written(number: int, unit: str) -> None:
    """Every whole number of every unit within a hundred years is exact."""
    seconds = number * {"s": 1, "m": 60, "h": 3600, "d": 86400}[unit]
    if seconds <= 100 * 365 * 86400:
        assert values.duration(f"{number}{unit}") == seconds


@given(st.text(max_size=20))
def test_any_text_is_read_or_refused_with_a_printable_line(text: str) -> None:
    """No text raises anything but ValueError, whose message is fit to be shown."""
    for reader in values._READERS.values():
        said = "read"
        try:
            reader(text)
        except ValueError as error:
            said = str(error)
        assert said.isprintable()
        assert re.search(r"\w", said)


@pytest.mark.parametrize("text", ["", "null", "~"])
def test_no_file_and_no_command_are_none(text: str) -> None:
    """As it is written in the example."""
    assert values.local_file(text) is None
    assert values.command(text) is None


@pytest.mark.parametrize("text", ["voicekiln.prom", "./a.prom", "a\0b", "~nobody-of-this-name/a"])
def test_a_local_file_is_a_whole_path(text: str) -> None:
    """What it would be relative to, nobody could say."""
    with pytest.raises(ValueError, match=r"from / on|wants the path|there is no user"):
        values.local_file(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("/bin/tell", ("/bin/tell",)),
        ("/bin/tell  --to 'the two of us' \"a b\" c\\ d", ("/bin/tell", "--to", "the two of us", "a b", "c d")),
        ("/bin/tell $HOME `id` * a;b a|b", ("/bin/tell", "$HOME", "`id`", "*", "a;b", "a|b")),
        ("'/opt/my tools/tell'", ("/opt/my tools/tell",)),
    ],
)
def test_a_command_is_words(text: str, words: tuple[str, ...]) -> None:
    """Quotes hold them together; nothing in them means anything."""
    assert values.command(text) == words


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("tell me", "whole path"),
        ("''", "whole path"),
        ("/bin/tell\0me", "whole path"),
        ("/bin/tell 'me", "not closed"),
        ("/bin/tell me | /bin/cat", "without a shell"),
        ("/bin/tell > /tmp/x", "without a shell"),
        ("/bin/a && /bin/b", "without a shell"),
    ],
)
def test_what_only_a_shell_would_understand_is_told_so(text: str, why: str) -> None:
    """Rather than hand a pipe to the program as a word."""
    with pytest.raises(ValueError, match=why):
        values.command(text)


@pytest.mark.parametrize("text", [".", "./", "/", "web/", "", "../x.html", "a/../b.html", ".hidden/x.html"])
def test_what_can_be_no_status_page_is_refused(text: str) -> None:
    """A folder is no file, and one that is hidden or above the outbox is no place for it."""
    with pytest.raises(ValueError, match=r"file|path"):
        values.board_file(text)
    assert values.board_file("web/x.html") == Path("web/x.html")
    assert values.board_file("off") is None
