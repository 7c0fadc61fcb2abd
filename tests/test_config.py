"""The configuration file: read as it was meant, or all of its mistakes told at once."""

import re
from pathlib import Path

import pytest

from voicekiln import config
from voicekiln.errors import ConfigError
from voicekiln.job import Recipe
from voicekiln.settings import FOLDERS, Metrics, Notify, Settings

EXAMPLE = Path(__file__).parents[1] / "config.example.yaml"


def written(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problems_of(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config.load(written(folder, text))
    return caught.value.problems


def test_an_empty_file_means_the_defaults_beside_it(tmp_path: Path) -> None:
    """Nothing has to be written; the folders lie beside the file."""
    settings = config.load(written(tmp_path, "# nothing\n"))
    assert settings == Settings.in_folder(tmp_path)
    assert settings.beside == {"inbox", "outbox", "state"}


def test_the_example_equals_the_defaults() -> None:
    """config.example.yaml documents what is really the default."""
    assert config.load(EXAMPLE) == Settings.in_folder(EXAMPLE.parent)


def test_the_example_shows_every_key() -> None:
    """No key stays undocumented."""
    shown = set(re.findall(r"^\s*([a-z_]+):", EXAMPLE.read_text(encoding="utf-8"), re.MULTILINE))
    every = {key.rpartition(".")[2] for key in config._dotted(Settings.in_folder(EXAMPLE.parent), "")}
    assert every <= shown


def test_the_public_drop_box_of_the_example_is_right(tmp_path: Path) -> None:
    """The block in comments can be used as it stands: one hour for each class."""
    lines = EXAMPLE.read_text(encoding="utf-8").partition("A public drop box")[2].partition("# ---")[0].splitlines()
    block = "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines[2:])
    sweep = config.load(written(tmp_path, block)).sweep
    assert (sweep.sources, sweep.results, sweep.refusals) == (3600, 3600, 3600)


def test_every_key_can_be_set(tmp_path: Path) -> None:
    """Each value arrives at its place, in seconds, bytes and shares."""
    text = """
        inbox: /a
        outbox: ../b
        state: c
        recipes: {small: {precision: fp16, opset: 18, interface: w-okada}, both: {precision: both}, plain:}
        scan: {rescan: 2m, poll: 30s, events: off}
        settle: {quiet: 1.5s, legacy_quiet: 2m, incomplete_after: 1h}
        max_bytes: 500MB
        conflict_copies: convert
        language: zh
        worker: {device: cpu, idle: 1h, memory: 2GiB, attempts: 5, deadlines: {verify: 20m}}
        publish: {mode: 0660, folder_mode: "0770", group: 1000}
        sweep: {every: 1d, sources: never, results: 1h, refusals: 2d, max_share: 50%, originals_elsewhere: true}
        metrics: {textfile: /var/lib/node/a.prom, socket: /run/voicekiln/metrics.sock}
        notify: {command: "/bin/tell --to 'the two of us' $HOME", timeout: 1m}
        log: {format: json, level: warning}
    """
    settings = config.load(written(tmp_path, text))
    assert (settings.inbox, settings.outbox, settings.state) == (Path("/a"), tmp_path / "../b", tmp_path / "c")
    assert settings.beside == {"outbox", "state"}
    assert settings.recipes == {
        "default": Recipe("default"),
        "small": Recipe("small", ("fp16",), 18, ("w-okada",)),
        "both": Recipe("both", ("fp32", "fp16")),
        "plain": Recipe("plain"),
    }
    assert (settings.scan.rescan, settings.scan.poll, settings.scan.events) == (120, 30, "off")
    assert (settings.settle.quiet, settings.settle.legacy_quiet, settings.settle.incomplete_after) == (1.5, 120, 3600)
    assert (settings.max_bytes, settings.conflict_copies, settings.language) == (500_000_000, "convert", "zh")
    worker = settings.worker
    assert (worker.device, worker.idle, worker.memory, worker.attempts) == ("cpu", 3600, 2 * 1024**3, 5)
    assert (worker.deadlines.verify, worker.deadlines.start) == (1200, 180)
    assert (settings.publish.mode, settings.publish.folder_mode, settings.publish.gid) == (0o660, 0o770, 1000)
    sweep = settings.sweep
    assert (sweep.every, sweep.sources, sweep.results, sweep.refusals) == (86400, None, 3600, 172800)
    assert (sweep.max_share, sweep.originals_elsewhere) == (0.5, True)
    assert settings.metrics == Metrics(Path("/var/lib/node/a.prom"), Path("/run/voicekiln/metrics.sock"))
    assert settings.notify == Notify(("/bin/tell", "--to", "the two of us", "$HOME"), 60)
    assert (settings.log.format, settings.log.level) == ("json", "warning")


def test_all_problems_come_at_once_with_their_dotted_keys(tmp_path: Path) -> None:
    """A person repairs the file once, not once per mistake."""
    text = """
        inbx: /nowhere
        rescan: 3s
        scan: {rescan: soon, pol: 1s}
        worker: {deadlines: {verify: never}, attempts: 0}
        publish: {mode: "rw"}
        sweep: {max_share: 25}
        recipes: {"a/b": {}, fast: {precison: fp16, opset: 21}}
        log: [1]
        colour: red
    """
    problems = problems_of(tmp_path, text)
    assert sorted(line.partition(":")[0] for line in problems) == [
        *("colour", "inbx", "log", "publish.mode", "recipes.a/b", "recipes.fast.opset", "recipes.fast.precison"),
        *("rescan", "scan.pol", "scan.rescan", "sweep.max_share", "worker.attempts", "worker.deadlines.verify"),
    ]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("inbx: a", "inbox"),
        ("scan: {pol: 5s}", "scan.poll"),
        ("worker: {deadlines: {verfy: 1m}}", "worker.deadlines.verify"),
        ("rescan: 60s", "scan.rescan"),
        ("sweep: {quiet: 1s}", "settle.quiet"),
        ("recipes: {fast: {precison: fp16}}", "recipes.fast.precision"),
    ],
)
def test_an_unknown_key_names_the_nearest(tmp_path: Path, text: str, meant: str) -> None:
    """A slip of the finger, or a key in the wrong section, is answered with the right one."""
    [problem] = problems_of(tmp_path, text)
    assert problem.endswith(f"did you mean {meant}?")


