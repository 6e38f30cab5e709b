"""Guests with their tables in huge pages."""

import pytest

from shadowmmu.check.random.ground_setup import ODD_TABLES
from shadowmmu.check.random.visitors import Visitor
from shadowmmu.guest.scenario.parser import parse_scenario

KINDS = [(mmu, profile) for mmu in ("shadow", "nested") for profile in ("ordinary", "hostile")]


@pytest.mark.parametrize(("mmu", "profile"), KINDS)
def test_each_table_has_a_huge_page_of_its_own(mmu: str, profile: str) -> None:
    visitor = Visitor("long4", mmu, profile, 0, huge_tables=True)
    tables = [table for _, table in visitor.ground.everything]
    assert tables == [ODD_TABLES["huge"] + 0x200000 * n for n in range(len(tables))]
    (slot,) = (line for line in visitor.setup if line.startswith("slot 6 "))
    assert slot == f"slot 6 0x40000000 {2 * len(tables)}M huge2m"


@pytest.mark.parametrize(("mmu", "profile"), KINDS)
def test_it_writes_a_table_while_its_log_is_read(mmu: str, profile: str) -> None:
    text = ""
    for seed in range(5):
        visitor = Visitor("long4", mmu, profile, seed, huge_tables=True)
        lines = visitor.lines(200)
        parse_scenario("\n".join([*visitor.setup, *lines]) + "\n")
        text += "\n".join(lines)
    for line in ("dirtylog off 6", "dirtylog on 6", "cleardirty 6 0 ", "meanwhile 1 ", "meanwhile 2 "):
        assert line in text


def test_a_way_through_a_table_is_one_of_its_own_tables() -> None:
    ground = Visitor("long4", "shadow", "ordinary", 0, huge_tables=True).ground
    for address in ground._ways(ground.tables[4][0], 4, ground.tables[1][0]):
        table = ground.tables[4][0]
        for level in (4, 3, 2):
            table = ground.entries[table, address >> 12 + 9 * (level - 1) & 511] & 0xFFFFFFFFFF000
        assert table == ground.tables[1][0]
