"""Plays a scenario on the model and says for every operation what happened.

The counterpart of the recorder that drives real KVM (lab/exerciser): the same user-space side, the same guest
code, the same results.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

from ...host.bits import PROT_NONE, PROT_READ, PROT_RW
from ...host.lru_gen import lru_gen_age
from ...host.madvise import NotModelled, madvise
from ...host.mapping import Backing, HostError
from ...host.memory import differing_words
from ...kvm.design.design import design_of
from ...kvm.exits.emulate import EmulationError, MmioAccess
from ...kvm.exits.page_fault_exit import ENDLESS, EndlessFaults, KvmRunError
from ...kvm.exits.run import DirtyRingFull, TripleFault
from ...kvm.exits.svm_exits import EntryFailed
from ...kvm.fault.pre_fault import kvm_vcpu_pre_fault_memory
from ...kvm.guest_access.dirty_ring import dirty_ring_of
from ...kvm.guest_access.guest_walk import gva_to_gpa
from ...kvm.memory.capabilities import kvm_vm_ioctl_enable_cap
from ...kvm.memory.dirty_log_ioctl import (
    kvm_vm_ioctl_clear_dirty_log,
    kvm_vm_ioctl_get_dirty_log,
    kvm_vm_ioctl_reset_dirty_pages,
)
from ...kvm.memory.memory_region import RegionError, kvm_set_nr_mmu_pages
from ...kvm.memory.nx_recovery import NxRecoveryWorker
from ...kvm.pages.roots import NoShadowPages
from ...kvm.registers.regs import set_sregs
from ...kvm.state.oops import KernelOops
from ...kvm.tracepoints.event import Event
from ...kvm.tracepoints.tracer import EventLog
from ...x86.bits import PF_VECTOR
from ...x86.implementation import INTEL, TCG, Implementation
from ...x86.insn import Insn, Op
from ..scenario import ops as kinds, setup as statements
from ..scenario.modes import MODES, Mode, trampolines_of
from ..scenario.module_params import parameters_of
from ..scenario.setup import (
    HOST_SAVE_AREAS,
    L2_CODE,
    L2_CODE_END,
    PAGE,
    ScenarioError,
    Setup,
    SetupAction,
)
from ..scenario.sysfs import SysFs, thp_enabled
from .cpu import Delivered, GuestCpu, LeftL2
from .machine import Machine
from .stubs import SOFT_INTERRUPT, L2Stubs, NoCode, Step, Stubs
from .vmcb import Vmcb12

MMIO_ANSWER = 0x1122334455667788
KVM_EXIT_SHUTDOWN, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_INTERNAL_ERROR = 8, 9, 17
KVM_EXIT_DIRTY_RING_FULL = 31
MAX_MMIO_RECORDED = 16
RECOVERY_TASK = "kvm-nx-lpage-re"
INVALID_GPA = (1 << 64) - 1


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


def _errno_result(number: int) -> dict[str, Any]:
    name = "EOPNOTSUPP" if number == errno.EOPNOTSUPP else errno.errorcode.get(number, str(number))
    return {"outcome": "error", "errno": name}


class Player:
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
        self.setup = setup
        self.log = log
        self.snapshot = snapshot
        self.modes = [MODES[name] for name in setup.modes]
        self.trampolines = trampolines_of(setup.modes)
        parameters = parameters_of(setup.params)
        parameters.tdp_level = 5 if setup.host_la57 else 4
        parameters.host_maxphyaddr = setup.host_maxphyaddr
        self.machine = Machine(
            parameters,
            design=design_of(setup.params["kernel"], setup.design),
            tlb=tlb,
            implementation=implementation or (INTEL if parameters.vmx else TCG),
        )
        self.machine.nested = setup.nested
        self.kvm = self.machine.kvm
        self.worker = NxRecoveryWorker(self.kvm)
        self.machine.host.huge_pages.enabled = thp_enabled(setup.params.get("thp", ""))
        self.sysfs = SysFs(self.kvm, self.machine.host.huge_pages, self._wake_recovery_worker)
        self.code = code
        self.answer_mmio = mmio or (lambda access: MMIO_ANSWER)
        self.stubs = {
            name: Stubs(tramp.gva, is64=tramp.mode.is64) if code else NoCode(is64=tramp.mode.is64)
            for name, tramp in self.trampolines.items()
        }
        self.code_pages = frozenset(tramp.gpa for tramp in self.trampolines.values())
        """Pages of the guest's own code, whose changes are not reported."""
        self.l2_stubs = L2Stubs(L2_CODE)
        self.vmcbs: list[Vmcb12] = []
        self.areas: dict[int, tuple[int, int, int]] = {}
        self.cpus: list[GuestCpu] = []
        self.mmio: list[dict[str, Any]] = []
        self.refused: OSError | None = None
        """Why the last operation of the host failed."""
        self.watched: dict[int, bytes] = {}
        self.entry_sizes: dict[int, int] = {}
        self.dump = True
        self.oops: str | None = None
        """What broke the kernel; from then on no operation is carried out."""
        self.op_number = 0
        self.waiting: list[kinds.Meanwhile] = []
        self.on_meanwhile: list[Callable[[kinds.Op, dict[str, Any] | None], None]] = []
        for action in setup.actions:
            self._set_up(action)
        for page, size in setup.watched_pages.items():
            self._watch(page, size)
        if log is not None:
            self.kvm.tracer.add(log)

    # -- building -----------------------------------------------------------------------------------------

    def _set_up(self, action: SetupAction) -> None:
        match action:
            case statements.SlotSetup():
                self._ask_kvm(action, f"slot {action.id}", lambda: self._set_slot(action, keep=False))
                if action.options == "trampoline":
                    (mode,) = (name for name, t in self.trampolines.items() if t.slot == action.id)
                    for offset, code in self.stubs[mode].image.items():
                        self._write_bytes(action.gpa + offset, code)
                elif action.options == "nested":
                    for offset, code in self.l2_stubs.image.items():
                        self._write_bytes(L2_CODE + offset, code)
            case statements.Pt():
                self.machine.host_write(action.gpa, action.size, action.value)
            case statements.Poke():
                self.machine.host_write(action.gpa, 8, action.value)
            case statements.Code():
                self._write_bytes(action.gpa, b"\xcd\x20")
            case statements.L2Code():
                self._write_bytes(action.gpa, L2_CODE_END)
            case statements.Vmcb():
                self.vmcbs.append(Vmcb12(self.machine, action))
            case statements.Cap():
                ask = partial(kvm_vm_ioctl_enable_cap, self.kvm, action.cap, action.arg)
                self._ask_kvm(action, f"capability {action.cap}", ask)
            case statements.Vcpu():
                self._add_vcpu(action)
            case statements.Watch():
                pass

    def _ask_kvm(
        self, action: statements.SlotSetup | statements.Cap, what: str, ioctl: Callable[[], None]
    ) -> None:
        """An ioctl of the setup. Raises ScenarioError if KVM refuses it and did not when it was recorded."""
        try:
            ioctl()
        except RegionError as error:
            if not action.result:
                where = f"{self.setup.path}:{action.line}"
                name = errno.errorcode[error.errno or 0]
                raise ScenarioError(
                    f"{where}: KVM refuses {what}: {name}, {error.strerror}; change or remove this line"
                ) from None

    def _write_bytes(self, gpa: int, data: bytes) -> None:
        for i, byte in enumerate(data):
            self.machine.host_write(gpa + i, 1, byte)

    def _set_slot(self, slot: statements.SlotSetup, *, keep: bool) -> None:
        kind = (
            Backing.HUGE2M
            if slot.huge2m
            else Backing.HUGE1G
            if slot.huge1g
            else Backing.MEMFD
            if slot.memfd
            else Backing.THP
            if slot.thp
            else Backing.ANON
        )
        try:
            self.machine.set_slot(
                slot.id,
                slot.gpa,
                slot.size,
                slot.flags,
                kind=kind,
                populated=not slot.lazy,
                skew=slot.skew,
                keep=keep,
            )
        except RegionError:
            self._record_area(slot)
            raise
        self._record_area(slot)

    def _record_area(self, slot: statements.SlotSetup) -> None:
        hva = self.machine.slots[slot.id].mapping.hva
        self.areas[slot.id] = (hva, slot.size, slot.gpa)

    def _add_vcpu(self, registers: statements.Vcpu) -> None:
        la57 = any(mode.name == "long5" for mode in self.modes)
        vcpu = self.machine.add_vcpu(self.setup.maxphyaddr, la57=la57)
        set_sregs(vcpu, registers.cr0, registers.cr3, registers.cr4, registers.efer)
        if self.setup.nested:
            vcpu.hsave_msr = HOST_SAVE_AREAS + PAGE * vcpu.id
        vcpu.compatibility_mode = not self.mode_of(vcpu.id).is64
        stubs = self.stubs[self.mode_of(vcpu.id).name] if self.code else None
        self.cpus.append(GuestCpu(vcpu, self._complete_mmio, stubs))

    def mode_of(self, vcpu: int) -> Mode:
        """The paging mode that a vCPU starts in, and has code for."""
        return self.modes[vcpu]

    def _complete_mmio(self, access: MmioAccess) -> int:
        answer = self.answer_mmio(access)
        if len(self.mmio) < MAX_MMIO_RECORDED:
            data = access.data if access.write else answer
            self.mmio.append(
                {
                    "gpa": f"{access.gpa:#x}",
                    "len": access.length,
                    "write": access.write,
                    "data": f"{data:#x}",
                }
            )
        return answer

    # -- playing -------------------------------------------------------------------------------------------

    def start(self) -> OpResult:
        """The state before the first operation."""
        self._heard()
        return OpResult(-1, "start", 0, {}, {}, [], [], self.snapshot(self.machine))

    def play(self, ops: Iterable[kinds.Op]) -> Iterator[OpResult]:
        """Carry the operations out, one after the other."""
        for op in ops:
            match op:
                case kinds.SetAc():
                    self.cpus[op.vcpu].vcpu.eflags_ac = op.on
                case kinds.SetDump():
                    self.dump = op.on
                case kinds.WatchPage():
                    self._watch(op.gpa, self.mode_of(op.vcpu).entry_size)
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
            gptes=self._changed_gptes(),
            events=self._heard(),
            state=self.snapshot(self.machine) if self.dump else None,
        )
        self.op_number += 1
        return played

    def _with_others(self, op: kinds.Op) -> dict[str, Any]:
        """Carry an operation out with others in its middle; `on_meanwhile` gets each before and after."""
        waiting, self.waiting = self.waiting, []
        done: list[dict[str, Any]] = []
        drops = count(1)

        def meanwhile() -> None:
            drop = next(drops)
            for other in waiting:
                if other.drop == drop:
                    for tell in self.on_meanwhile:
                        tell(other.op, None)
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
                return self._host(lambda: self.vmcbs[op.vcpu].change(op.ncr3, op.asid, op.tlb))
            case kinds.GetDirty():
                return self._get_dirty(op)
            case kinds.HarvestRing():
                return self._harvest_ring(op)
            case kinds.ResetRings():
                return self._host_value("reset", lambda: kvm_vm_ioctl_reset_dirty_pages(self.kvm))
            case kinds.Age():
                return self._host_value("young", lambda: int(self._age(op)))
            case kinds.HostRead():
                return self._host_read(op)
            case kinds.Translate():
                return self._translate(op)
            case kinds.SetSlot():
                return self._host(lambda: self._set_slot(op.slot, keep=op.keep))
            case _:
                return self._host(lambda: self._modelled(op))

    # -- the guest -------------------------------------------------------------------------------------------

    def _l2_steps(self, op: kinds.Op) -> list[Step] | None:
        """What L2 runs in this op; None if it is one of L1's."""
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
            where = f"{self.setup.path}:{op.line}"
            raise ScenarioError(f"{where}: vCPU {op.vcpu} is in L2; put `l2exit` before `{op.text.strip()}`")

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
            return self._refuse(error)
        self.mmio.clear()
        self.worker.start()
        pending = cpu.vcpu.exception
        if pending is not None and not pending.reinjected:
            cpu.vcpu.exception = None
        cpu.vcpu.soft_interrupt = None
        if self.code and cpu.vcpu.cpl == 3:
            self._stay_in_user_mode(steps)
        try:
            outcome = self._run_to_exit(cpu, op, steps)
        except DirtyRingFull:
            outcome = {"outcome": "exit", "reason": KVM_EXIT_DIRTY_RING_FULL}
        except (KvmRunError, HostError) as error:
            outcome = self._refuse(error)
        except NoShadowPages:
            outcome = _errno_result(errno.ENOSPC)
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
        if self.mmio:
            outcome = {"mmio": list(self.mmio), **outcome}
        return outcome

    def _stay_in_user_mode(self, steps: list[Step]) -> None:
        """The last op ended at CPL 3, without any gate: what comes next runs there until it faults."""
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
        """Run the gate of an exception or of the soft interrupt; how the op ended. Raises EndlessFaults."""
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

    # -- the host --------------------------------------------------------------------------------------------

    def _host(self, call: Callable[[], None]) -> dict[str, Any]:
        try:
            call()
        except (HostError, RegionError) as error:
            return self._refuse(error)
        return {"outcome": "ok"}

    def _refuse(self, error: OSError) -> dict[str, Any]:
        """Keep why an operation failed; the result of it."""
        self.refused = error
        return _errno_result(error.errno or 0)

    def _host_value(self, name: str, call: Callable[[], int]) -> dict[str, Any]:
        """A host call that answers a number, which the result has under `name`."""
        try:
            return {"outcome": "ok", name: call()}
        except (HostError, RegionError) as error:
            return self._refuse(error)

    def _age(self, op: kinds.Age) -> bool:
        return self.machine.host.age(self.machine.hva(op.gpa), op.length, flush=op.flush)

    def _harvest_ring(self, op: kinds.HarvestRing) -> dict[str, Any]:
        """Take the dirty pages of a ring, as gpas. Without rings there is nothing to map: ENXIO."""
        if not self.kvm.parameters.dirty_ring_size:
            return _errno_result(errno.ENXIO)
        found = dirty_ring_of(self.cpus[op.vcpu].vcpu).harvest()
        slots = {slot: self.machine.slots[slot].gpa for slot, _ in found}
        return {"outcome": "ok", "dirty": [f"{slots[slot] + (page << 12):#x}" for slot, page in found]}

    def _modelled(self, op: kinds.Op) -> None:
        try:
            self._host_op(op)
        except NotModelled as error:
            raise ScenarioError(f"{self.setup.path}:{op.line}: {error}; leave this op out") from None

    def _host_op(self, op: kinds.Op) -> None:
        machine, host = self.machine, self.machine.host
        match op:
            case kinds.DeleteSlot():
                machine.delete_slot(op.slot)
            case kinds.MoveSlot():
                machine.slots[op.slot].gpa = op.gpa
                machine.set_region(op.slot)
            case kinds.SetSlotFlag():
                slot = machine.slots[op.slot]
                slot.flags = slot.flags | op.flag if op.on else slot.flags & ~op.flag
                machine.set_region(op.slot)
            case kinds.ClearDirty():
                kvm_vm_ioctl_clear_dirty_log(self.kvm, op.slot, op.first, op.pages)
            case kinds.EnableCap():
                kvm_vm_ioctl_enable_cap(self.kvm, op.cap, op.arg)
            case kinds.SetMmuPages():
                kvm_set_nr_mmu_pages(self.kvm, op.pages)
            case kinds.Madvise():
                madvise(host, machine.hva(op.gpa), op.length, op.advice)
            case kinds.Mprotect():
                protections = {"none": PROT_NONE, "ro": PROT_READ, "rw": PROT_RW}
                host.mprotect(machine.hva(op.gpa), op.length, protections[op.protection])
            case kinds.Remap():
                host.remap(machine.hva(op.gpa), op.length)
            case kinds.LruAge():
                lru_gen_age(host)
            case kinds.HostTouch():
                for offset in range(0, op.length, 0x1000):
                    host.touch(machine.hva(op.gpa + offset), write=False)
                    host.touch(machine.hva(op.gpa + offset), write=True)
            case kinds.HostWrite() | kinds.SetGpte():
                machine.host_write(op.gpa, op.size, op.value)
                if isinstance(op, kinds.SetGpte):
                    self._watch(op.gpa, op.size)
            case kinds.ModParam():
                self.sysfs.write_parameter(op.module, op.name, op.value)
            case kinds.HostSregs():
                self._set_sregs(op)
            case kinds.Prefault():
                kvm_vcpu_pre_fault_memory(self.cpus[op.vcpu].vcpu, op.gpa, op.length)
            case kinds.Sleep():
                self._let_worker_sleep(op.milliseconds)
            case kinds.Sysfs():
                self.sysfs.write(op.path, op.value)
            case _:
                raise NotImplementedError(type(op).__name__)

    def _wake_recovery_worker(self) -> None:
        self._let_worker_sleep(0)

    def _let_worker_sleep(self, milliseconds: int) -> None:
        with self.kvm.tracer.in_task(RECOVERY_TASK):
            self.worker.sleep(milliseconds)

    def _set_sregs(self, op: kinds.HostSregs) -> None:
        vcpu = self.cpus[op.vcpu].vcpu
        cr0, cr3, cr4, efer = (
            current if new is None else new
            for new, current in (
                (op.cr0, vcpu.cr0),
                (op.cr3, vcpu.cr3),
                (op.cr4, vcpu.cr4),
                (op.efer, vcpu.efer),
            )
        )
        if not set_sregs(
            vcpu, cr0, cr3, cr4, efer, code_64bit=self.mode_of(op.vcpu).is64 and not vcpu.guest_mode
        ):
            raise RegionError(errno.EINVAL, "registers do not go together")

    def _get_dirty(self, op: kinds.GetDirty) -> dict[str, Any]:
        gpa = self.machine.slots[op.slot].gpa
        try:
            pages = kvm_vm_ioctl_get_dirty_log(self.kvm, op.slot)
        except RegionError as error:
            return {**self._refuse(error), "dirty": []}
        return {"outcome": "ok", "dirty": [f"{gpa + (page << 12):#x}" for page in pages]}

    def _host_read(self, op: kinds.HostRead) -> dict[str, Any]:
        try:
            return {"outcome": "ok", "value": f"{self.machine.host_read(op.gpa, op.size):#x}"}
        except HostError as error:
            return self._refuse(error)

    def _translate(self, op: kinds.Translate) -> dict[str, Any]:
        gpa = gva_to_gpa(self.cpus[op.vcpu].vcpu, op.gva, 0)
        return {"outcome": "ok", "gpa": f"{gpa:#x}", "valid": int(gpa != INVALID_GPA)}

    # -- what changed ----------------------------------------------------------------------------------------

    def _watch(self, gpa: int, entry_size: int) -> None:
        """Report changes of a page from here on, in entries of so many bytes."""
        page = gpa & ~0xFFF
        contents = self.machine.peek(page)
        if page not in self.watched and contents is not None:
            self.watched[page] = contents
            self.entry_sizes[page] = entry_size

    def _changed_gptes(self) -> list[list[str]]:
        changed = []
        for page, before in self.watched.items():
            now = self.machine.peek(page)
            if now is None or now == before or page in self.code_pages:
                continue
            size = self.entry_sizes[page]
            offsets = [
                at for word in differing_words(before, now) for at in range(8 * word, 8 * word + 8, size)
            ]
            for at in offsets:
                old, new = (int.from_bytes(data[at : at + size], "little") for data in (before, now))
                if old != new:
                    changed.append([f"{page + at:#x}", f"{old:#x}", f"{new:#x}"])
            self.watched[page] = now
        return changed


def _accumulator(insn: Insn, *, is64: bool) -> int:
    """RAX after the instruction. 32-bit code cannot see its upper half and changes it with EAX only."""
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
