"""Pages in a real browser: Debian's Chromium, driven by Playwright; both are optional, and tests that miss one skip."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

from boards import NOW
from voicekiln import words
from voicekiln.page.board import Board
from voicekiln.page.render import render

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Dialog, Page

CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--force-prefers-reduced-motion"]
"""The page is ours, and tests run as root in containers, where Chromium's sandbox does not start."""
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


def why_not() -> str:
    if CHROMIUM is None:
        return "chromium is not installed (apt install chromium)"
    try:
        import playwright.sync_api  # noqa: F401, PLC0415 - asked for here
        from axe_playwright_python import sync_playwright  # noqa: F401, PLC0415 - as above
    except ImportError:
        return "the extra `browser` is not installed (pip install -e '.[browser]')"
    return ""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Give a running browser."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - optional

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def written(board: Board, folder: Path, language: words.Language = "en") -> Path:
    """Return the page, as a file."""
    path = folder / "status.html"
    path.write_text("".join(render(board, words.of(language))), encoding="utf-8")
    return path


class Reader:
    """Somebody with a browser who notes what it complains of and asks for."""

    def __init__(self, browser: Browser, *, at: float | None = NOW + 30, **context: Any) -> None:
        """`at` is the reader's clock, which then goes on; None for the machine's own."""
        self._context = browser.new_context(timezone_id="Europe/Berlin", **context)
        self.page: Page = self._context.new_page()
        self.page.set_default_timeout(60_000)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", self._dismiss)
        self.page.on("request", lambda request: self.requests.append(request.url))
        if at is not None:
            self.page.clock.install(time=datetime.fromtimestamp(at, UTC))

    def _dismiss(self, dialog: Dialog) -> None:
        self.complaints.append(dialog.message)
        dialog.dismiss()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.close()

    def open(self, path: Path) -> Page:
        """Open a file by double click."""
        self.page.goto(path.as_uri())
        return self.page

    def shown(self) -> list[str]:
        """Return the voices that are to be seen.

        Not as `inner_text`, which is empty for rows that the browser has not drawn yet.
        """
        return [text.strip() for text in self.page.locator("main .v:not([hidden]) .n").all_text_contents()]


def needs_browser() -> pytest.MarkDecorator:
    reason = why_not()
    return pytest.mark.skipif(bool(reason), reason=reason)
