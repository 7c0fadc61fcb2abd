"""A graph is made once and found again; whatever is wrong with the folder costs an export and never a conversion."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from convert import small_networks
from voicekiln.convert import cache as cache_module
from voicekiln.convert import template, turns
from voicekiln.convert.cache import IN_FOLDER, IN_MEMORY, SUFFIX, Cache, kind_of
from voicekiln.convert.template import ARITHMETICS, Kind, Template
from voicekiln.families.base import Exportable
from voicekiln.families.rvc_settings import KNOWN
from voicekiln.job import OPSETS, PRECISIONS, Recipe

RECIPE = Recipe("r")
SMALL = small_networks.voice()


class Maker:
    """Makes templates in place of the exporter, and knows for which kinds it was asked."""

    def __init__(self) -> None:
        self.asked: list[Kind] = []

    def float32(self, exportable: Exportable, kind: Kind) -> Template:
        """Return a graph that tells of its network."""
        self.asked.append(kind)
        model = faced(exportable)
        model.graph.name = "voice" * 2000
        return Template(kind, model)

    def half(self, exportable: Exportable, kind: Kind, whole: onnx.ModelProto) -> Template:
        """Return one that tells of the graph that it was made from as well."""
        self.asked.append(kind)
        made = faced(exportable)
        made.domain = whole.producer_name
        return Template(kind, made)


def faced(exportable: Exportable) -> onnx.ModelProto:
    """Return a graph without nodes that shows the network's weights, inputs and outputs."""
    model = onnx.ModelProto(producer_name=exportable.graph_key)
    for name, tensor in exportable.module.state_dict().items():
        model.graph.initializer.add(name=name, data_type=onnx.TensorProto.FLOAT, dims=tensor.shape)
    for side, described in ((model.graph.input, exportable.inputs), (model.graph.output, exportable.outputs)):
        for port in described:
            elem_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(port.dtype))
            side.append(onnx.helper.make_tensor_value_info(port.name, elem_type, port.axes))
    return model


@pytest.fixture
def maker(monkeypatch: pytest.MonkeyPatch) -> Maker:
    """Let a fake stand in for the exporter."""
    fake = Maker()
    monkeypatch.setattr(template, "float32", fake.float32)
    monkeypatch.setattr(template, "half", fake.half)
    return fake


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder that is not there yet."""
    return tmp_path / "state" / "templates"


def network(name: str) -> Exportable:
    """Return a network of another name."""
    return replace(SMALL, graph_key=name)


def whole(cache: Cache, exportable: Exportable = SMALL) -> Template:
    """Return the float32 template of a network."""
    return cache.template(exportable, RECIPE, "fp32", "float32")


def path_of(folder: Path, exportable: Exportable = SMALL) -> Path:
    """Return where that one is kept."""
    return folder / f"{kind_of(exportable, RECIPE, 'fp32', 'float32').key}{SUFFIX}"


def names(folder: Path) -> set[str]:
    """Return the names of all files in the folder, hidden ones too."""
    return {path.name for path in folder.iterdir()}


def test_a_graph_is_exported_once_for_all_voices(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a second time in this process, and not in the next one; what is found is what was made."""
    exports: list[Kind] = []
    real = template.float32

    def counted(exportable: Exportable, kind: Kind) -> Template:
        exports.append(kind)
        return real(exportable, kind)

    monkeypatch.setattr(template, "float32", counted)
    cache = Cache(folder)
    made = [
        cache.template(SMALL, RECIPE, precision, arithmetic)
        for precision in PRECISIONS
        for arithmetic in ARITHMETICS[precision]
    ]
    assert [kind.precision for kind in exports] == ["fp32"]
    for later in (cache, Cache(folder)):
        assert made == [later.template(SMALL, RECIPE, one.kind.precision, one.kind.arithmetic) for one in made]
    assert len(exports) == 1
    assert names(folder) == {f"{one.kind.key}{SUFFIX}" for one in made}


