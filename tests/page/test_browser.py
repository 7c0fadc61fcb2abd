"""The page as readers have it: in a browser, from a file, with scripts and without, with eyes and without."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote_to_bytes

import pytest

import boards
from boards import HOSTILE, NOW
from browsing import DESKTOP, PHONE, Reader, chromium, needs_browser, written
from voicekiln.folders.names import shown
from voicekiln.words import Language

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator

pytestmark = needs_browser()

Scheme = Literal["light", "dark"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def page_file(tmp_path: Path) -> Path:
    return written(boards.full(), tmp_path)


def height(what: Locator) -> float:
    box = what.bounding_box()
    assert box
    return box["height"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_everybody_can_read_it(browser: Browser, page_file: Path, size: dict[str, int], scheme: Scheme) -> None:
    """In both colours and on both screens axe-core finds nothing, and nothing reaches over the edge."""
    from axe_playwright_python.sync_playwright import Axe  # noqa: PLC0415 - optional

    with Reader(browser, viewport=size, color_scheme=scheme) as reader:
        page = reader.open(page_file)
        for fold in page.locator("details").all()[:3]:
            fold.evaluate("fold => { fold.open = true; }")
        page.locator("svg.picture").first.wait_for()
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") == size["width"]


def test_it_asks_for_nothing_and_complains_of_nothing(browser: Browser, page_file: Path) -> None:
    """One request, for the file itself; no word on the console, and none of the hostile names has run."""
    with Reader(browser, viewport=DESKTOP) as reader:
        page = reader.open(page_file)
        for fold in page.locator("details").all():
            fold.evaluate("fold => { fold.open = true; }")
        page.locator("svg.picture").nth(20).wait_for(state="attached")
        assert reader.requests == [page_file.as_uri()]
        assert reader.complaints == []
        assert page.locator("main img, main script, main b").count() == 0


def test_its_policy_lets_nothing_else_run(browser: Browser, page_file: Path) -> None:
    """A script and an image that got into the page in spite of all would be stopped, and said."""
    page_file.write_text(
        page_file.read_text().replace("<main>", "<main><img src='x.png'><script>document.title='bad'</script>")
    )
    with Reader(browser) as reader:
        assert "voicekiln" in reader.open(page_file).title()
        assert len(reader.complaints) == 2
        assert all("Content Security Policy" in complaint for complaint in reader.complaints)


def test_hostile_names_are_text(browser: Browser, page_file: Path) -> None:
    """Every name is read as it was written, and its link leads to the file of that name."""
    with Reader(browser) as reader:
        page = reader.open(page_file)
        assert {shown(PurePosixPath(name)) for name in HOSTILE} <= set(page.locator("tr.v .n").all_text_contents())
        links = page.locator("tr.v a").evaluate_all("all => all.map(a => [a.textContent, a.href])")
        read = {(text, os.fsdecode(unquote_to_bytes(href))) for text, href in links}
        for path in (PurePosixPath(name).with_suffix(".onnx") for name in HOSTILE):
            assert (shown(path), f"file://{page_file.parent}/{path}") in read


def test_the_keyboard_is_enough(browser: Browser, page_file: Path) -> None:
    """Tab reaches the search, the filters and the rows in this order; Enter unfolds a row, with its picture."""
    with Reader(browser, viewport=DESKTOP) as reader:
        page = reader.open(page_file)
        stops = []
        for _ in range(40):
            page.keyboard.press("Tab")
            stops.append(page.evaluate("document.activeElement.id || document.activeElement.localName"))
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline == "solid", f"no focus to be seen on {stops[-1]}"
            if stops[-1] == "summary":
                break
        assert [stop for stop in stops if stop != "a"] == ["auto", "q", "state", "family", "precision", "summary"]
        page.keyboard.press("Enter")
        page.locator("details[open] svg.picture").wait_for()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.localName") == "a"


def test_it_says_to_a_screen_reader_what_is_what(browser: Browser, page_file: Path) -> None:
    """There are landmarks, headings, a table with heads for rows and columns, named pictures and progress bars."""
    with Reader(browser) as reader:
        page = reader.open(page_file)
        row = page.get_by_role("row").nth(2)
        assert row.get_by_role("rowheader").count() == 1
        assert row.get_by_role("cell").count() == 7
        row.locator("summary").click()
        assert page.get_by_role("table", name="Done 26").get_by_role("columnheader").count() == 8
        assert "difference lies 62 dB below" in str(row.get_by_role("img").get_attribute("aria-label"))
        assert page.get_by_role("progressbar", name="choir/alto.pth").get_attribute("value") == "0.720"
        for role in ("main", "banner", "search", "status"):
            assert page.get_by_role(role).count() == 1


def test_without_scripts_it_can_still_be_read(browser: Browser, page_file: Path) -> None:
    """Rows unfold, pictures and times are there; what would do nothing is not."""
    with Reader(browser, java_script_enabled=False, at=None) as reader:
        page = reader.open(page_file)
        assert not page.locator("#tools, #auto, #late, #early").locator("visible=true").count()
        assert page.get_by_text("Written 2026-11-21 11:55 UTC; the next is due by 2026-11-21 12:00 UTC.").is_visible()
        page.locator("summary").first.click()
        assert page.locator("svg.picture").first.is_visible()
        assert height(page.locator("svg.picture").first) > 100


@pytest.mark.parametrize(
    ("at", "late", "early"),
    [(30, False, False), (340, False, False), (361, True, False), (90000, True, False), (-120, False, True)],
)
def test_a_page_that_is_too_old_says_so(
    browser: Browser, page_file: Path, at: float, *, late: bool, early: bool
) -> None:
    """Its own promise and the reader's clock decide; a clock before the page's own is said to be wrong."""
    with Reader(browser, at=NOW + at) as reader:
        page = reader.open(page_file)
        assert page.locator("#late").is_visible() == late
        assert page.locator("#early").is_visible() == early


def test_it_grows_old_while_it_is_looked_at(browser: Browser, page_file: Path) -> None:
    """The banner comes by itself and names all three times, in the reader's zone."""
    with Reader(browser) as reader:
        page = reader.open(page_file)
        page.locator("#auto").uncheck()
        page.clock.fast_forward(400_000)
        text = page.locator("#late").inner_text()
        assert "written 2026-11-21 12:55:02" in text
        assert "due by 2026-11-21 13:00:02" in text
        assert "your clock says 2026-11-21 13:02" in text


