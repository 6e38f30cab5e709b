"""What setup statements come to."""

import pytest
from guest.language import parse, setup

from shadowmmu.guest.scenario.modes import TRAMP_GPA
from shadowmmu.guest.scenario.parser import parse_scenario
from shadowmmu.guest.scenario.scenario import Scenario
from shadowmmu.guest.scenario.setup import Pt, ScenarioError, resolve


def entries(scenario: Scenario) -> list[tuple[int, int]]:
    actions = resolve(scenario).actions
    return [(a.gpa, a.value) for a in actions if isinstance(a, Pt) and a.gpa < TRAMP_GPA]


def test_map_extends_the_tables():
    scenario = setup("map 0x1000 0x400000 0x800000 0x67 n=2", "map 0x1000 0x800000 0x10000000 0x65 level=2")
    assert entries(scenario) == [
        (0x1000, 0x2027),
        (0x2000, 0x3027),
        (0x3010, 0x4027),
        (0x4000, 0x800067),
        (0x4008, 0x801067),
        (0x3020, 0x100000E5),
    ]


def test_map_options():
    scenario = setup("nonleaf 0x7", "map 0x1000 0 0x800000 0x67 n=2 stride=0x200000 gstride=0", mode="pae")
    assert entries(scenario) == [
        (0x1000, 0x2001),
        (0x2000, 0x3007),
        (0x3000, 0x800067),
        (0x2008, 0x4007),
        (0x4000, 0x800067),
    ]


def test_map_sees_what_was_poked():
    scenario = setup("poke 0x1000 0x9027", "map 0x1000 0 0x800000 0x67")
    assert entries(scenario)[0] == (0x9000, 0x2027)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["poke 0x2000 1", "map 0x1000 0 0 0x67"], "x.txt:8: `map` would take page 0x2000"),
        (["alloc 0xfff000", "map 0x1000 0 0 0x67"], "x.txt:8: no slot has guest address 0x1000000"),
        (["poke 0x1000 0x50000027", "map 0x1000 0 0 0x67"], "x.txt:8: no slot has guest address 0x50000000"),
    ],
)
def test_map_that_cannot_be(lines, message):
    scenario = setup(*lines)
    with pytest.raises(ScenarioError) as caught:
        resolve(scenario)
    assert str(caught.value).startswith(message)


def test_map_without_alloc():
    text = "mode long4\nslot 0 0x0 1M\nmap 0x1000 0 0 0x67\nstart"
    with pytest.raises(
        ScenarioError, match=r"<text>:3: `map` needs a page for a page table; put `alloc GPA`"
    ):
        resolve(parse_scenario(text))


def test_an_entry_too_wide_for_the_mode():
    scenario = setup("map 0x1000 0 0x100000000 0x67", mode="32")
    with pytest.raises(ScenarioError, match=r"x.txt:7: the entry 0x100000067 does not fit in 4 bytes"):
        resolve(scenario)


def test_vcpus():
    scenario = parse(start="start cr3=0x1000 cr3@1=0x5000 cr4=0x30", mode="long5")
    setup = resolve(scenario)
    assert setup.nvcpus == 2
    assert [(v.id, v.cr3, v.cr4, v.cr0, v.efer) for v in setup.vcpus] == [
        (0, 0x1000, 0x1030, 0x80010033, 0xD00),
        (1, 0x5000, 0x1030, 0x80010033, 0xD00),
    ]
    assert setup.params["kernel"].startswith("6.12.")
    assert setup.maxphyaddr == 40


def test_watched_pages_are_in_order_of_appearance():
    scenario = setup("watch 0x800000", "pt 0x9000 0 1", "watch 0x9008", "tramp 0x1000")
    assert resolve(scenario).watched_pages == dict.fromkeys(
        (0x800000, 0x9000, 0x1000, 0xF0004000, 0xF0003000, 0xF0002000), 8
    )


def test_the_slot_of_the_guest_code_comes_with_the_first_tramp_or_last():
    first = [a for a in resolve(setup("tramp 0x1000", "poke 0x0 1")).actions if not isinstance(a, Pt)]
    last = [a for a in resolve(setup("poke 0x0 1")).actions if not isinstance(a, Pt)]
    assert [type(a).__name__ for a in first[2:]] == ["SlotSetup", "Poke", "Vcpu", "Vcpu"]
    assert [type(a).__name__ for a in last[2:]] == ["Poke", "SlotSetup", "Vcpu", "Vcpu"]
