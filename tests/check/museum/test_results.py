"""Every historic defect of the museum is shown by its scenario, and gone without its switch."""

from pathlib import Path

import pytest

from shadowmmu.check.museum.results import EXHIBITS, Exhibit, UnknownExhibit, exhibit_named, results
from shadowmmu.check.museum.search import check_scenario, search
from shadowmmu.check.random.visitors import visitors
from shadowmmu.guest.scenario.parser import parse_scenario
from shadowmmu.kvm.design.design import Design
from shadowmmu.kvm.design.switches import switch_named

ROOT = Path(__file__).parents[3]


def lines_of(exhibit: Exhibit) -> list[str]:
    return (ROOT / exhibit.scenario).read_text().splitlines()


def test_the_museum_shows_every_defect_there_is() -> None:
    shown = [exhibit.switches.get("defect") for exhibit in EXHIBITS]
    assert sorted(name for name in shown if name) == sorted(set(switch_named("defect").values) - {"none"})
    assert len({exhibit.name for exhibit in EXHIBITS}) == len(EXHIBITS)
    assert len(EXHIBITS) >= 20


@pytest.mark.parametrize("exhibit", EXHIBITS, ids=lambda exhibit: exhibit.name)
def test_an_exhibit_has_a_story_a_fix_and_a_switch_that_is_unsafe(exhibit: Exhibit) -> None:
    assert len(exhibit.story) > 100
    assert exhibit.fix.startswith(("KVM: ", "kvm: ", "about "))
    assert exhibit.kernels
    Design(exhibit.switches)
    changed = {name for name, value in exhibit.switches.items() if value != exhibit.fixed[name]}
    assert len(changed) == 1
    (name,) = changed
    assert exhibit.switches[name] in switch_named(name).unsafe


@pytest.mark.parametrize("exhibit", EXHIBITS, ids=lambda exhibit: exhibit.name)
def test_its_scenario_shows_it_and_nothing_without_it(exhibit: Exhibit) -> None:
    lines = lines_of(exhibit)
    assert dict(parse_scenario("\n".join(lines) + "\n").design) == dict(exhibit.switches)
    _, violation = check_scenario(lines)
    assert violation is not None
    result = results()[exhibit.name]
    assert (violation.check, violation.predicate) == (result["check"], result["predicate"])
    assert check_scenario(lines, exhibit.fixed)[1] is None


def test_every_exhibit_was_found_and_has_a_scenario() -> None:
    there = {path.name for path in (ROOT / "scenarios" / "museum").glob("*.txt")}
    assert there == {f"{exhibit.name}.txt" for exhibit in EXHIBITS}
    assert results().keys() == {exhibit.name for exhibit in EXHIBITS}
    assert [name for name, result in results().items() if not result["found"]] == []


def test_a_search_ends_with_a_scenario_that_shows_the_defect() -> None:
    exhibit = exhibit_named("parent_left")
    sighting = search(exhibit, seconds=60.0, ops=60)
    assert sighting.violation is not None
    lines = sighting.scenario.splitlines()
    assert len(lines) < 40
    assert check_scenario(lines)[1] == sighting.violation
    assert check_scenario(lines, exhibit.fixed)[1] is None


def test_a_search_without_a_defect_finds_nothing() -> None:
    nothing = Exhibit("none", "", "", "", "", {"defect": "none"})
    sighting = search(nothing, seconds=1.0, ops=20)
    assert sighting.violation is None
    assert not sighting.scenario
    assert sighting.ops >= 20 * sighting.guests > 0, "storms play more"


def test_visitors_are_the_same_each_time() -> None:
    first, second = (next(visitors(3)) for _ in range(2))
    assert (first.setup, first.lines(50)) == (second.setup, second.lines(50))
    assert first.lines(10) == second.lines(50)[:10]


def test_the_nearest_name_is_shown() -> None:
    with pytest.raises(UnknownExhibit, match=r"no defect 'parent_lef'; did you mean 'parent_left'\?"):
        exhibit_named("parent_lef")
