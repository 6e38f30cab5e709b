"""The checks of a machine that runs a program: after exits instead of after ops."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..guest.play.machine import Machine
from ..guest.play.player import OpResult
from ..guest.scenario import ops as kinds
from ..guest.scenario.modes import MODES, Mode
from ..guest.scenario.ops import Op
from ..guest.svm.machine import ExitRecord, SvmMachine
from ..x86.bits import CR0_PG, CR4_PAE, EFER_LMA, PF_VECTOR
from ..x86.svm import SVM_EXIT_EXCP_BASE, SVM_EXIT_INVLPG, SVM_EXIT_WRITE_CR0, exit_reason
from .audit.audit import Audit
from .checker import CORRUPT, Violation
from .coherence import Coherence

__all__ = ["EVERY", "ProgramChecks", "audit_of"]

EVERY = 100
"""Exits between two looks at the whole machine."""
MOST_VIOLATIONS = 20
NEVER = 1 << 62
_FLUSHING = (SVM_EXIT_INVLPG, *range(SVM_EXIT_WRITE_CR0, SVM_EXIT_WRITE_CR0 + 8))


@dataclass(slots=True)
class _Program:
    """What the checks want of a player."""

    machine: Machine
    mode: Mode = MODES["long4"]
    op_number: int = 0
    dump: bool = False
    vmcbs: list[Any] = field(default_factory=list)
    on_meanwhile: list[Any] = field(default_factory=list)

    def mode_of(self, vcpu: int) -> Mode:
        """Return the paging mode of a vCPU; there is one."""
        return self.mode


def audit_of(machine: SvmMachine) -> Audit:
    """Return the audit of a machine that runs a program, for one look at it."""
    return Audit(_Program(machine.machine))  # type: ignore[arg-type]


class ProgramChecks:
    """Audit and coherence of a machine: the #PFs that the guest gets, and all after every `every` exits.

    It is made before the program starts.
    """

    def __init__(self, machine: SvmMachine, *, every: int = EVERY) -> None:
        self.machine = machine
        self.every = every
        self.violations: list[Violation] = []
        self.exits = 0
        self._program = _Program(machine.machine)
        self._coherence = Coherence(self._program, every=NEVER)  # type: ignore[arg-type]
        self._audit = Audit(self._program)  # type: ignore[arg-type]
        self._record = ExitRecord(0, 0, 0, 0)
        self._exception: tuple[int, int | None, int] | None = None
        machine.on_entry(self._after_exit)
        self._next = machine.on_exception(self._before_exception)

    @property
    def checks(self) -> int:
        """How often something was looked at."""
        return self._coherence.checks + self._audit.checks

    def finish(self) -> None:
        """Check everything once more, after the program has ended."""
        if len(self.violations) < MOST_VIOLATIONS:
            self._report([*self._coherence.finish(), *self._audit.finish()])

    # -- exits -------------------------------------------------------------------------------------------

    def _before_exception(self, vector: int, error_code: int | None, cr2: int) -> bool:
        self._exception = (vector, error_code, cr2)
        return self._next is not None and self._next(vector, error_code, cr2)

    def _after_exit(self) -> None:
        if len(self.violations) >= MOST_VIOLATIONS or not self.machine.exits:
            return
        self.exits += 1
        exception, self._exception = self._exception, None
        record = self._record = self.machine.history[-1]
        flushes = record.code in _FLUSHING
        faulted = record.code == SVM_EXIT_EXCP_BASE + PF_VECTOR
        refused = exception is not None and exception[0] == PF_VECTOR
        full = self.exits % self.every == 0
        if not (faulted or flushes or refused or full):
            return
        self._program.op_number = self.exits
        self._program.mode = self._mode()
        try:
            if faulted:
                op = kinds.Nop(line=0, text="", vcpu=0, user=False)
                self._coherence.note_walk(op, record.info2)
            if exception is not None and refused:
                self._check_fault(exception)
            if flushes:
                self._note_flush()
            if full:
                self._check_all()
        except CORRUPT as error:
            says = f"the MMU stumbles over its own structures: {type(error).__name__}: {error}"
            self._report([Violation("audit", "no-bug", says, self.exits, self._text())])

    def _played(self, text: str, **result: Any) -> OpResult:
        return OpResult(self.exits - 1, text, 0, {"outcome": "ok"} | result, {}, [], [], None)

    def _check_fault(self, exception: tuple[int, int | None, int]) -> None:
        """Check a #PF that the guest got: an access of its own, refused."""
        vector, error_code, cr2 = exception
        text = self._text()
        op = kinds.Access(line=0, text=text, vcpu=0, kind="write", user=False, gva=cr2, size=1)
        played = self._played(
            text, outcome="exception", vector=vector, cr2=hex(cr2), error_code=hex(error_code or 0)
        )
        self._report(self._coherence.check_fault(op, played))

    def _note_flush(self) -> None:
        text, vcpu = self._text(), self.machine.vcpu
        code = self._record.code
        op: Op
        if code == SVM_EXIT_INVLPG:
            op = kinds.Invlpg(line=0, text=text, vcpu=0, gva=vcpu.cpu.flushed_page)
        else:
            number = code - SVM_EXIT_WRITE_CR0
            op = kinds.WriteCr(
                line=0, text=text, vcpu=0, cr=number, value=self.machine.written_cr3 if number == 3 else 0
            )
        self._coherence.note_flush(op, self._played(text))
        self._coherence.before_op(op)

    def _check_all(self) -> None:
        text = self._text()
        op = kinds.Nop(line=0, text=text, vcpu=0, user=self.machine.cpl == 3)
        played = self._played(text)
        self._report(self._coherence.after_op(op, played))
        self._report(self._coherence.check_machine(op))
        self._coherence.forget()
        self._coherence.before_op(op)
        self._audit.before_op(op)
        self._report(self._audit.after_op(op, played))

    def _report(self, violations: list[Violation]) -> None:
        self.violations += violations
        if len(self.violations) >= MOST_VIOLATIONS:
            self.machine.stop("violations")

    def _mode(self) -> Mode:
        """Return the guest's paging mode."""
        vcpu = self.machine.vcpu
        if not vcpu.cr0 & CR0_PG:
            return MODES["nopaging"]
        if vcpu.efer & EFER_LMA:
            return MODES["long4"]
        return MODES["pae" if vcpu.cr4 & CR4_PAE else "32"]

    def _text(self) -> str:
        """Return the last exit."""
        record = self._record
        return f"{exit_reason(record.code)} at rip {record.rip:#x}, {record.info1:#x}, {record.info2:#x}"
