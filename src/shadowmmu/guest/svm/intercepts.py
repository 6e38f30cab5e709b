"""Exits of single instructions: CPUID, HLT, RDTSC, MONITOR, MWAIT, XSETBV and those of SVM."""

import time
from collections.abc import Callable

from ...kvm.state.vcpu import QueuedException
from .cpuid import Cpuid
from .events import Events
from .execution import Execution, ExitHandler
from .exit_codes import (
    EXIT_CLGI,
    EXIT_CPUID,
    EXIT_HLT,
    EXIT_INVLPGA,
    EXIT_MONITOR,
    EXIT_MWAIT,
    EXIT_RDPMC,
    EXIT_RDTSC,
    EXIT_RDTSCP,
    EXIT_SKINIT,
    EXIT_STGI,
    EXIT_VMLOAD,
    EXIT_VMRUN,
    EXIT_VMSAVE,
    EXIT_XSETBV,
)
from .interrupts import GP, UD
from .msrs import MSR_TSC_AUX, Msrs
from .processor import FLAG_IF
from .run_loop import Outcome, RunLoop

SVM = EXIT_VMRUN, EXIT_VMLOAD, EXIT_VMSAVE, EXIT_STGI, EXIT_CLGI, EXIT_SKINIT, EXIT_INVLPGA


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
        self.read_tsc: Callable[[], int] = time.perf_counter_ns
        msrs.watchers[MSR_TSC_AUX] = self.intercept_rdtsc

    def handlers(self) -> dict[int, ExitHandler]:
        """Exits by code."""
        return {
            **dict.fromkeys(SVM, self._no_svm),
            EXIT_CPUID: self._cpuid,
            EXIT_HLT: self._hlt,
            EXIT_MONITOR: self._skip,
            EXIT_MWAIT: self._skip,
            EXIT_XSETBV: self._privileged,
            EXIT_RDPMC: self._privileged,
            EXIT_RDTSC: self._rdtsc,
            EXIT_RDTSCP: self._rdtsc,
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
        self.processor.intercept(EXIT_RDTSC, EXIT_RDTSCP, wanted=True)

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
