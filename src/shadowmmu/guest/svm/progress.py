"""Faults that repeat for ever: how they differ from a guest that makes progress."""

from ...kvm.exits.page_fault_exit import ENDLESS, EndlessFaults
from ...kvm.state.vcpu import Vcpu


class Progress:
    """Counts faults of one address at one RIP; whoever sees the guest make progress sets `repeats` to 0."""

    def __init__(self, vcpu: Vcpu) -> None:
        self.vcpu = vcpu
        self.repeats = 0
        self._last_fault = (0, 0)

    def check(self, address: int) -> None:
        """Count faults of one instruction at one address. Raises EndlessFaults."""
        fault = (self.vcpu.rip, address)
        if fault != self._last_fault:
            self._last_fault = fault
            self.repeats = 0
        self.repeats += 1
        if self.repeats > ENDLESS:
            raise EndlessFaults(f"the instruction at {fault[0]:#x} faults for ever at {address:#x}")
