"""What people are told is in their language; what comes from a file stays as it is."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from kiln import Kiln, good, voice_bytes
from voicekiln import words
from voicekiln.errors import (
    MAX_FOUND,
    REFUSALS,
    BadNumbers,
    ConflictCopy,
    Damaged,
    NoWeights,
    Refusal,
    UnknownModel,
    UnknownVocoder,
    UnsafePickle,
    WorkerLost,
)
from voicekiln.folders import sidecar
from voicekiln.job import Ending, Lost, Refused
from voicekiln.worker.wire import Request

ZH, EN = words.of("zh"), words.of("en")
SCHEMA = json.loads(Path(sidecar.__file__).with_name("refusal.schema.json").read_text())


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Callable[..., Kiln]]:
    built: list[Kiln] = []

    def make(answer: Callable[[Request], Ending] = good, **changes: Any) -> Kiln:  # type: ignore[assignment]  # answers more
        built.append(Kiln(tmp_path, answer, **changes))
        return built[-1]

    yield make
    for kiln in built:
        kiln.close()


def refuse(request: Request) -> Ending:
    del request
    return Refused(BadNumbers(count=3, tensor="emb_g.weight"))


# --- which language --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "language"),
    [
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_SG"}, "zh"),
        ({"LANG": "zh"}, "zh"),
        ({"LANG": "zh_TW.UTF-8"}, "zh"),
        ({"LANG": "zh-Hans"}, "zh"),
        ({"LANG": "ZH_cn.utf8"}, "zh"),
        ({"LANG": "en_GB.UTF-8"}, "en"),
        ({"LANG": "zhx_XX"}, "en"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({}, "en"),
        ({"LC_ALL": "en_US.UTF-8", "LC_MESSAGES": "zh_CN", "LANG": "zh_CN"}, "en"),
        ({"LC_MESSAGES": "zh_CN", "LANG": "en_US"}, "zh"),
        ({"LC_ALL": "", "LANG": "zh_CN"}, "zh"),
        ({"LC_CTYPE": "zh_CN"}, "en"),
    ],
)
def test_the_system_chooses_the_language(environ: dict[str, str], language: str) -> None:
    """By the variable that counts for messages; every Chinese means Simplified Chinese, everything else English."""
    assert words.chosen("auto", environ) == language


def test_the_configuration_has_the_last_word() -> None:
    """Whatever the system speaks."""
    assert words.chosen("en", {"LC_ALL": "zh_CN.UTF-8"}) == "en"
    assert words.chosen("zh", {"LC_ALL": "en_GB.UTF-8"}) == "zh"


def test_no_catalogue_is_read_for_english(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever does not need it pays nothing for it."""
    words.of.cache_clear()
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: pytest.fail("a file was read"))
    assert words.of("en").language == "en"


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", REFUSALS.values(), ids=lambda kind: kind.code)
def test_english_is_what_the_code_says(kind: type[Refusal]) -> None:
    """Nothing is lost or changed on the way through the catalogue."""
    refusal = kind(**dict.fromkeys(kind.gaps(), "x"))
    assert EN.refusal(refusal) == (refusal.text, refusal.advice)


@pytest.mark.parametrize("kind", REFUSALS.values(), ids=lambda kind: kind.code)
def test_a_refusal_tells_in_chinese_all_that_it_found(kind: type[Refusal]) -> None:
    """No value gets lost, and none is told twice."""
    found = {gap: f"<{gap}>" for gap in kind.gaps()}
    message, hint = ZH.refusal(kind(**found))
    for value in found.values():
        assert (message + hint).count(value) == (kind.message + kind.hint).count(
            value.replace("<", "{").replace(">", "}")
        )


def test_words_of_ours_in_a_refusal_are_translated_too() -> None:
    """The reason in the middle of a sentence is no island of English."""
    message, _ = ZH.refusal(Damaged(what="its end is missing"))
    assert message == "文件已损坏，或者没有传输完整：文件末尾缺失。"
    missed = "not a voice of RVC (v1 and v2): it has no enc_p.emb_phone.weight; also a voice of RVC (v1 and v2)"
    message, _ = ZH.refusal(UnknownModel(reasons=missed, families="RVC (v1 and v2)"))
    assert message.endswith(
        "：不是 RVC（v1 和 v2）音色模型（没有 enc_p.emb_phone.weight）；同时也像是 RVC（v1 和 v2）音色模型。"
    )
    message, _ = ZH.refusal(
        WorkerLost(attempts=3, reason="stage verify took longer than 600 s, and it could not be killed")
    )
    assert message.endswith("“校验”阶段的用时超过了 600 秒，而且无法强制结束。")


def test_chinese_and_latin_words_keep_apart() -> None:
    """Where a phrase of ours fills a gap, a space comes in if the seam needs one."""
    assert ZH.refusal(ConflictCopy(tool="Syncthing"))[0].startswith("这是 Syncthing 生成的")
    assert ZH.refusal(ConflictCopy(tool="the OneDrive client"))[0].startswith("这是 OneDrive 客户端生成的")
    assert ZH.reason("still sweeping") == "仍在清理到期文件"


