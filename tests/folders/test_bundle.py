"""What `bundle.json` says: which file feeds which, what the caller feeds, and where parts do not fit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import jsonschema
import pytest

import voicekiln
from bundle_parts import D_VECTORS, DURATIONS, FEATURES, STRETCHED, made
from voicekiln.folders import bundle
from voicekiln.folders.bundle_parts import ROLES, Member, Role, role_of
from voicekiln.folders.voices import Published
from voicekiln.job import Conversion, Port

SCHEMA = json.loads((Path(voicekiln.__file__).parent / "folders/bundle.schema.json").read_text())
NAMES: Mapping[Role, str] = {
    "voice": "G_1000",
    "diffusion": "model_50000",
    "kmeans": "kmeans_10000",
    "index": "feature_and_index",
    "vocoder": "model",
    "speaker_encoder": "model_se",
}


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    """Return a folder for the files, which nobody reads here."""
    return tmp_path


def member(role: Role, told: Conversion, name: str = "") -> Member:
    """Return a published result."""
    path = PurePosixPath("anna", f"{name or NAMES[role]}.json")
    return Member(role, Published(path, "sidecar", "5f" * 32, 7), told)


def members(staging: Path, *roles: Role) -> list[Member]:
    """Return one of each, in the order of a bundle."""
    return [member(role, made(staging, role)) for role in ROLES if role in roles]


def speech(staging: Path, *others: Role) -> list[Member]:
    """Return a voice that reads text, and one of each of the others."""
    return [member("voice", made(staging, "speech"), "model_file"), *members(staging, *others)]


def told(members: Sequence[Member]) -> dict[str, Any]:
    """Return what the file says; it always fits its schema and begins as it should."""
    text = "".join(bundle.text(members, "01234567"))
    assert text.startswith(bundle.BEGINNING)
    body: dict[str, Any] = json.loads(text)
    jsonschema.validate(body, SCHEMA)
    return body


def sources(body: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return for each step of the chain where its inputs come from."""
    return {step["step"]: {name: fed["from"] for name, fed in step["inputs"].items()} for step in body["chain"]}


def test_the_whole_chain_goes_from_features_to_sound(staging: Path) -> None:
    """Each step names its file, and takes from the caller what no step before it makes."""
    body = told(members(staging, "voice", "diffusion", "kmeans", "vocoder"))
    assert [(step["step"], step["file"]) for step in body["chain"]] == [
        ("kmeans", "kmeans_10000.onnx"),
        ("voice", "G_1000.onnx"),
        ("mel", "model.mel.onnx"),
        ("diffusion", "model_50000.onnx"),
        ("vocoder", "model.onnx"),
    ]
    assert sources(body) == {
        "kmeans": {"c": "features", "ratio": "ratio"},
        "voice": {"c": "kmeans.c_out", "f0": "f0", "mel2ph": "stretch", "noise": "noise", "sid": "speaker"},
        "mel": {"audio": "voice.audio"},
        "diffusion": {"c": "kmeans.c_out", "mel2ph": "stretch", "f0": "f0", "mel": "mel.mel", "k_step": "k_step"},
        "vocoder": {"c": "diffusion.mel_out", "f0": "f0"},
    }
    assert body["disagreements"] == []


def test_axes_tell_what_has_to_be_transposed(staging: Path) -> None:
    """Diffusion makes frames by bands, the vocoder takes bands by frames; both stand in the chain."""
    chain = {step["step"]: step for step in told(members(staging, "voice", "diffusion", "vocoder"))["chain"]}
    assert chain["diffusion"]["outputs"] == {"mel_out": [1, "frames", 128]}
    assert chain["vocoder"]["inputs"]["c"] == {"from": "diffusion.mel_out", "axes": [1, 128, "frames"]}


