"""Homes: the folder beneath a mount point is not the share, also after a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from voicekiln.folders.watch import FileSystem
from voicekiln.settings import Settings
from voicekiln.supervisor.homes import FILE, AwayError, Homes

Mounts = dict[str, str]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = Settings.in_folder(tmp_path)
    for folder in (made.inbox, made.outbox, made.state):
        folder.mkdir()
    return made


@pytest.fixture
def mounts(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Mounts:
    """Where each folder is mounted; a test may change it."""
    table = {str(settings.inbox): str(settings.inbox), str(settings.outbox): "/"}
    monkeypatch.setattr(
        "voicekiln.supervisor.homes.file_system", lambda path: FileSystem("nfs4", Path(table[str(path)]), "nas:/x")
    )
    return table


def test_a_share_that_was_unmounted_is_away_and_comes_back(settings: Settings, mounts: Mounts) -> None:
    """The folder on the disk below says nothing about the share."""
    homes = Homes.of(settings)
    homes.check("inbox")
    mounts[str(settings.inbox)] = "/"
    with pytest.raises(AwayError, match="not mounted") as caught:
        homes.check("inbox")
    assert caught.value.which == "inbox"
    homes.check("outbox")
    mounts[str(settings.inbox)] = str(settings.inbox)
    homes.check("inbox")


def test_a_machine_that_comes_up_without_its_share_knows_that_it_lacks_one(settings: Settings, mounts: Mounts) -> None:
    """Where the folders belong is remembered in the state folder."""
    Homes.of(settings)
    mounts[str(settings.inbox)] = "/"
    with pytest.raises(AwayError):
        Homes.of(settings).check("inbox")
    (settings.state / FILE).unlink()
    Homes.of(settings).check("inbox")


def test_a_share_that_is_mounted_later_becomes_the_home(settings: Settings, mounts: Mounts) -> None:
    """A folder on the local disk that gets a share mounted over it is that share from the next start on."""
    Homes.of(settings)
    mounts[str(settings.outbox)] = str(settings.outbox)
    Homes.of(settings).check("outbox")
    mounts[str(settings.outbox)] = "/"
    with pytest.raises(AwayError):
        Homes.of(settings).check("outbox")


def test_another_drive_at_the_same_place_is_at_home(settings: Settings, mounts: Mounts) -> None:
    """Nobody has to tell of a new disk; only the mount point counts."""
    assert mounts
    homes = Homes.of(settings)
    assert homes.check("inbox") == FileSystem("nfs4", settings.inbox, "nas:/x")


@pytest.mark.parametrize("content", ["", "[", "[]", '{"a": 1}'])
def test_a_damaged_memory_is_made_anew(settings: Settings, mounts: Mounts, content: str) -> None:
    """It is a help and not a hurdle."""
    assert mounts
    (settings.state / FILE).write_text(content)
    Homes.of(settings).check("inbox")
    assert str(settings.inbox) in (settings.state / FILE).read_text()


def test_a_folder_that_is_not_there_is_away(settings: Settings, mounts: Mounts) -> None:
    """With or without a mount."""
    assert mounts
    homes = Homes.of(settings)
    settings.outbox.rmdir()
    with pytest.raises(AwayError, match="cannot be opened"):
        homes.check("outbox")
    assert homes.name_max() == 255