def test_a_key_like_no_other_is_told_what_is_known(tmp_path: Path) -> None:
    """Where nothing is near, the keys of the section are listed."""
    assert problems_of(tmp_path, "log: {xyzzy: 1}") == ["log.xyzzy: unknown key; known here: format, level"]


def test_a_key_that_is_there_twice_is_a_problem(tmp_path: Path) -> None:
    """YAML itself would let the last one win without a word."""
    assert problems_of(tmp_path, "inbox: a\nscan:\n  poll: 5s\n  poll: 9s\ninbox: b\n") == [
        "inbox: is there twice, in lines 1 and 5",
        "scan.poll: is there twice, in lines 3 and 4",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "- a\n- b\n",
        "just words",
        "inbox: [a\n",
        "inbox: 'a\n",
        "a: 1\n---\nb: 2\n",
        "\tinbox: a",
        "inbox: \x07",
        "[" * 5000,
        "inbox: *nothing",
    ],
)
def test_what_is_no_mapping_in_yaml_is_one_problem(tmp_path: Path, text: str) -> None:
    """Bad syntax of any kind is said about the file, in one line."""
    [problem] = problems_of(tmp_path, text)
    assert problem.startswith(str(tmp_path / "config.yaml"))
    assert "\n" not in problem


def test_a_file_that_is_not_there_or_not_text_is_a_problem(tmp_path: Path) -> None:
    """The file itself may be what is wrong."""
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file"):
        config.load(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"inbox: \xe4\n")
    with pytest.raises(ConfigError, match="is not YAML"):
        config.load(tmp_path / "latin.yaml")


def test_a_nested_or_repeated_structure_costs_nothing(tmp_path: Path) -> None:
    """Only what is known is looked at, so a structure that contains itself or a billion copies is just wrong."""
    assert len(problems_of(tmp_path, "scan: &a {poll: *a}\n")) == 1
    copies = "".join(f"k{n}: &k{n} [{', '.join([f'*k{n - 1}'] * 9)}]\n" for n in range(1, 30))
    assert len(problems_of(tmp_path, f"k0: &k0 lol\n{copies}")) == 30


