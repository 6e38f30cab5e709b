"""SYSCALL, SYSENTER and VMMCALL: what they do, or who is called instead."""

from collections.abc import Callable

from ...kvm.state.vcpu import QueuedException
from ...x86.bits import EFER_SCE, GP_VECTOR, MASK64
from ...x86.svm import SVM_EXIT_VMMCALL
from .execution import Execution, ExitHandler
from .interrupts import UD
from .registers import CS, FLAG_IF, FLAG_RF, FLAG_VM, RAX, RBX, RCX, RDX, RSI, RSP, SS, Segment
from .run_loop import RunLoop

KVM_HC_VAPIC_POLL_IRQ, KVM_HC_SEND_IPI = 1, 10
KVM_EPERM, KVM_EINVAL, KVM_ENOSYS = 1, 22, 1000
LONG_CODE, LEGACY_CODE = 0xA09B00, 0xC09B00
"""Descriptors of flat code of CPL 0."""
ICR_DESTINATION, ICR_SHORTHAND = 1 << 11, 3 << 18


class SystemCalls:
    """Handles them; `syscall` is called instead of what SYSCALL does, `vmmcall` instead of what KVM does;
    `send_ipi` gets the lower half of an ICR.
    """

    def __init__(self, execution: Execution, loop: RunLoop) -> None:
        self.execution = execution
        self.vcpu = execution.vcpu
        self.processor = execution.processor
        self.loop = loop
        self.syscall: Callable[[], None] | None = None
        self.vmmcall: Callable[[], None] | None = None
        self.send_ipi: Callable[[int], None] = lambda command: None
        self.processor.on_syscall = self._on_syscall
        self.processor.on_sysenter = self._on_sysenter

    def handlers(self) -> dict[int, ExitHandler]:
        """Return exits by code."""
        return {SVM_EXIT_VMMCALL: self.hypercall}

    def hypercall(self, code: int) -> None:
        """Handle VMMCALL, or VMCALL."""
        self.execution.record(code)
        self.execution.advance(3)
        if self.vmmcall is not None:
            self.vmmcall()
            return
        result = self._kvms_hypercall()
        self.processor.q[RAX] = result & (MASK64 if self.processor.is_64bit else 0xFFFFFFFF)

    def _kvms_hypercall(self) -> int:
        """Return what KVM does for a guest without paravirtual features (____kvm_emulate_hypercall)."""
        q = self.processor.q
        number, *arguments = (
            q[register] & (MASK64 if self.processor.is_64bit else 0xFFFFFFFF)
            for register in (RAX, RBX, RCX, RDX, RSI)
        )
        if self.processor.cpl:
            return -KVM_EPERM
        if number == KVM_HC_VAPIC_POLL_IRQ:
            return 0
        if number == KVM_HC_SEND_IPI:
            return self._send_ipi(*arguments)
        return -KVM_ENOSYS

    def _send_ipi(self, low: int, high: int, first: int, command: int) -> int:
        """Return to how many processors it was sent, of those that the bitmap has from `first` on."""
        if command & ICR_DESTINATION or command & ICR_SHORTHAND:
            return -KVM_EINVAL
        if first or not low & 1:
            return 0
        self.send_ipi(command)
        return 1

    def _on_syscall(self) -> None:
        """Handle SYSCALL. RIP is at the instruction, whose two bytes are added when this returns."""
        processor = self.processor
        q = processor.q
        if self.syscall is None and not self.vcpu.efer & EFER_SCE:
            self._refuse(UD, None)
            return
        flags = processor.rflags
        following = processor.rip + 2
        q[RCX] = following
        if processor.long_mode:
            q[11] = flags & ~FLAG_RF
        if self.syscall is not None:
            processor.rip = following
            self.loop.switch.note_state()
            self.loop.guarded(self._serve_syscall)
            processor.rip = processor.rip - 2 & MASK64
            return
        star = processor.field("star")
        selector = star >> 32 & 0xFFFC
        if processor.long_mode:
            target = processor.field("lstar" if processor.is_64bit else "cstar")
            code, flags = LONG_CODE, flags & ~(processor.field("fmask") & 0xFFFFFFFF) & ~FLAG_RF
        else:
            target = star & 0xFFFFFFFF
            code, flags = LEGACY_CODE, flags & ~(FLAG_VM | FLAG_IF | FLAG_RF)
        processor.set_segment(CS, Segment(selector, 0, 0xFFFFFFFF, code))
        processor.set_segment(SS, Segment(selector + 8, 0, 0xFFFFFFFF, 0xC09300))
        processor.rflags = flags
        processor.update_modes(0)
        processor.rip = target - 2 & MASK64

    def _serve_syscall(self) -> None:
        assert self.syscall is not None
        self.syscall()
        if self.loop.outcome is None:
            self.loop.entry.resume()

    def _refuse(self, vector: int, error_code: int | None) -> None:
        """Raise an exception instead of what the instruction does."""
        processor = self.processor
        self.vcpu.exception = QueuedException(vector, error_code, None)
        processor.rip = processor.rip - 2 & MASK64
        processor.request_tick()

    def _on_sysenter(self) -> None:
        """Handle SYSENTER, which an AMD processor has outside of long mode only."""
        processor = self.processor
        selector = processor.field("sysenter_cs") & 0xFFFC
        if processor.long_mode:
            self._refuse(UD, None)
            return
        if not selector:
            self._refuse(GP_VECTOR, 0)
            return
        processor.set_segment(CS, Segment(selector, 0, 0xFFFFFFFF, LEGACY_CODE))
        processor.set_segment(SS, Segment(selector + 8, 0, 0xFFFFFFFF, 0xC09300))
        processor.system_flags &= ~(FLAG_VM | FLAG_IF | FLAG_RF)
        processor.q[RSP] = processor.field("sysenter_esp") & 0xFFFFFFFF
        processor.update_modes(0)
        processor.rip = (processor.field("sysenter_eip") & 0xFFFFFFFF) - 2 & MASK64
