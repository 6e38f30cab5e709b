"""What is known of the guest: its registers, when it flushed, its tables and how they were before.

The clock counts ops; what a table entry was up to op n may not be used after a flush in a later op.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ...guest.play.player import Player
from ...guest.scenario import ops as kinds
from ...guest.scenario.ops import Op
from ...kvm.guest_access.dirty_ring import dirty_ring_of
from ...kvm.state.vcpu import Vcpu
from ...x86.bits import (
    CR0_CD,
    CR0_NW,
    CR0_PG,
    CR0_TS,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_PCIDE,
    CR4_PGE,
    CR4_PSE,
    CR4_SMEP,
    EFER_LMA,
    EFER_NX,
    MASK64,
    PCID_MASK,
    P,
)
from ..checker import Checker
from .flushes import Flushes
from .guest_tables import GuestMemory, Refusals, Registers

__all__ = ["GuestState"]

FLUSHING = (
    CR0_PG,
    MASK64,
    CR4_PGE | CR4_PSE | CR4_PAE | CR4_LA57 | CR4_SMEP | CR4_PCIDE,
    EFER_LMA | EFER_NX,
    1,
    MASK64,
)
"""Bits of each number of `_registers_of` whose change empties the TLB."""
LOADING_PDPTRS = (
    CR0_CD | CR0_NW | CR0_PG,
    MASK64,
    CR4_PGE | CR4_PSE | CR4_PAE | CR4_SMEP,
    EFER_LMA,
    1,
    MASK64,
)
"""The same for the PDPTE registers of PAE (AMD APM vol. 2, 5.2.3; Intel SDM vol. 3, 4.4.1)."""
GUEST_MODE, NESTED_CR3 = 4, 5
"""Two of the numbers of `_registers_of`."""
VMCB_NESTED_CR3 = 0xB0
"""Offset of N_CR3 in a VMCB (AMD APM vol. 2, appendix B)."""
MAX_TRACKED = 4096
NOTHING = bytes(4096)
"""A page as it looks while the host does not map it."""
LOW_HALF = 0xFFFFFFFF
AD_BITS = 0x60


class GuestState(Checker):
    """Follows the guest of a machine, op by op."""

    name = "coherence"

    def __init__(self, player: Player) -> None:
        super().__init__(player)
        self.machine = player.machine
        self.kvm = player.machine.kvm
        self.words = self.machine.arena.view()
        self.memory = GuestMemory(self.kvm)
        self.clock = 0
        self.tdp = bool(self.kvm.parameters.tdp_enabled)
        self.pdpte_registers = not self.tdp or bool(self.kvm.parameters.vmx)
        self.flushes = [Flushes() for _ in self.kvm.vcpus]
        self.pdptrs = [[0] * 4 for _ in self.kvm.vcpus]
        for vcpu in self.kvm.vcpus:
            self._load_pdptrs(vcpu)
        self.before = [_registers_of(vcpu) for vcpu in self.kvm.vcpus]
        self.tracked: dict[int, bytes] = {}
        self.unlogged: list[int] = []
        self.formats: dict[int, set[tuple[int, int]]] = {}
        self._track()

    def before_op(self, op: Op) -> None:
        """Remember the registers, so that a change of one is seen."""
        self.before = [_registers_of(vcpu) for vcpu in self.kvm.vcpus]

    def _levels(self, cr0: int, cr4: int, efer: int) -> int:
        if not cr0 & CR0_PG:
            return 0
        if efer & EFER_LMA:
            return 5 if cr4 & CR4_LA57 else 4
        return 3 if cr4 & CR4_PAE else 2

    def guest_registers(self, vcpu: Vcpu) -> Registers:
        """Return how the vCPU translates linear addresses now; in L2, whose paging is
        off, L2's physical ones.
        """
        if vcpu.guest_mode:
            return self.nested_registers(vcpu)
        regs = Registers()
        regs.set_levels(self._levels(vcpu.cr0, vcpu.cr4, vcpu.efer))
        regs.root = vcpu.cpu.root if self.tdp else vcpu.cr3
        if regs.levels == 3 and self.pdpte_registers:
            regs.pdptrs = self.pdptrs[vcpu.id]
        regs.wp = bool(vcpu.cr0 & CR0_WP)
        regs.nx = bool(vcpu.efer & EFER_NX) and regs.levels > 2
        regs.nx_reserved = self.tdp
        regs.smep = bool(vcpu.cr4 & CR4_SMEP) and regs.levels > 0
        regs.pse = bool(vcpu.cr4 & CR4_PSE)
        regs.pge = bool(vcpu.cr4 & CR4_PGE)
        regs.pa_bits = vcpu.host_maxphyaddr if self.tdp else vcpu.maxphyaddr
        return regs

    def nested_registers(self, vcpu: Vcpu) -> Registers:
        """Return how nested tables translate addresses: L1's while the vCPU is in L2, else none."""
        if vcpu.guest_mode:
            return self.l2_registers(vcpu, vcpu.nested_cr3)
        regs = Registers()
        regs.nested = True
        return regs

    def l2_registers(self, vcpu: Vcpu, nested_cr3: int) -> Registers:
        """Return how L1's tables at a nested CR3 translate addresses of L2, while it runs
        or after its exit.
        """
        regs = Registers()
        regs.nested = True
        l1 = vcpu if vcpu.l1_state is None else vcpu.l1_state
        regs.set_levels(self._levels(l1.cr0, l1.cr4, l1.efer))
        regs.root = nested_cr3
        regs.nx = bool(l1.efer & EFER_NX)
        regs.pse = True
        regs.pa_bits = vcpu.maxphyaddr
        return regs

    def last_nested_cr3(self, vcpu: Vcpu) -> int:
        """Return the nested CR3 that L2 had in this op: that of before, or what its VMRUN has just read."""
        before = self.before[vcpu.id]
        if before[GUEST_MODE]:
            return before[NESTED_CR3]
        return self.memory.word(self.player.vmcbs[vcpu.id].gpa + VMCB_NESTED_CR3)

    def _load_pdptrs(self, vcpu: Vcpu) -> None:
        """Load the PDPTE registers from memory as the processor does: all, or none if one
        has a reserved bit.
        """
        base = vcpu.cr3 & 0xFFFFFFE0
        reserved = 0x1E6 | MASK64 >> vcpu.maxphyaddr << vcpu.maxphyaddr
        pdptrs = [self.memory.word(base + 8 * i) for i in range(4)]
        held = self.pdptrs[vcpu.id]
        if pdptrs != held and not any(pdpte & P and pdpte & reserved for pdpte in pdptrs):
            self.flushes[vcpu.id].pdptrs.append((self.clock - 1, held))
            self.pdptrs[vcpu.id] = pdptrs

    def _note_flushes(self, op: Op, outcome: str) -> None:
        """Record the flushes of the op. They count as older than what the op itself changed."""
        time = self.clock - 1
        for vcpu, flushes, before in zip(self.kvm.vcpus, self.flushes, self.before, strict=True):
            after = _registers_of(vcpu)
            mine = op.vcpu == vcpu.id
            if mine and isinstance(op, kinds.Invlpg) and outcome == "ok":
                flushes.flush_page(op.gva, time)
            if mine and isinstance(op, kinds.WriteCr) and op.cr == 3 and (outcome == "ok" or after != before):
                keeps = vcpu.cr4 & CR4_PCIDE and op.value >> 63
                flushes.load_root(before[1], _pcid(vcpu), None if keeps else time)
                self._load_pdptrs(vcpu)
            elif after != before:
                self._note_registers(vcpu, flushes, before, after, time)
            if mine and isinstance(op, kinds.WriteCr) and op.cr == 0 and outcome == "ok":
                self._note_cr0(vcpu, before[0] ^ op.value)

    def _note_cr0(self, vcpu: Vcpu, changed: int) -> None:
        """Handle a MOV to CR0 after which some processors load the PDPTE registers whatever it changed, if it
        does not exit.
        """
        loads = self.tdp and vcpu.cpu.walker.implementation.mov_cr0_loads_pdptes
        if loads and not changed & LOW_HALF & ~(CR0_TS | CR0_WP) and vcpu.is_pae_paging():
            self._load_pdptrs(vcpu)

    def _note_registers(
        self, vcpu: Vcpu, flushes: Flushes, before: Sequence[int], after: Sequence[int], time: int
    ) -> None:
        """Handle registers that changed other than by MOV to CR3: a flush, but for
        CR0.WP, CR4.SMAP and the like.
        """
        flushes.pcid = _pcid(vcpu)
        flushes.contexts.setdefault(flushes.pcid, -1)
        if any((a ^ b) & mask for a, b, mask in zip(before, after, FLUSHING, strict=True)):
            flushes.flush(time)
        pae = self._levels(after[0], after[2], after[3]) == 3
        if pae and any((a ^ b) & mask for a, b, mask in zip(before, after, LOADING_PDPTRS, strict=True)):
            self._load_pdptrs(vcpu)

    def loaded_cr3(self, vcpu: Vcpu, before: int) -> None:
        """Handle a MOV to CR3 that this checker did not see as an op."""
        self.flushes[vcpu.id].load_root(before, _pcid(vcpu), self.clock - 1)
        self._load_pdptrs(vcpu)

    def catch_up(self) -> None:
        """Take over changes of the tables whose former values somebody else kept."""
        for gfn in self.tracked:
            self.tracked[gfn] = self._page(gfn)
        self._track(list(self.tracked))

    def forget(self) -> None:
        """Drop the former values that no vCPU may use any more."""
        self.memory.forget(min(flushes.oldest() for flushes in self.flushes))

    def _page(self, gfn: int) -> bytes:
        hpa = self.memory.page(gfn, 0)
        return NOTHING if hpa == MASK64 else self.machine.arena.page_bytes(hpa)

    def _note_changes(self, op: Op, tables: Iterable[int] | None = None) -> list[int]:
        """Keep the former values of entries that the op changed, in all `tables` or some; which changed."""
        unseen = not _is_of_the_guest(op) or _straddles(op, self.player.mode_of(op.vcpu).entry_size)
        changed = []
        for gfn in self.tracked if tables is None else tables:
            old = self.tracked.get(gfn)
            if old is None:
                continue
            new = self._page(gfn)
            if new == old:
                continue
            changed.append(gfn)
            if old != NOTHING and not unseen and not self.may_be_written(gfn):
                self.unlogged.append(gfn)
            base = gfn << 12
            narrow = any(levels == 2 for _, levels in self.formats[gfn])
            harmless = 0 if self.formats[gfn] & {(3, 3), (2, 2), (1, 2)} else AD_BITS
            for i, (a, b) in enumerate(
                zip(memoryview(old).cast("Q"), memoryview(new).cast("Q"), strict=True)
            ):
                if a == b or (a & b == a and (a ^ b) & ~harmless == 0):
                    continue
                if unseen:
                    self.memory.changed_unseen(base + 8 * i, a)
                else:
                    self.memory.changed(base + 8 * i, a, self.clock, _half_kept(a ^ b) if narrow else 0)
            self.tracked[gfn] = new
        return changed

    def _track(self, changed: Iterable[int] = ()) -> None:
        """Find the tables that can be reached now, to see them change from here on."""
        queue: Refusals = []
        for vcpu in self.kvm.vcpus:
            for regs in (self.guest_registers(vcpu), self.nested_registers(vcpu)):
                if regs.levels == 3 and regs.pdptrs is not None:
                    queue += [(entry >> 12 & 0xFFFFFFFFFF, 2, 3) for entry in regs.pdptrs if entry & P]
                elif regs.levels:
                    queue.append((regs.root >> 12 & 0xFFFFFFFFFF, regs.levels, regs.levels))
        queue = [item for item in queue if item[1:] not in self.formats.get(item[0], ())]
        for gfn in changed:
            for level, levels in self.formats[gfn]:
                queue += self._targets(gfn, level, levels)
        while queue and len(self.tracked) < MAX_TRACKED:
            gfn, level, levels = queue.pop()
            known = self.formats.setdefault(gfn, set())
            if (level, levels) in known:
                continue
            known.add((level, levels))
            if gfn not in self.tracked:
                self.tracked[gfn] = self._page(gfn)
            queue += self._targets(gfn, level, levels)

    def _targets(self, gfn: int, level: int, levels: int) -> list[tuple[int, int, int]]:
        """Return the tables that the entries of a table lead to."""
        if level == 1:
            return []
        entries = memoryview(self.tracked[gfn]).cast("I" if levels == 2 else "Q")
        frames = {entry >> 12 & 0xFFFFFFFFFF for entry in entries if entry & P}
        return [
            (frame, level - 1, levels)
            for frame in frames
            if self.memory.slot_at(frame) is not None
            and (level - 1, levels) not in self.formats.get(frame, ())
        ]

    def may_be_written(self, gfn: int) -> bool:
        """Return whether a page is dirty already, if it is one of a slot that logs.

        Entries of dirty rings count until they are reset. What the processor logs itself (PML) is not known.
        """
        slot = self.memory.slot_at(gfn)
        parameters = self.kvm.parameters
        if slot is None or not slot.logs_dirty():
            return True
        if parameters.cpu_dirty_log_size:
            return True
        page = gfn - slot.base_gfn
        if parameters.dirty_ring_size:
            return any((slot.id, page) in dirty_ring_of(vcpu).entries() for vcpu in self.kvm.vcpus)
        return bool(slot.log_words()[page >> 6] >> (page & 63) & 1)

    def _tables_on_way(self, regs: Registers, address: int, since: int) -> Iterator[int]:
        """Yield gfns of the guest's tables that a walk may pass."""
        states = [self.memory.start(regs)]
        while states:
            state = states.pop()
            if state[0] > 0:
                yield state[1] >> 12
                states += self.memory.step(regs, state, address, since, [])


def _registers_of(vcpu: Vcpu) -> tuple[int, ...]:
    nested = vcpu.nested_cr3 if vcpu.guest_mode else 0
    return vcpu.cr0, vcpu.cr3, vcpu.cr4, vcpu.efer, int(vcpu.guest_mode), nested


def _pcid(vcpu: Vcpu) -> int:
    return vcpu.cr3 & PCID_MASK if vcpu.cr4 & CR4_PCIDE else 0


def _is_of_the_guest(op: Op) -> bool:
    return isinstance(op, kinds.GUEST_OPS)


def _half_kept(changed: int) -> int:
    """Return the bits of the 4-byte entry beside the one that changed, if only one did."""
    return (
        0 if changed >> 32 and changed & LOW_HALF else MASK64 ^ LOW_HALF if changed & LOW_HALF else LOW_HALF
    )


def _straddles(op: Op, entry_size: int) -> bool:
    """Return whether KVM loses sight of a table that the op writes.

    An emulated write across entries is seen as one of the first only (kvm_mmu_track_write, 6.12.111).
    """
    if not isinstance(op, kinds.Access) or op.kind == "read":
        return False
    return op.gva % entry_size + op.size > entry_size
