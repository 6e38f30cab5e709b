"""The VMCB12 of a vCPU: what L1 says about an L2 of 32-bit code without paging (APM vol. 2, appendix B)."""

from ...kvm.registers.nested import (
    ASID,
    EXIT_CODE,
    EXIT_INFO1,
    EXIT_INFO2,
    NESTED_CR3,
    NESTED_CTL,
    SAVE_CR0,
    SAVE_EFER,
    SAVE_RIP,
)
from ...x86.bits import CR0_ET, CR0_PE, EFER_SVME
from ..scenario.setup import Vmcb
from .machine import Machine

INTERCEPT_SHUTDOWN, INTERCEPT_VMRUN_VMMCALL = 0x0C, 0x10
TLB_CONTROL, SAVE_RFLAGS = 0x5C, 0x570


class Vmcb12:
    """Written by user space: no exit of the guest, nothing that KVM sees."""

    def __init__(self, machine: Machine, vmcb: Vmcb) -> None:
        self.machine = machine
        self.gpa = vmcb.gpa
        self._write(INTERCEPT_SHUTDOWN, 1 << 31, 4)
        self._write(INTERCEPT_VMRUN_VMMCALL, 3, 4)
        self._write(NESTED_CTL, 1)
        self._write(SAVE_EFER, EFER_SVME)
        self._write(SAVE_CR0, CR0_PE | CR0_ET)
        self.change(vmcb.ncr3, vmcb.asid, None)

    def _write(self, offset: int, value: int, size: int = 8) -> None:
        self.machine.host_write(self.gpa + offset, size, value)

    def change(self, ncr3: int | None, asid: int | None, tlb: int | None) -> None:
        """Change the nested CR3, the ASID and the TLB control; None leaves one as it is."""
        if ncr3 is not None:
            self._write(NESTED_CR3, ncr3)
        if asid is not None:
            self._write(ASID, asid, 4)
        if tlb is not None:
            self._write(TLB_CONTROL, tlb, 1)

    def start_at(self, rip: int) -> None:
        """Set where the next VMRUN lets L2 begin."""
        self._write(SAVE_RFLAGS, 2)
        self._write(SAVE_RIP, rip)

    def exit(self) -> dict[str, str]:
        """Return why L2's last run ended."""
        fields = {"code": EXIT_CODE, "info1": EXIT_INFO1, "info2": EXIT_INFO2}
        return {name: f"{self.machine.host_read(self.gpa + offset, 8):#x}" for name, offset in fields.items()}
