"""A storm of random accesses on one machine, as fast as the MMU takes them.

Accesses and writes to page tables go straight to the processors, without the guest's own code around them;
everything seldom is a line of a scenario, played as such. Every op is also a line, so that a storm that ends
badly can be played again.

With checks on, each access is held against the specification: the frame it got is one that the guest's
tables, the slots and the host allow for it; an exception is what the tables ask for.
"""

from __future__ import annotations

from array import array
from typing import Any

from cython import longlong as i64, uint as u32, ulonglong as u64

from ...guest.play.cpu import GuestCpu, LeftL2
from ...guest.play.stubs import Step
from ...kvm.bits import INVALID_PAGE, RET_PF_EFAULT, RET_PF_EMULATE, RET_PF_ENOSPC
from ...kvm.exits.emulate import EmulationError, Emulator, MmioAccess
from ...kvm.exits.page_fault_exit import EndlessFaults, KvmRunError, handle_page_fault
from ...kvm.exits.run import DirtyRingFull, TripleFault, vcpu_enter_guest
from ...kvm.exits.svm_exits import EntryFailed
from ...kvm.guest_access.guest_walk import gva_to_gpa
from ...kvm.pages.roots import NoShadowPages
from ...kvm.state.vcpu import Vcpu
from ...x86.bits import FAULT, MASK64, NESTED_FAULT, PF_VECTOR, PFERR_F, PFERR_W
from ...x86.insn import Insn, Op as InsnOp
from ...x86.svm import SVM_EXIT_NPF
from ..coherence import Coherence
from ..coherence.guest_tables import DIRTY, UNUSED, GuestMemory, Registers, permits
from .ground import Edit

__all__ = ["ACCESS", "CR3", "INVLPG", "LINES", "VMEXIT", "VMRUN", "WRITE", "Storm", "StormOp"]

ACCESS, WRITE, INVLPG, CR3, LINES, VMRUN, VMEXIT = 0, 1, 2, 3, 4, 5, 6

StormOp = tuple[int, int, int, int, int]
"""Kind, vCPU, address, mode (bits 1:0 kind of access, bit 2 CPL 3; size in bits 15:8), value; LINES: value is
an index."""

ERROR_CODES = (0, PFERR_W, PFERR_F)
"""Of each kind of access."""
RETRIES = 64
ENDS = (
    TripleFault,
    DirtyRingFull,
    EntryFailed,
    EmulationError,
    EndlessFaults,
    KvmRunError,
    NoShadowPages,
    LeftL2,
)
"""What ends KVM_RUN: the op is over, and the guest may go on."""