def test_it_says_what_the_voice_is_fed(staging: Path) -> None:
    """Encoder, layer, width, units a second, hop, rate and how units become frames."""
    body = told(members(staging, "voice", "kmeans"))
    assert body["features"] == {"encoder": "vec768l12", "layer": 12, "width": 768, "units_per_second": 50}
    assert (body["sample_rate"], body["hop"], body["interpolation"]) == (44100, 512, STRETCHED)


def test_it_names_the_files_of_each_part_as_they_lie(staging: Path) -> None:
    """The networks of a part, its bare numbers and its sidecar with the hash; what is not there is null."""
    body = told(members(staging, "voice", "kmeans"))
    assert body["voice"] == {
        "sidecar": {"name": "G_1000.json", "sha256": "5f" * 32},
        "files": [
            {"name": "G_1000.onnx", "part": "so-vits-svc", "precision": "fp32"},
            {"name": "G_1000.autof0.onnx", "part": "autof0", "precision": "fp32"},
        ],
    }
    assert body["kmeans"]["data"] == [{"name": "kmeans_10000.KMeans.npy", "data": "KMeans"}]
    assert (body["diffusion"], body["index"], body["vocoder"]) == (None, None, None)


def test_without_diffusion_the_voice_makes_the_sound(staging: Path) -> None:
    """A vocoder that nothing leads to is a part, but no step."""
    body = told(members(staging, "voice", "vocoder"))
    assert [step["step"] for step in body["chain"]] == ["voice"]
    assert body["vocoder"]["sidecar"]["name"] == "model.json"


def test_diffusion_without_a_vocoder_is_said_to_make_no_sound(staging: Path) -> None:
    """Then the caller has to bring the mel spectrogram to it and the sound out of it."""
    body = told(members(staging, "voice", "diffusion"))
    assert [step["step"] for step in body["chain"]] == ["voice", "diffusion"]
    assert sources(body)["diffusion"]["mel"] == "mel"
    [said] = body["disagreements"]
    assert "no vocoder" in said


def test_centres_and_index_take_one_place(staging: Path) -> None:
    """As in so-vits-svc; with both there, it is said which the chain has."""
    assert sources(told(members(staging, "voice", "index")))["voice"]["c"] == "index.c_out"
    body = told(members(staging, "voice", "kmeans", "index"))
    assert [step["step"] for step in body["chain"]] == ["kmeans", "voice"]
    assert "feature index" in body["disagreements"][0]


def test_of_several_the_first_is_taken_and_the_others_are_named(staging: Path) -> None:
    """Nothing is left out without a word."""
    more = member("diffusion", made(staging, "diffusion"), "model_4000")
    body = told([*members(staging, "voice", "diffusion", "vocoder"), more])
    assert body["diffusion"]["sidecar"]["name"] == "model_50000.json"
    assert body["diffusion"]["others"] == ["model_4000.json"]
    assert body["disagreements"] == [
        "There are several parts of the kind diffusion in this folder; model_50000.json was taken."
    ]


def with_port(told: Conversion, name: str, axes: tuple[str | int, ...]) -> Conversion:
    """Return it with an input of its main graph in another shape."""
    main, *rest = told.files
    ports = tuple(Port(name, port.dtype, axes) if port.name == name else port for port in main.inputs)
    return replace(told, files=(replace(main, inputs=ports), *rest))


@pytest.mark.parametrize(
    ("role", "model", "said"),
    [
        ("diffusion", {"sample_rate": 48000}, "sample rate: voice 44100 Hz, diffusion 48000 Hz, vocoder 44100 Hz"),
        ("vocoder", {"sample_rate": 24000}, "sample rate: voice 44100 Hz, diffusion 44100 Hz, vocoder 24000 Hz"),
        ("vocoder", {"hop": 256}, "hop: voice 512 samples a frame, diffusion 512 samples a frame, vocoder 256"),
        ("voice", {"hop": 320}, "hop: voice 320 samples a frame, diffusion 512"),
    ],
)
def test_rates_and_hops_that_differ_are_said(staging: Path, role: Role, model: dict[str, Any], said: str) -> None:
    """One sentence, with what each part has."""
    some = members(staging, "voice", "diffusion", "kmeans", "vocoder")
    some = [member(role, made(staging, role, **model)) if one.role == role else one for one in some]
    [found] = told(some)["disagreements"]
    assert said in found