def test_tags_run_nothing(tmp_path: Path) -> None:
    """The file is text, whatever Python tags it bears."""
    marker = tmp_path / "ran"
    [problem] = problems_of(tmp_path, f"log: !!python/object/apply:os.system ['touch {marker}']\n")
    assert problem.startswith("log:")
    assert not marker.exists()


def test_a_section_of_comments_alone_means_its_defaults(tmp_path: Path) -> None:
    """Whoever comments out all keys of a section need not remove its name."""
    assert config.load(written(tmp_path, "scan:\n  # poll: 9s\nrecipes:\n")).scan == Settings.in_folder(tmp_path).scan


def test_the_default_recipe_always_exists_and_can_be_another(tmp_path: Path) -> None:
    """Own recipes replace the ones that are there by default, but never `default`."""
    assert list(config.load(written(tmp_path, "recipes: {small: {precision: fp16}}")).recipes) == ["default", "small"]
    changed = config.load(written(tmp_path, "recipes: {default: {precision: both}}")).recipes
    assert changed == {"default": Recipe("default", ("fp32", "fp16"))}


@pytest.mark.parametrize(
    "name", ["a/b", "..", ".hidden", "", "a:b", "end.", "CON", "lpt1.x", "_x", "#recycle", "x" * 65]
)
def test_a_recipe_name_that_is_no_plain_folder_name_is_a_problem(tmp_path: Path, name: str) -> None:
    """A recipe is chosen by a folder, so its name has to work as one everywhere."""
    assert len(problems_of(tmp_path, f"recipes: {{{name!r}: {{}}}}")) == 1


@pytest.mark.parametrize("text", ["{FP16: {}, fp16: {}}", "{Default: {}}", '{"é": {}, "É": {}}'])
def test_recipes_that_are_one_folder_on_some_share_are_a_problem(tmp_path: Path, text: str) -> None:
    """On a share that ignores case only one of the two folders can exist."""
    [problem] = problems_of(tmp_path, f"recipes: {text}")
    assert "same folder" in problem


def test_values_from_the_file_cannot_forge_a_line(tmp_path: Path) -> None:
    """Problems are one line each, whatever the file holds."""
    [problem] = problems_of(tmp_path, 'scan: {poll: "5s\\n\\e[31mall is well"}')
    assert problem.isprintable()


def test_loading_touches_nothing(tmp_path: Path) -> None:
    """Commands that only look do not make folders."""
    config.load(written(tmp_path, ""))
    assert [p.name for p in tmp_path.iterdir()] == ["config.yaml"]


def test_loading_prepared_makes_the_folders_beside(tmp_path: Path) -> None:
    """The first start needs nothing but the file."""
    config.load_prepared(written(tmp_path, "sweep: {sources: never}"))
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == sorted(FOLDERS)


def test_loading_prepared_tells_mistakes_of_file_and_folders_together(tmp_path: Path) -> None:
    """One round of repairs for both; and nothing is made while the file is wrong."""
    text = f"inbox: {tmp_path / 'gone'}\nscan: {{poll: often}}\npublish: {{group: no-such-group}}\n"
    with pytest.raises(ConfigError) as caught:
        config.load_prepared(written(tmp_path, text))
    assert [line.partition(":")[0] for line in caught.value.problems] == ["scan.poll", "inbox", "publish.group"]
    assert [p.name for p in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("written_as", ["rvc, w-okada", "[rvc, w-okada]", "rvc,w-okada", "\n    - rvc\n    - w-okada"])
def test_several_interfaces_are_written_with_commas_or_as_a_list(tmp_path: Path, written_as: str) -> None:
    """In their order: the first has the plainest names."""
    settings = config.load(written(tmp_path, f"recipes:\n  live:\n    interface: {written_as}\n"))
    assert settings.recipes["live"].interfaces == ("rvc", "w-okada")


@pytest.mark.parametrize(
    ("written_as", "word"),
    [("rvc, rvc", "twice"), ("onnx", "rvc, w-okada, moevs"), ("rvc w-okada", "not one of"), ("", "not one of")],
)
def test_an_interface_that_there_is_not_is_told_of(tmp_path: Path, written_as: str, word: str) -> None:
    """With the words that there are."""
    [problem] = problems_of(tmp_path, f"recipes: {{live: {{interface: '{written_as}'}}}}\n")
    assert problem.startswith("recipes.live.interface: ")
    assert word in problem
