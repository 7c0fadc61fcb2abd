"""The Chinese catalogue: whole, without dead entries, of one language, in one terminology and typography."""

from __future__ import annotations

import errno
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Any

import pytest
from jinja2 import Environment, nodes

from said import GAP, PASSED_ON, ROOT, Said, filled, said
from voicekiln import words
from voicekiln.errors import REFUSALS
from voicekiln.families import FAMILIES
from voicekiln.families.companions import Table
from voicekiln.families.rvc_config import Config, _wrong
from voicekiln.families.rvc_network import Settings
from voicekiln.folders import names
from voicekiln.job import STAGES
from voicekiln.supervisor.homes import SHARES

CATALOGUE: dict[str, Any] = json.loads((Path(words.__file__).parent / "zh.json").read_text(encoding="utf-8"))
PHRASES: dict[str, dict[str, str]] = CATALOGUE["phrases"]
TEXTS: list[tuple[str, str]] = [
    pair for section in (CATALOGUE["refusals"], CATALOGUE["page"], *PHRASES.values()) for pair in section.items()
]
ZH = words.of("zh")

GLOSSARY = {
    "voice(?!kiln)": "模型",  # 音色模型 at its first mention in a text: what those who use RVC in Chinese call it
    "checkpoint": "检查点",
    "weights": "权重|weights",  # the folder of that name, too
    "tensors?": "张量",
    "vocoder": "声码器|HiFi-GAN",
    "discriminator": "判别器",
    "sample rate": "采样率",
    "signal-to-noise": "信噪比",
    "half precision": "半精度",
    "inbox": "输入文件夹",
    "outbox": "输出文件夹",
    "state folder": "状态文件夹",
    "(?:sub)?folder": "文件夹",
    "worker": "转换进程",
    "recipe": "预设|fp32",
    "conflict copy": "冲突副本",
    "archive": "归档|压缩包",
    "table of contents": "目录表",
    "refused": "拒绝",
    "published?": "发布",
    "converter": "转换程序|转换服务|管理员",
    "verified": "校验",
    "memory": "内存",
    "scheduler": "调度器",
}
"""How terms are translated, for whoever writes the next sentence: wherever the one stands, the other has to."""

LATIN = set(
    re.findall(
        r"\w+",
        """
        voicekiln Dask PyTorch ONNX RVC VoRAS SVC Vietnamese so vits svc Coqui VITS YourTTS GPT SoVITS DDSP RMVPE HuBERT
        ContentVec HiFi GAN BigVGAN MRF RefineGAN MoeVoiceStudio Models okada rvc v1 v2 f0 D_ G_ pth pt pkl index json
        homes
        NaN fp32 fp16 float32 GB MB dB Hz Git LFS lfs git pull safetensors chmod max_bytes weights weight norm weight_g
        weight_v config verify off flow pickle list int TorchScript ZIP RAR Zip gzip xz Zstandard bzip2 tar GGUF NumPy
        HDF5 PDF Windows Linux means Python SIGKILL Nextcloud ownCloud OneDrive Dropbox Syncthing rclone bisync Synology
        Resilio Sync NSF HiFiGAN PC Vocos mini_nsf noise_sigma m_source l_linear VISinger
        QuickVC MS iSTFT fork FreeVC spk
        Diffusion DiffSinger naive diffusion yaml k_step_max cluster_centers_
        KMeans npy faiss
        MMS Bert VITS2 MeloTTS MB Hugging Face transformers LSTM CC BY NC ND VOICE VITS vocab txt
        log_input use_torch_spec true hop_length model_se config_se speakers
        text_encoder emb enc_p layer1 se fc
        """,
    )
)
"""Names and technical words that stay in Latin letters."""

PARTS = {"7 s", "signal 7", "attention heads", "the worker crashed (signal 7)"}
"""Of longer sentences, which are looked at whole; and what cannot be: only signals with a name are crashes."""


@cache
def source() -> Said:
    return said()