@pytest.mark.parametrize(
    ("role", "port", "axes", "said"),
    [
        ("kmeans", "c", (1, "units", 256), "features: voice 768 wide, diffusion 768 wide, kmeans 256 wide"),
        ("diffusion", "c", (1, "units", 1024), "features: voice 768 wide, diffusion 1024 wide, kmeans 768 wide"),
        ("vocoder", "c", (1, 80, "frames"), "mel spectrograms: diffusion 128 bands, vocoder 80 bands"),
    ],
)
def test_widths_that_differ_are_said(
    staging: Path, role: Role, port: str, axes: tuple[str | int, ...], said: str
) -> None:
    """As the graphs themselves have them."""
    some = members(staging, "voice", "diffusion", "kmeans", "vocoder")
    some = [replace(one, conversion=with_port(one.conversion, port, axes)) if one.role == role else one for one in some]
    [found] = told(some)["disagreements"]
    assert said in found


def test_encoders_that_differ_are_said(staging: Path) -> None:
    """Features of one width come from several encoders, and a wrong one mumbles."""
    voice, diffusion, vocoder = members(staging, "voice", "diffusion", "vocoder")
    feed = diffusion.conversion.feed | {"features": FEATURES | {"encoder": "wavlmbase+"}}
    odd = replace(diffusion, conversion=replace(diffusion.conversion, feed=feed))
    [found] = told([voice, odd, vocoder])["disagreements"]
    assert "speech encoder: voice vec768l12, diffusion wavlmbase+" in found


def test_ways_of_stretching_that_differ_are_said(staging: Path) -> None:
    """One rule feeds both, and the other part was trained by another."""
    voice, diffusion, vocoder = members(staging, "voice", "diffusion", "vocoder")
    feed = diffusion.conversion.feed | {"stretch": {"rule": "left"}}
    odd = replace(diffusion, conversion=replace(diffusion.conversion, feed=feed))
    [found] = told([voice, odd, vocoder])["disagreements"]
    assert "units become frames: voice nearest, diffusion left" in found


def test_the_full_precision_is_taken_where_there_are_two(staging: Path) -> None:
    """Whichever the worker has made first, the plain name is in the chain."""
    [voice, kmeans] = members(staging, "voice", "kmeans")
    main, extra = voice.conversion.files
    both = (replace(main, precision="fp16"), main, extra)
    body = told([replace(voice, conversion=replace(voice.conversion, files=both)), kmeans])
    assert body["chain"][1]["file"] == "G_1000.onnx"
    assert [file["name"] for file in body["voice"]["files"]] == [
        "G_1000.fp16.onnx",
        "G_1000.onnx",
        "G_1000.autof0.onnx",
    ]


@pytest.mark.parametrize("nothing", [{}, {"features": None, "names": 7, "stretch": []}, {"names": {"so-vits-svc": []}}])
def test_facts_that_are_missing_are_left_out(staging: Path, nothing: dict[str, Any]) -> None:
    """A part of another version tells less; inputs then bear their own names."""
    some = [
        replace(one, conversion=replace(one.conversion, feed=nothing, model={"family": one.conversion.model["family"]}))
        for one in members(staging, *ROLES)
    ]
    body = told(some)
    assert (body["features"], body["interpolation"], body["sample_rate"], body["hop"]) == ({}, {}, None, None)
    assert sources(body)["voice"]["c"] == "c"