class Storm:
    """Plays ops on the vCPUs of a machine; `coherence` checks them, if given.

    `vmcbs` are the VMCB12s of vCPUs that are hypervisors, one for each.

    `failure` is set to what is wrong when an op breaks the specification: (predicate, what, vCPU, address).
    """

    def __init__(self, vcpus: list[Vcpu], coherence: Coherence | None, vmcbs: list[int]) -> None:
        self.vcpus = vcpus
        self.kvm = vcpus[0].kvm
        self.tdp = self.kvm.parameters.tdp_enabled
        self.nested = len(vmcbs) != 0
        self.vmcbs = vmcbs
        self.emulators = [Emulator(vcpu, _no_memory, has_code=False) for vcpu in vcpus]
        self.cpus = [GuestCpu(vcpu, _no_memory) for vcpu in vcpus]
        self.coherence: Any = coherence
        self.checking = coherence is not None
        self.memory = GuestMemory(self.kvm) if coherence is None else coherence.memory
        self.registers: list[Registers] = []
        self.failure: tuple[str, str, int, int] | None = None
        self.clock = 0
        self.exiting = NESTED_FAULT if self.tdp else PF_VECTOR
        self.written: list[int] = []
        self.state = 1
        self.played = 0
        self.log = memoryview(array("Q", bytes(24)))
        self.gvas = self.edits = self.roots = memoryview(array("Q", bytes(8)))

    def load(self, seed: int, gvas: list[int], edits: list[Edit], roots: list[int], capacity: int) -> None:
        """Take what to choose from: addresses, writes to tables (none: an empty list), values of CR3."""
        self.state = (seed * 0x9E3779B97F4A7C15 | 1) & MASK64
        self.gvas = memoryview(array("Q", gvas))
        packed = [word for edit in edits for word in (edit.gva, edit.value, edit.size)]
        self.edits = memoryview(array("Q", packed))
        self.roots = memoryview(array("Q", roots))
        self.log = memoryview(array("Q", bytes(24 * capacity)))
        self.played = 0

    def next(self) -> u64:
        """Return the next random number (xorshift64*)."""
        x: u64 = self.state
        x ^= x >> 12
        x ^= x << 25 & MASK64
        x ^= x >> 27
        self.state = x
        return x * 0x2545F4914F6CDD1D & MASK64

    def run(self, count: u64, user: u32, size: u32) -> u64:
        """Play up to `count` random ops. Return how many were played.

        `user`: also at CPL 3, and fetches; `size`: bytes of an access. It stops early at a failure and at
        something seldom, which the caller has to think of.
        """
        done: u64 = 0
        flushing: u64 = 0 if self.nested or len(self.roots) == 0 else 1
        while done < count and self.failure is None and self.played < len(self.log) // 3:
            random: u64 = self.next()
            chance: u64 = random % 1000
            number: u32 = random >> 12 & 1
            vcpu: Vcpu = self.vcpus[number]
            which: u64 = random >> 16 & 0xFFFFFF
            if chance < 900:
                if self.nested and not vcpu.guest_mode:
                    self.in_l1(number, which)
                    done += 1
                    continue
                kind: u32 = random >> 40 & 7
                mode: u32 = 0
                if kind > 4:
                    mode = 1
                elif kind == 4:
                    mode = 2 * user
                mode |= (random >> 44 & user) << 2
                gva: u64 = self.gvas[which % len(self.gvas)]
                kind = WRITE if mode & 1 else ACCESS
                self.note(kind, number, mode | vcpu.guest_mode << 3, size, gva, random >> 48)
                self.play(number, gva, mode, random >> 48, size)
            elif chance < 970:
                if vcpu.guest_mode and which & 7 == 0:
                    self.note(VMEXIT, number, 0, 0, 0, 0)
                    self.vmexit(number)
                elif len(self.edits) and not vcpu.guest_mode:
                    self.edit(number, which)
                else:
                    continue
            elif chance < 985 and flushing:
                gva = self.gvas[which % len(self.gvas)]
                self.note(INVLPG, number, 0, 0, gva, 0)
                self.invlpg(number, gva)
            elif chance < 998 and flushing:
                gva = self.roots[which % len(self.roots)]
                self.note(CR3, number, 0, 0, gva, 0)
                self.load_cr3(number, gva)
            elif chance >= 998 and which & 3 == 0:
                return done
            else:
                continue
            done += 1
        return done

    def in_l1(self, number: u32, which: u64) -> int:
        """Change tables, or enter L2 again: a vCPU that left L2 does the former a few times first."""
        if len(self.edits) and which & 7:
            return self.edit(number, which)
        self.note(VMRUN, number, 0, 0, 0, 0)
        return self.vmrun(number)

    def edit(self, number: u32, which: u64) -> int:
        """Return one of the known writes to tables."""
        at: u64 = which % (len(self.edits) // 3) * 3
        self.note(WRITE, number, 1, self.edits[at + 2], self.edits[at], self.edits[at + 1])
        return self.play(number, self.edits[at], 1, self.edits[at + 1], self.edits[at + 2])

    def note(self, kind: u64, number: u64, mode: u64, size: u64, gva: u64, value: u64) -> int:
        """Write an op down."""
        at: u64 = 3 * self.played
        if at + 2 < len(self.log):
            self.log[at] = kind | number << 8 | mode << 16 | size << 24
            self.log[at + 1] = gva
            self.log[at + 2] = value
        self.played += 1
        return 0

    def note_lines(self, index: int) -> None:
        """Write down that lines were played: their index in a list of the caller's."""
        self.note(LINES, 0, 0, 0, 0, index)

    def history(self) -> list[StormOp]:
        """Return the ops so far."""
        words = list(self.log)
        return [
            (words[at] & 0xFF, words[at] >> 8 & 0xFF, words[at + 1], words[at] >> 16, words[at + 2])
            for at in range(0, 3 * min(self.played, len(words) // 3), 3)
        ]

    def refresh(self) -> None:
        """Read the state again after somebody else has played: registers may have
        changed, nothing stays pending.
        """
        for vcpu in self.vcpus:
            vcpu.exception = None
            vcpu.soft_interrupt = None
        if self.coherence is not None:
            self.clock = self.coherence.clock
            self.refresh_registers()

    def refresh_registers(self) -> None:
        self.registers = [self.coherence.guest_registers(vcpu) for vcpu in self.vcpus]

    # -- accesses --------------------------------------------------------------------------------------------

    def access(self, vcpu: Vcpu, gva: u64, mode: u32) -> u64:
        """Make an access; its physical address, FAULT for an exception (or L2's end), FAULT - 1 if KVM must
        emulate it.
        """
        cpu = vcpu.cpu
        address: u64
        result: u32
        cpu.user = mode >> 2 & 1 != 0
        self.kvm.running_vcpu = vcpu
        for _ in range(RETRIES):
            if vcpu.requests or vcpu.mmu.root_hpa == INVALID_PAGE:
                vcpu_enter_guest(vcpu)
            hpa: u64 = cpu.access(gva, mode & 3)
            if hpa != FAULT:
                return hpa
            if cpu.fault_vector != self.exiting:
                return FAULT
            address = cpu.fault_gpa if self.tdp else cpu.fault_gva
            guest_mode: u32 = vcpu.guest_mode
            result = handle_page_fault(vcpu, address, cpu.fault_error_code, self.tdp)
            if result == RET_PF_EMULATE:
                return FAULT - 1
            if result in (RET_PF_EFAULT, RET_PF_ENOSPC):
                return FAULT - 2
            if vcpu.exception is not None:
                vcpu.exception = None
                return FAULT
            if guest_mode != vcpu.guest_mode:
                return FAULT
        return FAULT - 2

    def play(self, number: u32, gva: u64, mode: u32, value: u64, size: u32) -> int:
        """Play one access; `size` bytes of `value` are stored by a write."""
        vcpu: Vcpu = self.vcpus[number]
        in_l2: u32 = vcpu.guest_mode
        self.clock += 1
        try:
            hpa: u64 = self.access(vcpu, gva, mode)
            if hpa < FAULT - 2:
                if self.checking:
                    self.check_access(vcpu, gva, mode, hpa, in_l2)
                if mode & 3 == 1:
                    self.store(gva, hpa, value, size)
            elif hpa == FAULT - 1:
                self.emulate(vcpu, gva, mode, value, size)
            if in_l2 != vcpu.guest_mode:
                if self.checking:
                    self.check_vmexit(vcpu, gva)
                self.switched(vcpu)
            elif hpa == FAULT and self.checking and not in_l2 and vcpu.cpu.fault_vector == PF_VECTOR:
                self.check_exception(vcpu, gva, mode)
        except ENDS:
            self.end(vcpu)
        return 0

    def switched(self, vcpu: Vcpu) -> None:
        """Take over the other tables of the vCPU and its empty TLB after VMRUN or #VMEXIT."""
        if self.coherence is not None:
            self.coherence.flushes[vcpu.id].flush(self.clock - 1)
            self.refresh_registers()

    def end(self, vcpu: Vcpu) -> None:
        """End KVM_RUN: nothing stays pending."""
        vcpu.exception = None
        vcpu.soft_interrupt = None
        if self.coherence is not None:
            self.refresh_registers()

    def store(self, gva: u64, hpa: u64, value: u64, size: u32) -> int:
        """Write memory as the guest does."""
        arena = self.kvm.arena
        if self.checking:
            self.note_write(hpa)
        arena.store(hpa, size, value)
        return 0

    def note_write(self, hpa: u64) -> int:
        """Keep what is about to be overwritten, at every guest address that it has."""
        old: u64 = self.kvm.arena.load(hpa & ~7, 8)
        for gpa in self.written:
            self.memory.changed(gpa & ~7, old, self.clock)
        return 0

    def emulate(self, vcpu: Vcpu, gva: u64, mode: u32, value: u64, size: u32) -> int:
        """Let KVM emulate the access; what it writes is memory or not."""
        write: bool = mode & 3 == 1
        vcpu.cpl = 3 if mode & 4 else 0
        address: u64 = vcpu.cpu.fault_gpa if self.tdp else vcpu.cpu.fault_gva
        if mode & 3 == 2:
            return 0
        insn = Insn(InsnOp.STORE if write else InsnOp.LOAD, address=gva, size=size, value=value)
        before: list[tuple[int, int]] = []
        if self.checking and write:
            regs: Registers = self.registers_of(vcpu)
            ways: list[tuple[int, int]] = self.memory.walk(regs, gva, self.clock - 1, [])
            before = [(gpa & ~7, self.memory.word(gpa)) for gpa, _ in ways]
            if self.tdp:
                # KVM may take the table that faulted for the operand (emulator_can_use_gpa), and has its own
                # PDPTEs, which are old ones if the processor has set A in them (refresh_pdptrs).
                others = (address, gva_to_gpa(vcpu, gva, 0))
                before += [(gpa & ~7, self.memory.word(gpa)) for gpa in others]
        self.emulators[vcpu.id].emulate(insn, address, vcpu.emulation_type)
        vcpu.exception = None
        for gpa, old in before:
            if self.memory.word(gpa) != old:
                self.memory.changed(gpa, old, self.clock)
        return 0

    # -- control -------------------------------------------------------------------------------------------

    def invlpg(self, number: u32, gva: u64) -> int:
        """Play INVLPG."""
        self.clock += 1
        if self.execute(number, Insn(InsnOp.INVLPG, address=gva)) and self.coherence is not None:
            self.coherence.flushes[number].flush_page(gva, self.clock - 1)
        return 0

    def load_cr3(self, number: u32, value: u64) -> int:
        """Play MOV to CR3."""
        self.clock += 1
        before = self.vcpus[number].cr3
        done = self.execute(number, Insn(InsnOp.MOV_CR3, value=value))
        if self.coherence is not None:
            self.coherence.clock = self.clock
            if done:
                self.coherence.loaded_cr3(self.vcpus[number], before)
            self.refresh_registers()
        return 0

    def vmrun(self, number: u32) -> int:
        """Play VMRUN, with the L2 that the VMCB12 has had last."""
        self.clock += 1
        self.execute(number, Insn(InsnOp.VMRUN, value=self.vmcbs[number]))
        self.switched(self.vcpus[number])
        return 0

    def vmexit(self, number: u32) -> int:
        """Play VMMCALL of L2."""
        self.clock += 1
        self.execute(number, Insn(InsnOp.VMMCALL))
        self.switched(self.vcpus[number])
        return 0

    def execute(self, number: u32, insn: Insn) -> bool:
        """Run one instruction. Return whether it came to its end."""
        cpu: GuestCpu = self.cpus[number]
        try:
            return cpu.execute(Step(1, False, insn)) is None
        except ENDS:
            self.end(cpu.vcpu)
            return False
        finally:
            cpu.leave()
            cpu.vcpu.exception = None

    # -- checks ----------------------------------------------------------------------------------------------

    def check_access(self, vcpu: Vcpu, gva: u64, mode: u32, hpa: u64, in_l2: u32) -> int:
        """Check that the frame of an access that was served is one that it may have."""
        coherence = self.coherence
        regs: Registers = self.registers_of(vcpu)
        since: i64 = coherence.flushes[vcpu.id].since(gva)
        ways: list[tuple[int, int]] = self.memory.walk(regs, gva, since, [])
        frame: u64 = hpa & ~0xFFF
        write: u32 = 1 if mode & 3 == 1 else 0
        gpa: u64
        rights: u64
        self.written.clear()
        if self.nested and not in_l2 and regs.levels == 3:
            # If the processor sets A in PDPTEs, KVM takes L2's CR3 for L1's (nested_svm_load_cr3).
            self.written = [at | gva & 0xFFF for _, at in coherence.backed_by(frame)]
            return 0
        fine = False
        for gpa, rights in ways:
            if self.memory.page(gpa >> 12, write) != frame:
                continue
            if write:
                self.written.append(gpa)
                if not rights & DIRTY and regs.levels:
                    continue
            if not rights & UNUSED and permits(regs, rights, mode >> 2 & 1, mode & 3):
                fine = True
        if fine and (not write or self.logged(gpa >> 12)):
            return 0
        coherence.clock = self.clock
        problem = coherence.judge_access(vcpu, regs, gva, mode, frame)
        if problem is not None:
            self.failure = (problem[0], problem[1], vcpu.id, gva)
        elif write:
            ways = coherence.ways(regs, coherence.flushes[vcpu.id], gva)
            self.written = [gpa for gpa, _ in ways if self.memory.page(gpa >> 12, 1) == frame]
        return 0

    def registers_of(self, vcpu: Vcpu) -> Registers:
        """Return the registers that decide; under nested paging CR3 is the processor's own."""
        regs: Registers = self.registers[vcpu.id]
        if self.tdp and not vcpu.guest_mode:
            regs.root = vcpu.cpu.root
        return regs

    def logged(self, gfn: u64) -> bool:
        """Return whether a page that was written is marked as dirty, if its slot logs."""
        slot = self.memory.slot_at(gfn)
        return slot is None or not slot.logs_dirty() or self.coherence.may_be_written(gfn)

    def check_exception(self, vcpu: Vcpu, gva: u64, mode: u32) -> int:
        """Check that the tables refuse what the exception says."""
        self.coherence.clock = self.clock
        regs: Registers = self.coherence.guest_registers(vcpu)
        if self.coherence.is_granted(vcpu, regs, gva, ERROR_CODES[mode & 3] | mode & 4):
            self.failure = ("refused", "the guest got #PF, which its tables allow", vcpu.id, gva)
        return 0

    def check_vmexit(self, vcpu: Vcpu, gva: u64) -> int:
        """Check that L1's nested tables refuse what an access of L2 ended in #VMEXIT(NPF) for."""
        self.coherence.clock = self.clock
        root: u64 = self.registers[vcpu.id].root
        if vcpu.exit_code == SVM_EXIT_NPF and self.coherence.is_npf_granted(vcpu, root):
            what = "L1 got #VMEXIT(NPF) for an access of L2 that its nested tables allow"
            self.failure = ("refused", what, vcpu.id, gva)
        return 0


def _no_memory(access: MmioAccess) -> int:
    return MASK64
