"""RDMSR and WRMSR: to the processor's own MSRs, or to those that KVM and user space have."""

from ...kvm.registers.invlpg import is_noncanonical
from ...kvm.state.vcpu import QueuedException
from ...x86.bits import MASK64
from ...x86.svm import SVM_EXIT_MSR
from .execution import Execution, ExitHandler
from .exit_codes import PASSED_MSRS
from .interrupts import GP
from .msrs import Msrs
from .registers import FS, GS

MSR_FIELDS = {
    0x175: "sysenter_esp",
    0x176: "sysenter_eip",
    0xC0000081: "star",
    0xC0000082: "lstar",
    0xC0000083: "cstar",
    0xC0000084: "fmask",
    0xC0000102: "kernel_gs_base",
}
CANONICAL_MSRS = frozenset((0xC0000082, 0xC0000083, 0xC0000100, 0xC0000101, 0xC0000102))
SYSENTER_ADDRESSES = 0x175, 0x176
"""KVM makes them canonical (__kvm_set_msr)."""


class MsrExits:
    """Handles them; what is refused is #GP."""

    def __init__(self, execution: Execution, msrs: Msrs) -> None:
        self.execution = execution
        self.kvm = execution.kvm
        self.vcpu = execution.vcpu
        self.processor = execution.processor
        self.msrs = msrs

    def handlers(self) -> dict[int, ExitHandler]:
        """Return exits by code."""
        return {SVM_EXIT_MSR: self._msr}

    def _msr(self, code: int) -> None:
        processor, vcpu = self.processor, self.vcpu
        write = processor.exit_info1 & 1
        self.execution.record(code, write)
        insn = self.execution.fetch()
        if insn is None:
            return
        q = processor.q
        index = q[1] & 0xFFFFFFFF
        if write:
            value = q[0] & 0xFFFFFFFF | (q[2] & 0xFFFFFFFF) << 32
            if index in PASSED_MSRS:
                accepted = self._write_passed_msr(index, value)
            else:
                accepted = self.msrs.write(index, value)
        else:
            read = self.msrs.read(index)
            accepted, value = read is not None, read or 0
        if self.kvm.tracing:
            self.kvm.tracer.kvm_msr(bool(write), index, value, not accepted)
        if not accepted:
            vcpu.exception = QueuedException(GP, 0, None)
            return
        if not write:
            q[0], q[2] = value & 0xFFFFFFFF, value >> 32
        self.execution.advance(insn.length)

    def _write_passed_msr(self, index: int, value: int) -> bool:
        """Execute WRMSR of one that the processor itself has; False is #GP."""
        processor = self.processor
        if index in CANONICAL_MSRS and is_noncanonical(self.vcpu, value):
            return False
        if index in SYSENTER_ADDRESSES:
            value = as_canonical(value, processor.address_bits)
        match index:
            case 0xC0000100:
                processor.set_segment_base(FS, value)
            case 0xC0000101:
                processor.set_segment_base(GS, value)
            case 0x174:
                processor.d[processor.layout.sysenter_cs >> 2] = value & 0xFFFFFFFF
            case _:
                processor.set_field(MSR_FIELDS[index], value)
        return True


def as_canonical(value: int, bits: int) -> int:
    """Return the canonical address of that many bits with the value's lower bits."""
    sign = 1 << bits - 1
    return (value & (1 << bits) - 1 ^ sign) - sign & MASK64