@pytest.mark.parametrize("arithmetic", ["half", "float32"])
def test_halves_are_made_from_the_kept_float32_graph(folder: Path, maker: Maker, arithmetic: Any) -> None:
    """Which is made on the way if it is not there, and only then."""
    for asked in (["fp32", "fp16"], []):
        maker.asked.clear()
        half = Cache(folder).template(SMALL, RECIPE, "fp16", arithmetic)
        assert half.model.domain == "small"
        assert [kind.precision for kind in maker.asked] == asked
    whole(Cache(folder))
    assert not maker.asked


def test_what_makes_another_graph_is_made_for_itself(folder: Path, maker: Maker) -> None:
    """Another network, another opset, other tools."""
    cache = Cache(folder)
    whole(cache)
    whole(cache, network("other"))
    cache.template(SMALL, replace(RECIPE, opset=18), "fp32", "float32")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(template, "maker", lambda: "another release")
        whole(cache)
        whole(cache)
    assert len({kind.key for kind in maker.asked}) == len(maker.asked) == 4


def test_a_recipe_of_another_name_shares_the_graph(folder: Path, maker: Maker) -> None:
    """Nor does it matter how long files are listened to."""
    cache = Cache(folder)
    whole(cache)
    cache.template(SMALL, Recipe("other", ("fp16", "fp32"), verify="off"), "fp32", "float32")
    assert len(maker.asked) == 1


def flip(path: Path) -> None:
    """Change one bit."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def cut(path: Path) -> None:
    """Lose the end."""
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    """Lose everything."""
    path.write_bytes(b"")


def foreign(path: Path) -> None:
    """Put a sound template of another network in its place."""
    kind = replace(kind_of(network("other"), RECIPE, "fp32", "float32"))
    path.write_bytes(Template(kind, onnx.ModelProto()).to_bytes())


def nonsense(path: Path) -> None:
    """Put something else in its place."""
    path.write_bytes(b"voicekiln template 1 \n{}\n")


@pytest.mark.parametrize("spoil", [flip, cut, empty, foreign, nonsense])
def test_a_file_that_is_not_the_template_is_made_anew(
    folder: Path, maker: Maker, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], None]
) -> None:
    """It is said, the file is replaced by a right one, and the voice never hears of it."""
    right = whole(Cache(folder))
    path = path_of(folder)
    spoil(path)
    assert whole(Cache(folder)) == right
    assert f"the template {path.name} is made anew: it is" in capsys.readouterr().err
    assert len(maker.asked) == 2
    assert whole(Cache(folder)) == right
    assert (len(maker.asked), capsys.readouterr().err) == (2, "")
    assert names(folder) == {path.name}


def test_a_first_voice_is_not_told_of_a_missing_file(
    folder: Path, maker: Maker, capsys: pytest.CaptureFixture[str]
) -> None:
    """That nothing is there yet is no trouble."""
    whole(Cache(folder))
    assert (len(maker.asked), capsys.readouterr().err) == (1, "")


# Whatever is wrong with the folder.


def failing(code: int) -> Callable[..., Any]:
    """Return a function that fails as the system does."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize(
    ("owner", "call", "code"),
    [
        (os, "fsync", errno.ENOSPC),
        (os, "replace", errno.EIO),
        (tempfile, "mkstemp", errno.EROFS),
        (tempfile, "mkstemp", errno.EACCES),
        (Path, "mkdir", errno.EACCES),
    ],
)
def test_a_folder_that_takes_nothing_costs_an_export(  # noqa: PLR0913, PLR0917 - what fails, and the fixtures
    folder: Path,
    maker: Maker,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    owner: object,
    call: str,
    code: int,
) -> None:
    """Full, broken, read-only, not ours: each process makes its own, once, says so, and leaves nothing behind."""
    monkeypatch.setattr(owner, call, failing(code))
    cache = Cache(folder)
    assert whole(cache) == whole(cache)
    assert len(maker.asked) == 1
    assert capsys.readouterr().err == f"the template of a small voice could not be kept: {os.strerror(code)}\n"
    monkeypatch.undo()
    assert not folder.exists() or names(folder) == set()


