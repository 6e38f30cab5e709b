"""What the guest got: exceptions and values."""

from __future__ import annotations

from ...guest.play.player import OpResult
from ...guest.play.user_space import MMIO_ANSWER
from ...guest.scenario import ops as kinds
from ...guest.scenario.ops import Op
from ...kvm.state.vcpu import Vcpu
from ...x86.bits import (
    CR4_SMAP,
    MASK64,
    PF_VECTOR,
    PFERR_F,
    PFERR_W,
    A,
    P,
)
from ...x86.svm import SVM_EXIT_NPF
from ..checker import Violation
from .guest_tables import DIRTY, UNUSED, Refusals, Registers, permits
from .places import Places
from .usable import (
    hardware_walk,
)

__all__ = ["Results"]

MMIO = 1 << 51 | 1
ERROR_CODE = 0xFFFFFFFF
"""Of EXITINFO1 of a #VMEXIT(NPF); the rest says where the fault was (AMD APM vol. 2, 15.25.6)."""


class Results(Places):
    """Holds the results of ops against the guest's tables and its memory."""

    def _check_result(self, op: Op, played: OpResult) -> list[Violation]:
        outcome = played.result.get("outcome")
        vcpu = self.kvm.vcpus[op.vcpu]
        if outcome == "vmexit":
            return self._check_vmexit(op, played, vcpu)
        if not isinstance(op, kinds.Access | kinds.Exec | kinds.Nop):
            return []
        if outcome == "ok" and isinstance(op, kinds.Access) and op.kind == "read":
            return self._check_value(op, played, vcpu)
        if outcome == "timeout" and not isinstance(op, kinds.Exec):
            return self._check_endless(op, vcpu)
        if op.l2 or vcpu.guest_mode:
            return []
        if outcome == "exception" and played.result.get("vector") == PF_VECTOR:
            return self._check_exception(op, played, vcpu)
        return []

    def _check_exception(self, op: Op, played: OpResult, vcpu: Vcpu) -> list[Violation]:
        """Check a #PF: the tables refuse what the error code reports, now or before the op changed them."""
        address = int(played.result["cr2"], 16)
        code = int(played.result["error_code"], 16)
        regs = self.guest_registers(vcpu)
        if not self.is_granted(vcpu, regs, address, code):
            return []
        says = f"vCPU {vcpu.id} got #PF({code:#x}) at {address:#x}, which its tables allow"
        return [self._tell(op, "refused", says, self._guest_lines(regs, self.flushes[vcpu.id], address))]

    def _check_vmexit(self, op: Op, played: OpResult, vcpu: Vcpu) -> list[Violation]:
        """Check a #VMEXIT(NPF) that L1 got: its nested tables refuse what the error code says."""
        if int(played.result["code"], 16) != SVM_EXIT_NPF:
            return []
        code, address = (int(played.result[name], 16) for name in ("info1", "info2"))
        regs = self.l2_registers(vcpu, self.last_nested_cr3(vcpu))
        if not self.is_granted(vcpu, regs, address, code):
            return []
        says = (
            f"vCPU {vcpu.id} got #VMEXIT(NPF, {code & ERROR_CODE:#x}) at {address:#x}, "
            "which L1's nested tables allow"
        )
        return [self._tell(op, "refused", says, self._guest_lines(regs, self.flushes[vcpu.id], address))]

    def is_npf_granted(self, vcpu: Vcpu, nested_cr3: int) -> bool:
        """Return whether L1's tables at this nested CR3 allow what the vCPU has just left
        L2 for, a #VMEXIT(NPF).
        """
        regs = self.l2_registers(vcpu, nested_cr3)
        return self.is_granted(vcpu, regs, vcpu.exit_info2, vcpu.exit_info1)

    def is_granted(self, vcpu: Vcpu, regs: Registers, address: int, code: int) -> bool:
        """Return whether tables allow an access in every way that they can be read, now and before this op.

        `code` is an error code, of which the kind of access and its privilege count.
        """
        user = code >> 2 & 1
        kind = 1 if code & PFERR_W else 2 if code & PFERR_F else 0
        regs.nx_reserved = regs.bit8_reserved = True
        refused: Refusals = []
        ways = self.memory.walk(regs, address, self.clock - 1, refused)
        if refused or not ways or self._emulator_lacks_pdptes(regs):
            return False
        if not regs.nested and vcpu.cr4 & CR4_SMAP and not user:
            return False
        for gpa, rights in ways:
            if rights & UNUSED or not permits(regs, rights, user, kind):
                return False
            if kind == 1 and not rights & DIRTY:
                return False
            if self.memory.slot_at(gpa >> 12) is None:
                return False
        return True

    def _emulator_lacks_pdptes(self, regs: Registers) -> bool:
        """Return whether KVM's emulator may walk with older PDPTEs than the processor.

        Under nested paging it keeps those it has if one in memory is invalid (load_pdptrs), and a processor
        that sets A in PDPTEs makes them so.
        """
        if not self.tdp or regs.levels != 3 or regs.nested:
            return False
        return any(self.memory.word((regs.root & ~0x1F) + 8 * i) & (P | A) == P | A for i in range(4))

    def _check_endless(self, op: Op, vcpu: Vcpu) -> list[Violation]:
        """Check that a guest which makes no progress does not do so on an access that could be served."""
        cpu = vcpu.cpu
        address, code = cpu.fault_gva, cpu.fault_error_code
        if not self._tables_settled(vcpu) or vcpu.mmu.root_hpa == 0:
            return []
        regs = self.guest_registers(vcpu)
        if not self.is_granted(vcpu, regs, address, code):
            return []
        kind = 1 if code & PFERR_W else 0
        gpas = [gpa for gpa, _ in self.memory.walk(regs, address, self.clock - 1, [])]
        if any(self.memory.page(gpa >> 12, kind) == MASK64 for gpa in gpas):
            return []
        says = f"vCPU {vcpu.id} faults for ever at {address:#x}, which its tables allow"
        return [self._tell(op, "refused", says, self._guest_lines(regs, self.flushes[vcpu.id], address))]

    def _check_value(self, op: kinds.Access, played: OpResult, vcpu: Vcpu) -> list[Violation]:
        """Check that what was read is in memory where the tables lead, or what user space answers."""
        if (op.gva & 0xFFF) + op.size > 0x1000:
            return []
        value = int(played.result["value"], 16)
        regs = self.guest_registers(vcpu)
        if self.tdp and self._has_odd_tables(regs, op.gva):
            return []
        ways = self.ways(regs, self.flushes[vcpu.id], op.gva)
        possible = set()
        for gpa, _ in ways:
            hpa = self.memory.page(gpa >> 12, 0)
            if hpa == MASK64:
                possible.add(MMIO_ANSWER & (1 << 8 * op.size) - 1)
            else:
                possible.add(self.machine.arena.load(hpa | gpa & 0xFFF, op.size))
        if value in possible or self._is_revived_mmio(vcpu, op.gva):
            return []
        may = " or ".join(sorted(map(hex, possible))) or "nothing"
        who = f"vCPU {vcpu.id} in L2" if vcpu.guest_mode else f"vCPU {vcpu.id}"
        says = f"{who} read {value:#x} at {op.gva:#x}; memory has {may}"
        return [self._tell(op, "wrong-value", says, self._guest_lines(regs, self.flushes[vcpu.id], op.gva))]

    def _is_revived_mmio(self, vcpu: Vcpu, address: int) -> bool:
        """Return whether an access met an MMIO SPTE where memory is by now.

        A sync gives an MMIO SPTE the current generation without a look at the slots (sync_mmio_spte,
        6.12.111), so that user space gets the access until the SPTE is zapped.
        """
        root, levels = self._root(vcpu)
        path, _ = hardware_walk(self.words, root, levels, address, 64)
        in_shadow = not self.tdp or vcpu.guest_mode
        return in_shadow and bool(path) and path[-1][2] & MMIO == MMIO

    def _has_odd_tables(self, regs: Registers, address: int) -> bool:
        """Return whether the guest's own walk meets a table in a read-only slot or in none.

        KVM then emulates the instruction, and where the offsets in their pages agree it takes the table's
        entry for the operand (emulator_can_use_gpa, 6.12.111).
        """
        slots = map(self.memory.slot_at, self._tables_on_way(regs, address, self.clock - 1))
        return any(slot is None or not slot.writable() for slot in slots)

    def _check_log(self, op: Op) -> list[Violation]:
        """Check that tables which the guest, or KVM for it (A and D), wrote in this op are marked as dirty.

        What it writes in the middle of an op that reads the log need not be.
        """
        says = "gpa {:#x}, a table of the guest, was written and is not marked as dirty"
        return [self._tell(op, "not-logged", says.format(gfn << 12), []) for gfn in self.unlogged]
