"""Headless Chromium, operated by Playwright."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from show.recorded import recording

from shadowmmu.show.browser.assemble import page
from shadowmmu.show.history.timeline import recorded_timeline
from shadowmmu.show.reasons.change import Change
from shadowmmu.show.reasons.history import reasons_of_recording

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WORST_CONTRAST = """() => {
    const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const luminance = ([r, g, b]) => [r, g, b].map((v) => v / 255)
        .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
    const ground = (node) => {
        for (; node; node = node.parentElement) {
            const colour = numbers(getComputedStyle(node).backgroundColor);
            if (colour.length < 4 || colour[3] > 0) return colour;
        }
        return [255, 255, 255];
    };
    const found = [...document.querySelectorAll("body *")].filter((node) =>
        [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim())
        && node.checkVisibility() && !node.matches("script, noscript, .skip, [disabled], option"));
    return Math.min(...found.map((node) => {
        const one = luminance(numbers(getComputedStyle(node).color));
        const two = luminance(ground(node));
        return (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    }));
}"""
"""A script: the lowest contrast of a text of the page with its ground, as WCAG has it."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The browser; tests are skipped where there is none.

    Closed with its module: while it is open, Playwright has an event loop that no other test could have.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("needs a browser: apt-get install chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def reasons_of_page() -> Callable[[str], Sequence[Change]]:
    """The changes of a recording with their reasons."""
    return cache(lambda name: reasons_of_recording(recording(name)).changes)


@pytest.fixture(scope="session")
def page_of(
    tmp_path_factory: pytest.TempPathFactory, reasons_of_page: Callable[[str], Sequence[Change]]
) -> Callable[[str], Path]:
    """The page of a recording, as a file."""
    folder = tmp_path_factory.mktemp("pages")

    def write(name: str) -> Path:
        path = folder / f"{name}.html"
        if not path.exists():
            path.write_text(page(recorded_timeline(recording(name)), reasons_of_page(name)))
        return path

    return write


class Opened:
    """A page in the browser, which must not complain of anything or fetch anything."""

    def __init__(self, chromium: Any, path: Path, link: str = "", **context: Any) -> None:
        self.complaints: list[str] = []
        self.fetched: list[str] = []
        self.context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
        self.page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("request", lambda request: self.fetched.append(request.url))
        self.page.goto(f"file://{path}{link}")

    def text(self, name: str) -> str:
        return self.page.inner_text(f"#{name}")

    def close(self) -> None:
        self.context.close()
        assert not self.complaints
        assert len(self.fetched) == 1


@pytest.fixture
def opened(chromium: Any, page_of: Callable[[str], Path]) -> Iterator[Callable[..., Opened]]:
    """Open the page of a recording; at the end nothing was complained of."""
    all_of_them = []

    def open_one(name: str, link: str = "", **context: Any) -> Opened:
        all_of_them.append(Opened(chromium, page_of(name), link, **context))
        return all_of_them[-1]

    yield open_one
    for each in all_of_them:
        each.close()
