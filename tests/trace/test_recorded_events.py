"""Recorded events: each kind can be recorded and read back."""

import pytest

from shadowmmu.kvm.tracepoints import host
from shadowmmu.kvm.tracepoints.event import Event
from shadowmmu.kvm.tracepoints.exits import Exit
from shadowmmu.kvm.tracepoints.mmu import SetSpte, TdpMmuSpteChanged
from shadowmmu.kvm.tracepoints.tracer import TRACEPOINTS
from shadowmmu.trace.names import Names
from shadowmmu.trace.recorded_events import RECORDED, entries_of, events_of

HVA, GPA = 0x7F0000000000, 0x10000000
SAMPLES = {"str": "a check", "bytes": b"\x0f\x01", "Hva": HVA + 0x1000, "Pfn": 0x800, "Sptep": 0x5018}


class Places:
    """The addresses of one slot's memory, which page 0x1800 of the host backs."""

    def pfn(self, name: str) -> int:
        return int(name.removeprefix("gpa:"), 16) >> 12

    def spte(self, name: str) -> int:
        target, rest = name.split("|")
        return self.pfn(target) << 12 | int(rest, 16)

    def sptep(self, name: str) -> int:
        return int(name.removeprefix("?"), 16)

    def hva(self, name: str) -> int:
        return int(name.removeprefix("gpa:"), 16) - GPA + HVA


def names() -> Names:
    known = Names({1: (HVA, 0x100000, GPA)})
    known.learn({0x800: 0x800000})
    return known


def sample(name: str) -> Event:
    """An event whose fields have some value each."""
    kind = TRACEPOINTS[name].event
    values = {
        field: SAMPLES.get(kind_of, 0x800E67 if "Spte" in kind_of else 1)
        for field, kind_of in kind.fields.items()
    }
    if "role" in values:
        values["role"] = 0x1701 | 1 << 7
    if "exception" in values and "has_error" in values:
        values["exception"] = 14
    if "exit_reason" in values:
        values |= {"exit_reason": 48, "guest_rip": 0x1000}
    return kind(**values)


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_a_recorded_event_is_read_back(name: str) -> None:
    (entry,) = entries_of(names(), [sample(name)], (), strings=True)
    assert entry["e"] == name
    (event,) = events_of(entry, Places())
    assert entries_of(names(), [event], (), strings=True) == [entry]


def test_runs_stand_for_several_events() -> None:
    run = [TdpMmuSpteChanged(0, n, 1, 1 << 63, 0x800E67 + (n << 12)) for n in range(3)]
    known = Names({})
    known.learn({0x800 + n: 0x800000 + (n << 12) for n in range(3)})
    (entry,) = entries_of(known, run, (), strings=True)
    assert entry["n"] == 3

    class Empty(Places):
        def spte(self, name: str) -> int:
            return 1 << 63 if name == "none63" else super().spte(name)

    assert list(events_of(entry, Empty())) == run


def test_the_task_is_recorded() -> None:
    event = SetSpte(1, 0x800E67, 0x5018, 1).by("kworker")
    (entry,) = entries_of(names(), [event], (), strings=True)
    assert entry["task"] == "kworker"
    assert list(events_of(entry, Places())) == [event]


def test_the_page_whose_age_is_asked_has_a_name() -> None:
    (entry,) = entries_of(names(), [host.TestAgeHva(HVA + 0x3000)], (), strings=True)
    assert entry == {"e": "kvm_test_age_hva", "hva": "gpa:10003000"}


@pytest.mark.parametrize(("reason", "kept"), [(0x60, 0), (0x7B, 0), (0x4E, 1)])
def test_exits_that_depend_on_the_host_are_left_out(reason: int, kept: int) -> None:
    exits = [Exit(0, reason, 0, 0, 0)]
    assert len(entries_of(names(), exits, (), strings=True)) == kept
    assert len(entries_of(names(), exits, (), strings=False)) == 1, "its reason is lost"
