"""Removing what a stranger's file has made of a folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from voicekiln.folders.files import remove_tree


@pytest.mark.requirement(20)
def test_a_tree_goes_however_deep_it_is(tmp_path: Path) -> None:
    """Deeper than Python calls itself and than a path may be long, with folders that nobody may read."""
    top, secret = tmp_path / "job", tmp_path / "secret"
    top.mkdir()
    secret.mkdir()
    (secret / "file").touch()
    folder = os.open(top, os.O_RDONLY)
    for number in range(3000):
        os.mkdir("d", 0o700, dir_fd=folder)
        below = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.symlink(secret, "link", dir_fd=folder)
        if number % 100 == 0:
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, 0o000, dir_fd=folder))
        os.fchmod(folder, 0o300 if number else 0o700)
        os.close(folder)
        folder = below
    os.close(folder)
    remove_tree(top)
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
    assert (secret / "file").exists()


def test_what_is_not_there_is_no_trouble(tmp_path: Path) -> None:
    """Neither the folder nor the one around it."""
    remove_tree(tmp_path / "job")
    remove_tree(tmp_path / "gone" / "job")
