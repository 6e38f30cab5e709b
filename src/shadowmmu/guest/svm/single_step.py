"""One instruction of the guest alone, with RFLAGS.TF."""

from collections.abc import Callable
from dataclasses import dataclass

from ...host.memory import Arena
from ...kvm.bits import INVALID_PAGE
from ...kvm.exits.emulate import EmulationError
from ...kvm.exits.track_write import kvm_mmu_track_write
from ...kvm.fault.fast_fault import last_sptep_lockless
from ...kvm.guest_access.guest_walk import gva_to_gpa
from ...kvm.guest_access.mark_dirty import mark_page_dirty_in_slot
from ...kvm.spte.spte import is_shadow_present
from ...kvm.state.vcpu import QueuedException, Vcpu
from ...x86.bits import FAULT, PFERR_W, PS, WRITE, A, D, W
from ...x86.svm import SVM_EXIT_EXCP_BASE, SVM_EXIT_IRET
from .interrupts import DB
from .operands import Code
from .processor import SvmProcessor
from .registers import DR6_BS, FLAG_TF, HF_SMAP, RSP, SS

RESTORES_FLAGS = frozenset(("iret", "iretd", "iretq", "popf", "popfd", "popfq"))
PUSHES_FLAGS = frozenset(("pushf", "pushfd", "pushfq"))


@dataclass(slots=True)
class Step:
    """An instruction that runs alone, with what is to be undone afterwards."""

    guest_tf: bool
    name: str = ""
    without_smap: bool = False
    sptep: int = 0
    spte: int = 0
    address: int = 0
    gpa: int = 0
    size: int = 0


class SingleStep:
    """Steps of one vCPU; `current` is the one that is under way, `interrupted` whether an exit ended one;
    `armed()` is called after each.

    It is for fetches that faulted ahead of RIP, writes that KVM cannot emulate, and the IRET before an NMI.
    """

    def __init__(self, vcpu: Vcpu, processor: SvmProcessor, arena: Arena) -> None:
        self.kvm = vcpu.kvm
        self.vcpu = vcpu
        self.processor = processor
        self.arena = arena
        self.current: Step | None = None
        self.interrupted = False
        self.armed: Callable[[], None] = lambda: None
        self._stepped = False

    def begin(self, code: Code | None = None, *, without_smap: bool = False) -> None:
        """Let the next instruction, `code` if it is known, run by itself.

        `without_smap`: as if CR4.SMAP were 0.
        """
        processor = self.processor
        name = "" if code is None else code.name
        if name in RESTORES_FLAGS:
            processor.intercept(SVM_EXIT_IRET, wanted=False)
        if without_smap:
            processor.d[processor.hflags_word] &= ~HF_SMAP
        flags = processor.system_flags
        self.current = Step(bool(flags & FLAG_TF), name, without_smap)
        processor.system_flags = flags | FLAG_TF

    def begin_writing(self, code: Code, address: int) -> None:
        """Let an instruction that is not emulated write to a shadowed table: its SPTE lets it, once.

        Raises EmulationError if it is not memory.
        """
        vcpu = self.vcpu
        gpa = address if vcpu.mmu.direct() else gva_to_gpa(vcpu, address, PFERR_W)
        sptep = last_sptep_lockless(vcpu, address)
        words = self.arena.view()
        spte = words[sptep >> 3] if sptep else 0
        if gpa == INVALID_PAGE or not is_shadow_present(spte) or spte & PS:
            raise EmulationError(f"{code.name} at {vcpu.rip:#x} cannot be emulated")
        self.begin()
        assert self.current is not None
        step = self.current
        step.sptep, step.spte, step.address, step.gpa = sptep, spte, address, gpa
        step.size = min(max(code.size, 1), 8, 0x1000 - (gpa & 0xFFF))
        words[sptep >> 3] = spte | W | A | D
        self.processor.flush_page(address)

    def exited(self, code: int) -> None:
        """End a step at the exit: the single instruction ran, or it did not."""
        step, self.current = self.current, None
        assert step is not None
        self.interrupted = code != SVM_EXIT_EXCP_BASE + DB
        self.armed()
        processor, vcpu = self.processor, self.vcpu
        if step.without_smap:
            processor.update_modes()
        completed = code == SVM_EXIT_EXCP_BASE + DB
        if not step.guest_tf and not (completed and step.name in RESTORES_FLAGS):
            processor.system_flags &= ~FLAG_TF
        if not step.guest_tf and completed and step.name in PUSHES_FLAGS:
            self._hide_trap_flag()
        if step.name in RESTORES_FLAGS:
            processor.intercept_iret()
        if step.sptep:
            self.arena.view()[step.sptep >> 3] = step.spte
            processor.flush_page(step.address)
            slot = self.kvm.visible_memslot(step.gpa >> 12)
            if slot is not None:
                mark_page_dirty_in_slot(self.kvm, slot, step.gpa >> 12)
            kvm_mmu_track_write(vcpu, step.gpa, step.size)
        if code == SVM_EXIT_EXCP_BASE + DB and not step.guest_tf:
            processor.set_dr(6, processor.dr(6) & ~DR6_BS)
            self._stepped = True

    def _hide_trap_flag(self) -> None:
        """Clear TF in what PUSHF has pushed."""
        processor = self.processor
        pointer = processor.q[RSP]
        if not processor.is_64bit:
            pointer &= 0xFFFFFFFF if processor.stack_is_32bit else 0xFFFF
            pointer = pointer + processor.segment_base(SS) & 0xFFFFFFFF
        hpa = self.vcpu.cpu.implicit_access(pointer, WRITE)
        if hpa != FAULT:
            processor.invalidate_code(hpa, 2)
            self.arena.store(hpa, 2, self.arena.load(hpa, 2) & ~FLAG_TF)

    def debug(self, code: int) -> None:
        """Handle #DB: after a step, or the guest's own."""
        if self._stepped:
            self._stepped = False
            return
        self.vcpu.exception = QueuedException(DB, None, None)
