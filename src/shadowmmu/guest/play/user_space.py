"""The user-space side of a VM: builds it from a setup, and carries out the operations of the host."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from ...host.backing import Backing, HostError
from ...host.bits import PROT_NONE, PROT_READ, PROT_RW
from ...host.lru_gen import lru_gen_age
from ...host.madvise import NotModelled, madvise
from ...host.memory import differing_words
from ...kvm.design.design import design_of
from ...kvm.exits.emulate import MmioAccess
from ...kvm.fault.pre_fault import kvm_vcpu_pre_fault_memory
from ...kvm.guest_access.dirty_ring import dirty_ring_of
from ...kvm.guest_access.guest_walk import gva_to_gpa
from ...kvm.memory.capabilities import kvm_vm_ioctl_enable_cap
from ...kvm.memory.dirty_bitmap import kvm_vm_ioctl_clear_dirty_log, kvm_vm_ioctl_get_dirty_log
from ...kvm.memory.memory_region import RegionError, kvm_set_nr_mmu_pages
from ...kvm.memory.nx_recovery import NxRecoveryWorker
from ...kvm.registers.regs import set_sregs
from ...kvm.state.running_vcpu import loaded
from ...x86.implementation import INTEL, TCG, Implementation
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
from .cpu import GuestCpu
from .machine import Machine
from .stubs import L2Stubs, NoCode, Stubs
from .vmcb import Vmcb12

__all__ = ["MMIO_ANSWER", "UserSpace", "errno_result"]

MMIO_ANSWER = 0x1122334455667788
MAX_MMIO_RECORDED = 16
RECOVERY_TASK = "kvm-nx-lpage-re"
INVALID_GPA = (1 << 64) - 1


def errno_result(number: int) -> dict[str, Any]:
    """Return the result of an operation that failed with an errno."""
    name = "EOPNOTSUPP" if number == errno.EOPNOTSUPP else errno.errorcode.get(number, str(number))
    return {"outcome": "error", "errno": name}


class UserSpace:
    """The process that runs a VM: its machine, slots, vCPUs and guest code, made from a resolved scenario.

    `areas` has the host addresses of each slot: id -> (hva, size, gpa). See Player for the arguments.
    """

    def __init__(
        self,
        setup: Setup,
        *,
        tlb: bool,
        code: bool,
        mmio: Callable[[MmioAccess], int] | None,
        implementation: Implementation | None,
    ) -> None:
        self.setup = setup
        self.modes = [MODES[name] for name in setup.modes]
        self.trampolines = trampolines_of(setup.modes)
        parameters = parameters_of(setup.params)
        parameters.tdp_level = 5 if setup.host.la57 else 4
        parameters.host_maxphyaddr = setup.host.maxphyaddr
        parameters.l1tf_cache_bits = setup.host.l1tf
        parameters.mbec = parameters.mbec and setup.host.exit_info
        recorded_on = replace(INTEL, ept_advanced_info=setup.host.exit_info) if parameters.vmx else TCG
        self.machine = Machine(
            parameters,
            design=design_of(setup.params["kernel"], setup.design),
            tlb=tlb,
            implementation=implementation or recorded_on,
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
        for action in setup.actions:
            self._set_up(action)
        for page, size in setup.watched_pages.items():
            self.watch(page, size)

    # -- building -----------------------------------------------------------------------------------------

    def _set_up(self, action: SetupAction) -> None:
        match action:
            case statements.SlotSetup():
                self._ask_kvm(action, f"slot {action.id}", lambda: self.set_slot(action, keep=False))
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
        """Call an ioctl of the setup. Raises ScenarioError if KVM refuses what it accepted when recorded."""
        try:
            ioctl()
        except RegionError as error:
            if not action.result:
                name = errno.errorcode[error.errno or 0]
                refused = f"KVM refuses {what}: {name}, {error.strerror}", "change or remove this line"
                raise ScenarioError.at(self.setup.path, action.line, *refused) from None

    def _write_bytes(self, gpa: int, data: bytes) -> None:
        for i, byte in enumerate(data):
            self.machine.host_write(gpa + i, 1, byte)

    def set_slot(self, slot: statements.SlotSetup, *, keep: bool) -> None:
        """Set a slot, with memory of its own unless `keep`. Raises RegionError."""
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
        limit = self.kvm.parameters.max_vcpu_ids
        if limit and len(self.kvm.vcpus) >= limit:
            raise ScenarioError(
                f"{self.setup.path}: KVM refuses vCPU {limit}: EINVAL, capability 128 allows {limit}; change "
                "`cap 128` or `vcpus`"
            )
        la57 = any(mode.name == "long5" for mode in self.modes)
        vcpu = self.machine.add_vcpu(self.setup.maxphyaddr, la57=la57)
        set_sregs(vcpu, registers.cr0, registers.cr3, registers.cr4, registers.efer)
        if self.setup.nested:
            vcpu.hsave_msr = HOST_SAVE_AREAS + PAGE * vcpu.id
        vcpu.compatibility_mode = not self.mode_of(vcpu.id).is64
        stubs = self.stubs[self.mode_of(vcpu.id).name] if self.code else None
        self.cpus.append(GuestCpu(vcpu, self._complete_mmio, stubs))

    def mode_of(self, vcpu: int) -> Mode:
        """Return the paging mode that a vCPU starts in, and has code for."""
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

    # -- the host --------------------------------------------------------------------------------------------

    def host_call(self, call: Callable[[], None]) -> dict[str, Any]:
        """Return the result of a host call."""
        try:
            call()
        except (HostError, RegionError) as error:
            return self.refuse(error)
        return {"outcome": "ok"}

    def refuse(self, error: OSError) -> dict[str, Any]:
        """Keep why an operation failed. Return its result."""
        self.refused = error
        return errno_result(error.errno or 0)

    def host_value(self, name: str, call: Callable[[], int]) -> dict[str, Any]:
        """Return the result of a host call that answers a number, which it has under `name`."""
        try:
            return {"outcome": "ok", name: call()}
        except (HostError, RegionError) as error:
            return self.refuse(error)

    def age(self, op: kinds.Age) -> bool:
        """Return whether a range was accessed, and mark it as not accessed. Raises HostError."""
        return self.machine.host.age(self.machine.hva(op.gpa), op.length, flush=op.flush)

    def harvest_ring(self, op: kinds.HarvestRing) -> dict[str, Any]:
        """Return the dirty pages of a ring, as gpas, and mark them as harvested. Without rings there is
        nothing to map: ENXIO.
        """
        if not self.kvm.parameters.dirty_ring_size:
            return errno_result(errno.ENXIO)
        found = dirty_ring_of(self.cpus[op.vcpu].vcpu).harvest()
        slots = {slot: self.machine.slots[slot].gpa for slot, _ in found}
        return {"outcome": "ok", "dirty": [f"{slots[slot] + (page << 12):#x}" for slot, page in found]}

    def host_op(self, op: kinds.Op) -> None:
        """Carry out an operation of the host that has no value.

        Raises ScenarioError for what is not modelled.
        """
        try:
            self._carry_out_host_op(op)
        except NotModelled as error:
            raise ScenarioError.at(self.setup.path, op.line, str(error), "leave this op out") from None

    def _carry_out_host_op(self, op: kinds.Op) -> None:
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
                    self.watch(op.gpa, op.size)
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
            raise RegionError(errno.EINVAL, "these values of CR0, CR3, CR4 and EFER exclude one another")

    def get_dirty(self, op: kinds.GetDirty) -> dict[str, Any]:
        """Return the result of KVM_GET_DIRTY_LOG: the dirty pages, as gpas."""
        gpa = self.machine.slots[op.slot].gpa
        try:
            pages = kvm_vm_ioctl_get_dirty_log(self.kvm, op.slot)
        except RegionError as error:
            return {**self.refuse(error), "dirty": []}
        return {"outcome": "ok", "dirty": [f"{gpa + (page << 12):#x}" for page in pages]}

    def host_read(self, op: kinds.HostRead) -> dict[str, Any]:
        """Return the result of a read of guest memory through its host mapping."""
        try:
            return {"outcome": "ok", "value": f"{self.machine.host_read(op.gpa, op.size):#x}"}
        except HostError as error:
            return self.refuse(error)

    def translate(self, op: kinds.Translate) -> dict[str, Any]:
        """Return the result of KVM_TRANSLATE."""
        vcpu = self.cpus[op.vcpu].vcpu
        with loaded(vcpu):
            gpa = gva_to_gpa(vcpu, op.gva, 0)
        return {"outcome": "ok", "gpa": f"{gpa:#x}", "valid": int(gpa != INVALID_GPA)}

    # -- what changed ----------------------------------------------------------------------------------------

    def watch(self, gpa: int, entry_size: int) -> None:
        """Report changes of a page from here on, in entries of so many bytes."""
        page = gpa & ~0xFFF
        contents = self.machine.peek(page)
        if page not in self.watched and contents is not None:
            self.watched[page] = contents
            self.entry_sizes[page] = entry_size

    def changed_gptes(self) -> list[list[str]]:
        """Return [gpa, old, new] of each entry that changed in the watched pages since the last call."""
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
