"""Pages of recordings, opened in the browser."""

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
