"""Pictures and pages of studies."""

import re
from html.parser import HTMLParser

import pytest

pytest.importorskip("matplotlib")

from shadowmmu.study.configuration import Configuration
from shadowmmu.study.costs import default_costs
from shadowmmu.study.page import page
from shadowmmu.study.plot import COLOURS, svg
from shadowmmu.study.study import Alternative, Case, Results, Study, run_study

SMALL = Configuration(memory="64M")


@pytest.fixture(scope="module")
def results() -> Results:
    study = Study(
        name="windows",
        question="Is <off> better?",
        about="A & B.",
        cases=(Case("forward", "sequential", {"pages": 64}), Case("back", "backward", {"pages": 64})),
        alternatives=(
            Alternative("aligned", SMALL),
            Alternative("off", SMALL.with_design(prefetch_window="off"), unsafe="it is a test"),
        ),
        columns=("faults", "seconds"),
        plotted="faults",
        verdict=lambda found: f"{found.value('back', 'off', 'faults'):.0f} faults.",
    )
    return run_study(study, default_costs())


def luminance(colour: str) -> float:
    def linear(part: str) -> float:
        value = int(part, 16) / 255
        return value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(colour[at : at + 2]) for at in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("colour", COLOURS)
def test_colours_stand_out_from_white(colour: str) -> None:
    assert 1.05 / (luminance(colour) + 0.05) >= 2.7


def test_the_picture_has_each_value_and_is_the_same_each_time(results: Results) -> None:
    picture = svg(results)
    words = re.findall(r">([^<>]+)</text>", picture)
    assert words.count("64") == 2
    assert words.count("8") >= 2
    assert {"forward", "back", "aligned", "off (unsafe)"} <= set(words)
    assert picture == svg(results)


class Reader(HTMLParser):
    """Collects what a page would load, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "link", "img", "iframe"):
            self.loaded.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_needs_no_network_and_says_what_is_unsafe(results: Results) -> None:
    reader = Reader()
    html = page(results, default_costs())
    reader.feed(html)
    text = " ".join(reader.text)
    assert not reader.loaded
    assert "Is <off> better?" in text
    assert "64 faults. off must not be used: it is a test." in text
    assert "off (unsafe)" in text
    assert "Exits" in text or "exits" in text
