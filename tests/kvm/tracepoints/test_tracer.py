"""Listeners: several at a time, each hears what it wants; nobody pays while there are none."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from kvm.random_scenarios import MODES, random_scenario
from kvm.world import World

from shadowmmu import Vm
from shadowmmu.guest.scenario.parser import parse_scenario
from shadowmmu.kvm.design.design import Design
from shadowmmu.kvm.state.vm import Kvm
from shadowmmu.kvm.tracepoints.event import Event
from shadowmmu.kvm.tracepoints.tracer import TRACEPOINTS, EventLog, Tracer

PACKAGE = Path(inspect.getfile(Tracer)).parents[2]


class Switch:
    """What a tracer wants of a VM."""

    tracing = False
    design = Design()


class Page:
    gfn, role, mmu_valid_gen, root_count, unsync = 0x12, 0x3701, 1, 2, 0


@pytest.fixture
def kvm() -> Switch:
    return Switch()


@pytest.fixture
def tracer(kvm: Switch) -> Tracer:
    return Tracer(kvm)


def test_the_flag_is_set_while_anybody_listens(kvm: Switch, tracer: Tracer) -> None:
    first, second = EventLog(), EventLog()
    flags = []
    for change in (
        lambda: tracer.add(first),
        lambda: tracer.add(second, "kvm_exit"),
        lambda: tracer.remove(first),
        lambda: tracer.remove(first),
        lambda: tracer.remove(second),
    ):
        change()
        flags.append(kvm.tracing)
    assert flags == [True, True, True, True, False]
    assert tracer.listeners == ()


def test_all_listeners_hear_the_same_event(tracer: Tracer) -> None:
    first, second = EventLog(), EventLog()
    tracer.add(first)
    tracer.add(second)
    tracer.kvm_mmu_set_accessed_bit(8)
    (one,), (other,) = first.take(), second.take()
    assert one is other
    assert first.take() == []


def test_a_listener_hears_only_what_it_wants(tracer: Tracer) -> None:
    log = EventLog()
    tracer.add(log, "kvm_mmu_set_dirty_bit", "kvm_pml_full")
    tracer.kvm_mmu_set_accessed_bit(8)
    tracer.kvm_mmu_set_dirty_bit(16)
    assert [event.name for event in log.take()] == ["kvm_mmu_set_dirty_bit"]
    tracer.add(log, "kvm_mmu_set_accessed_bit")
    tracer.kvm_mmu_set_accessed_bit(8)
    tracer.kvm_mmu_set_dirty_bit(16)
    assert [event.name for event in log.take()] == ["kvm_mmu_set_accessed_bit"]


def test_no_event_is_made_that_nobody_wants(tracer: Tracer) -> None:
    tracer.add(EventLog(), "kvm_exit")
    tracer.kvm_mmu_get_page(None, 1)  # type: ignore[arg-type]  (an event could not be made of it)


def test_an_unknown_name_is_refused(kvm: Switch, tracer: Tracer) -> None:
    with pytest.raises(ValueError, match="'kvm_exits' must be the name of a tracepoint"):
        tracer.add(EventLog(), "kvm_exit", "kvm_exits")
    assert not kvm.tracing


def test_a_listener_that_raises_is_removed_when_all_have_heard(kvm: Switch, tracer: Tracer) -> None:
    def broken(event: Event) -> None:
        raise OSError(event.name)

    before, after = EventLog(), EventLog()
    for listener in (before, broken, after):
        tracer.add(listener)
    with pytest.raises(OSError, match="kvm_pml_full"):
        tracer.kvm_pml_full(0)
    tracer.kvm_pml_full(1)
    assert [len(log.take()) for log in (before, after)] == [2, 2]
    tracer.remove(before)
    tracer.remove(after)
    assert not kvm.tracing


def test_a_listener_that_raises_inside_a_block_leaves_it_cleanly(kvm: Switch, tracer: Tracer) -> None:
    def broken(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), tracer.listening(broken):
        tracer.kvm_pml_full(0)
    assert not kvm.tracing


def test_a_listener_may_remove_itself_and_add_others(tracer: Tracer) -> None:
    log = EventLog()

    def once(event: Event) -> None:
        tracer.remove(once)
        tracer.add(log)

    tracer.add(once)
    tracer.kvm_pml_full(0)
    tracer.kvm_pml_full(1)
    assert [event.vcpu_id for event in log.take()] == [1]  # type: ignore[attr-defined]


def test_events_of_a_kernel_thread_bear_its_name(tracer: Tracer) -> None:
    log = EventLog()
    tracer.add(log)
    with tracer.in_task("kworker"):
        tracer.kvm_mmu_zap_all_fast(0, 17)
    tracer.kvm_mmu_zap_all_fast(0, 17)
    theirs, ours = log.take()
    assert (theirs.task, theirs.name, theirs.text()) == ("kworker", ours.name, ours.text())
    assert ours.task == ""


def test_the_state_of_a_page_is_copied(tracer: Tracer) -> None:
    page = Page()
    log = EventLog()
    tracer.add(log)
    tracer.kvm_mmu_get_page(page, 1)  # type: ignore[arg-type]
    page.gfn = 99
    assert log.take()[0].gfn == 0x12  # type: ignore[attr-defined]


# -- a VM --------------------------------------------------------------------------------------------------


def vm_and_write() -> tuple[Kvm, Vm, Callable[[], None]]:
    vm = Vm(memory="16M")
    vm.map(0x400000, 0x800000, "256K")
    pages = iter(range(0x400000, 0x440000, 0x8000))
    return vm.machine.kvm, vm, lambda: vm.vcpus[0].write(next(pages), 1)


def test_nested_traces_both_hear_everything() -> None:
    kvm, vm, write = vm_and_write()
    with vm.trace() as outer:
        write()
        with vm.trace() as inner:
            write()
            assert kvm.tracing
        assert kvm.tracing
        write()
    assert not kvm.tracing
    write()
    heard = list(outer)
    within = list(inner)
    assert within
    at = heard.index(within[0])
    assert at > 0
    assert heard[at : at + len(within)] == within
    assert len(heard) > at + len(within)


def test_traces_side_by_side_both_hear_everything() -> None:
    kvm, vm, write = vm_and_write()
    first, second = vm.trace(), vm.trace()
    write()
    assert list(first) == list(second) != []
    first.stop()
    write()
    assert kvm.tracing
    second.stop()
    assert not kvm.tracing
    assert len(list(second)) > len(list(first))


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_heard_after_the_log_was_removed(mode: str) -> None:
    text = random_scenario(mode, 3, 60)
    world = World.of(text)
    assert world.player.log is not None
    world.kvm.tracer.remove(world.player.log)
    assert not world.kvm.tracing
    for op in parse_scenario(text).ops:
        list(world.player.play([op]))
    assert world.player.log.take() == []


def test_every_tracepoint_fires_somewhere() -> None:
    rooms = (PACKAGE / "kvm", PACKAGE / "guest" / "play")
    sources = "".join(path.read_text() for room in rooms for path in room.rglob("*.py"))
    fired = set(re.findall(r"tracer\.(\w+)\(", sources))
    assert fired >= TRACEPOINTS.keys()