def test_a_stopped_daemon_is_not_late(browser: Browser, tmp_path: Path) -> None:
    """It has promised nothing; the page says that it was stopped."""
    with Reader(browser, at=NOW + 90000) as reader:
        page = reader.open(written(replace(boards.full(), stopped=True), tmp_path))
        assert not page.locator("#late").is_visible()
        assert page.get_by_text("voicekiln was stopped.", exact=True).is_visible()


@pytest.mark.parametrize(
    ("do", "names"),
    [
        ({"q": "MIKU"}, ["Miku/miku_v2_final.pth"]),
        ({"q": "voice artists/12"}, ["artists/12/voice 0012.pth"]),
        ({"q": "音色"}, [HOSTILE[3]]),
        ({"q": "<b>"}, ["<b>new</b>.pth", HOSTILE[1]]),
        ({"state": "waiting"}, ["choir/tenor.pth", "<b>new</b>.pth", "upload/slow.pth"]),
        ({"state": "done", "family": "so-vits-svc", "precision": "fp16"}, [HOSTILE[10]]),
        ({"q": "nothing has this name"}, []),
    ],
)
def test_search_and_filters_find(browser: Browser, page_file: Path, do: dict[str, str], names: list[str]) -> None:
    """What fits is left, sections without any vanish, and the count is said."""
    with Reader(browser) as reader:
        page = reader.open(page_file)
        for field, value in do.items():
            if field == "q":
                page.locator("#q").fill(value)
            else:
                page.locator(f"#{field}").select_option(value)
        assert sorted(reader.shown()) == sorted(names)
        said = f"{len(names)} of 35 voices" if names else "No voice matches."
        assert page.get_by_role("status").inner_text() == said
        assert all(section.locator(".v:not([hidden])").count() for section in page.locator("section:visible").all())


def test_a_heading_counts_what_is_left(browser: Browser, page_file: Path) -> None:
    """Of how many, while something is searched for; a section of which all is left says what it said before."""
    with Reader(browser) as reader:
        page = reader.open(page_file)
        for query, counts in (("voice", ["1 of 4", "12 of 26"]), ("", ["2", "3", "4", "26"])):
            page.locator("#q").fill(query)
            assert page.locator("section:visible .count").all_inner_texts() == counts


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_a_voice_is_can_be_read_whole(browser: Browser, tmp_path: Path, language: Language) -> None:
    """On a desktop no cell is cut, whatever the family."""
    models = (
        "so-vits-svc 4.0 or 4.1",
        "coqui-vits YourTTS",
        "shallow-diffusion Unit2Mel",
        "speaker-encoder 1",
        "rvc v2",
    )
    told = enumerate(model.split(" ", 1) for model in models)
    voices = [
        replace(boards.done(5), file=f"{number}.pth", family=family, version=version, sample_rate=22050, f0=False)
        for number, (family, version) in told
    ]
    with Reader(browser, viewport=DESKTOP) as reader:
        page = reader.open(written(boards.board(voices), tmp_path, language))
        cells = page.locator("tbody td").all()
        assert len(cells) == 7 * len(models)
        assert not [cell.text_content() for cell in cells if cell.evaluate("it => it.scrollWidth > it.clientWidth")]


