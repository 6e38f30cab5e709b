"""What becomes of the entries on the way of an address is noted with the exit that did it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("unicorn")
pytest.importorskip("iced_x86")

from shadowmmu.guest.linux.guest import LinuxGuest
from shadowmmu.guest.observe.counts import Counts
from shadowmmu.guest.observe.entry_history import EntryHistory, shadow_walk
from shadowmmu.guest.observe.point import arm, parse_point
from shadowmmu.guest.observe.running import Running
from shadowmmu.guest.observe.word_watch import WordWatch
from shadowmmu.guest.svm.clock import VirtualClock
from shadowmmu.guest.svm.machine import SvmMachine

STORM = Path(__file__).parents[1] / "linux" / "guests" / "storm.elf"
PLACE = 0x10000000
"""Where the process `mapper` maps and unmaps."""


@contextlib.contextmanager
def storm(tmp_path: Path, *, npt: bool = False) -> Iterator[tuple[LinuxGuest, Running]]:
    machine = SvmMachine(64 << 20, npt=npt, clock=VirtualClock())
    guest = LinuxGuest(machine, root=tmp_path, warn=lambda text: None)
    guest.load(STORM, ["storm"])
    yield guest, Running(guest, STORM.read_bytes())


def test_words_that_change_are_found():
    words = memoryview(bytearray(80)).cast("Q")
    watch = WordWatch(words)
    assert not watch.changed()
    watch.watch([2, 5])
    words[3] = 1
    assert not watch.changed()
    words[5] = 1
    assert watch.changed()
    watch.watch([2, 5])
    assert not watch.changed()


@pytest.mark.parametrize("npt", [False, True])
def test_the_newest_change_of_each_entry_is_what_it_is_now(tmp_path, npt):
    found = []
    with storm(tmp_path, npt=npt) as (guest, running):
        history = EntryHistory(running, PLACE)

        def at_the_point() -> None:
            assert running.who.name == "mapper"
            for entry in shadow_walk(running, PLACE):
                changes = history.of(entry.sptep)
                found.append((entry.value, changes[0].new if changes else None))

        arm(parse_point("syscall:munmap#5"), running, at_the_point)
        assert guest.run().reason == "point"
    assert len(found) == 4
    assert all(value == new for value, new in found)


def test_a_page_that_is_mapped_again_and_again_has_a_history_of_it(tmp_path):
    leaf = []
    with storm(tmp_path) as (guest, running):
        history = EntryHistory(running, PLACE)
        arm(
            parse_point("syscall:munmap#5"),
            running,
            lambda: leaf.extend(history.of(shadow_walk(running, PLACE)[-1].sptep)),
        )
        guest.run()
    mapped = [change for change in leaf if change.symbol == "touch+0x2" and change.events]
    assert len(mapped) >= 5
    for change in mapped:
        assert change.who.name == "mapper"
        assert {"kvm_page_fault", "kvm_mmu_set_spte"} <= {event.name for event in change.events}
    exits = [change.exit for change in leaf]
    assert exits == sorted(exits, reverse=True)


def test_what_the_history_costs_does_not_change_the_run(tmp_path):
    def counters(*, asked: bool) -> tuple[dict[str, int], dict[str, int]]:
        with storm(tmp_path) as (guest, running):
            if asked:
                EntryHistory(running, PLACE)
            guest.run()
            return guest.machine.counters(), guest.machine.vcpu.stat.as_dict()

    assert counters(asked=False) == counters(asked=True)


def test_counts_add_up_to_the_statistics(tmp_path):
    with storm(tmp_path) as (guest, running):
        counts = Counts(running)
        guest.run()
        machine = guest.machine
    assert counts.faults.total() == counts.by_rip.total() == counts.by_region.total()
    assert counts.faults.total() == machine.vcpu.stat.pf_taken
    assert counts.exits.total() == machine.exits.total()
    outcomes = {}
    for (_, _, outcome), number in counts.faults.items():
        outcomes[outcome] = outcomes.get(outcome, 0) + number
    assert outcomes["the guest's own"] == machine.vcpu.stat.pf_guest
    assert counts.pages["zaps"].total() >= machine.kvm.stat.mmu_shadow_zapped


def test_the_process_that_unmaps_causes_the_syncs(tmp_path):
    with storm(tmp_path) as (guest, running):
        counts = Counts(running)
        guest.run()
    (who, cause), most = counts.pages["syncs"].most_common(1)[0]
    assert (who.name, cause) == ("mapper", "write_cr3 for munmap")
    assert most >= 12
    assert counts.by_rip.most_common(1)[0][0][1] == "touch+0x2"
