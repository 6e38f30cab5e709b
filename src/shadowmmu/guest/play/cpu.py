"""Runs guest code on a vCPU, instruction by instruction, as the processor does; its exits are KVM's to
handle.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ...kvm.exits import svm_exits, vmx_exits
from ...kvm.exits.emulate import Emulator, MmioAccess
from ...kvm.exits.page_fault_exit import (
    ENDLESS,
    EndlessFaults,
    complete_page_fault,
    merge_exceptions,
    page_fault_exit,
)
from ...kvm.exits.run import TripleFault, vcpu_enter_guest
from ...kvm.registers.pml import vmx_flush_pml_buffer
from ...kvm.registers.regs import CR3_NOFLUSH
from ...kvm.state.vcpu import QueuedException, QueuedInterrupt, Vcpu
from ...x86.bits import (
    CR4_PCIDE,
    FAULT,
    FETCH,
    GP_VECTOR,
    NESTED_FAULT,
    PF_VECTOR,
    READ,
    WRITE,
)
from ...x86.insn import Insn, Op
from .stubs import Step, Stubs

INTERCEPTED = (Op.MOV_CR4, Op.WRMSR, Op.VMRUN, Op.VMMCALL, Op.INVLPGA)
PAGING_INSTRUCTIONS = (Op.INVLPG, Op.MOV_CR3)
"""The guest's own business under nested paging, else intercepted."""
PRIVILEGED = (*INTERCEPTED, *PAGING_INSTRUCTIONS, Op.MOV_CR0, Op.OUT)
KERNEL_CODE, KERNEL_DATA, USER_CODE, USER_DATA = 0x08, 0x10, 0x18, 0x20


class LeftL2(Exception):
    """L2's run has ended: the vCPU is in L1, after its VMRUN."""


class AccessFault(Exception):
    """An access of the processor faulted; vcpu.cpu says how."""


@dataclass(slots=True)
class Delivered:
    """An exception that the guest got."""

    vector: int
    error_code: int | None
    rip: int


class Exits(Protocol):
    """How a vendor's processor leaves the guest: kvm.exits.svm_exits, kvm.exits.vmx_exits."""

    def check_entry(self, vcpu: Vcpu) -> None: ...

    def port_exit(self, vcpu: Vcpu, port: int, length: int) -> None: ...

    def set_cr0_in_guest(self, vcpu: Vcpu, value: int) -> bool: ...

    def intercept(self, vcpu: Vcpu, emulator: Emulator, insn: Insn) -> bool: ...

    def reserved_cr3(self, vcpu: Vcpu) -> None: ...

    def shutdown_exit(self, vcpu: Vcpu) -> None: ...


