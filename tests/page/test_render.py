"""What is written into the page: escaped, linked, under its own policy; no browser is needed to see that."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

import boards
from boards import NOW
from voicekiln import words
from voicekiln.families import FAMILIES
from voicekiln.page.board import PAGE_BEGINNING, Board, Cluster, Made
from voicekiln.page.facts import link
from voicekiln.page.render import _sentence, _size, render

EVIL = "<i>&\"'{{1}}</noscript><script>"


def page(board: Board, outbox: str = "") -> str:
    return "".join(render(board, words.of("en"), outbox))


class Parsed(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def links(self) -> list[str]:
        return [attributes["href"] or "" for tag, attributes in self.elements if tag == "a"]


def everywhere(board: Board, text: str) -> Board:
    """Return the board with a text in every place that holds one."""
    return replace(
        board,
        version=text,
        device=text,
        cluster=Cluster(text, 3, text),
        troubles=(text,),
        in_work=tuple(replace(voice, file=text, recipe=text) for voice in board.in_work),
        waiting=tuple(replace(voice, file=text, reason=text) for voice in board.waiting),
        refused=tuple(replace(voice, file=text, error_file=text) for voice in board.refused),
        done=tuple(
            replace(
                voice,
                file=text,
                recipe=text,
                family=text,
                version=text,
                sidecar=text,
                notes=(text,),
                files=tuple(replace(file, path=text) for file in voice.files),
                data=(text,),
            )
            for voice in board.done
        ),
    )


def test_every_text_is_escaped_wherever_it_stands() -> None:
    """A hostile text in all places makes the elements that a harmless one makes, no more and no others."""
    board = replace(boards.full(), done=boards.full().done[:4])
    harmless, hostile = (Parsed(page(everywhere(board, text))) for text in ("x", EVIL))
    assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in harmless.elements]
    assert [set(attributes) for _, attributes in hostile.elements] == [set(a) for _, a in harmless.elements]
    assert any(EVIL in text for text in hostile.text)


def test_script_and_style_are_those_of_the_policy() -> None:
    """Their hashes stand in the policy, which allows nothing else but images in the page itself."""
    html = page(boards.full())
    policy = next(a["content"] for tag, a in Parsed(html).elements if a.get("http-equiv") == "Content-Security-Policy")
    for kind in ("script", "style"):
        (text,) = re.findall(rf"<{kind}>(.*?)</{kind}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}';" in str(policy)
    assert str(policy).startswith("default-src 'none';")
    assert "unsafe" not in str(policy)
    assert not re.search(r"<[a-z][^>]* (style|on[a-z]+)=", html)


def test_it_begins_as_a_daemon_knows_its_own() -> None:
    """By these lines a daemon sees that it may write the file over."""
    assert page(boards.board([])).startswith(PAGE_BEGINNING)


@given(st.lists(st.binary(min_size=1, max_size=8).filter(lambda name: not set(name) & set(b"/\0")), min_size=1))
def test_a_link_is_the_path_byte_for_byte(names: list[bytes]) -> None:
    """Whatever bytes a name has: the URL is plain ASCII, relative, and leads to it."""
    url = link(os.fsdecode(b"/".join(names)))
    assert unquote_to_bytes(url) == b"/".join(names)
    assert re.fullmatch(r"[A-Za-z0-9%/._~-]+", url)
    assert link(os.fsdecode(names[0]), "../out put") == f"../out%20put/{link(os.fsdecode(names[0]))}"


def test_a_page_elsewhere_links_to_the_outbox() -> None:
    """All its links go the way that it is told."""
    links = Parsed(page(boards.full(), "../outbox")).links()
    assert len(links) > 50
    assert all(url.startswith("../outbox/") for url in links)


def test_swept_results_have_no_links() -> None:
    """The row stays and says so."""
    html = page(boards.board([boards.done(1, "gone.pth", swept=True)]))
    assert Parsed(html).links() == []
    assert "The files have been removed." in html


@pytest.mark.parametrize("picture", ["", "AAAA", "<svg onload=alert(1)>"])
def test_a_voice_without_a_picture_has_its_row(picture: str) -> None:
    """What is no picture is left out, and no other word of the row with it."""
    with_it, without = (
        page(boards.board([replace(boards.done(1), picture=p)])) for p in (boards.done(1).picture, picture)
    )
    assert re.sub(r"<noscript>.*?</noscript>", "", with_it, flags=re.DOTALL) == without
    assert "<noscript>" in with_it


def test_an_unverified_voice_claims_no_fidelity() -> None:
    """No number of decibels stands beside it."""
    voice = boards.done(2)
    files = tuple(replace(file, snr_db=None) for file in voice.files)
    html = page(boards.board([replace(voice, files=files, picture="")]))
    assert "not verified" in html
    assert " dB" not in html[html.index("<main>") : html.index("</main>")]


def test_the_picture_and_its_figure_are_of_one_file() -> None:
    """A worker draws the least faithful one, so the figure beside the picture is that one's too, and its bracket."""
    voice = boards.done(1)
    (picture,) = re.findall(r"<noscript>(.*?)</noscript>", page(boards.board([voice])), re.DOTALL)
    assert [file.snr_db for file in voice.files] == [97.0, 61.5]
    assert "lies 62 dB below" in picture
    assert re.findall(r"(\d+) dB</text>", picture) == ["62"]


def test_the_picture_names_its_file() -> None:
    """Where there are several of different fidelity; a single one needs no telling."""
    several, single = (page(boards.board([boards.done(number)])) for number in (1, 2))
    assert re.findall(r"<figcaption[^>]*>The picture shows (.*?), the least", several) == [
        "artists/01/voice 0001.fp16.onnx"
    ]
    assert "<figcaption" not in single