def test_on_a_phone_the_name_comes_first(browser: Browser, page_file: Path) -> None:
    """What a voice is stands below its name, and below all that an unfolded row shows."""
    with Reader(browser, viewport=PHONE) as reader:
        row = reader.open(page_file).locator("tr.v").nth(2)
        for above in (".n", ".more"):
            upper, model = (row.locator(part).bounding_box() for part in (above, "td:nth-child(2)"))
            assert upper
            assert model
            assert upper["y"] + upper["height"] <= model["y"]
            row.locator("summary").click()


def test_a_new_page_is_read_by_itself_and_nothing_is_lost(browser: Browser, page_file: Path) -> None:
    """Once the file was written anew it is shown; search, open rows, focus and place are as they were."""
    with Reader(browser, viewport=PHONE) as reader:
        page = reader.open(page_file)
        page.locator("#q").fill("Miku")
        page.locator("summary").nth(1).click()
        page.locator("details[open] svg.picture").wait_for()
        page.locator("#q").focus()
        page.evaluate("scrollTo(0, 300)")
        top = page.evaluate("scrollY")
        assert top > 100
        later = replace(boards.full(), written=NOW + 60, promised=NOW + 360)
        written(later, page_file.parent)
        with page.expect_event("load"):
            page.clock.run_for(25_000)
        assert page.locator("#late").get_attribute("data-written") == str(NOW + 60)
        assert reader.shown() == ["Miku/miku_v2_final.pth"]
        assert page.locator("details[open] svg.picture").is_visible()
        assert page.evaluate("[document.activeElement.id, scrollY]") == ["q", top]


def test_nobody_is_disturbed_while_typing(browser: Browser, page_file: Path) -> None:
    """Keys put the next reading off, and the box beside it puts it off for good."""
    with Reader(browser) as reader:
        page = reader.open(page_file)
        page.evaluate("window.stillHere = true")
        page.locator("#q").focus()
        for _ in range(8):
            page.keyboard.type("a")
            page.clock.run_for(15_000)
        assert page.evaluate("window.stillHere")
        page.locator("#auto").uncheck()
        page.clock.run_for(100_000)
        assert page.evaluate("window.stillHere")
        page.locator("#auto").check()
        with page.expect_event("load"):
            page.clock.run_for(25_000)


def test_times_are_the_readers(browser: Browser, page_file: Path) -> None:
    """A voice that waits says in how long it is tried again, by the reader's clock; times are of the reader's zone."""
    with Reader(browser) as reader:
        page = reader.open(page_file)
        assert page.get_by_text("next try in 1 min.").is_visible()
        assert page.get_by_text("next try any moment").is_visible()
        assert (page.locator("tr.v td:last-child").first.text_content() or "").strip() == "2026-11-21 12:48"


def test_in_chinese_nothing_changes_but_the_words(browser: Browser, tmp_path: Path) -> None:
    """The script reads it as well, and its language is said to those who speak it aloud."""
    with Reader(browser, viewport=PHONE) as reader:
        page = reader.open(written(boards.full(), tmp_path, "zh"))
        page.locator("#q").fill("Miku")
        assert reader.shown() == ["Miku/miku_v2_final.pth"]
        assert page.evaluate("document.documentElement.lang") == "zh-Hans"
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        assert reader.complaints == []


def test_five_thousand_voices_open(browser: Browser, tmp_path: Path) -> None:
    """All are there, the last one can be found, and it unfolds with its picture."""
    with Reader(browser, viewport=DESKTOP) as reader:
        page = reader.open(written(boards.long(5000), tmp_path))
        page.locator("#q").fill("4999")
        assert page.locator("#found").inner_text() == "1 of 5000 voices"
        page.locator("tr.v:not([hidden]) summary").click()
        page.locator("svg.picture").wait_for()
        assert reader.complaints == []


def test_an_empty_page_says_what_to_do(browser: Browser, tmp_path: Path) -> None:
    """Before the first voice there is a sentence, and nothing to search in."""
    with Reader(browser) as reader:
        page = reader.open(written(boards.board([]), tmp_path))
        assert page.get_by_text("Put a model file (.pth, .pt or .pkl) into the inbox.").is_visible()
        assert not page.locator("#tools").is_visible()
        assert reader.complaints == []


def test_only_pictures_that_agree_look_alike(browser: Browser, tmp_path: Path) -> None:
    """Where the ONNX file's wave is another one, it is drawn as another one."""
    voices = [boards.done(1), replace(boards.done(2), picture=boards.picture(2, drift=-0.4))]
    with Reader(browser, viewport=DESKTOP) as reader:
        page = reader.open(written(boards.board(voices), tmp_path))
        heights: list[list[float]] = []
        for fold in page.locator("details").all():
            fold.locator("summary").click()
            waves = fold.locator(".o, .m")
            heights.append([height(waves.nth(number)) for number in (0, 1)])
        assert heights[0][0] == pytest.approx(heights[0][1], abs=0.5)
        assert heights[1][1] < heights[1][0] - 5