def samples() -> Iterator[tuple[str, str]]:
    """Give all that can be told: section and text."""
    yield from sorted(pair for pair in source().sentences if pair[1] not in PARTS)
    yield from (("families", family.title) for family in FAMILIES)
    yield "families", "; ".join(family.title for family in FAMILIES)
    yield from (("tool", tool) for tool, _ in names._CONFLICT_FILE)
    yield from (("reason", f"stage {stage} took longer than 7 s") for stage in STAGES)
    yield from (("reason", f"{share} away: {GAP}") for share in SHARES)
    yield "reasons", "also a voice of 7; also a voice of 7"
    shared = {field.name for field in fields(Config)} & {field.name for field in fields(Settings)}
    for name in shared - {"rates", "dilations", "sample_rate"}:
        setting = {"heads": "attention heads"}.get(name, name.replace("_", " "))
        yield "reason", f"Its settings say 7 for {setting}, its weights have 7; the weights were believed."
    yield from (("what", str(_wrong(7, value).found["what"])) for value in (7, 1e300, [7]))
    yield from (
        ("what", str(Table("a.json", {}).wrong("k_step_max", value).found["what"])) for value in (7, 1e300, [7])
    )
    for network in ("flow", "posterior encoder", "duration predictor"):
        yield "what", f"a convolution of its {network} sees 7 frames to each side"
    for rows in ("speakers", "languages"):
        yield "what", f"a.json names 7 {rows}, the weights have 7"
    yield "what", "among the weights is something that is no tensor (under a int)"
    for one, other in ((None, None), ("7", None), ("7", "7")):
        yield "reason", str(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), one, None, other))


def page_texts() -> set[str]:
    """Return every text that the page asks for, and those that its code does."""
    page = ROOT / "page"
    found = set()
    for template in page.glob("*.j2"):
        for call in Environment(autoescape=True).parse(template.read_text()).find_all(nodes.Call):
            if isinstance(call.node, nodes.Name) and call.node.name == "say":
                found |= {text for text in _constants(call.args[0]) if isinstance(text, str)}
    for path in page.glob("*.py"):
        found |= set(re.findall(r'\.say\(\s*"([^"]+)"', path.read_text()))
    return found


def _constants(text: nodes.Node) -> Iterator[object]:
    """Give what the first argument of `say` can be: a text, or one of several in a table."""
    match text:
        case nodes.Const(value=value):
            yield value
        case nodes.Getitem(node=nodes.Dict(items=items)):
            for pair in items:
                yield from _constants(pair.value)
        case nodes.CondExpr(expr1=one, expr2=other) if other is not None:
            yield from _constants(one)
            yield from _constants(other)
        case _:
            raise AssertionError(f"line {text.lineno}: {text} is no text that could be looked up")


class Noting(dict[str, str]):
    """A section that counts what is asked of it."""

    def __init__(self, known: Mapping[str, str]) -> None:
        super().__init__(known)
        self.asked = Counter[str]()

    def get(self, key: str, default: Any = None) -> Any:
        self.asked[key] += 1
        return super().get(key, default)

    def __getitem__(self, key: str) -> str:
        self.asked[key] += 1
        return super().__getitem__(key)


def english_in(chinese: str) -> list[str]:
    return [word for word in re.findall(r"[A-Za-z][A-Za-z0-9_]+", chinese) if word not in LATIN]


def test_every_refusal_is_translated_and_nothing_else() -> None:
    """Messages and hints of all codes are there; none of a refusal that has gone."""
    assert CATALOGUE["refusals"].keys() == {text for kind in REFUSALS.values() for text in (kind.message, kind.hint)}


def test_every_text_of_the_page_is_translated_and_nothing_else() -> None:
    """What the template and its code ask for is there; nothing that they no longer ask for."""
    assert CATALOGUE["page"].keys() == page_texts()


def test_every_reason_in_the_source_is_translated_without_a_rest() -> None:
    """Whatever the code can tell as a reason comes out in Chinese, names and numbers apart."""
    untold = {sample: told for sample in samples() if english_in(told := ZH._recognised(*sample) or sample[1])}
    assert untold == {}


def test_what_is_told_and_said_elsewhere_is_known() -> None:
    """A new variable among the reasons is looked at by a person: where do its words come from, are they collected?"""
    assert source().passed_on == PASSED_ON


def test_no_phrase_is_dead() -> None:
    """Each one is needed by something that the code can tell."""
    noting = {section: Noting(known) for section, known in ZH._phrases.items()}
    told = words.Words("zh", {}, noting)
    for section, text in samples():
        told._recognised(section, text)
    dead = [
        (section, key)
        for section, known in PHRASES.items()
        for key in known
        if not noting[section].asked[key] and not (section == "what" and noting["reason"].asked[key])
    ]
    assert dead == []


