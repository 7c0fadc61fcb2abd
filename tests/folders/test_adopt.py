"""What sidecars in an outbox tell a daemon that did not write them, and what is not believed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from endings import FACES
from kiln import Kiln
from voicekiln.folders.adopt import found_in
from voicekiln.folders.files import open_plain
from voicekiln.folders.inbox import MAX_DEPTH
from voicekiln.folders.names import BELOW, LONGEST, NAME_MAX, bases, output_base
from voicekiln.folders.voices import Found, Published
from voicekiln.job import Converted, Recipe

Body = dict[str, Any]


@pytest.fixture
def outbox(tmp_path: Path) -> Path:
    """Return an outbox with a result in two precisions and a refusal."""
    kiln = Kiln(tmp_path)
    kiln.drop("both/deep/a.pth")
    kiln.drop("bad.pth", b"nothing of the kind")
    (kiln.inbox / "link.pth").symlink_to("bad.pth")
    kiln.run(90)
    kiln.close()
    assert kiln.results() >= {"both/deep/a.json", "link.error.json"}
    return kiln.outbox


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Return an outbox with a result that has all faces."""
    kiln = Kiln(tmp_path, recipes={"default": Recipe("default", ("fp32", "fp16"), interfaces=FACES)})
    kiln.drop("sub/a.pth")
    kiln.run(60)
    kiln.close()
    return kiln.outbox


def results(outbox: Path) -> list[Found]:
    return [found for found in found_in(outbox) if found.ending is not None]


def test_a_result_is_told_of_with_all_its_files(outbox: Path) -> None:
    """Source, recipe, names, hashes and sizes, as they were published."""
    [found] = [found for found in results(outbox) if "a.pth" in str(found.relpath)]
    assert (str(found.relpath), str(found.base)) == ("both/deep/a.pth", "both/deep/a")
    assert {(file.path.name, file.kind) for file in found.files} == {
        ("a.onnx", "onnx"),
        ("a.fp16.onnx", "onnx"),
        ("a.json", "sidecar"),
    }
    assert all((outbox / file.path).stat().st_size == file.bytes for file in found.files)
    assert found.recipe is not None
    assert found.recipe.precisions == ("fp32", "fp16")
    assert isinstance(found.ending, Converted)


def test_a_refusal_is_ours_but_proves_nothing(outbox: Path) -> None:
    """It can be swept; the source is judged anew."""
    [found] = [found for found in found_in(outbox) if "link" in str(found.relpath)]
    assert (found.ending, found.sha256, str(found.base)) == (None, None, "link")
    text = (outbox / "link.error.json").read_bytes()
    digest = hashlib.sha256(text).hexdigest()
    assert found.files == (Published(PurePosixPath("link.error.json"), "refusal", digest, len(text)),)


def elsewhere(body: Body) -> None:
    body["source"]["path"] = "both/a.pth"


def outside(body: Body) -> None:
    body["source"]["path"] = "../both/deep/a.pth"


def a_command(body: Body) -> None:
    body["made_by"]["ledger"] = None


def older(body: Body) -> None:
    del body["made_by"]["ledger"]


def another_tool(body: Body) -> None:
    body["made_by"]["name"] = "another"


def a_strangers_file(body: Body) -> None:
    body["onnx"][0]["name"] = "precious.onnx"


def a_way_out(body: Body) -> None:
    body["onnx"][0]["name"] = "../../a.onnx"


def another_size(body: Body) -> None:
    body["onnx"][0]["bytes"] += 1


def no_hash(body: Body) -> None:
    body["source"]["sha256"] = "0" * 63


def unfaithful(body: Body) -> None:
    body["onnx"][0]["fidelity"][0]["snr_db"] = 3


def an_unknown_field(body: Body) -> None:
    body["recipe"]["colour"] = "red"


def nested(body: Body) -> None:
    body["model"] = 3


def newer_layout(body: Body) -> None:
    body["schema"] = 3


def odd_path(body: Body) -> None:
    body["source"]["path"] = "both/deep/\ufffda.pth"


def half_a_character(body: Body) -> None:
    body["source"]["path"] = "both/deep/\ud800.pth"


def a_recipe_of_half_a_character(body: Body) -> None:
    body["recipe"]["name"] = "\ud800"


def a_recipe_without_a_name(body: Body) -> None:
    body["recipe"]["name"] = ["x"]


