"""Plays a scenario on the model and says for every operation what happened.

The counterpart of the recorder that drives real KVM (lab/exerciser): the same user-space side, the same guest
code, the same results.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from ...host.backing import HostError
from ...kvm.exits.emulate import EmulationError, MmioAccess
from ...kvm.exits.page_fault_exit import ENDLESS, EndlessFaults, KvmRunError
from ...kvm.exits.run import DirtyRingFull, TripleFault
from ...kvm.exits.svm_exits import EntryFailed
from ...kvm.memory.reset_dirty_rings import kvm_vm_ioctl_reset_dirty_pages
from ...kvm.pages.roots import NoShadowPages
from ...kvm.state.oops import KernelOops
from ...kvm.state.running_vcpu import loaded, none_loaded
from ...kvm.tracepoints.event import Event
from ...kvm.tracepoints.tracer import EventLog
from ...x86.bits import PF_VECTOR
from ...x86.implementation import Implementation
from ...x86.insn import Insn, Op
from ..scenario import ops as kinds
from ..scenario.setup import (
    ScenarioError,
    Setup,
)
from .cpu import Delivered, GuestCpu, LeftL2
from .machine import Machine
from .stubs import SOFT_INTERRUPT, Step, Stubs
from .user_space import UserSpace, errno_result

KVM_EXIT_SHUTDOWN, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_INTERNAL_ERROR = 8, 9, 17
KVM_EXIT_DIRTY_RING_FULL = 31


@dataclass(slots=True)
class OpResult:
    """What one operation did. `op` is its number, -1 for the state before the first."""

    op: int
    text: str
    vcpu: int
    result: dict[str, Any]
    stats: dict[str, dict[str, int]]
    gptes: list[list[str]]
    events: list[Event]
    state: dict[str, Any] | None


@dataclass(slots=True)
class _Counters:
    vm: dict[str, int]
    vcpus: list[dict[str, int]] = field(default_factory=list)


class Player(UserSpace):
    """A machine built from a resolved scenario, ready to play its operations.

    `log` hears every event; with None nobody listens, and operations have no events. `snapshot` makes the
    state after each operation. `areas` tells the recorder which host addresses belong to which slot: id ->
    (hva, size, gpa).

    code=False: the guest has no code in memory, so that ops make their own access and no other (`NoCode`).
    `mmio` answers accesses that no slot backs, with MMIO_ANSWER by default. `implementation` is the
    processor's; by default that of the recordings.
    """

    def __init__(
        self,
        setup: Setup,
        log: EventLog | None,
        snapshot: Callable[[Machine], dict[str, Any]],
        *,
        tlb: bool = False,
        code: bool = True,
        mmio: Callable[[MmioAccess], int] | None = None,
        implementation: Implementation | None = None,
    ) -> None:
        super().__init__(setup, tlb=tlb, code=code, mmio=mmio, implementation=implementation)
        self.log = log
        self.snapshot = snapshot
        self.dump = True
        self.oops: str | None = None
        """What broke the kernel; from then on no operation is carried out."""
        self.op_number = 0
        self.waiting: list[kinds.Meanwhile] = []
        self.on_meanwhile: list[Callable[[kinds.Op, dict[str, Any] | None], None]] = []
        if log is not None:
            self.kvm.tracer.add(log)

    # -- playing -------------------------------------------------------------------------------------------

    def start(self) -> OpResult:
        """Return the state before the first operation."""
        self._heard()
        return OpResult(-1, "start", 0, {}, {}, [], [], self.snapshot(self.machine))

    def play(self, ops: Iterable[kinds.Op]) -> Iterator[OpResult]:
        """Carry out the operations one after the other. Yield the result of each."""
        for op in ops:
            match op:
                case kinds.SetAc():
                    self.cpus[op.vcpu].vcpu.eflags_ac = op.on
                case kinds.SetDump():
                    self.dump = op.on
                case kinds.WatchPage():
                    self.watch(op.gpa, self.mode_of(op.vcpu).entry_size)
                case kinds.Meanwhile():
                    self.waiting.append(op)
                case _:
                    yield self._play_one(op)

    def _play_one(self, op: kinds.Op) -> OpResult:
        before = self._counters()
        if self.oops is None:
            try:
                result = self._with_others(op) if self.waiting else self._carry_out(op)
            except KernelOops as error:
                self.oops = str(error)
        if self.oops is not None:
            result = {"outcome": "oops", "reason": self.oops}
        after = self._counters()
        played = OpResult(
            op=self.op_number,
            text=op.text,
            vcpu=op.vcpu,
            result=result,
            stats=_differences(before, after),
            gptes=self.changed_gptes(),
            events=self._heard(),
            state=self.snapshot(self.machine) if self.dump else None,
        )
        self.op_number += 1
        return played

    def _with_others(self, op: kinds.Op) -> dict[str, Any]:
        """Carry out an operation with others in its middle; `on_meanwhile` gets each before and after."""
        waiting, self.waiting = self.waiting, []
        done: list[dict[str, Any]] = []
        drops = count(1)

        def meanwhile() -> None:
            drop = next(drops)
            for other in waiting:
                if other.drop == drop:
                    for tell in self.on_meanwhile:
                        tell(other.op, None)
                    with none_loaded(self.kvm):
                        result = self._carry_out(other.op)
                    done.append({"do": other.op.text, **result})
                    for tell in self.on_meanwhile:
                        tell(other.op, result)

        self.kvm.meanwhile = meanwhile
        try:
            return {**self._carry_out(op), "meanwhile": done}
        finally:
            self.kvm.meanwhile = None

    def _heard(self) -> list[Event]:
        return [] if self.log is None else self.log.take()

    def _counters(self) -> _Counters:
        return _Counters(self.kvm.vm_stats(), [vcpu.stat.as_dict() for vcpu in self.kvm.vcpus])

    def _carry_out(self, op: kinds.Op) -> dict[str, Any]:
        match op:
            case (
                kinds.Access()
                | kinds.Nop()
                | kinds.Exec()
                | kinds.Invlpg()
                | kinds.WriteCr()
                | kinds.WriteMsr()
                | kinds.L2Exit()
                | kinds.SetNestedCr3()
                | kinds.Invlpga()
            ):
                return self._run(op)
            case kinds.ChangeVmcb():
                return self.host_call(lambda: self.vmcbs[op.vcpu].change(op.ncr3, op.asid, op.tlb))
            case kinds.GetDirty():
                return self.get_dirty(op)
            case kinds.HarvestRing():
                return self.harvest_ring(op)
            case kinds.ResetRings():
                return self.host_value("reset", lambda: kvm_vm_ioctl_reset_dirty_pages(self.kvm))
            case kinds.Age():
                return self.host_value("young", lambda: int(self.age(op)))
            case kinds.HostRead():
                return self.host_read(op)
            case kinds.Translate():
                return self.translate(op)
            case kinds.SetSlot():
                return self.host_call(lambda: self.set_slot(op.slot, keep=op.keep))
            case _:
                return self.host_call(lambda: self.host_op(op))

    # -- the guest -------------------------------------------------------------------------------------------

    def _l2_steps(self, op: kinds.Op) -> list[Step] | None:
        """Return what L2 runs in this op; None if it is one of L1's."""
        stubs = self.l2_stubs
        match op:
            case kinds.Nop(l2=True):
                return stubs.routine("nop", 0, Insn(Op.NOP))
            case kinds.SetNestedCr3():
                self._in_l1(op)
                self.vmcbs[op.vcpu].change(op.value, None, None)
                return stubs.routine("nop", 0, Insn(Op.NOP))
            case kinds.L2Exit():
                return stubs.routine("exit", 0, Insn(Op.NOP))
            case kinds.Exec(l2=True):
                return stubs.jump(op.gva)
            case kinds.Access(l2=True):
                return stubs.routine(op.kind, op.size, _operands(op))
        return None

    def _in_l1(self, op: kinds.Op) -> None:
        if self.cpus[op.vcpu].vcpu.guest_mode:
            fix = f"put `l2exit` before `{op.text.strip()}`"
            raise ScenarioError.at(self.setup.path, op.line, f"vCPU {op.vcpu} is in L2", fix)

    def _steps(self, op: kinds.Op) -> list[Step]:
        l2 = self._l2_steps(op)
        vcpu = self.cpus[op.vcpu].vcpu
        if l2 is not None and vcpu.guest_mode:
            return l2
        if l2 is not None:
            vmcb = self.vmcbs[op.vcpu]
            vmcb.start_at(l2[0].rip)
            return [self._stubs(op).vmrun(vmcb.gpa), *l2]
        self._in_l1(op)
        return self._l1_steps(op)

    def _stubs(self, op: kinds.Op) -> Stubs:
        return self.stubs[self.mode_of(op.vcpu).name]

    def _l1_steps(self, op: kinds.Op) -> list[Step]:
        stubs = self._stubs(op)
        match op:
            case kinds.Invlpga():
                return stubs.invlpga(op.address, op.asid)
            case kinds.Nop():
                return stubs.routine("nop", 0, Insn(Op.NOP), user=op.user)
            case kinds.Exec():
                return stubs.jump(op.gva, user=op.user)
            case kinds.Invlpg():
                return stubs.routine("invlpg", 0, Insn(Op.NOP, address=op.gva), user=False)
            case kinds.WriteCr():
                return stubs.routine(f"cr{op.cr}", 0, Insn(Op.NOP, value=op.value), user=False)
            case kinds.WriteMsr():
                return stubs.routine("wrmsr", 0, Insn(Op.NOP, count=op.index, value=op.value), user=False)
            case kinds.Access():
                return stubs.routine(op.kind, op.size, _operands(op), user=op.user)
        raise NotImplementedError(type(op).__name__)

    def _run(self, op: kinds.Op) -> dict[str, Any]:
        cpu = self.cpus[op.vcpu]
        try:
            steps = self._steps(op)
        except HostError as error:
            return self.refuse(error)
        self.mmio.clear()
        self.worker.start()
        pending = cpu.vcpu.exception
        if pending is not None and not pending.reinjected:
            cpu.vcpu.exception = None
        cpu.vcpu.soft_interrupt = None
        if self.code and cpu.vcpu.cpl == 3:
            self._stay_in_user_mode(steps)
        with loaded(cpu.vcpu):
            outcome = self._run_vcpu(cpu, op, steps)
        if self.mmio:
            outcome = {"mmio": list(self.mmio), **outcome}
        return outcome

    def _run_vcpu(self, cpu: GuestCpu, op: kinds.Op, steps: list[Step]) -> dict[str, Any]:
        """Run it until the op is done; how KVM_RUN ended."""
        try:
            outcome = self._run_to_exit(cpu, op, steps)
        except DirtyRingFull:
            outcome = {"outcome": "exit", "reason": KVM_EXIT_DIRTY_RING_FULL}
        except (KvmRunError, HostError) as error:
            outcome = self.refuse(error)
        except NoShadowPages:
            outcome = errno_result(errno.ENOSPC)
        except TripleFault:
            outcome = {"outcome": "exit", "reason": KVM_EXIT_SHUTDOWN}
        except EntryFailed:
            outcome = {"outcome": "exit", "reason": KVM_EXIT_FAIL_ENTRY}
        except EndlessFaults:
            outcome = {"outcome": "timeout"}
        except EmulationError:
            outcome = {"outcome": "exit", "reason": KVM_EXIT_INTERNAL_ERROR, "suberror": 1}
        finally:
            cpu.leave()
        return outcome

    def _stay_in_user_mode(self, steps: list[Step]) -> None:
        """Stay at CPL 3, where the last op ended without a gate: what follows runs there until it faults."""
        for step in steps:
            step.user = True
            if step.insn.op is Op.IRET:
                break

    def _run_to_exit(self, cpu: GuestCpu, op: kinds.Op, steps: list[Step]) -> dict[str, Any]:
        try:
            return self._run_steps(cpu, op, steps)
        except LeftL2:
            delivered = cpu.execute(self._stubs(op).after_vmexit())
            if delivered is not None:
                return self._gate(cpu, op, delivered, [])
            return {"outcome": "vmexit", **self.vmcbs[op.vcpu].exit()}

    def _run_steps(self, cpu: GuestCpu, op: kinds.Op, steps: list[Step]) -> dict[str, Any]:
        for step in steps:
            delivered = cpu.execute(step)
            if delivered is not None:
                return self._gate(cpu, op, delivered, steps)
            if step.insn.op is Op.VMRUN and not cpu.vcpu.guest_mode:
                raise LeftL2
        return {"outcome": "ok", **self._value(op, steps)}

    def _gate(self, cpu: GuestCpu, op: kinds.Op, delivered: Delivered, steps: list[Step]) -> dict[str, Any]:
        """Run the gate of an exception or of the soft interrupt. Return how the op ended. Raises
        EndlessFaults.
        """
        for _ in range(ENDLESS):
            again = cpu.execute(self._stubs(op).gate(delivered.vector))
            if again is None:
                break
            delivered = again
        else:
            raise EndlessFaults(f"the gate of vector {delivered.vector} faults forever")
        if delivered.vector == SOFT_INTERRUPT:
            return {"outcome": "ok", **self._value(op, steps)}
        outcome: dict[str, Any] = {"outcome": "exception", "vector": delivered.vector}
        if delivered.error_code is not None:
            outcome["error_code"] = f"{delivered.error_code:#x}"
        outcome["rip"] = f"{delivered.rip:#x}"
        if delivered.vector == PF_VECTOR:
            outcome["cr2"] = f"{cpu.vcpu.cr2:#x}"
        return outcome

    def _value(self, op: kinds.Op, steps: list[Step]) -> dict[str, Any]:
        is64 = self.mode_of(op.vcpu).is64 and not (isinstance(op, kinds.Access) and op.l2)
        for step in steps:
            if step.insn.op in (Op.LOAD, Op.XCHG, Op.CMPXCHG, Op.CMPXCHG8B):
                return {"value": f"{_accumulator(step.insn, is64=is64):#x}"}
        return {}


def _accumulator(insn: Insn, *, is64: bool) -> int:
    """Return RAX after the instruction. 32-bit code cannot see its upper half, and changes it with EAX."""
    if not is64 and insn.result != insn.expected:
        return insn.result & 0xFFFFFFFF
    return insn.result


def _operands(op: kinds.Access) -> Insn:
    return Insn(Op.NOP, address=op.gva, size=op.size, value=op.value, expected=op.expected, count=op.count)


def _differences(before: _Counters, after: _Counters) -> dict[str, dict[str, int]]:
    def delta(old: dict[str, int], new: dict[str, int]) -> dict[str, int]:
        return {name: new[name] - old[name] for name in new if new[name] != old[name]}

    stats = {"vm": delta(before.vm, after.vm)}
    for i, (old, new) in enumerate(zip(before.vcpus, after.vcpus, strict=True)):
        stats[f"vcpu{i}"] = delta(old, new)
    return stats
