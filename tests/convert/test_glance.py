"""What people drop by mistake is recognised and named before PyTorch sees it."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from convert.small_checkpoints import LEGACY_HEAD, archive, members, saved, voice, written
from voicekiln.convert.glance import glance
from voicekiln.errors import Damaged, Empty, LfsPointer, NotACheckpoint, Refusal, Safetensors, UnsafePickle, WebPage

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 55012345\n"


def refusal(tmp_path: Path, data: bytes) -> Refusal:
    """Return the refusal of a file with these bytes."""
    with pytest.raises(Refusal) as caught:
        glance(written(tmp_path / "voice.pth", data))
    return caught.value


def onnx_file() -> bytes:
    """Return the bytes of a small ONNX file."""
    ends = [onnx.helper.make_tensor_value_info(name, 1, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["x"], ["y"])], "g", ends[:1], ends[1:])
    return bytes(onnx.helper.make_model(graph).SerializeToString())


@pytest.mark.parametrize("legacy", [False, True])
def test_torchs_own_files_pass(tmp_path: Path, *, legacy: bool) -> None:
    """Both forms in which torch.save writes are taken for what they are."""
    path = written(tmp_path / "voice.pth", saved(voice(), legacy=legacy))
    assert glance(path) == ("legacy" if legacy else "zip")


def test_a_file_without_bytes_is_called_empty(tmp_path: Path) -> None:
    """Nothing at all has a message of its own."""
    assert isinstance(refusal(tmp_path, b""), Empty)


@pytest.mark.parametrize(
    ("data", "beginning"),
    [
        (b"<!DOCTYPE html>\n<html><head>\n<title>404</title>", "<!DOCTYPE html> <html><head> <title>404</title>"),
        (b"\xef\xbb\xbf  <?xml version='1.0'?><Error>AccessDenied</Error>", "<?xml version='1.0'?><Error>AccessDenied"),
        (b'{"error": "rate limited"}', '{"error": "rate limited"}'),
        (b"Not Found", "Not Found"),
        ("Zugriff verweigert: für Gäste gesperrt".encode(), "Zugriff verweigert: für Gäste gesperrt"),
        (b"Entry not found\nplease log in\n", "Entry not found please log in"),
    ],
)
def test_an_error_page_is_quoted(tmp_path: Path, data: bytes, beginning: str) -> None:
    """A person recognises the page that was saved by its first words."""
    found = refusal(tmp_path, data)
    assert isinstance(found, WebPage)
    assert str(found.found["beginning"]).startswith(beginning)


def test_a_web_page_cannot_forge_the_message(tmp_path: Path) -> None:
    """Control and direction characters of the page do not reach the reader."""
    found = refusal(tmp_path, "<html>\u202eevil\x1b[2J".encode())
    assert found.text.isprintable()


@pytest.mark.parametrize(
    ("data", "size_mb"),
    [(POINTER, 55), (POINTER.replace(b"55012345", b"9"), 1), (POINTER.replace(b"55012345", b"many"), 0)],
)
def test_a_pointer_says_how_large_the_real_file_is(tmp_path: Path, data: bytes, size_mb: int) -> None:
    """A Git-LFS pointer is told apart from other texts."""
    found = refusal(tmp_path, data)
    assert isinstance(found, LfsPointer)
    assert found.found["size_mb"] == size_mb


def test_safetensors_are_told_apart(tmp_path: Path) -> None:
    """A length and a JSON header are a safetensors file."""
    header = json.dumps({"a": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    assert isinstance(refusal(tmp_path, struct.pack("<Q", len(header)) + header + b"\0\0"), Safetensors)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"Rar!\x1a\x07\x01\0" + bytes(50), "RAR"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(50), "7-Zip"),
        (b"\x1f\x8b\x08" + bytes(50), "gzip"),
        (bytes(257) + b"ustar\0" + bytes(300), "tar"),
        (b"IxFI" + bytes(50), "index"),
        (b"RIFF\x24\x08\0\0WAVE" + bytes(50), "sound"),
        (b"\x9a\x07\xfe\x81" * 20, "no kind"),
        (onnx_file(), "ONNX"),
    ],
)
def test_other_kinds_of_file_are_named(tmp_path: Path, data: bytes, what: str) -> None:
    """The message says what the file is, not only what it is not."""
    found = refusal(tmp_path, data)
    assert isinstance(found, NotACheckpoint)
    assert what in found.text


def test_a_reserved_but_empty_download_is_damaged(tmp_path: Path) -> None:
    """Zeros are what a broken download leaves on the disk."""
    assert isinstance(refusal(tmp_path, bytes(10_000)), Damaged)


def test_an_archive_with_a_voice_inside_is_to_be_unpacked(tmp_path: Path) -> None:
    """A ZIP file that is no checkpoint is told by what lies in it."""
    found = refusal(tmp_path, archive({"Anna/anna.pth": b"x", "Anna/anna.index": b"y", "a": b"", "b": b""}))
    assert isinstance(found, NotACheckpoint)
    assert "(Anna/anna.pth, Anna/anna.index, a, …)" in found.text


def test_a_program_is_no_checkpoint(tmp_path: Path) -> None:
    """TorchScript holds code and is refused by name, before PyTorch is asked."""
    data = archive({"m/data.pkl": b"\x80\x02}.", "m/constants.pkl": b"\x80\x02).", "m/code/__torch__.py": b"x = 1"})
    assert "TorchScript" in refusal(tmp_path, data).text


def test_a_copy_that_broke_off_is_damaged(tmp_path: Path) -> None:
    """Wherever either form is cut, the answer is the same."""
    for data in (saved(voice()), saved(voice(), legacy=True)):
        for end in (100, len(data) // 2, len(data) - 30, len(data) - 1):
            assert isinstance(refusal(tmp_path, data[:end]), Damaged), end


def test_one_wrong_bit_is_damaged(tmp_path: Path) -> None:
    """Weights that changed on the way are found by their checksum."""
    data = bytearray(saved(voice()))
    data[data.index(voice()["weight"]["emb_g.weight"].numpy().tobytes())] ^= 1
    assert "checksum" in refusal(tmp_path, bytes(data)).text


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    """PyTorch maps the file into memory, so compressed parts would be read as numbers."""
    found = refusal(tmp_path, archive(members(saved(voice())), zipfile.ZIP_DEFLATED))
    assert "compressed" in found.text


def test_two_parts_of_one_name_are_refused(tmp_path: Path) -> None:
    """Which of the two counts would depend on the reader."""
    parts = members(saved(voice()))
    name = next(name for name in parts if name.endswith("/data/0"))
    one_more = archive(parts | {name[:-1] + "X": b"1"})
    assert glance(written(tmp_path / "one_more.pth", one_more)) == "zip"
    twice = one_more.replace(name[:-1].encode() + b"X", name.encode())
    assert "several parts of one name" in refusal(tmp_path, twice).text


def test_parts_that_claim_more_than_the_file_are_refused(tmp_path: Path) -> None:
    """A small archive cannot unfold into a large one."""
    data = saved({"weight": {"a": torch.zeros(1000)}})
    start = data.index(b"PK\x01\x02")
    at = data.index(b"/data/0", start)
    begin = data.rindex(b"PK\x01\x02", 0, at)
    forged = data[: begin + 20] + struct.pack("<II", 2**30, 2**30) + data[begin + 28 :]
    assert isinstance(refusal(tmp_path, forged), Damaged)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_of_something_else_is_no_checkpoint(tmp_path: Path, protocol: int) -> None:
    """A pickle that PyTorch did not write is refused, whatever its protocol."""
    found = refusal(tmp_path, pickle.dumps({"a": [1, 2.0, "b"]}, protocol=protocol))
    assert isinstance(found, NotACheckpoint | WebPage)


@pytest.mark.parametrize("protocol", range(6))
def test_a_harmful_pickle_is_known_in_every_protocol(tmp_path: Path, protocol: int) -> None:
    """Text or binary, the import is found and named."""

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return print, ("harm",)

    found = refusal(tmp_path, pickle.dumps({"weight": Evil()}, protocol=protocol))
    assert isinstance(found, UnsafePickle)
    assert found.found["wants"] == "builtins.print"


def test_a_legacy_file_must_fill_every_part(tmp_path: Path) -> None:
    """A part that the stream does not fill would be made of whatever lay in memory."""
    data = saved({"weight": {"a": torch.ones(4), "b": torch.ones(4)}}, legacy=True)
    keys = pickle.loads(data[data.rindex(b"\x80\x02") :])  # noqa: S301 - written three lines above
    head = data[: data.rindex(b"\x80\x02")]
    one = struct.pack("<q", 4) + torch.ones(4).numpy().tobytes()
    assert isinstance(refusal(tmp_path, head + pickle.dumps(keys[:1], protocol=2) + one * 2), Damaged)
    assert isinstance(refusal(tmp_path, head + pickle.dumps([keys[0]] * 2, protocol=2) + one * 2), Damaged)
    assert glance(written(tmp_path / "v.pth", head + pickle.dumps(keys, protocol=2) + one * 2)) == "legacy"


def test_a_legacy_head_alone_is_damaged(tmp_path: Path) -> None:
    """The magic number does not make a checkpoint."""
    assert isinstance(refusal(tmp_path, LEGACY_HEAD), Damaged)
