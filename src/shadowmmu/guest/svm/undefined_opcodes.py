"""#UD exits: instructions that the emulated processor has not, but KVM or the guest's processor has."""

from collections import Counter

from ...kvm.vcpu import QueuedException
from .execution import Execution, ExitHandler
from .interrupts import UD
from .invalidations import Invalidations
from .processor import EXIT_EXCEPTION, EXIT_INVPCID
from .system_calls import SystemCalls


class UndefinedOpcodes:
    """Handles VMCALL and INVPCID, and leaves other #UD to the guest."""

    def __init__(
        self, execution: Execution, calls: SystemCalls, invalidations: Invalidations, exits: Counter[int]
    ) -> None:
        self.execution = execution
        self.vcpu = execution.vcpu
        self.calls = calls
        self.invalidations = invalidations
        self.exits = exits

    def handlers(self) -> dict[int, ExitHandler]:
        """Exits by code."""
        return {EXIT_EXCEPTION + UD: self._undefined}

    def _undefined(self, code: int) -> None:
        """VMCALL is the other vendor's VMMCALL."""
        insn = self.execution.fetch()
        if insn is None:
            return
        if insn.name == "vmcall":
            self.calls.hypercall(code)
        elif insn.name == "invpcid":
            self.exits[code] -= 1
            self.exits[EXIT_INVPCID] += 1
            self.invalidations.invpcid(insn)
        else:
            self.vcpu.exception = QueuedException(UD, None, None)
