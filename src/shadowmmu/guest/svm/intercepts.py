"""Exits of single instructions: CPUID, HLT, RDTSC, MONITOR, MWAIT, XSETBV and those of SVM."""

from collections.abc import Callable

from ...kvm.state.vcpu import QueuedException
from ...x86.svm import (
    SVM_EXIT_CLGI,
    SVM_EXIT_CPUID,
    SVM_EXIT_HLT,
    SVM_EXIT_INVLPGA,
    SVM_EXIT_MONITOR,
    SVM_EXIT_MWAIT,
    SVM_EXIT_RDPMC,
    SVM_EXIT_RDTSC,
    SVM_EXIT_RDTSCP,
    SVM_EXIT_SKINIT,
    SVM_EXIT_STGI,
    SVM_EXIT_VMLOAD,
    SVM_EXIT_VMRUN,
    SVM_EXIT_VMSAVE,
    SVM_EXIT_XSETBV,
)
from .cpuid import Cpuid
from .events import Events
from .execution import Execution, ExitHandler
from .interrupts import GP, UD
from .msrs import MSR_TSC_AUX, Msrs
from .registers import FLAG_IF
from .run_loop import Outcome, RunLoop

SVM = (
    SVM_EXIT_VMRUN,
    SVM_EXIT_VMLOAD,
    SVM_EXIT_VMSAVE,
    SVM_EXIT_STGI,
    SVM_EXIT_CLGI,
    SVM_EXIT_SKINIT,
    SVM_EXIT_INVLPGA,
)


class Intercepts:
    """Handles them: RDPMC is #GP without a PMU; RDTSC gives what `read_tsc` returns, if it exits."""

    def __init__(self, execution: Execution, cpuid: Cpuid, msrs: Msrs, events: Events, loop: RunLoop) -> None:
        self.execution = execution
        self.vcpu = execution.vcpu
        self.processor = execution.processor
        self.cpuid = cpuid
        self.msrs = msrs
        self.events = events
        self.loop = loop
        clock = execution.processor.clock
        self.read_tsc: Callable[[], int] = lambda: int(clock.now() * 1e9)
        msrs.watchers[MSR_TSC_AUX] = self.intercept_rdtsc

    def handlers(self) -> dict[int, ExitHandler]:
        """Return exits by code."""
        return {
            **dict.fromkeys(SVM, self._no_svm),
            SVM_EXIT_CPUID: self._cpuid,
            SVM_EXIT_HLT: self._hlt,
            SVM_EXIT_MONITOR: self._skip,
            SVM_EXIT_MWAIT: self._skip,
            SVM_EXIT_XSETBV: self._privileged,
            SVM_EXIT_RDPMC: self._privileged,
            SVM_EXIT_RDTSC: self._rdtsc,
            SVM_EXIT_RDTSCP: self._rdtsc,
        }

    def _cpuid(self, code: int) -> None:
        self.execution.record(code)
        insn = self.execution.fetch()
        if insn is not None and self.msrs.cpuid_faults and self.vcpu.cpl:
            self.vcpu.exception = QueuedException(GP, 0, None)
        elif insn is not None:
            self.cpuid.execute(self.vcpu)
            self.execution.advance(insn.length)

    def _hlt(self, code: int) -> None:
        self.execution.record(code)
        self.execution.advance(1)
        if not (self.events.pending and self.processor.system_flags & FLAG_IF):
            self.loop.outcome = Outcome("hlt")

    def _rdtsc(self, code: int) -> None:
        self.execution.record(code)
        insn = self.execution.fetch()
        if insn is None:
            return
        q, value = self.processor.q, self.read_tsc()
        q[0], q[2] = value & 0xFFFFFFFF, value >> 32
        if insn.name == "rdtscp":
            q[1] = self.msrs.values[MSR_TSC_AUX] & 0xFFFFFFFF
        self.execution.advance(insn.length)

    def intercept_rdtsc(self) -> None:
        """Let RDTSC and RDTSCP exit: the processor has neither the guest's counter nor its TSC_AUX."""
        self.processor.intercept(SVM_EXIT_RDTSC, SVM_EXIT_RDTSCP, wanted=True)

    def _skip(self, code: int) -> None:
        self.execution.record(code)
        insn = self.execution.fetch()
        if insn is not None:
            self.execution.advance(insn.length)

    def _no_svm(self, code: int) -> None:
        self.execution.record(code)
        self.vcpu.exception = QueuedException(UD, None, None)

    def _privileged(self, code: int) -> None:
        self.execution.record(code)
        self.vcpu.exception = QueuedException(GP, 0, None)
