"""#PF and #NPF exits: to KVM's MMU, to the guest, or to KVM's emulator."""

from collections.abc import Callable

from ...kvm.bits import INVALID_PAGE
from ...kvm.exits.emulate import EmulationError
from ...kvm.exits.page_fault_exit import must_emulate, page_fault_exit
from ...kvm.guest_access.guest_walk import gva_to_gpa
from ...kvm.state.vcpu import QueuedException
from ...x86.bits import PFERR_F, PFERR_GUEST_FINAL, PFERR_P, PFERR_RSVD, PFERR_U, PFERR_W
from ...x86.svm import SVM_EXIT_EXCP_BASE, SVM_EXIT_NPF
from .arithmetic import ROTATES_CARRY
from .emulator import FetchFault
from .execution import Execution, ExecutionPart, ExitHandler
from .interrupts import GP, PF, UD
from .operands import Code
from .progress import Progress
from .registers import RSP, SS

FAR_RETURNS = frozenset(("iret", "iretd", "iretq", "retf"))
OF_MEMORY_ONLY = frozenset(("fxsave", "fxsave64", "fxrstor", "fxrstor64"))
"""What KVM's emulator does with memory only (em_fxsave, em_fxrstor, 6.12.111)."""
LONGEST_FRAME = 0x10000 + 40
"""Bytes of stack that a far return reads, with what it drops."""


class PageFaults(ExecutionPart):
    """Handles them, and #GP; a fetch ahead of RIP is none until its turn comes.

    `transfer` carries out far transfers that the emulator refuses with #GP, and says whether it was one.
    """

    def __init__(
        self, execution: Execution, progress: Progress, transfer: Callable[[], bool], *, npt: bool
    ) -> None:
        super().__init__(execution)
        self.step = execution.step
        self.progress = progress
        self.transfer = transfer
        self.npt = npt

    def handlers(self) -> dict[int, ExitHandler]:
        """Return exits by code."""
        return {
            SVM_EXIT_EXCP_BASE + GP: self._general_protection,
            SVM_EXIT_EXCP_BASE + PF: self._page_fault,
            SVM_EXIT_NPF: self._nested_page_fault,
        }

    def _page_fault(self, code: int) -> None:
        processor, vcpu = self.processor, self.vcpu
        address, error_code = processor.exit_info2, processor.exit_info1
        self._keep_carry(error_code)
        if self._may_be_ahead(address, error_code) and self._is_ahead(address):
            self.step.begin(self.execution.peek())
            return
        if vcpu.cpl == 3 and not error_code & PFERR_U and self._is_return(address):
            if error_code & PFERR_P and self._allows_user(address):
                self.step.begin(without_smap=True)
                return
            error_code |= PFERR_U
        if self.npt:
            vcpu.exception = QueuedException(PF, as_hardware(error_code), address)
            return
        self._handle_fault(address, error_code)

    def _is_return(self, address: int) -> bool:
        """Return whether a far return reads its frame there: with the user's rights, the
        emulator takes CPL 0's.
        """
        code = self.execution.peek()
        if code is None or code.name not in FAR_RETURNS:
            return False
        context, processor = self.emulator.context, self.processor
        stack = context.in_segment(SS, processor.q[RSP])
        return 0 <= address - stack < LONGEST_FRAME

    def _allows_user(self, address: int) -> bool:
        return gva_to_gpa(self.vcpu, address, PFERR_U) != INVALID_PAGE

    def _general_protection(self, code: int) -> None:
        """Handle #GP: the guest's, or of a fetch ahead of RIP beyond the last address of the lower half."""
        processor = self.processor
        end = 1 << processor.address_bits - 1
        if processor.is_64bit and end - 0x1000 <= processor.rip < end and not self.step.interrupted:
            self.step.begin(self.execution.peek())
        elif not self.transfer():
            self.vcpu.exception = QueuedException(GP, processor.exit_info1, None)

    def _keep_carry(self, error_code: int) -> None:
        """Repair the flags of an RCL or RCR whose load has faulted: the processor has computed them into
        another form and then lost track of it.
        """
        if error_code & (PFERR_W | PFERR_F):
            return
        kvm = self.vcpu.kvm
        tracing, kvm.tracing = kvm.tracing, False
        try:
            code = self.execution.peek()
        finally:
            kvm.tracing = tracing
        if code is not None and code.name in ROTATES_CARRY:
            self.processor.take_interim_flags()

    def _nested_page_fault(self, code: int) -> None:
        processor = self.processor
        self._keep_carry(processor.exit_info1)
        self._handle_fault(processor.exit_info2, processor.exit_info1 | PFERR_GUEST_FINAL, nested=True)

    def _handle_fault(self, address: int, error_code: int, *, nested: bool = False) -> None:
        vcpu = self.vcpu
        page_fault_exit(vcpu, address, error_code, nested)
        if must_emulate(vcpu, address):
            self.progress.repeats = 0
            self._emulate(address, error_code, vcpu.emulation_type)
        elif vcpu.exception is None:
            self.progress.check(address)

    def _may_be_ahead(self, address: int, error_code: int) -> bool:
        """Return whether it is a fetch, as far as the error code says so: under nested paging it may not.

        An access that is none faults again when its instruction runs alone.
        """
        if error_code & PFERR_F:
            return True
        if not self.npt or error_code & PFERR_W or address & 0xFFF:
            return False
        return not self.step.interrupted

    def _is_ahead(self, address: int) -> bool:
        """Return whether a fetch faulted for an instruction after the one at RIP.

        The emulator translates several at once and reports the first. One whose end is on the page that is
        missing faults for itself.
        """
        linear = self.emulator.linear_rip()
        if (linear ^ address) >> 12 == 0:
            return False
        try:
            data = self.emulator.page_of_code(linear)
        except FetchFault:
            return False
        return self.emulator.decoder.decode(data, self.emulator.bits()) is not None

    def _emulate(self, address: int, error_code: int, emulation_type: int) -> None:
        """Emulate the instruction whose access to `address` KVM does not let through."""
        code, traps = self.execution.fetch(), self.execution.traps()
        if code is None:
            return
        if code.execute is None or (code.name in ROTATES_CARRY and error_code & PFERR_W):
            if not self.emulator.retry_instead(address, emulation_type):
                self._write_alone(code, address)
        elif self.emulator.emulate(self.emulator.insn(code), address, emulation_type):
            self.execution.emulated(code.length, traps=traps)

    def _write_alone(self, code: Code, address: int) -> None:
        """Let an instruction that is not emulated write to a table; with a device it is #UD at CPL 3.

        Raises EndlessFaults for those that KVM never ends there.
        """
        try:
            self.step.begin_writing(code, address)
        except EmulationError:
            if code.name in OF_MEMORY_ONLY:
                raise self.emulator.endless(address) from None
            self.vcpu.stat.insn_emulation_fail += 1
            if self.vcpu.cpl < 3:
                raise
            self.vcpu.exception = QueuedException(UD, None, None)


def as_hardware(error_code: int) -> int:
    """Return the error code of a #PF that the guest gets without an exit: with RSVD the
    emulator leaves P out.
    """
    return error_code | PFERR_P if error_code & PFERR_RSVD else error_code