@pytest.mark.parametrize("value", [10**400, -1, 0, True, 1.5, "44100", None, [44100], "x" * 9999, "a\nb\u202e"])
def test_whatever_a_sidecar_says_the_bundle_fits_its_schema(staging: Path, value: object) -> None:
    """A sidecar that was found in the outbox may say anything."""
    some = []
    for one in members(staging, *ROLES):
        model = dict.fromkeys(("sample_rate", "hop", "feature_width", "embedder"), value)
        feed = {"features": dict.fromkeys(("encoder", "layer", "width", "frames_per_second"), value)}
        feed |= {"stretch": {"rule": value, "formula": value}, "names": {one.role: {"features": value}}}
        told_so = replace(one.conversion, model=one.conversion.model | model, feed=feed)
        some.append(replace(one, conversion=told_so))
    body = told(some)
    assert len(json.dumps(body)) < 20_000
    assert all(
        text.isprintable()
        for text in (*body["features"].values(), *body["interpolation"].values())
        if isinstance(text, str)
    )


def test_names_that_are_no_text_are_shown_as_in_the_sidecar(staging: Path) -> None:
    """Nothing in it breaks a reader that wants UTF-8."""
    some = [
        replace(one, sidecar=replace(one.sidecar, path=PurePosixPath(f"anna/{one.role}\udce9.json")))
        for one in members(staging, "voice", "kmeans")
    ]
    body = told(some)
    assert body["voice"]["files"][0]["name"] == "voice\\xe9.onnx"


def test_a_part_is_known_by_what_was_made_of_it(staging: Path) -> None:
    """By its main network, or by its bare numbers where it was too large for one; RVC's are no parts."""
    for role in ROLES:
        assert role_of(made(staging, role)) == role
    voice, kmeans = made(staging, "voice"), made(staging, "kmeans")
    [main, extra] = voice.files
    assert role_of(replace(voice, files=(extra, main))) == "voice"
    moevs = replace(main, interface="moevs", client={"Type": "SoVits"})
    assert role_of(replace(voice, files=(moevs, extra))) == "voice"
    assert role_of(replace(voice, files=(replace(moevs, client={"Type": "RVC"}),))) is None
    assert role_of(replace(voice, files=(replace(main, interface="rvc"),))) is None
    assert role_of(made(staging, "speech")) == "voice"
    assert role_of(replace(kmeans, files=())) == "kmeans"
    vectors = replace(kmeans.data[0], name="vectors")
    assert role_of(replace(kmeans, files=(), data=(vectors,))) == "index"


def test_a_part_without_a_network_is_no_step(staging: Path) -> None:
    """What it is for stands in its sidecar."""
    voice, index = members(staging, "voice", "index")
    body = told([voice, replace(index, conversion=replace(index.conversion, files=()))])
    assert [step["step"] for step in body["chain"]] == ["voice"]
    assert (body["index"]["files"], sources(body)["voice"]["c"]) == ([], "features")


def test_one_voice_and_something_beside_it_belong_together(staging: Path) -> None:
    """Neither a voice alone, nor parts without one, nor two voices of which nobody knows whose the parts are."""
    voice, kmeans = members(staging, "voice", "kmeans")
    assert bundle.belong_together([voice, kmeans])
    for some in ([], [voice], [kmeans], [voice, voice], [voice, voice, kmeans], [kmeans, kmeans]):
        assert not bundle.belong_together(some)


# --- voices that read text -------------------------------------------------------------------------------------------