# --- values that a stranger has chosen -------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["{what}", "{0}", "{", "}{", "{what!r:>9999}", "%s", "{reason}; {keys}", "\\g<1>"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_value_is_never_a_template(language: words.Language, value: str) -> None:
    """Braces in a file come out as they are, in refusals, in reasons and in reasons within reasons."""
    said = words.of(language)
    for refusal in (
        Damaged(what=value),
        UnsafePickle(wants=value),
        NoWeights(keys=value),
        UnknownVocoder(vocoder=value),
    ):
        assert value in said.refusal(refusal)[0]
    assert value in said.reason(f"its tensor {value} stands for more numbers than the file holds")
    assert value in said.refusal(Damaged(what=f"{value} is missing (and 3 more of its tensors do not fit)"))[0]
    assert value in said.reason(f"publishing nothing: [Errno 28] No space left on device: '{value}'")
    assert said.reason(value) == value


@pytest.mark.parametrize("value", ["layers", "template", "no", "a folder", "inbox", "the converter was stopped"])
def test_words_of_a_file_are_not_taken_for_ours(value: str) -> None:
    """A file whose entries are called as something in the catalogue keeps its entries' names."""
    assert value in ZH.refusal(NoWeights(keys=value))[0]
    assert value in ZH.refusal(UnknownVocoder(vocoder=value))[0]
    assert value in ZH.reason(f"publication of {value}")
    assert value in ZH.reason(f"its tensor {value} stands for more numbers than the file holds")


def test_what_is_unknown_stays_as_it_is() -> None:
    """A reason that nobody has translated is better read in English than not at all."""
    assert ZH.reason("the moon is full; beware") == "the moon is full; beware"
    assert ZH.reason("[Errno 999] Unknown error 999") == "Unknown error 999"
    assert ZH.reason("") == ""
    assert ZH.say("Not {what} here", what="there") == "Not there here"


def test_a_long_hostile_text_is_read_in_no_time() -> None:
    """Nothing in the recognition grows faster than the text: this would take years if it did."""
    for piece in ("inbox away: ", "a has the shape ", " and should have ", "; ", "[Errno 1] ", " (and 1 more of its "):
        text = (piece * MAX_FOUND)[:MAX_FOUND]
        assert {ZH.reason(text), *ZH.refusal(Damaged(what=text))}


# --- from end to end -------------------------------------------------------------------------------------------------


def test_a_refusal_in_the_outbox_is_in_the_chosen_language(build: Callable[..., Kiln]) -> None:
    """The code is the same in all languages; the file says which one it speaks, and fits its schema."""
    kiln = build(refuse, language="zh")
    kiln.drop("a.pth")
    kiln.run()
    body = kiln.read("a.error.json")
    jsonschema.validate(body, SCHEMA)
    assert (body["code"], body["language"]) == ("bad-numbers", "zh")
    assert body["message"] == "权重中有 3 个数值无效（NaN 或无穷大），最先出现在 emb_g.weight 中。"
    assert body["hint"] == "训练出了问题，或者文件已损坏。请改用同一次训练中更早的检查点。"


def test_a_refusal_in_any_language_is_known_again(build: Callable[..., Kiln]) -> None:
    """A daemon that finds it in the outbox knows whose it is."""
    kiln = build(refuse, language="zh")
    kiln.drop("a.pth")
    kiln.run()
    assert str(sidecar.read_refusal((kiln.outbox / "a.error.json").read_bytes())) == "a.pth"


def test_without_a_choice_the_system_decides(build: Callable[..., Kiln], monkeypatch: pytest.MonkeyPatch) -> None:
    """The default: as the daemon's surroundings are set."""
    kiln = build(refuse)
    kiln.drop("a.pth")
    kiln.run()
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    kiln.drop("b.pth")
    kiln.run()
    assert [kiln.read(f"{name}.error.json")["language"] for name in "ab"] == ["en", "zh"]


def test_a_reload_changes_the_language(build: Callable[..., Kiln]) -> None:
    """No restart is needed; what was written before stays."""
    kiln = build(refuse)
    kiln.drop("a.pth")
    kiln.run()
    path = kiln.at / "config.yaml"
    path.write_text("language: zh\nsweep: {sources: never}\n")
    kiln.service.reload(path)
    kiln.drop("b.pth")
    kiln.run()
    assert [kiln.read(f"{name}.error.json")["language"] for name in "ab"] == ["en", "zh"]


def test_why_a_voice_waits_is_told_in_chinese(build: Callable[..., Kiln], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the ledger really keeps as reasons, of files, workers, disks and shares."""
    kiln = build(lambda _: Lost("the worker was killed (SIGKILL), often for want of memory"))
    kiln.drop("cut.pth", voice_bytes()[:-9])
    kiln.drop("lost.pth")
    kiln.run(10)
    told = [ZH.reason(kiln.voice(name).reason) for name in ("cut.pth", "lost.pth")]
    assert told == ["文件末尾缺失", "转换进程被强制结束（SIGKILL），多半是因为内存不足"]

    kiln.answer = good
    full = OSError(errno.ENOSPC, "No space left on device", str(kiln.outbox / ".~a.onnx.part"))
    monkeypatch.setattr("voicekiln.supervisor.delivery.publish", lambda *_: (_ for _ in ()).throw(full))
    kiln.drop("full.pth")
    kiln.run(20)
    assert ZH.reason(kiln.voice("full.pth").reason) == f"磁盘空间不足（{kiln.outbox}/.~a.onnx.part）"

    shutil.move(kiln.inbox, kiln.at / "elsewhere")
    kiln.run(60)
    assert list(map(ZH.reason, kiln.service.troubles())) == ["输入文件夹无法访问：文件夹无法打开：文件或文件夹不存在"]
