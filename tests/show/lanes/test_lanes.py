"""Pages with a lane for each CPU: what they show is what was searched and checked; operated by keys."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from show.accessibility import AA, WORST_CONTRAST
from show.browser.conftest import Opened
from show.recorded import SCENARIOS

from shadowmmu.check.museum.results import EXHIBITS, exhibit_named
from shadowmmu.guest.scenario.parser import load_scenario
from shadowmmu.show.lanes.assemble import lanes_page
from shadowmmu.show.lanes.lanes import Lanes, Run, Step
from shadowmmu.show.lanes.of_exhibit import lanes_of_exhibit

ROOT = SCENARIOS.parents[2]
RACE = """
import json
from dataclasses import asdict
from shadowmmu.check.race.catalogue import find
from shadowmmu.check.race.explore import Plan, explore, read_schedule
from shadowmmu.show.lanes.of_race import lanes_of_case, lanes_of_schedule
from pathlib import Path
import sys

(case,) = find(["R37b"])
found = explore(case, ("clear_spte_count",), Plan()).bad
kept = Path(sys.argv[1])
kept.write_text(found.text())
print(json.dumps([asdict(lanes_of_case(case)), asdict(lanes_of_schedule(read_schedule(kept))), found.events]))
"""


def of_exhibit(name: str) -> Lanes:
    exhibit = exhibit_named(name)
    return lanes_of_exhibit(exhibit, load_scenario(ROOT / exhibit.scenario))


def lanes_of(plain: dict) -> Lanes:
    runs = [Run(**{**run, "steps": [Step(**step) for step in run["steps"]]}) for run in plain["runs"]]
    return Lanes(plain["name"], plain["title"], [tuple(each) for each in plain["about"]], runs)


@pytest.fixture(scope="module")
def race(tmp_path_factory):
    """The lanes of a case, those of one of its schedules that was kept, and that schedule."""
    pytest.importorskip("greenlet", reason="needs greenlet (shadowmmu[race])")
    environment = {**os.environ, "SHADOWMMU_INTERPRETED": "1", "PYTHONPATH": str(ROOT / "src")}
    environment.pop("SHADOWMMU_REQUIRE_NATIVE", None)
    kept = tmp_path_factory.mktemp("race") / "schedule.txt"
    done = subprocess.run(
        [sys.executable, "-c", RACE, kept], env=environment, capture_output=True, text=True, check=True
    )
    case, schedule, events = json.loads(done.stdout)
    return lanes_of(case), lanes_of(schedule), events


@pytest.fixture
def opened(chromium, tmp_path):
    """Open the page of lanes; at the end nothing was complained of."""
    pages = []

    def open_one(lanes: Lanes, link: str = "", **context) -> Opened:
        path = Path(tmp_path) / f"{lanes.name}.html"
        path.write_text(lanes_page(lanes))
        pages.append(Opened(chromium, path, link, **context))
        return pages[-1]

    yield open_one
    for each in pages:
        each.close()


@pytest.mark.parametrize("name", [exhibit.name for exhibit in EXHIBITS[:: max(1, len(EXHIBITS) // 8)]])
def test_an_exhibit_is_wrong_with_its_defect_and_right_without(name):
    broken, fixed = of_exhibit(name).runs
    assert not broken.good and any(step.wrong for step in broken.steps)
    assert fixed.good and not any(step.wrong for step in fixed.steps)


def test_each_op_is_in_the_lane_of_who_does_it():
    (run, _) = of_exhibit("cr3_unsynced").runs
    assert run.lanes == ["vCPU 0", "vCPU 1", "user space"]
    assert [(step.lane, step.text) for step in run.steps] == [
        (0, "write 0x7f0000009000 0x2c007027 size=8"),
        (0, "write 0x7f0000004000 0x2c001005 size=8"),
        (0, "cr3 0x2c009000"),
        (0, "read 0x0"),
        (2, "cleardirty 6 0 512 (begins)"),
        (0, "write 0x7f0000001000 0x0 size=8"),
        (0, "cr3 0x2c009000"),
        (2, "cleardirty 6 0 512 (ends)"),
    ]
    assert "had dropped mmu_lock" in run.steps[5].details[1]
    assert run.steps[-1].wrong[0].startswith("stale-translation")


def test_a_race_has_a_run_for_each_protection(race):
    case, _, events = race
    assert [run.name for run in case.runs] == [
        "all protections", "without clear_spte_count", "without count_before_set", "without count_read_first",
    ]  # fmt: skip
    assert [run.good for run in case.runs] == [True, False, False, False]
    run = case.runs[1]
    assert run.lanes == ["CPU 1: __get_spte_lockless", "CPU 2: __update_clear_spte_slow"]
    assert [[step.lane, step.text] for step in run.steps] == events
    assert [n for n, step in enumerate(run.steps) if step.wrong] == [len(events) - 1]


def test_a_kept_schedule_has_one_run_the_same(race):
    case, kept, _ = race
    assert [run.name for run in kept.runs] == ["without clear_spte_count"]
    assert kept.runs[0].steps == case.runs[1].steps


def test_what_lanes_say_cannot_become_markup():
    evil = "</script><script>alert(1)</script><!--DATA-->"
    step = Step(0, evil, [evil], [evil])
    text = lanes_page(Lanes(evil, evil, [(evil, evil)], [Run(evil, evil, False, [evil], [step])]))
    assert text.count("<script") == 2
    assert "://" not in text
    data = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)
    assert json.loads(data[1])["runs"][0]["steps"][0]["text"] == evil


def test_keys_step_through_runs_and_lanes(opened, race):
    page = opened(race[0])
    assert "no bad outcome" in page.text("verdict")
    assert page.text("where") == "no steps"
    page.page.keyboard.press("ArrowRight")
    assert page.text("verdict").startswith("without clear_spte_count: bad: read 0x11110001")
    for key, step in (("ArrowDown", 1), ("ArrowDown", 2), ("ArrowUp", 1), ("End", 10), ("ArrowDown", 10)):
        page.page.keyboard.press(key)
        assert page.text("where") == f"step {step} of 0 to 10"
    assert page.page.is_disabled("#next")
    page.page.keyboard.press("Home")
    assert page.page.get_attribute("#step-0", "aria-current") == "step"
    page.page.keyboard.press("]")
    assert "Wrong after it" in page.text("step")
    page.page.keyboard.press("ArrowLeft")
    assert page.page.get_attribute("#runs button", "aria-pressed") == "true"


def test_a_step_can_be_clicked_and_linked_to(opened):
    page = opened(of_exhibit("cr3_unsynced"), "#run=0&step=5")
    assert "had dropped mmu_lock" in page.text("step")
    page.page.click("#step-7")
    assert "stale-translation" in page.text("step")
    assert page.page.url.endswith("#run=0&step=7")


@pytest.mark.parametrize("link", ["#run=99&step=99", "#run=x&step=-4", "#"])
def test_links_that_lead_nowhere_do_no_harm(opened, link):
    assert opened(of_exhibit("cr3_unsynced"), link).text("where").startswith("step ")


def test_a_run_without_a_schedule_says_so(opened):
    page = opened(Lanes("R0", "no schedule", [], [Run("as it is", "no bad outcome", True, [], [])]))
    assert "there is no schedule to show" in page.text("lanes")
    for key in ("ArrowDown", "End", "]"):
        page.page.keyboard.press(key)
    assert page.text("where") == "no steps"


@pytest.mark.parametrize("width", [700, 1280])
def test_nothing_is_wider_than_the_window(opened, width):
    page = opened(of_exhibit("cr3_unsynced"), viewport={"width": width, "height": 900})
    assert page.page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_the_contrast_of_aa(opened, scheme):
    page = opened(of_exhibit("cr3_unsynced"), "#step=7", color_scheme=scheme)
    assert page.page.evaluate(WORST_CONTRAST) >= AA


def test_everything_that_can_be_clicked_can_be_reached_by_tab(opened):
    page = opened(of_exhibit("cr3_unsynced"))
    assert page.page.evaluate(
        """[...document.querySelectorAll("button")].every((node) => node.tabIndex >= 0)"""
    )
    page.page.focus("#step-3")
    page.page.keyboard.press("Enter")
    assert page.text("where") == "step 3 of 0 to 7"
