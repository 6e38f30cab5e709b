"""The instruction emulator, as far as memory is concerned (emulate.c, x86.c, 6.12.111).

Operands are found by walks of the guest's tables; memory is written and the write reported to the MMU; an
access that no memslot backs is completed by user space. Bytes are not decoded: whoever runs the vCPU says
what the instruction is.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ...x86.bits import GP_VECTOR, PFERR_F, PFERR_U, PFERR_W
from ...x86.insn import Insn, Op
from ..bits import (
    DEFECT_ATOMIC_UNLOGGED,
    EMULTYPE_ALLOW_RETRY_PF,
    EMULTYPE_WRITE_PF_TO_SP,
    INVALID_PAGE,
)
from ..guest_access.guest_memory import read_guest, store_guest, write_guest
from ..guest_access.guest_walk import gva_to_gpa, permission_fault
from ..pages.unprotect import kvm_mmu_unprotect_gfn_and_retry, reexecute_instruction, retry_instruction
from ..registers.inject import kvm_inject_page_fault
from ..registers.invlpg import is_noncanonical, kvm_mmu_invlpg
from ..registers.regs import kvm_set_cr0, kvm_set_cr3, kvm_set_cr4
from ..spte.mmio import vcpu_match_mmio_gpa, vcpu_match_mmio_gva
from ..state.vcpu import QueuedException, Vcpu
from .track_write import kvm_mmu_track_write

APIC_DEFAULT_PHYS_BASE = 0xFEE00000
MMIO_READ_UNSATISFIED, MMIO_READ, MMIO_WRITE = 0, 1, 2
STOS_BATCH = 0x3FF


class EmulationError(Exception):
    """KVM cannot emulate the instruction: KVM_RUN ends with an internal error."""


class OperandFault(Exception):
    """An operand faulted: the guest gets a #PF.

    Attributes:
        address: Linear address of the fault.
        error_code: PFERR_* for the guest.
    """

    def __init__(self, address: int, error_code: int) -> None:
        super().__init__(address, error_code)
        self.address = address
        self.error_code = error_code


class UnhandleableError(Exception):
    """The instruction cannot be emulated as it is, say because the host refuses the memory of an atomic
    operand (X86EMUL_UNHANDLEABLE).
    """


@dataclass(slots=True)
class MmioAccess:
    """An access that user space must complete (kvm_run.mmio).

    Attributes:
        gpa: Guest-physical address.
        length: Bytes, 1 to 8.
        write: A write, else a read.
        data: Value written; 0 for a read, whose value the callback returns.
    """

    gpa: int
    length: int
    write: bool
    data: int


class Emulator:
    """Emulates instructions of one vCPU.

    emulate() returns whether the instruction is done; if not, the guest is entered again as it is.

    Attributes:
        vcpu: The vCPU.
        mmio: Completes an access that no memslot backs; returns the value read.
        has_code: The instruction's bytes are in guest memory, so that they are fetched.
        gpa_hint: Guest-physical address of the operand that faulted, if the exit reported it; else None.
    """

    def __init__(self, vcpu: Vcpu, mmio: Callable[[MmioAccess], int], *, has_code: bool = True) -> None:
        self.vcpu = vcpu
        self.mmio = mmio
        self.has_code = has_code
        self.gpa_hint: int | None = None

    # -- memory ----------------------------------------------------------------------------------------

    def inject(self, fault: OperandFault) -> None:
        """Queue the exception of an operand that faulted."""
        kvm_inject_page_fault(self.vcpu, fault.address, fault.error_code)

    def _access_bits(self, *, write: bool) -> int:
        """Return PFERR_W and PFERR_U of a data access at the current CPL."""
        return (PFERR_W if write else 0) | (PFERR_U if self.vcpu.cpl == 3 else 0)

    def _translate(self, address: int, access: int) -> int:
        """Return the gpa of an address. Raises OperandFault."""
        gpa = gva_to_gpa(self.vcpu, address, access)
        if gpa == INVALID_PAGE:
            raise OperandFault(address, self.vcpu.walker.error_code)
        return gpa

    def _is_mmio_gpa(self, address: int, gpa: int, *, write: bool) -> bool:
        """Return whether an operand is known to be MMIO: at the APIC's address, or in the vCPU's
        MMIO record.
        """
        vcpu = self.vcpu
        if gpa & ~0xFFF == APIC_DEFAULT_PHYS_BASE:
            return True
        if not (vcpu.kvm.design.vcpu_mmio_cache and vcpu_match_mmio_gpa(vcpu, gpa)):
            return False
        if vcpu.kvm.tracing:
            vcpu.kvm.tracer.vcpu_match_mmio(address, gpa, write, True)
        return True

    def _operand(self, address: int, *, write: bool) -> tuple[int, bool]:
        """Return (gpa, whether it is known to be MMIO) of an operand within one page. Raises OperandFault."""
        vcpu = self.vcpu
        access = self._access_bits(write=write)
        if self.gpa_hint is not None and (address ^ self.gpa_hint) & 0xFFF == 0:
            return self.gpa_hint, self._is_mmio_gpa(address, self.gpa_hint, write=write)
        if (
            vcpu.kvm.design.vcpu_mmio_cache
            and vcpu_match_mmio_gva(vcpu, address)
            and (not vcpu.is_paging() or self._record_allows(access, write=write))
        ):
            gpa = vcpu.mmio_gfn << 12 | (address & 0xFFF)
            if vcpu.kvm.tracing:
                vcpu.kvm.tracer.vcpu_match_mmio(address, gpa, write, False)
            return gpa, True
        gpa = self._translate(address, access)
        return gpa, self._is_mmio_gpa(address, gpa, write=write)

    def _record_allows(self, access: int, *, write: bool) -> bool:
        """Return whether the vCPU's record of its last MMIO access grants an access of a paging guest.

        Its rights are W and U, those of an MMIO SPTE; since 7.3 a read needs R, which it never has.
        """
        vcpu = self.vcpu
        if not write and not vcpu.kvm.design.mmio_gva_serves_reads:
            return False
        return not permission_fault(vcpu, vcpu.mmu, vcpu.mmio_access, access)

    def _trace_mmio(self, kind: int, length: int, gpa: int, value: int) -> None:
        """Fire kvm_mmio."""
        if self.vcpu.kvm.tracing:
            self.vcpu.kvm.tracer.kvm_mmio(kind, length, gpa, value)

    def _pieces(self, address: int, size: int) -> list[tuple[int, int, int]]:
        """Return (address, size, offset) of the parts of an operand in each page."""
        first = min(size, 0x1000 - (address & 0xFFF))
        pieces = [(address, first, 0)]
        if first < size:
            limit = (1 << 64 if self.vcpu.is_64_bit_mode() else 1 << 32) - 1
            pieces.append(((address + first) & limit, size - first, first))
        return pieces

    def read(self, address: int, size: int) -> int:
        """Return an operand's value. Raises OperandFault."""
        value = 0
        fragments: list[tuple[int, int, int]] = []
        by_page = self.vcpu.kvm.design.mmio_read_traced_by_page
        for part, length, offset in self._pieces(address, size):
            gpa, mmio = self._operand(part, write=False)
            data = None if mmio else read_guest(self.vcpu.kvm, gpa, length)
            if data is None:
                fragments.append((gpa, length, offset))
                if by_page:
                    self._trace_mmio(MMIO_READ_UNSATISFIED, length, gpa, 0)
            else:
                value |= data << (8 * offset)
        if not fragments:
            return value
        if not by_page:
            self._trace_mmio(MMIO_READ_UNSATISFIED, length, fragments[0][0], 0)
        self.vcpu.stat.mmio_exits += 1
        for gpa, length, offset in fragments:
            data = self.mmio(MmioAccess(gpa, length, write=False, data=0)) & ((1 << (8 * length)) - 1)
            value |= data << (8 * offset)
        self._trace_mmio(MMIO_READ, size, fragments[0][0], value)
        return value

    def peek(self, address: int, size: int) -> int:
        """Return what memory holds at an operand, without tracepoints, uncounted, with no effect but Accessed
        bits; 0 if it cannot be read.
        """
        tally = self.vcpu.kvm.tally
        walks = tally.gpte_walks
        gpa = gva_to_gpa(self.vcpu, address, 0)
        tally.gpte_walks = walks
        return 0 if gpa == INVALID_PAGE else read_guest(self.vcpu.kvm, gpa, size) or 0

    def write(self, address: int, size: int, value: int) -> bool:
        """Write an operand and inform the MMU. Return whether user space had to complete it. Raises
        OperandFault.
        """
        fragments: list[MmioAccess] = []
        for part, length, offset in self._pieces(address, size):
            data = value >> (8 * offset) & ((1 << (8 * length)) - 1)
            gpa, mmio = self._operand(part, write=True)
            if not mmio and write_guest(self.vcpu.kvm, gpa, length, data):
                self._wrote(gpa, length)
                continue
            self._trace_mmio(MMIO_WRITE, length, gpa, data)
            fragments.append(MmioAccess(gpa, length, write=True, data=data))
        if fragments:
            self.vcpu.stat.mmio_exits += 1
            for fragment in fragments:
                self.mmio(fragment)
        return bool(fragments)

    def _wrote(self, gpa: int, size: int) -> None:
        """Inform the MMU that guest memory was written."""
        kvm_mmu_track_write(self.vcpu, gpa, size)

    def cmpxchg(self, address: int, size: int, value: int) -> None:
        """Write back an operand that was read before, atomically; across pages and to MMIO plainly.

        Raises OperandFault, and UnhandleableError if the host does not let KVM write there.
        """
        kvm = self.vcpu.kvm
        gpa = gva_to_gpa(self.vcpu, address, self._access_bits(write=True))
        crosses = (gpa & 0xFFF) + size > 0x1000
        if gpa == INVALID_PAGE or gpa & ~0xFFF == APIC_DEFAULT_PHYS_BASE or crosses:
            self.write(address, size, value)
        elif self._exchange(gpa, size, value):
            self._wrote(gpa, size)
        elif (slot := kvm.visible_memslot(gpa >> 12)) is not None and slot.writable():
            raise UnhandleableError
        else:
            self.write(address, size, value)

    def _exchange(self, gpa: int, size: int, value: int) -> bool:
        """Store through a mapping of the page and mark it dirty. Return whether that was possible."""
        kvm = self.vcpu.kvm
        if kvm.design.defect == DEFECT_ATOMIC_UNLOGGED:
            return store_guest(kvm, gpa, size, value) is not None
        return write_guest(kvm, gpa, size, value)

    # -- instructions ----------------------------------------------------------------------------------

    def _fetch(self) -> bool:
        """Read the instruction's bytes at RIP. Return whether they can be read. Raises OperandFault."""
        if not self.has_code:
            return True
        rip = self.vcpu.rip
        gpa = self._translate(rip, PFERR_F | (PFERR_U if self.vcpu.cpl == 3 else 0))
        return read_guest(self.vcpu.kvm, gpa, 1) is not None

    def _read_modify(self, insn: Insn) -> int:
        """Return the value of an operand that will be written: a fault reports a write. Raises
        OperandFault.
        """
        try:
            return self.read(insn.address, insn.size)
        except OperandFault as fault:
            raise OperandFault(fault.address, fault.error_code | PFERR_W) from None

    def _execute(self, insn: Insn) -> bool:
        """Execute an instruction. Return whether it is complete (a string instruction may need
        more rounds).
        """
        mask = (1 << (8 * insn.size)) - 1
        match insn.op:
            case Op.LOAD:
                insn.result = self.read(insn.address, insn.size)
            case Op.STORE:
                self.write(insn.address, insn.size, insn.value)
            case Op.XCHG:
                insn.result = self._read_modify(insn)
                self.cmpxchg(insn.address, insn.size, insn.value)
            case Op.ADD:
                self.write(insn.address, insn.size, (self._read_modify(insn) + insn.value) & mask)
            case Op.CMPXCHG | Op.CMPXCHG8B:
                insn.result = self._read_modify(insn)
                equal = insn.result == insn.expected & mask
                self.cmpxchg(insn.address, insn.size, insn.value if equal else insn.result)
            case Op.STOS:
                return self._stos(insn)
            case Op.INVLPG:
                if not is_noncanonical(self.vcpu, insn.address):
                    kvm_mmu_invlpg(self.vcpu, insn.address)
            case Op.MOV_CR0 | Op.MOV_CR3 | Op.MOV_CR4:
                self._move_to_cr(insn)
            case _:
                pass
        return True

    def _stos(self, insn: Insn) -> bool:
        """Store up to 1,024 elements of REP STOS. Return whether the count is 0."""
        while insn.count:
            exited = self.write(insn.address, insn.size, insn.value)
            insn.address += insn.size
            insn.count -= 1
            if insn.count and (exited or not insn.count & STOS_BATCH):
                return False
        return True

    def _move_to_cr(self, insn: Insn) -> None:
        """Execute MOV to a control register, or queue #GP."""
        setter = {Op.MOV_CR0: kvm_set_cr0, Op.MOV_CR3: kvm_set_cr3, Op.MOV_CR4: kvm_set_cr4}[insn.op]
        if not setter(self.vcpu, insn.value):
            self.vcpu.exception = QueuedException(GP_VECTOR, 0, None)

    def _fail(self) -> None:
        """Queue #UD for an instruction that cannot be emulated. Raises EmulationError at CPL 0, or always if
        the VM asks for it.
        """
        vcpu = self.vcpu
        vcpu.stat.insn_emulation_fail += 1
        self._trace_insn(b"", failed=True)
        always = vcpu.kvm.parameters.exit_on_emulation_error
        if not always:
            vcpu.exception = QueuedException(6, None, None)
        if always or vcpu.cpl == 0:
            raise EmulationError(f"instruction at {vcpu.rip:#x} cannot be emulated")

    def _trace_insn(self, code: bytes, *, failed: bool) -> None:
        """Fire kvm_emulate_insn."""
        vcpu = self.vcpu
        if vcpu.kvm.tracing:
            mode = "prot64" if vcpu.is_64_bit_mode() else "prot32"
            vcpu.kvm.tracer.kvm_emulate_insn(vcpu.rip, 0, code, mode, failed)

    def _decode(self, insn: Insn, address: int, emulation_type: int) -> bool:
        """Fetch the instruction. Return False if emulation ends here."""
        readable, fault = self._read(insn)
        if readable:
            return True
        if self._retry_on_failure(address, emulation_type):
            return False
        if fault is not None:
            kvm_inject_page_fault(self.vcpu, fault.address, fault.error_code)
        else:
            self._fail()
        return False

    def _read(self, insn: Insn) -> tuple[bool, OperandFault | None]:
        """Fetch the instruction. Return whether it can be read and, if it faults, how."""
        fault: OperandFault | None = None
        try:
            readable = self._fetch()
        except OperandFault as error:
            readable, fault = False, error
        self._trace_insn(insn.code, failed=False)
        self.vcpu.stat.insn_emulation += 1
        return readable, fault

    def _retry_on_failure(self, address: int, emulation_type: int) -> bool:
        """Return whether to run an instruction again that cannot be emulated, with its page unprotected."""
        if self.vcpu.kvm.design.retry_without_zapping:
            return reexecute_instruction(self.vcpu, address, emulation_type)
        if not emulation_type & EMULTYPE_ALLOW_RETRY_PF or emulation_type & EMULTYPE_WRITE_PF_TO_SP:
            return False
        kvm_mmu_unprotect_gfn_and_retry(self.vcpu, address, always_retry=True)
        return True

    def _retry(self, insn: Insn, address: int, emulation_type: int) -> bool:
        """Return whether to run the instruction again instead, because its page holds no shadowed table any
        more.
        """
        if self.vcpu.kvm.design.retry_without_zapping:
            return retry_instruction(self.vcpu, insn, address, emulation_type)
        if not emulation_type & EMULTYPE_ALLOW_RETRY_PF or insn.op.writes_page_tables:
            return False
        return kvm_mmu_unprotect_gfn_and_retry(self.vcpu, address)

    def emulate(self, insn: Insn, address: int = 0, emulation_type: int = 0) -> bool:
        """Emulate `insn`, which faulted at `address` if emulation_type says so (x86_emulate_instruction).

        Return whether it is done. An exception it causes is queued. Raises EmulationError if a failure must
        be reported to user space.
        """
        vcpu = self.vcpu
        vcpu.exception = None
        self.gpa_hint = None
        if not self._decode(insn, address, emulation_type):
            return False
        if self._retry(insn, address, emulation_type):
            return False
        if emulation_type and vcpu.mmu.direct() and insn.op is not Op.STOS:
            self.gpa_hint = address
        try:
            done = self._execute(insn)
        except OperandFault as fault:
            self.inject(fault)
            return False
        except UnhandleableError:
            if not self._retry_on_failure(address, emulation_type):
                self._fail()
            return False
        return done and vcpu.exception is None

    def try_skip(self, insn: Insn) -> bool:
        """Move past an instruction that needed no emulation. Return False if it cannot be fetched: a
        processor without nRIP must read it to find its end. A fault is not injected (EMULTYPE_SKIP).
        """
        if self._read(insn)[0]:
            return True
        self.vcpu.stat.insn_emulation_fail += 1
        self._trace_insn(b"", failed=True)
        return False

    def skip(self, insn: Insn) -> None:
        """Move past an instruction that was carried out. Raises EmulationError if it cannot be fetched."""
        if not self.try_skip(insn):
            raise EmulationError(f"instruction at {self.vcpu.rip:#x} cannot be skipped")
