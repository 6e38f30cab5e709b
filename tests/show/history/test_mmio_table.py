"""A guest table where there is no memory is named as such."""

from pathlib import Path

from shadowmmu.guest.scenario.parser import load_scenario
from shadowmmu.show.history.timeline import timeline_of
from shadowmmu.show.history.walk import translate

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "mmio-table.txt"


def test_the_walk_ends_at_a_table_in_mmio():
    timeline = timeline_of(load_scenario(EXAMPLE))
    walk = translate(timeline, timeline.moments[-1], 0, 0x600000).guest
    assert walk.end == "no memory slot has the table at gpa 0xd0000000 (MMIO): #PF for the guest"
    assert walk.steps[-1].value == "no memory"
    assert timeline.moments[-1].result["outcome"] == "exception"