def a_huge_number(body: Body) -> None:
    body["recipe"]["opset"] = 10**30


def an_unknown_verification(body: Body) -> None:
    body["recipe"]["verify"] = {"x": 1}


def no_precision(body: Body) -> None:
    body["recipe"]["precisions"] = []


def a_hash_of_half_a_character(body: Body) -> None:
    body["onnx"][0]["sha256"] = "\ud800" * 64


def bottomless(body: Body) -> None:
    for _ in range(400):
        body["feed"] = {"x": body["feed"]}


def colours_for_a_terminal(body: Body) -> None:
    body["model"]["family"] = "\x1b[31mrvc"


def without_number(body: Body) -> None:
    body["feed"] = dict.fromkeys(map(str, range(10_000)), 0)


def a_name_of_another(body: Body) -> None:
    body["source"]["path"] = "both/deep/victim.pth"


POISON: list[Callable[[Body], None]] = [
    *(half_a_character, a_recipe_of_half_a_character, a_recipe_without_a_name, a_huge_number, no_precision),
    *(an_unknown_verification, a_hash_of_half_a_character, bottomless, colours_for_a_terminal, without_number),
    a_name_of_another,
]


@pytest.mark.requirement(20)
@pytest.mark.parametrize("poison", POISON)
def test_a_poisoned_sidecar_does_not_keep_a_daemon_from_its_work(
    outbox: Path, tmp_path: Path, poison: Callable[[Body], None]
) -> None:
    """One that no ledger could hold: the voice is converted anew, and everything else goes on."""
    sidecar = outbox / "both/deep/a.json"
    body = json.loads(sidecar.read_text())
    poison(body)
    sidecar.write_text(json.dumps(body))
    bad = json.loads((outbox / "link.error.json").read_text())
    bad["source"]["path"] = "\ud800.pth"
    (outbox / "link.error.json").write_text(json.dumps(bad))
    for path in (tmp_path / "state").glob("ledger*"):
        path.unlink()
    kiln = Kiln(tmp_path)
    kiln.drop("new.pth")
    kiln.run(120)
    assert "new.json" in kiln.results()
    kiln.close()


