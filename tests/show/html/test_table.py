"""Tables for notebooks: harmless, small, and of what they show."""

import dataclasses
from html.parser import HTMLParser

import pytest
from show.recorded import recording

from shadowmmu import Vm
from shadowmmu.guest.scenario.from_recording import rebuild_scenario
from shadowmmu.show.diff.difference import compare_timelines
from shadowmmu.show.history.timeline import timeline_of
from shadowmmu.show.html.table import MOST_ROWS, table

ALLOWED = {"style", "table", "caption", "tr", "th", "td"}


class Read(HTMLParser):
    """The elements of some HTML, which must be closed in their order, and the rows of its tables."""

    def __init__(self, text):
        super().__init__()
        self.open = []
        self.rows = []
        self.marked = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        assert tag in ALLOWED
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
            if ("class", "marked") in attributes:
                self.marked.append(len(self.rows) - 1)
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


@pytest.fixture
def vm():
    vm = Vm("64M", "long4")
    vm.map(0x400000, 0x800000, "16K")
    vm.vcpus[0].write(0x400000, 42)
    return vm


def test_what_a_cell_says_cannot_become_markup():
    evil = "<script>alert(1)</script>&\"'"
    read = Read(table(evil, [evil], [[evil]]))
    assert read.rows == [[evil], [evil]]


def test_a_long_table_says_how_much_it_leaves_out():
    read = Read(table("long", (), [[str(n)] for n in range(MOST_ROWS + 3)]))
    assert len(read.rows) == MOST_ROWS + 1
    assert read.rows[-1] == ["and 3 more"]


def test_a_vm_shows_what_its_mmu_holds(vm):
    rows = dict(Read(vm._repr_html_()).rows)
    assert rows["kernel"] == "6.12.111, amd, shadow paging"
    assert rows["shadow pages"] == "4: 1 of level 4, 1 of level 3, 1 of level 2, 1 of level 1"
    assert rows["mapped pages"].startswith("4 of 4 KiB")
    assert "AddressSpace" not in rows["slot 0"]


def test_a_walk_shows_each_level_of_both_tables(vm):
    walk = vm.walk(0x400000)
    head, *rows, ends = Read(walk._repr_html_()).rows
    assert head[0] == "level"
    assert [row[0] for row in rows] == ["4", "3", "2", "1"]
    assert [row[2] for row in rows] == [str(entry) for entry in walk.guest]
    assert [row[4] for row in rows] == [str(spte) for spte in walk.shadow]
    assert ends == ["", "leads to", f"gpa {walk.gpa:#x}", "leads to", f"hpa {walk.hpa:#x}"]


def test_a_walk_that_leads_nowhere_says_so(vm):
    ends = Read(vm.walk(0x900000)._repr_html_()).rows[-1]
    assert ends[2] == ends[4] == "not mapped"


def test_a_shadow_page_shows_its_sptes(vm):
    page = next(page for page in vm.shadow_pages if page.level == 1)
    _, *rows = Read(page._repr_html_()).rows
    assert [int(row[1], 16) for row in rows] == [spte.value for spte in page.sptes]
    assert all(row[3] == "rwxu" for row in rows)


def test_a_trace_shows_its_events(vm):
    with vm.trace() as events:
        vm.vcpus[0].invlpg(0x400000)
        vm.vcpus[0].read(0x400000)
    _, *rows = Read(events._repr_html_()).rows
    assert [(row[1], row[2]) for row in rows] == [(event.name, event.text()) for event in events]


def test_a_difference_shows_the_ops_that_differ_and_marks_their_lines():
    scenario = rebuild_scenario(recording("b-unsync"))
    other = scenario.with_design({"unsync": "never"})
    difference = compare_timelines(timeline_of(scenario), timeline_of(other), ("unsync", "never"))
    difference = dataclasses.replace(difference, ops=difference.ops[:8])
    assert difference.differing
    read = Read(difference._repr_html_())
    for pair in difference.differing:
        assert [f"{pair.op} {pair.text}", "", ""] in read.rows
    assert read.marked
    assert all(read.rows[n][1] != read.rows[n][2] for n in read.marked)
    flushes = difference.counter("remote_tlb_flush_requests")
    assert [flushes.label, f"{flushes.left:,}", f"{flushes.right:,}"] in read.rows
