"""KVM's emulator on real machine code, and what it does for one instruction at a time."""

from collections.abc import Callable

from ...kvm.bits import INVALID_PAGE
from ...kvm.exits.emulate import Emulator, MmioAccess, OperandFault
from ...kvm.exits.page_fault_exit import EndlessFaults
from ...kvm.guest_access.guest_memory import read_guest, table_page, write_guest
from ...kvm.guest_access.guest_walk import gva_to_gpa
from ...kvm.registers.invlpg import is_noncanonical
from ...kvm.state.vcpu import QueuedException, Vcpu
from ...x86.bits import ADDR, GP_VECTOR, MASK64, PAGE_SIZE, PFERR_F, PFERR_U, PFERR_W
from ...x86.insn import Insn
from .instructions import LONGEST, Decoder
from .operands import Code, CodeInsn, Context
from .processor import SvmProcessor
from .registers import CS, HF_CS32


class FetchFault(Exception):
    """The guest's own tables do not let it execute at `address`."""

    def __init__(self, address: int, error_code: int) -> None:
        super().__init__(address, error_code)
        self.address = address
        self.error_code = error_code


class NonCanonical(OperandFault):
    """An operand's address is none that the guest's paging mode has: the guest gets a #GP."""


class CodeEmulator(Emulator):
    """Emulates what is at the guest's RIP; registers are those of the processor.

    With `implicit` accesses are those of the processor for itself, with the rights of CPL 0.
    `memory` is all of the host's, as bytes. The processor forgets code that is overwritten.
    """

    def __init__(
        self, vcpu: Vcpu, processor: SvmProcessor, mmio: Callable[[MmioAccess], int], memory: memoryview
    ) -> None:
        super().__init__(vcpu, mmio)
        self.processor = processor
        self.memory = memory
        self.decoder = Decoder()
        self.context = Context(processor, self)
        self.implicit = False

    # -- fetching ----------------------------------------------------------------------------------------

    def linear_rip(self) -> int:
        """Return RIP as a linear address."""
        processor = self.processor
        if processor.is_64bit:
            return processor.rip
        return (processor.rip + processor.segment_base(CS)) & 0xFFFFFFFF

    def bits(self) -> int:
        """Return 16, 32 or 64: the mode that code at RIP is decoded in."""
        processor = self.processor
        if processor.is_64bit:
            return 64
        return 32 if processor.d[processor.hflags_word] & HF_CS32 else 16

    def page_of_code(self, address: int) -> bytes:
        """Return the bytes at a linear address up to the end of its page, 15 at most;
        empty if it is not memory.

        Raises FetchFault.
        """
        vcpu = self.vcpu
        gpa = gva_to_gpa(vcpu, address, PFERR_F | (PFERR_U if vcpu.cpl == 3 else 0))
        if gpa == INVALID_PAGE:
            raise FetchFault(address, vcpu.walker.error_code)
        page = table_page(vcpu.kvm, gpa >> 12)
        if page == INVALID_PAGE:
            return b""
        hpa = page & ADDR | gpa & 0xFFF
        return bytes(self.memory[hpa : hpa + min(LONGEST, PAGE_SIZE - (gpa & 0xFFF))])

    def fetch(self) -> Code | None:
        """Return the instruction at RIP; None if the bytes are not an instruction. Raises FetchFault."""
        address = self.linear_rip()
        bits = self.bits()
        data = self.page_of_code(address)
        code = self.decoder.decode(data, bits)
        if code is None and 0 < len(data) < LONGEST:
            limit = MASK64 if bits == 64 else 0xFFFFFFFF
            data += self.page_of_code(address + len(data) & limit)
            code = self.decoder.decode(data[:LONGEST], bits)
        return code

    def _fetch(self) -> bool:
        return True

    # -- operands ----------------------------------------------------------------------------------------

    def _access_bits(self, *, write: bool) -> int:
        return (PFERR_W if write else 0) if self.implicit else super()._access_bits(write=write)

    def _translate(self, address: int, access: int) -> int:
        if self.processor.is_64bit and is_noncanonical(self.vcpu, address):
            raise NonCanonical(address, 0)
        return super()._translate(address, access)

    def write_in_turn(self, writes: list[tuple[int, int, int]]) -> None:
        """Write several (address, size, value). Of those to devices user space gets only the last: each
        replaces the one before (emulator_read_write, 6.12.111). Raises OperandFault.
        """
        device = self.mmio
        kept: list[MmioAccess] = []
        latest: list[MmioAccess] = []

        def keep(access: MmioAccess) -> int:
            latest.append(access)
            return 0

        self.mmio = keep
        try:
            for write in writes:
                latest = []
                self.write(*write)
                kept = latest or kept
        finally:
            self.mmio = device
        for access in kept:
            device(access)

    def read_memory(self, address: int, size: int) -> int:
        """Return an operand of 1 to 8 bytes that KVM takes for memory (segmented_read_std, 6.12.111).

        Raises OperandFault, and EndlessFaults for a device: KVM begins the instruction again.
        """
        value = 0
        for part, length, offset in self._pieces(address, size):
            gpa = self._translate(part, self._access_bits(write=False))
            data = read_guest(self.vcpu.kvm, gpa, length)
            if data is None:
                raise self.endless(part)
            value |= data << 8 * offset
        return value

    def write_memory(self, address: int, size: int, value: int) -> None:
        """Write an operand that KVM takes for memory (segmented_write_std, 6.12.111): the MMU does
        not learn of it.

        Raises OperandFault, and EndlessFaults for a device: KVM begins the instruction again.
        """
        for part, length, offset in self._pieces(address, size):
            gpa = self._translate(part, self._access_bits(write=True))
            for first in range(0, length, 8):
                count = min(8, length - first)
                data = value >> 8 * (offset + first) & (1 << 8 * count) - 1
                if not write_guest(self.vcpu.kvm, gpa + first, count, data):
                    raise self.endless(part)
            hpa = table_page(self.vcpu.kvm, gpa >> 12) & ADDR | gpa & 0xFFF
            self.processor.invalidate_code(hpa, length)

    def endless(self, address: int) -> EndlessFaults:
        """Return the error of an instruction at RIP that KVM begins again and again: its operand is on a
        device, and KVM takes it for memory.
        """
        return EndlessFaults(
            f"the instruction at {self.vcpu.rip:#x} never ends: KVM takes its operand at {address:#x} for "
            "memory, and it is a device"
        )

    def inject(self, fault: OperandFault) -> None:
        """Queue #GP for an address that is not canonical, else #PF."""
        if isinstance(fault, NonCanonical):
            self.vcpu.exception = QueuedException(GP_VECTOR, 0, None)
        else:
            super().inject(fault)

    # -- execution ---------------------------------------------------------------------------------------

    def insn(self, code: Code) -> CodeInsn:
        """Return the record of an instruction to emulate()."""
        return CodeInsn(code.op, code.code, size=code.size, decoded=code)

    def retry_instead(self, address: int, emulation_type: int) -> bool:
        """Return whether an instruction that is not emulated can run by itself: its page
        is a table no longer.
        """
        return self._retry_on_failure(address, emulation_type)

    def _execute(self, insn: Insn) -> bool:
        self.context.shadows_interrupts = False
        if isinstance(insn, CodeInsn) and insn.decoded is not None and insn.decoded.execute is not None:
            return insn.decoded.execute(self.context, insn.decoded)
        return super()._execute(insn)

    def _wrote(self, gpa: int, size: int) -> None:
        self.processor.invalidate_code(table_page(self.vcpu.kvm, gpa >> 12) & ADDR | gpa & 0xFFF, size)
        super()._wrote(gpa, size)