def test_a_share_that_fails_in_the_midst_is_not_read_to_its_end(outbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not seen must not count as not there; a folder without the right to it is passed over."""
    real, trouble = os.open, errno.EIO

    def failing(path: Any, *arguments: Any, **named: Any) -> int:
        if path == "deep":
            raise OSError(trouble, os.strerror(trouble))
        return real(path, *arguments, **named)

    monkeypatch.setattr(os, "open", failing)
    with pytest.raises(OSError, match="Input/output"):
        list(found_in(outbox))
    trouble = errno.EACCES
    assert all("deep" not in str(found.relpath) for found in found_in(outbox))


@pytest.mark.parametrize(
    "change",
    [
        *(elsewhere, outside, a_command, older, another_tool, a_strangers_file, a_way_out, another_size, no_hash),
        *(unfaithful, an_unknown_field, nested, newer_layout, odd_path, *POISON),
    ],
)
@pytest.mark.requirement(6)
def test_what_does_not_fit_is_not_believed(outbox: Path, change: Callable[[Body], None]) -> None:
    """Nothing of it becomes ours, so nothing of it is ever swept."""
    sidecar = outbox / "both/deep/a.json"
    body = json.loads(sidecar.read_text())
    before = len(results(outbox))
    change(body)
    sidecar.write_text(json.dumps(body))
    assert len(results(outbox)) == before - 1


def test_a_voice_that_is_called_like_a_refusal_is_a_voice(tmp_path: Path) -> None:
    """`x.error.pth` has the sidecar `x.error.json`."""
    kiln = Kiln(tmp_path)
    kiln.drop("x.error.pth")
    kiln.run(30)
    kiln.close()
    [found] = found_in(kiln.outbox)
    assert (str(found.relpath), found.ending is None) == ("x.error.pth", False)


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'"x"', b"\xff", b"[" * 100_000, b'{"made_by": []}'])
def test_a_strangers_json_is_passed_over(outbox: Path, text: bytes) -> None:
    """Whatever it holds."""
    before = len(list(found_in(outbox)))
    (outbox / "own.json").write_bytes(text)
    (outbox / "own.error.json").write_bytes(text)
    assert len(list(found_in(outbox))) == before


def test_links_and_hidden_folders_are_not_entered(outbox: Path) -> None:
    """A link to a sidecar, a link to a folder, a recycle bin of a sync tool."""
    before = len(list(found_in(outbox)))
    (outbox / "linked.json").symlink_to(outbox / "both/deep/a.json")
    (outbox / "elsewhere").symlink_to(outbox / "both")
    hidden = outbox / ".stversions"
    (outbox / "both").rename(hidden)
    assert len(list(found_in(outbox))) == before - 1


def of_another_tool(body: Body) -> None:
    body["made_by"]["name"] = "another"


def of_the_command(body: Body) -> None:
    body["made_by"]["ledger"] = None


def without_a_code(body: Body) -> None:
    body["code"] = ""


def of_a_file_elsewhere(body: Body) -> None:
    body["source"]["path"] = "both/link.pth"


@pytest.mark.parametrize("change", [of_another_tool, of_the_command, without_a_code, of_a_file_elsewhere])
@pytest.mark.requirement(6)
def test_a_refusal_that_does_not_fit_is_not_ours(outbox: Path, change: Callable[[Body], None]) -> None:
    """So it is never swept."""
    path = outbox / "link.error.json"
    body = json.loads(path.read_text())
    change(body)
    path.write_text(json.dumps(body))
    assert all("link" not in str(found.base) for found in found_in(outbox))


@pytest.mark.parametrize("instead", ["nothing", "a link"])
@pytest.mark.requirement(6)
def test_a_result_without_one_of_its_files_is_not_believed(outbox: Path, instead: str) -> None:
    """Nor one of which a file lies elsewhere, whatever its size."""
    onnx, before = outbox / "both/deep/a.fp16.onnx", len(results(outbox))
    onnx.rename(outbox / "moved")
    if instead == "a link":
        onnx.symlink_to(outbox / "moved")
    assert len(results(outbox)) == before - 1


def test_a_hidden_folder_is_not_entered_even_if_its_sidecars_say_so(outbox: Path) -> None:
    """Nothing of ours is ever put there; it belongs to a sync tool."""
    before = len(results(outbox))
    (outbox / "both/deep").rename(outbox / "both/.deep")
    sidecar = outbox / "both/.deep/a.json"
    body = json.loads(sidecar.read_text())
    body["source"]["path"] = "both/.deep/a.pth"
    sidecar.write_text(json.dumps(body))
    assert len(results(outbox)) == before - 1


def test_only_what_can_be_a_sidecar_is_read(outbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of thousands of voices the ONNX files stay unread."""
    names: list[str] = []

    def noting(folder: int, name: str) -> BufferedReader:
        names.append(name)
        return open_plain(folder, name)

    monkeypatch.setattr("voicekiln.folders.adopt.open_plain", noting)
    list(found_in(outbox))
    assert sorted(names) == sorted(path.name for path in outbox.rglob("*.json"))


def test_a_deep_tree_of_a_strangers_is_not_walked_to_its_end(outbox: Path) -> None:
    """Nothing of ours lies that deep."""
    deep = outbox.joinpath(*"d" * (MAX_DEPTH + BELOW + 1))
    deep.mkdir(parents=True)
    text = (outbox / "link.error.json").read_text()
    for folder in (deep, deep.parents[BELOW + 1]):
        source = str(folder.relative_to(outbox) / "link.pth")
        (folder / "link.error.json").write_text(json.dumps(json.loads(text) | {"source": {"path": source}}))
    depths = {len(found.relpath.parts) for found in found_in(outbox) if found.relpath.parts[0] == "d"}
    assert depths == {MAX_DEPTH}


@pytest.mark.parametrize("name", ["\ufffda.pth", "\\x41.pth"])
@pytest.mark.requirement(6)
def test_a_source_that_is_not_written_in_full_is_not_known(outbox: Path, name: str) -> None:
    """Even where its results have the name that they would have: which of several files was meant is not told."""
    text = json.loads((outbox / "link.error.json").read_text())
    for source in (name, "plain.pth"):
        base = next(iter(bases(PurePosixPath(source))))
        (outbox / f"{base}.error.json").write_text(json.dumps(text | {"source": {"path": source}}))
    assert {str(found.relpath) for found in found_in(outbox) if found.ending is None} >= {"plain.pth"}
    assert all(str(found.relpath) != name for found in found_in(outbox))


def test_all_faces_of_a_result_are_told_of(faces: Path) -> None:
    """Those in folders of their own too, and what lies there for a client."""
    [found] = results(faces)
    assert {str(file.path) for file in found.files} == {
        str(path.relative_to(faces)) for path in (faces / "sub").rglob("*") if path.is_file()
    }
    assert sorted(file.kind for file in found.files) == ["client"] * 2 + ["onnx"] * 6 + ["sidecar"]
    assert found.recipe is not None
    assert found.recipe.interfaces == FACES
    assert isinstance(found.ending, Converted)
    assert [file.client for file in found.ending.conversion.files] == [{}] * 4 + [{"Type": "RVC"}] * 2


def out_of_its_folder(body: Body) -> None:
    body["onnx"][4]["client_file"]["name"] = "../sub/a.moevs/a.json"


def of_another_voice(body: Body) -> None:
    body["onnx"][4]["client_file"]["name"] = "b.moevs/b.json"


def of_another_length(body: Body) -> None:
    body["onnx"][4]["client_file"]["bytes"] += 1


def without_hash(body: Body) -> None:
    body["onnx"][4]["client_file"]["sha256"] = "x"


def without_a_number(body: Body) -> None:
    body["onnx"][4]["client_file"]["bytes"] = True


def of_no_face(body: Body) -> None:
    body["onnx"][4]["interface"] = "another"


def no_object(body: Body) -> None:
    body["onnx"][4]["client_file"] = "a.moevs/a.json"


@pytest.mark.parametrize(
    "change",
    [out_of_its_folder, of_another_voice, of_another_length, without_hash, without_a_number, of_no_face, no_object],
)
def test_a_clients_file_is_believed_as_little_as_any_other(faces: Path, change: Callable[[Body], None]) -> None:
    """The whole sidecar is passed over."""
    path = faces / "sub/a.json"
    body = json.loads(path.read_text())
    change(body)
    path.write_text(json.dumps(body))
    assert results(faces) == []


def test_a_folder_of_a_result_that_is_a_link_is_not_believed(faces: Path, tmp_path: Path) -> None:
    """It would lead the sweeper out of the outbox."""
    (faces / "sub/a.moevs").rename(tmp_path / "elsewhere")
    (faces / "sub/a.moevs").symlink_to(tmp_path / "elsewhere")
    assert results(faces) == []


def test_a_sidecar_of_the_time_with_one_face_is_believed(outbox: Path) -> None:
    """Layout 1: a recipe with one interface, files without."""
    path = outbox / "both/deep/a.json"
    body = json.loads(path.read_text())
    body["schema"] = 1
    body["recipe"]["interface"] = body["recipe"].pop("interfaces")[0]
    for file in body["onnx"]:
        del file["interface"]
    path.write_text(json.dumps(body))
    [found] = [found for found in results(outbox) if "a.pth" in str(found.relpath)]
    assert found.recipe == Recipe("both", ("fp32", "fp16"))
    assert isinstance(found.ending, Converted)
    assert {file.interface for file in found.ending.conversion.files} == {"rvc"}


@pytest.mark.parametrize("was_longest", [len(".error.json"), len(".w-okada.fp16.onnx")])
@pytest.mark.parametrize("length", ["as long as it could be", "shortened then as well"])
def test_results_under_a_stem_that_had_room_before_are_known(tmp_path: Path, was_longest: int, length: str) -> None:
    """Endings have grown longer with the faces and parts; what lies there keeps its name."""
    source = "x" * (NAME_MAX - (was_longest if length.startswith("as") else len(".pth"))) + ".pth"
    stem = output_base(source, NAME_MAX + LONGEST - was_longest)
    kiln = Kiln(tmp_path)
    kiln.drop("a.pth")
    kiln.run(30)
    kiln.close()
    body = json.loads((kiln.outbox / "a.json").read_text())
    body["source"]["path"] = source
    body["onnx"][0]["name"] = f"{stem}.onnx"
    (kiln.outbox / "a.onnx").rename(kiln.outbox / f"{stem}.onnx")
    (kiln.outbox / f"{stem}.json").write_text(json.dumps(body))
    assert len(f"{stem}.json") <= NAME_MAX
    assert [str(found.base) for found in found_in(kiln.outbox) if found.base.name == stem] == [stem]
    assert next(bases(PurePosixPath(source))) != stem
