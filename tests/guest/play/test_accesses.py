"""Streams of accesses end, whatever KVM does about their faults."""

from array import array

import pytest

from shadowmmu.guest.play import accesses
from shadowmmu.guest.play.accesses import run_accesses
from shadowmmu.guest.play.machine import Machine
from shadowmmu.kvm.exits.page_fault_exit import EndlessFaults
from shadowmmu.kvm.registers.regs import set_sregs
from shadowmmu.kvm.state.vcpu import Vcpu
from shadowmmu.kvm.tracepoints.exits import Exit
from shadowmmu.kvm.tracepoints.tracer import EventLog

PF_EXIT = 0x4E


def unpaged() -> tuple[Machine, Vcpu]:
    machine = Machine()
    machine.set_slot(0, 0, 1 << 20)
    vcpu = machine.add_vcpu(46)
    set_sregs(vcpu, 0x10033, 0, 0, 0)
    return machine, vcpu


def stream(*gvas: int) -> tuple[memoryview, memoryview]:
    return memoryview(array("Q", gvas)), memoryview(bytearray(len(gvas)))


def test_an_access_that_faults_forever_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accesses, "ENDLESS", 100)
    machine, vcpu = unpaged()
    machine.kvm.mmu_invalidate_in_progress = 1
    machine.kvm.mmu_invalidate_end = 1 << 40
    with pytest.raises(EndlessFaults, match="0x3000 faults forever"):
        run_accesses(vcpu, *stream(0x3000), 0)
    assert vcpu.stat.pf_taken == 100


def test_accesses_that_get_on_may_fault_as_often_as_they_like(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accesses, "ENDLESS", 3)
    _, vcpu = unpaged()
    gvas = range(0, 1 << 20, 0x1000)
    assert run_accesses(vcpu, *stream(*gvas), 0) == len(gvas)


def test_a_fault_of_a_stream_leaves_what_any_exit_leaves() -> None:
    machine, vcpu = unpaged()
    log = EventLog()
    machine.kvm.tracer.add(log)
    run_accesses(vcpu, *stream(0x3000), 0)
    assert (vcpu.exit_code, vcpu.exit_info1, vcpu.exit_info2) == (PF_EXIT, 0, 0x3000)
    assert [event.exit_reason for event in log.take() if isinstance(event, Exit)] == [PF_EXIT]