def test_what_has_no_rate_has_no_pitch_either_and_its_numbers_are_linked() -> None:
    """A table of centres is no voice without f0."""
    centres = replace(boards.done(0), family="kmeans", sample_rate=0, f0=False, data=("anna/k #1.KMeans.npy",))
    html = page(boards.board([centres]))
    assert html.count("<td>\N{EN DASH}</td>") == 2
    assert "0 kHz" not in html
    assert "anna/k%20%231.KMeans.npy" in Parsed(html).links()


@pytest.mark.parametrize("family", ["coqui-vits", "speaker-encoder"])
def test_what_is_never_fed_with_pitch_does_not_lack_it(family: str) -> None:
    """A voice that reads text makes its own; of another one it is said."""
    voice = replace(boards.done(0), family=family, f0=False)
    assert family in {known.name for known in FAMILIES}
    assert "<td>no f0</td>" not in page(boards.board([voice]))
    assert "<td>no f0</td>" in page(boards.board([replace(voice, family="rvc")]))


def test_a_copy_has_no_seconds_of_work() -> None:
    """They would be another voice's."""
    html = page(boards.board([replace(boards.done(1), seconds=None)]))
    assert "the same content had been converted before." in html
    assert "of work" not in html


def test_the_folder_for_moevoicestudio_is_named() -> None:
    """All that has to be copied lies in it, so the file alone would not be enough."""
    files = (
        Made("x/zoe.onnx", "rvc", "fp32", 1, 97.0),
        Made("x/zoe.moevs/zoe/zoe_RVC.onnx", "moevs", "fp32", 1, 97.0),
    )
    assert "copy what is in x/zoe.moevs into" in page(boards.board([replace(boards.done(2), files=files)]))
    assert "MoeVoiceStudio" not in page(boards.board([replace(boards.done(2), files=files[:1])]))


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        ("its end is missing", "Its end is missing."),
        ("No space left on device", "No space left on device."),
        ("It is done.", "It is done."),
        ("voicekiln has no right to read this file.", "voicekiln has no right to read this file."),
        ("a.onnx in the outbox is not a file", "a.onnx in the outbox is not a file."),
        ("文件末尾缺失", "文件末尾缺失。"),
        ("文件已损坏。", "文件已损坏。"),
    ],
)
def test_a_reason_is_shown_as_a_sentence(reason: str, sentence: str) -> None:
    """With a capital and a full stop; names stay as they are."""
    assert _sentence(reason) == sentence


def test_all_reasons_on_the_page_are_sentences() -> None:
    """Of the voices that wait, and what keeps the daemon from its work."""
    waiting = boards.full().waiting[2]
    html = page(boards.board([], waiting=(waiting,), troubles=("its end is missing",)))
    assert html.count(">Its end is missing.<") == 2


def test_the_last_look_does_not_grow_old_with_the_page() -> None:
    """The daemon looks on without writing, so the time is that of the writing and no age is counted from it."""
    html = page(boards.full())
    [kind] = re.findall(r'as of writing</dt><dd><time datetime="2026-11-21T11:55:00Z" class="(.*?)">', html)
    assert kind == "stamp"


def test_in_chinese_seconds_have_one_name() -> None:
    """In the sums as in the rows."""
    html = "".join(render(boards.full(), words.of("zh"), ""))
    assert "4.6 秒" in html
    assert not re.search(r"\d s\b", re.sub(r"<(style|script)>.*?</\1>", "", html, flags=re.DOTALL))


def test_troubles_and_what_is_left_out_are_said() -> None:
    """A share that is away stands at the top, and voices that are not listed are counted."""
    html = page(replace(boards.board([boards.done(1)], troubles=("the inbox is away",)), left_out=12345))
    assert "The inbox is away." in html[: html.index("<main>")]
    assert "12,345 older ones" in html


def test_a_cluster_is_told_of_with_its_dashboard() -> None:
    """Where there is one; and nothing where the workers are on this machine."""
    link = "http://gpu1.example:8787/status"
    html = page(replace(boards.full(), cluster=Cluster("tls://gpu1.example:8786", 12, link)))
    assert "places in the cluster" in html
    assert link in Parsed(html).links()
    html = page(replace(boards.full(), cluster=Cluster("tls://gpu1.example:8786", 0, None)))
    assert "places in the cluster" in html
    assert "dashboard" not in html
    assert "places in the cluster" not in page(boards.full())


def test_nothing_known_is_nothing_said() -> None:
    """Before the first scan and the first worker there is neither a time nor a device."""
    board = boards.board([])
    html = page(replace(board, device="", last_scan=None, totals=replace(board.totals, free_bytes=None)))
    assert "computes on" not in html
    assert "last look" not in html
    assert "None" not in html


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_949, "99.9 kB"),
        (99_951, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (55_021_345, "55.0 MB"),
        (1_204_000_000_000, "1.2 TB"),
        (10**19, "10000 PB"),
    ],
)
def test_sizes_read_as_people_say_them(count: int, text: str) -> None:
    """Two or three digits and the unit that fits."""
    assert _size(count) == text


def test_the_page_says_when_it_was_written() -> None:
    """In universal time, for those without scripts, and as a number for the script."""
    html = page(boards.full())
    assert '<time datetime="2026-11-21T11:55:02Z" class="stamp">2026-11-21 11:55 UTC</time>' in html
    assert f'data-promised="{NOW + 300}"' in html
