"""#UD exits: instructions that the emulated processor has not, but KVM or the guest's processor has.

With CR0.TS it takes INVPCID and its neighbours for SSE instructions: #NM.
"""

from collections import Counter

from ...kvm.state.vcpu import QueuedException
from ...x86.svm import SVM_EXIT_EXCP_BASE, SVM_EXIT_INVPCID
from .execution import Execution, ExitHandler
from .interrupts import DB, NM, UD
from .invalidations import Invalidations
from .system_calls import SystemCalls

NO_SSE = frozenset(("invpcid", "invept", "invvpid"))


class UndefinedOpcodes:
    """Handles VMCALL, INVPCID and INT1, a trap whatever its gate's DPL; leaves other #UD to the guest."""

    def __init__(
        self, execution: Execution, calls: SystemCalls, invalidations: Invalidations, exits: Counter[int]
    ) -> None:
        self.execution = execution
        self.vcpu = execution.vcpu
        self.calls = calls
        self.invalidations = invalidations
        self.exits = exits

    def handlers(self) -> dict[int, ExitHandler]:
        """Return exits by code."""
        return {SVM_EXIT_EXCP_BASE + UD: self._undefined, SVM_EXIT_EXCP_BASE + NM: self._not_available}

    def _not_available(self, code: int) -> None:
        insn = self.execution.fetch()
        if insn is None:
            return
        if insn.name in NO_SSE:
            self._undefined(code)
        else:
            self.vcpu.exception = QueuedException(NM, None, None)

    def _undefined(self, code: int) -> None:
        """Handle #UD: VMCALL is the other vendor's VMMCALL."""
        insn = self.execution.fetch()
        if insn is None:
            return
        if insn.name == "vmcall":
            self.calls.hypercall(code)
        elif insn.name == "int1":
            self.exits[code] -= 1
            self.execution.advance(insn.length)
            self.vcpu.exception = QueuedException(DB, None, None)
        elif insn.name == "invpcid":
            self.exits[code] -= 1
            self.exits[SVM_EXIT_INVPCID] += 1
            self.invalidations.invpcid(insn)
        else:
            self.vcpu.exception = QueuedException(UD, None, None)