def test_something_else_in_the_folders_place_costs_an_export(
    tmp_path: Path, maker: Maker, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file where the folder should be."""
    (tmp_path / "file").write_bytes(b"mine")
    for at in (tmp_path / "file", tmp_path / "file" / "templates"):
        assert whole(Cache(at))
        assert "could not be kept" in capsys.readouterr().err
    assert len(maker.asked) == 2
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_a_folder_under_the_templates_name_costs_an_export(
    folder: Path, maker: Maker, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody else's folder is left alone."""
    path_of(folder).mkdir(parents=True)
    assert whole(Cache(folder))
    assert "could not be kept" in capsys.readouterr().err
    assert len(maker.asked) == 1
    assert names(folder) == {path_of(folder).name}


def test_a_folder_that_can_only_be_read_will_do(
    folder: Path, maker: Maker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was put there beforehand is used, though it cannot be marked as used."""
    right = whole(Cache(folder))
    monkeypatch.setattr(os, "utime", failing(errno.EROFS))
    assert whole(Cache(folder)) == right
    assert (len(maker.asked), capsys.readouterr().err) == (1, "")


def test_a_folder_that_goes_is_made_again(folder: Path, maker: Maker) -> None:
    """While the process runs; it goes on with what it has in memory."""
    cache = Cache(folder)
    whole(cache)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    whole(cache)
    whole(cache, network("other"))
    assert names(folder) == {path_of(folder, network("other")).name}
    assert len(maker.asked) == 2


# Several processes, and a process that ends in the middle.


def test_a_template_appears_whole(folder: Path, maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it is written and synced there is nothing under its name; then all of it."""
    seen: list[bool] = []
    real_sync, real_replace = os.fsync, os.replace

    def sync(descriptor: int) -> None:
        seen.append(path_of(folder).exists())
        real_sync(descriptor)

    def replaced(source: str, target: Path) -> None:
        seen.append(target.exists())
        assert Template.from_bytes(Path(source).read_bytes(), maker.asked[-1])
        assert Path(source).name.startswith(".~")
        assert not str(source).endswith(SUFFIX)
        real_replace(source, target)
        seen.append(target.exists())

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replaced)
    whole(Cache(folder))
    assert seen == [False, False, True]


@pytest.mark.parametrize("there", ["pipe", "folder", "link", "huge file", "another graph", "no graph"])
def test_what_is_no_template_costs_an_export_and_nothing_else(
    folder: Path, maker: Maker, capsys: pytest.CaptureFixture[str], there: str
) -> None:
    """Whatever somebody has put in its place, and whatever is in it; nobody waits for a pipe."""
    whole(Cache(folder))
    path = path_of(folder)
    kept = Template.from_bytes(path.read_bytes(), maker.asked[-1])
    path.unlink()
    match there:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to("/dev/zero")
        case "huge file":
            with path.open("wb") as file:
                file.truncate(10**12)
        case "another graph":
            del kept.model.graph.initializer[:]
            path.write_bytes(kept.to_bytes())
        case "no graph":
            head, _, rest = kept.to_bytes().partition(b"\n")
            rest = rest.partition(b"\n")[0] + b"\n\xff\xff"
            path.write_bytes(
                head[: -len(hashlib.sha256().hexdigest())] + hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest
            )
    cache = Cache(folder)
    whole(cache)
    assert len(maker.asked) == 2
    assert "made anew" in capsys.readouterr().err
    assert len(list(cache.kept())) == 1
    assert cache.clear() == (there != "folder")


@pytest.mark.usefixtures("maker")
def test_what_root_makes_belongs_to_whom_the_state_folder_belongs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon could neither read nor replace it otherwise; others than root cannot give files away, and need not."""
    given: list[tuple[str, int, int]] = []
    around = folder.parent
    around.mkdir(parents=True, exist_ok=True)

    def give(descriptor: int, user: int, group: int) -> None:
        given.append((Path(f"/proc/self/fd/{descriptor}").readlink().name, user, group))

    monkeypatch.setattr(os, "fchown", give)
    whole(Cache(folder))
    owner = around.stat()
    [of_folder, of_file] = given
    assert of_folder == (folder.name, owner.st_uid, owner.st_gid)
    assert of_file[0].startswith(".~")
    assert of_file[1:] == (owner.st_uid, owner.st_gid)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_process_that_is_stopped_leaves_no_part(
    folder: Path, maker: Maker, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The older file of the name stays, and the hidden one goes."""
    whole(Cache(folder))
    flip(path_of(folder))
    older = path_of(folder).read_bytes()

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, call, stop)
    with pytest.raises(KeyboardInterrupt):
        whole(Cache(folder))
    assert len(maker.asked) == 2
    assert names(folder) == {path_of(folder).name}
    assert path_of(folder).read_bytes() == older