def test_the_chain_of_a_voice_that_reads_goes_from_a_clip_and_text_to_sound(staging: Path) -> None:
    """Each step names its file; what is counted between two of them stands there as a rule."""
    body = told(speech(staging, "speaker_encoder"))
    assert [(step["step"], step["file"]) for step in body["chain"]] == [
        ("speaker_encoder", "model_se.speaker_encoder.onnx"),
        ("encoder", "model_file.encoder.onnx"),
        ("decoder", "model_file.decoder.onnx"),
    ]
    assert sources(body) == {
        "speaker_encoder": {"waveform": "waveform"},
        "encoder": {"tokens": "tokens", "token_lengths": "length", "d_vector": "speaker_encoder.d_vector"},
        "decoder": {
            "m_p": "encoder.m_p",
            "logs_p": "encoder.logs_p",
            "durations": "encoder.w",
            "d_vector": "speaker_encoder.d_vector",
            "noise": "noise",
        },
    }
    rules = {name: fed.get("rule") for name, fed in body["chain"][2]["inputs"].items()}
    assert body["chain"][0]["inputs"]["waveform"]["rule"] == (
        "windows of 40000 samples of the clip, which begin at floor(i / 9); a shorter clip is one window; "
        "first, as loud as others"
    )
    assert rules == {
        "m_p": None,
        "logs_p": None,
        "durations": DURATIONS["rule"],
        "d_vector": D_VECTORS["of_a_clip"],
        "noise": None,
    }
    assert body["disagreements"] == []


def test_of_a_voice_that_reads_it_tells_no_features(staging: Path) -> None:
    """It has none; rate and hop are the voice's, whatever rate the speaker encoder hears."""
    _, hears = some = speech(staging, "speaker_encoder")
    told_so = replace(hears.conversion, model=hears.conversion.model | {"sample_rate": 16000})
    body = told([some[0], replace(hears, conversion=told_so)])
    assert (body["features"], body["interpolation"]) == ({}, {})
    assert (body["sample_rate"], body["hop"], body["disagreements"]) == (44100, 512, [])


@pytest.mark.parametrize(
    ("face", "vectors"),
    [
        ("single", {"d_vector": ""}),
        (
            "voice-conversion",
            {"source_d_vector": "of a clip of the source: ", "target_d_vector": "of a clip of the target: "},
        ),
    ],
)
def test_a_voice_without_decoder_is_one_step(staging: Path, face: Any, vectors: Mapping[str, str]) -> None:
    """Then the recipe asked for that face only; who speaks, and who is spoken to be, comes from a clip each.

    Both come from one output, so the rules tell whose clip it is.
    """
    [voice, hears] = speech(staging, "speaker_encoder")
    ports = tuple(Port(name, "float32", (1, 512)) for name in vectors)
    [main, _] = voice.conversion.files
    file = replace(main, interface=face, inputs=ports)
    body = told([replace(voice, conversion=replace(voice.conversion, files=(file,))), hears])
    assert [step["step"] for step in body["chain"]] == ["speaker_encoder", face]
    assert sources(body)[face] == dict.fromkeys(vectors, "speaker_encoder.d_vector")
    rules = {name: fed["rule"] for name, fed in body["chain"][1]["inputs"].items()}
    assert rules == {name: f"{whose}{D_VECTORS['of_a_clip']}" for name, whose in vectors.items()}
    assert body["disagreements"] == []


def test_of_several_faces_the_chain_has_encoder_and_decoder(staging: Path) -> None:
    """They take all randomness from the caller."""
    [voice, hears] = speech(staging, "speaker_encoder")
    [decoder, encoder] = voice.conversion.files
    others = (replace(decoder, interface="single"), replace(decoder, interface="voice-conversion"))
    for files, steps in (((*others, decoder, encoder), ["encoder", "decoder"]), (others[::-1], ["single"])):
        body = told([replace(voice, conversion=replace(voice.conversion, files=files)), hears])
        assert [step["step"] for step in body["chain"]] == ["speaker_encoder", *steps]


def test_d_vectors_of_other_widths_are_said(staging: Path) -> None:
    """A speaker encoder of another training does not fit."""
    [voice, hears] = speech(staging, "speaker_encoder")
    [file] = hears.conversion.files
    narrow = replace(file, outputs=(Port("d_vector", "float32", ("windows", 256)),))
    [said] = told([voice, replace(hears, conversion=replace(hears.conversion, files=(narrow,)))])["disagreements"]
    assert "d-vectors: voice 512 wide, speaker_encoder 256 wide" in said