class GuestCpu:
    """One vCPU with the guest code in `stubs`; `mmio` completes accesses that no memslot backs.

    Without stubs the guest has no code in memory: nothing is fetched, and exceptions are only reported.
    """

    def __init__(self, vcpu: Vcpu, mmio: Callable[[MmioAccess], int], stubs: Stubs | None = None) -> None:
        self.vcpu = vcpu
        self.cpu = vcpu.cpu
        self.stubs = stubs
        self.emulator = Emulator(vcpu, mmio, has_code=stubs is not None)
        self.exits: Exits = vmx_exits if vcpu.kvm.parameters.vmx else svm_exits
        self.in_guest = False

    # -- running --------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Record that KVM_RUN ended after an exit: the next instruction starts with an entry."""
        self.in_guest = False
        vmx_flush_pml_buffer(self.vcpu)

    def execute(self, step: Step) -> Delivered | None:
        """Run one instruction to its end. Return the exception it caused, once that is delivered, else None.

        Raises LeftL2 if it was L2's and ended in L1.
        """
        vcpu = self.vcpu
        in_l2 = vcpu.guest_mode
        self._set_context(step.rip, user=step.user)
        insn = step.insn
        soft: Delivered | None = None
        attempts = 0
        while attempts < ENDLESS:
            attempts += 1
            stayed = self.in_guest
            if not self.in_guest:
                vcpu_enter_guest(vcpu)
                self.exits.check_entry(vcpu)
                if in_l2 and not vcpu.guest_mode:
                    raise LeftL2
                self.in_guest = True
            try:
                if vcpu.exception is not None:
                    vcpu.soft_interrupt = None
                    return self._deliver_pending()
                if step.jump and vcpu.soft_interrupt is None:
                    insn = self._insn_at(vcpu.rip, step.insn)
                if vcpu.soft_interrupt is None:
                    done = self._attempt(insn)
                if insn.op is Op.INT:
                    soft = self._interrupt(insn)
                    done = True
            except (AccessFault, vmx_exits.PdpteFault):
                done = self._fault(insn)
            if in_l2 and not vcpu.guest_mode:
                raise LeftL2
            if done and insn is step.insn:
                return soft
            if done:
                again = min(self._repeats(insn), ENDLESS - attempts) if stayed and self.in_guest else 0
                attempts += again
                self._set_context(vcpu.rip + len(insn.code) * (1 + again), user=step.user)
        raise EndlessFaults(f"the instruction at {step.rip:#x} faults forever")

    def _insn_at(self, rip: int, expected: Insn) -> Insn:
        """Return the instruction at rip: `expected`, or what small numbers decode to, `add %al, (%rax)` or
        `add %eax, (%rax)`.

        RAX is 0.
        """
        hpa = self._translate(rip, FETCH)
        code = self.vcpu.kvm.arena.load(hpa, 2) if hpa & 0xFFF < 0xFFF else 0
        if code > 1:
            return expected
        return Insn(Op.ADD, code.to_bytes(2, "little"), address=0, size=4 if code else 1)

    def _repeats(self, insn: Insn) -> int:
        """Return how many instructions of zeros follow one at rip that needed no exit, in its page.

        Each would do what it did: add 0 to the same byte through the same two translations.
        """
        if insn.code != bytes(2):
            return 0
        hpa = self._translate(self.vcpu.rip, FETCH)
        load = self.vcpu.kvm.arena.load
        following = range(hpa + 2, (hpa & ~0xFFF) + 0xFFF, 2)
        return next((n for n, at in enumerate(following) if load(at, 2)), len(following))

    def _set_context(self, rip: int, *, user: bool) -> None:
        self.vcpu.rip = rip
        self.vcpu.cpl = 3 if user else 0
        self.cpu.user = user
        self.cpu.eflags_ac = self.vcpu.eflags_ac

    def _interrupt(self, insn: Insn) -> Delivered:
        """Execute INT n. If its delivery faults, KVM injects it again."""
        vcpu = self.vcpu
        vcpu.soft_interrupt = None
        try:
            return self._deliver(insn.value, None)
        except AccessFault:
            vcpu.soft_interrupt = QueuedInterrupt(insn.value, lambda: self.emulator.try_skip(insn))
            raise

    def _fault(self, insn: Insn) -> bool:
        """Handle an access that faulted: the guest gets a #GP at once, a #PF exits to KVM."""
        vcpu, cpu = self.vcpu, self.cpu
        if cpu.fault_vector == NESTED_FAULT:
            return self._page_fault_exit(insn, cpu.fault_gpa, nested=True)
        if vcpu.guest_mode:
            self.in_guest = False
            self.exits.shutdown_exit(vcpu)
            return False
        if cpu.fault_vector != PF_VECTOR:
            vcpu.exception = QueuedException(cpu.fault_vector, 0, None)
            return False
        if vcpu.kvm.parameters.tdp_enabled:
            self._raise_in_guest(QueuedException(PF_VECTOR, cpu.fault_error_code, cpu.fault_gva))
            return False
        vcpu.cr2 = cpu.fault_gva
        return self._page_fault_exit(insn, cpu.fault_gva, nested=False)

    def _page_fault_exit(self, insn: Insn, address: int, *, nested: bool) -> bool:
        self.in_guest = False
        page_fault_exit(self.vcpu, address, self.cpu.fault_error_code, nested)
        return complete_page_fault(self.vcpu, self.emulator, insn, address)

    def _raise_in_guest(self, exception: QueuedException) -> None:
        """Deliver an exception that does not exit; the third one on the way to a handler shuts the processor
        down.
        """
        vcpu = self.vcpu
        try:
            vcpu.exception = (
                exception if vcpu.exception is None else merge_exceptions(vcpu.exception, exception)
            )
        except TripleFault:
            self.exits.shutdown_exit(vcpu)

    def _attempt(self, insn: Insn) -> bool:
        """Execute the instruction on the processor; whether it completed there or in an exit."""
        if self.stubs is not None:
            self._fetch(len(insn.code))
        if self.vcpu.cpl == 3 and insn.op in PRIVILEGED:
            self.vcpu.exception = QueuedException(GP_VECTOR, 0, None)
            return False
        if insn.op in PAGING_INSTRUCTIONS and self.vcpu.kvm.parameters.tdp_enabled:
            return self._change_translation(insn)
        if insn.op in INTERCEPTED or insn.op in PAGING_INSTRUCTIONS:
            self.in_guest = False
            return self.exits.intercept(self.vcpu, self.emulator, insn)
        if insn.op is Op.MOV_CR0:
            return self._move_to_cr0(insn)
        if insn.op is Op.IRET:
            self._iret()
        elif insn.op is Op.OUT:
            self.exits.port_exit(self.vcpu, insn.value, len(insn.code))
        elif insn.address or insn.size:
            self._data(insn)
        return True

    def _change_translation(self, insn: Insn) -> bool:
        """Execute INVLPG, or MOV to CR3, of a guest that owns its tables."""
        if insn.op is Op.INVLPG:
            self.cpu.flush_gva(insn.address)
            return True
        vcpu = self.vcpu
        value = insn.value & ~CR3_NOFLUSH if vcpu.cr4 & CR4_PCIDE else insn.value
        if not vcpu.is_long_mode():
            value &= 0xFFFFFFFF
        elif value >> vcpu.host_maxphyaddr:
            self.exits.reserved_cr3(vcpu)
            return False
        if vcpu.kvm.parameters.vmx:
            vmx_exits.load_pdptes(vcpu, value)
        vcpu.cr3 = value
        self.cpu.root = value
        self.cpu.pcid = value & 0xFFF if vcpu.cr4 & CR4_PCIDE else 0
        if not insn.value & CR3_NOFLUSH or value == insn.value:
            self.cpu.flush_current()
        return True

    def _move_to_cr0(self, insn: Insn) -> bool:
        if insn.value >> 32 and not self.vcpu.wide_cr0:
            self.vcpu.exception = QueuedException(GP_VECTOR, 0, None)
            return False
        if self.exits.set_cr0_in_guest(self.vcpu, insn.value):
            return True
        self.in_guest = False
        return self.exits.intercept(self.vcpu, self.emulator, insn)

    # -- memory --------------------------------------------------------------------------------------------

    def _translate(self, gva: int, kind: int) -> int:
        hpa = self.cpu.access(gva, kind)
        if hpa == FAULT:
            raise AccessFault
        return hpa

    def _system(self, gva: int, kind: int) -> None:
        """Make an access that the processor needs for itself, with supervisor rights."""
        if self.vcpu.implicit_obeys_ac and self.vcpu.cpl < 3:
            self._translate(gva, kind)
        elif self.cpu.implicit_access(gva, kind) == FAULT:
            raise AccessFault

    def _parts(self, gva: int, size: int, kind: int) -> list[tuple[int, int]]:
        """Return (hpa, size) for each page of an access, one or two; faults in address order before anything
        is done.
        """
        first = min(size, 0x1000 - (gva & 0xFFF))
        parts = [(self._translate(gva, kind), first)]
        if first < size:
            limit = (1 << 64 if self.vcpu.is_64_bit_mode() else 1 << 32) - 1
            parts.append((self._translate((gva + first) & limit, kind), size - first))
        return parts

    def _fetch(self, length: int) -> None:
        rip = self.vcpu.rip
        self._translate(rip, FETCH)
        if length and (rip & 0xFFF) + length > 0x1000:
            self._translate(rip + length - 1 & ~0xFFF, FETCH)

    def _load(self, gva: int, size: int, kind: int = READ) -> int:
        value, shift = 0, 0
        for hpa, length in self._parts(gva, size, kind):
            value |= self.vcpu.kvm.arena.load(hpa, length) << shift
            shift += 8 * length
        return value

    def _store(self, gva: int, size: int, value: int) -> None:
        for hpa, length in self._parts(gva, size, WRITE):
            self.vcpu.kvm.arena.store(hpa, length, value & ((1 << (8 * length)) - 1))
            value >>= 8 * length

    def _data(self, insn: Insn) -> None:
        gva, size = insn.address, insn.size
        modify = READ if self.cpu.walker.implementation.rmw_reads_first else WRITE
        match insn.op:
            case Op.LOAD:
                insn.result = self._load(gva, size)
            case Op.STORE:
                self._store(gva, size, insn.value)
            case Op.STOS:
                while insn.count:
                    self._store(insn.address, size, insn.value)
                    insn.address += size
                    insn.count -= 1
            case Op.ADD:
                self._store(gva, size, self._load(gva, size, modify) + insn.value)
            case Op.XCHG:
                old = self._load(gva, size, modify)
                self._store(gva, size, insn.value)
                insn.result = old
            case Op.CMPXCHG | Op.CMPXCHG8B:
                old = self._load(gva, size, modify)
                equal = old == insn.expected & ((1 << (8 * size)) - 1)
                self._store(gva, size, insn.value if equal else old)
                insn.result = old
            case _:
                pass

    # -- control transfers ---------------------------------------------------------------------------------

    def _iret(self) -> None:
        stubs = self._need_stubs()
        self._translate(stubs.iret_frame(), READ)
        self._system(stubs.gdt_entry(USER_CODE), READ)
        self._system(stubs.gdt_entry(USER_DATA), READ)

    def _deliver(self, vector: int, error_code: int | None) -> Delivered:
        """Read the gate, switch stacks if the guest runs at CPL 3, push the frame."""
        if self.stubs is None:
            return Delivered(vector, error_code, self.vcpu.rip)
        stubs = self.stubs
        self._system(stubs.idt_entry(vector), READ)
        self._system(stubs.gdt_entry(KERNEL_CODE), READ)
        if self.vcpu.cpl == 3:
            self._system(stubs.stack_pointer_in_tss(), READ)
            if not self.vcpu.is_long_mode():
                self._system(stubs.gdt_entry(KERNEL_DATA), READ)
        self._system(stubs.stack_top() - 8, WRITE)
        return Delivered(vector, error_code, self.vcpu.rip)

    def _deliver_pending(self) -> Delivered:
        exception = self.vcpu.exception
        assert exception is not None
        if exception.cr2 is not None:
            self.vcpu.cr2 = exception.cr2
        exception.reinjected = True
        delivered = self._deliver(exception.vector, exception.error_code)
        self.vcpu.exception = None
        return delivered

    def _need_stubs(self) -> Stubs:
        if self.stubs is None:
            raise NotImplementedError("a guest without its own code cannot take exceptions")
        return self.stubs
