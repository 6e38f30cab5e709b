"""#PF and #NPF exits: to KVM's MMU, to the guest, or to KVM's emulator."""

from ...kvm.exits import handle_page_fault
from ...kvm.vcpu import QueuedException
from ...x86.bits import PFERR_F, PFERR_GUEST_FINAL, PFERR_P, PFERR_RSVD, PFERR_W
from .emulator import FetchFault
from .execution import Execution, ExitHandler
from .interrupts import PF
from .processor import EXIT_EXCEPTION, EXIT_NPF
from .progress import Progress


class PageFaults:
    """Handles them; a fetch ahead of RIP is none until its turn comes."""

    def __init__(self, execution: Execution, progress: Progress, *, npt: bool) -> None:
        self.execution = execution
        self.vcpu = execution.vcpu
        self.processor = execution.processor
        self.emulator = execution.emulator
        self.step = execution.step
        self.progress = progress
        self.npt = npt
        self._stepped_at = (0, 0)

    def handlers(self) -> dict[int, ExitHandler]:
        """Exits by code."""
        return {EXIT_EXCEPTION + PF: self._page_fault, EXIT_NPF: self._nested_page_fault}

    def _page_fault(self, code: int) -> None:
        processor, vcpu = self.processor, self.vcpu
        address, error_code = processor.exit_info2, processor.exit_info1
        if self._may_be_ahead(address, error_code) and self._is_ahead(address):
            self._stepped_at = (processor.rip, address)
            self.step.begin()
            return
        if self.npt:
            vcpu.exception = QueuedException(PF, as_hardware(error_code), address)
            return
        self._handle_fault(address, error_code)

    def _nested_page_fault(self, code: int) -> None:
        processor = self.processor
        self._handle_fault(processor.exit_info2, processor.exit_info1 | PFERR_GUEST_FINAL, nested=True)

    def _handle_fault(self, address: int, error_code: int, *, nested: bool = False) -> None:
        vcpu = self.vcpu
        if handle_page_fault(vcpu, address, error_code, nested=nested):
            self.progress.repeats = 0
            self._emulate(address, vcpu.emulation_type)
        elif vcpu.exception is None:
            self.progress.check(address)

    def _may_be_ahead(self, address: int, error_code: int) -> bool:
        """Whether it is a fetch, as far as the error code says so: under nested paging it may not.

        An access that is none faults again when its instruction runs alone.
        """
        if error_code & PFERR_F:
            return True
        if not self.npt or error_code & PFERR_W or address & 0xFFF:
            return False
        return (self.processor.rip, address) != self._stepped_at

    def _is_ahead(self, address: int) -> bool:
        """Whether a fetch faulted for an instruction behind the one at RIP.

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

    def _emulate(self, address: int, emulation_type: int) -> None:
        """Emulate the instruction whose access to `address` KVM does not let through."""
        code = self.execution.fetch()
        if code is None:
            return
        if code.execute is None:
            if not self.emulator.retry_instead(address, emulation_type):
                self.step.begin_writing(code, address)
        elif self.emulator.emulate(self.emulator.insn(code), address, emulation_type):
            self.execution.advance(code.length)


def as_hardware(error_code: int) -> int:
    """The error code of a #PF that the guest gets without an exit: with RSVD the emulator leaves P out."""
    return error_code | PFERR_P if error_code & PFERR_RSVD else error_code