def test_two_that_make_the_same_at_once_both_have_it(
    folder: Path, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second comes while the first is about to put its file in place."""
    found: list[Template] = []
    real = os.replace

    def meanwhile(source: str, target: Path) -> None:
        monkeypatch.setattr(os, "replace", real)
        found.append(whole(Cache(folder)))
        real(source, target)

    monkeypatch.setattr(os, "replace", meanwhile)
    found.append(whole(Cache(folder)))
    assert found[0] == found[1]
    assert len(maker.asked) == 2
    assert names(folder) == {path_of(folder).name}
    assert whole(Cache(folder)) == found[0]


def test_of_two_at_once_one_makes_it(folder: Path, maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one waits for it, as long as the making lasts, and has the same."""
    folder.mkdir(parents=True)
    waits = threading.Event()
    locked = turns.locked

    def seen(descriptor: int) -> bool:
        got = locked(descriptor)
        if not got:
            waits.set()
        return got

    def slow(exportable: Exportable, kind: Kind) -> Template:
        waits.wait(30)
        return maker.float32(exportable, kind)

    monkeypatch.setattr(turns, "locked", seen)
    monkeypatch.setattr(template, "float32", slow)
    found: list[Template] = []
    threads = [threading.Thread(target=lambda: found.append(whole(Cache(folder)))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found[0] == found[1]
    assert len(maker.asked) == 1


def test_a_process_that_never_lets_go_costs_an_export(
    folder: Path, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may hang, or be a stranger's; nobody waits for it without end."""
    folder.mkdir(parents=True)
    monkeypatch.setattr(turns, "TURN_S", 0.1)
    thread = threading.Thread(target=whole, args=(Cache(folder),), daemon=True)
    with turns.turn(folder):
        thread.start()
        thread.join(30)
        assert not thread.is_alive()
    assert len(maker.asked) == 1
    assert names(folder) == {path_of(folder).name}


@pytest.mark.usefixtures("maker")
def test_many_at_once_never_see_a_part(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three caches make, read and thin out the same ten templates; no file is ever found damaged."""
    networks = [network(f"network {at}") for at in range(10)]
    failures: list[BaseException] = []

    def work(first: int) -> None:
        try:
            for turn in range(3):
                cache = Cache(folder)
                for at in range(10):
                    asked = networks[(first + at * (turn + 1)) % 10]
                    assert whole(cache, asked).model.producer_name == asked.graph_key
                assert all(kind is not None for _, kind in cache.kept())
        except BaseException as failure:  # noqa: BLE001 - told below; a thread's own would be lost
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(at * 3,)) for at in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert capsys.readouterr().err == ""
    assert names(folder) == {path_of(folder, one).name for one in networks}


def test_files_that_go_while_they_are_counted_are_no_trouble(
    folder: Path, maker: Maker, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another process renames or removes its own at any time; a link to nowhere is seen as such a file is."""
    folder.mkdir(parents=True)
    for name in (".~gone.part", f"gone{SUFFIX}"):
        (folder / name).symlink_to("nowhere")
    whole(Cache(folder))
    assert (len(maker.asked), capsys.readouterr().err) == (1, "")
    assert [kind for _, kind in Cache(folder).kept() if kind is not None] == maker.asked


# How many are kept.


def age(path: Path, days: float) -> None:
    """Let the file have been used so long ago."""
    then = path.stat().st_mtime - days * 86_400
    os.utime(path, (then, then))


def test_those_that_were_not_used_for_the_longest_time_go(
    folder: Path, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Using one keeps it, whenever it was made."""
    monkeypatch.setattr(cache_module, "IN_FOLDER", 3)
    networks = [network(f"network {at}") for at in range(5)]
    for at in range(3):
        whole(Cache(folder), networks[at])
        age(path_of(folder, networks[at]), days=10 - at)
    whole(Cache(folder), networks[0])  # the oldest, read from its file
    for at, gone in ((3, 1), (4, 2)):
        whole(Cache(folder), networks[at])
        assert not path_of(folder, networks[gone]).exists()
        assert len(names(folder)) == 3
        age(path_of(folder, networks[at]), days=5)
    assert path_of(folder, networks[0]).exists()
    assert len(maker.asked) == 5


def test_foreign_files_are_neither_counted_nor_removed(
    folder: Path, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what is called a template is taken for one."""
    monkeypatch.setattr(cache_module, "IN_FOLDER", 1)
    folder.mkdir(parents=True)
    foreign_files = {"notes.txt", "notes.part", ".hidden"}
    for name in foreign_files:
        (folder / name).write_bytes(b"mine")
        age(folder / name, days=100)
    cache = Cache(folder)
    whole(cache)
    whole(cache, network("other"))
    assert len(names(folder)) == 4
    assert cache.clear() == 1
    assert names(folder) == foreign_files
    assert len(maker.asked) == 2


@pytest.mark.usefixtures("maker")
def test_what_a_killed_process_left_behind_goes(folder: Path) -> None:
    """Once it is so old that nobody can be writing it any more."""
    folder.mkdir(parents=True)
    for name, days in ((".~old.part", 1.0), (".~new.part", 0.01)):
        (folder / name).write_bytes(b"half a template")
        age(folder / name, days)
    whole(Cache(folder))
    assert names(folder) == {".~new.part", path_of(folder).name}


def test_only_the_latest_stay_in_memory(folder: Path, maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were asked for last; the others come from the folder again, or are made."""
    monkeypatch.setattr(cache_module, "IN_MEMORY", 2)
    monkeypatch.setattr(tempfile, "mkstemp", failing(errno.EROFS))
    one, two, three = (network(name) for name in ("one", "two", "three"))
    cache = Cache(folder)
    for asked in (one, two, one, three, one):
        whole(cache, asked)
    assert [kind.graph_key for kind in maker.asked] == ["one", "two", "three"]
    whole(cache, two)
    assert [kind.graph_key for kind in maker.asked][3:] == ["two"]


def test_there_is_room_for_all_that_is_usual() -> None:
    """Every usual network in every form and opset stays in the folder, and what a few voices need in memory."""
    forms = sum(map(len, ARITHMETICS.values()))
    usual = 2 * len(KNOWN)  # with f0 and without
    assert usual * forms * len(OPSETS) <= IN_FOLDER
    assert 4 * forms <= IN_MEMORY


# What is there.


def test_what_is_kept_is_told_with_what_it_is_for(folder: Path, maker: Maker) -> None:
    """Also that a file is damaged; of a folder that is not there, nothing."""
    assert list(Cache(folder).kept()) == []
    cache = Cache(folder)
    whole(cache)
    whole(cache, network("other"))
    flip(path_of(folder))
    (folder / "notes.txt").write_bytes(b"mine")
    kept = dict(cache.kept())
    assert kept == {path_of(folder): None, path_of(folder, network("other")): maker.asked[1]}
    assert list(kept) == sorted(kept)


def test_a_file_that_goes_meanwhile_is_not_told(folder: Path, maker: Maker) -> None:
    """Another process may clear the folder at any time."""
    cache = Cache(folder)
    whole(cache)
    whole(cache, network("other"))
    telling = cache.kept()
    next(telling)
    cache.clear()
    assert list(telling) == []
    assert len(maker.asked) == 2


def test_after_clearing_all_is_made_anew(folder: Path, maker: Maker) -> None:
    """In memory too; how many files there were is told."""
    cache = Cache(folder)
    assert cache.clear() == 0
    whole(cache)
    cache.template(SMALL, RECIPE, "fp16", "half")
    flip(path_of(folder))
    assert cache.clear() == 2
    assert names(folder) == set()
    whole(cache)
    assert [kind.precision for kind in maker.asked] == ["fp32", "fp16", "fp32"]