def test_what_the_voice_has_no_use_for_is_said_and_is_no_step(staging: Path) -> None:
    """A speaker encoder where speakers are numbers, and parts of a voice of the other kind."""
    [voice, *others] = speech(staging, "kmeans", "vocoder", "speaker_encoder")
    [decoder, encoder] = voice.conversion.files
    told_apart = tuple(
        replace(file, inputs=tuple(port for port in file.inputs if port.name != "d_vector"))
        for file in (decoder, encoder)
    )
    body = told([replace(voice, conversion=replace(voice.conversion, files=told_apart)), *others])
    assert [step["step"] for step in body["chain"]] == ["encoder", "decoder"]
    assert body["disagreements"] == [
        f"The voice in this folder has no use for the part of the kind {role}."
        for role in ("kmeans", "vocoder", "speaker_encoder")
    ]
    body = told(members(staging, "voice", "kmeans", "speaker_encoder"))
    assert [step["step"] for step in body["chain"]] == ["kmeans", "voice"]
    assert len(body["disagreements"]) == 1


@pytest.mark.parametrize("nothing", [{}, {"durations": 7, "names": None}, {"durations": {"rule": ["w"]}, "names": []}])
def test_a_voice_that_reads_may_tell_less(staging: Path, nothing: dict[str, Any]) -> None:
    """Inputs then bear their own names, and no rule stands at the durations."""
    [voice, hears] = speech(staging, "speaker_encoder")
    conversion = replace(voice.conversion, feed=nothing, model={"family": "coqui-vits"})
    body = told([replace(voice, conversion=conversion), hears])
    assert sources(body)["decoder"]["m_p"] == "m_p"
    assert "rule" not in body["chain"][2]["inputs"]["durations"]
    assert (body["sample_rate"], body["hop"]) == (None, None)


@pytest.mark.parametrize(
    "windows", [None, {}, {"samples": 40000, "starts": "y"}, {"samples": "x", "starts": "y", "shorter": "z"}]
)
def test_how_a_clip_is_cut_may_be_unknown(staging: Path, windows: Any) -> None:
    """A rule that says half of it is none; of two clips it is still said whose they are."""
    [voice, hears] = speech(staging, "speaker_encoder")
    feed = {"names": hears.conversion.feed["names"], "windows": windows}
    [main, _] = voice.conversion.files
    file = replace(main, interface="voice-conversion", inputs=(Port("source_d_vector", "float32", (1, 512)),))
    converts = replace(voice, conversion=replace(voice.conversion, files=(file,)))
    first, second = told([converts, replace(hears, conversion=replace(hears.conversion, feed=feed))])["chain"]
    assert "rule" not in first["inputs"]["waveform"]
    assert second["inputs"]["source_d_vector"]["rule"] == "of a clip of the source"


def test_networks_without_outputs_feed_nobody(staging: Path) -> None:
    """Only a sidecar that was found in the outbox can say so; the caller is then left to feed what they do not make."""
    bare = [
        replace(one, conversion=replace(one.conversion, files=tuple(replace(f, outputs=()) for f in files)))
        for one in speech(staging, "speaker_encoder")
        if (files := one.conversion.files)
    ]
    body = told(bare)
    assert sources(body)["decoder"]["durations"] == "durations"
    assert (sources(body)["encoder"]["d_vector"], body["disagreements"]) == ("d_vector", [])


def test_parts_of_the_other_kind_alone_make_no_bundle(staging: Path) -> None:
    """A speaker encoder is nothing to a voice that sings, and a vocoder is nothing to one that reads."""
    assert bundle.belong_together(speech(staging, "speaker_encoder"))
    assert not bundle.belong_together(speech(staging, "kmeans", "vocoder"))
    assert not bundle.belong_together(members(staging, "voice", "speaker_encoder"))
    assert not bundle.belong_together([*speech(staging, "speaker_encoder"), *members(staging, "voice")])