@pytest.mark.parametrize("name", CATALOGUE["system"])
def test_errors_of_the_system_are_recognised_by_their_number(name: str) -> None:
    """Whatever the C library calls them."""
    assert ZH.reason(os.strerror(getattr(errno, name))) == CATALOGUE["system"][name]


def test_the_errors_that_shares_and_disks_give_are_translated() -> None:
    """Those that a person with a NAS meets sooner or later."""
    assert {
        *("ENOSPC", "EDQUOT", "EACCES", "EPERM", "EROFS", "EIO", "ENOENT", "ENOTCONN", "ESTALE", "EHOSTDOWN"),
        *("ETIMEDOUT", "EHOSTUNREACH", "ENODEV", "EBUSY", "ENAMETOOLONG", "EMFILE", "ENFILE", "ENOTDIR", "EISDIR"),
    } <= CATALOGUE["system"].keys()


def gaps(text: str) -> Counter[str | None]:
    return Counter(f"{name}:{form}" for _, name, form, _ in Formatter().parse(text) if name)


@pytest.mark.parametrize(("english", "chinese"), TEXTS)
def test_both_sides_have_the_same_gaps(english: str, chinese: str) -> None:
    """Nothing that is to be told is lost; only the number of an error of the system is left out on purpose."""
    assert gaps(english.replace("[Errno {number}] ", "")) == gaps(chinese)


@pytest.mark.parametrize(("english", "chinese"), [*TEXTS, *CATALOGUE["system"].items()])
def test_a_translation_is_chinese_and_nothing_else(english: str, chinese: str) -> None:
    """No word of English is left over but names."""
    assert english_in(filled(chinese)) == []
    assert english == "; " or re.search(r"[\u4e00-\u9fff]|^{\w+}", chinese)


@pytest.mark.parametrize(("english", "chinese"), TEXTS)
def test_one_term_one_translation(english: str, chinese: str) -> None:
    """The same thing is called the same everywhere."""
    for term, translation in GLOSSARY.items():
        if re.search(rf"\b{term}s?\b", re.sub(r"{\w+}", "", english)):
            assert re.search(translation, chinese), (term, translation)


def slips(chinese: str) -> list[str]:
    """Return what breaks the rules of typography: full-width marks, a space between Chinese and Latin, nowhere else."""
    ours = "|".join(PHRASES)
    text = re.sub(r"{\w+}", "A1", re.sub(f"{{(?:{ours})}}", "汉", chinese))
    han, wide = "\u4e00-\u9fff", "，。：；（）“”、！？"
    rules = {
        "a space is missing": f"[{han}][A-Za-z0-9]|[A-Za-z0-9][{han}]",
        "a space too many": f"[{han}{wide}] +[{han}{wide}]|[{wide}] | [{wide}]|^ | $|  ",
        "a mark for Latin text": rf"[{han}{wide}][,;:!?()\"']|[,;:!?()\"'][{han}]",
        "a mark that is doubled": "[，。：；、]{2}",
    }
    return [rule for rule, pattern in rules.items() if re.search(pattern, text)]


@pytest.mark.parametrize(("english", "chinese"), [*TEXTS, *CATALOGUE["system"].items()])
def test_the_typography_follows_one_rule(english: str, chinese: str) -> None:
    """Full-width punctuation; a space between Chinese and Latin letters or digits; sentences end as the English do."""
    assert slips(chinese) == []
    assert english == "; " or english.endswith(".") == chinese.endswith("。")


@pytest.mark.parametrize(
    ("chinese", "slip"),
    [
        ("文件voice", "a space is missing"),
        ("共{count}个", "a space is missing"),
        ("这是 {what}", "a space too many"),
        ("文件， 已损坏", "a space too many"),
        ("文件,已损坏", "a mark for Latin text"),
        ("文件(已损坏)", "a mark for Latin text"),
        ("文件已损坏。。", "a mark that is doubled"),
    ],
)
def test_a_slip_is_noticed(chinese: str, slip: str) -> None:
    """The check of the typography can fail."""
    assert slip in slips(chinese)
