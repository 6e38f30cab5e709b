"""Coherence: what a processor could use is what the guest and the host allow, and what it needs it gets.

The specification of a shadow MMU, stated once:

  allowed    what the guest's tables say now, or said after the vCPU's last flush that covers the address
             (guest_tables), for frames that a slot has and the host maps now. A read-only slot is never
             written, a page of a slot that logs only while it is marked as dirty, which the guest's
             tables there are, too, when A and D are set in them.
  usable     what the TLB holds and what the tables behind the root say (usable), unless KVM will change it
             before it enters the guest: a request is pending.
  the rule   usable is a part of allowed. And what the tables allow now is never refused: a guest that gets
             an exception has asked for what its tables do not give, and what it reads is what is in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..guest import ops as kinds
from ..guest.ops import Op
from ..guest.player import MMIO_ANSWER, OpResult, Player
from ..kvm.bits import (
    INVALID_PAGE,
    REQ_LOAD_MMU_PGD,
    REQ_MMU_FREE_OBSOLETE_ROOTS,
    REQ_MMU_SYNC,
    REQ_TLB_FLUSH,
    REQ_TLB_FLUSH_CURRENT,
    REQ_TLB_FLUSH_GUEST,
    ROLE_LEVEL,
)
from ..kvm.memslots import MemSlot
from ..kvm.shadow_page import ShadowPage
from ..kvm.vcpu import Vcpu
from ..x86.bits import (
    ADDR,
    CR0_PG,
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
    PF_VECTOR,
    PFERR_F,
    PFERR_U,
    PFERR_W,
    PS,
    A,
    P,
    W,
)
from .checker import Checker, Violation
from .guest_tables import DIRTY, GLOBAL, UNUSED, GuestMemory, Refusals, Registers, State, permits
from .usable import (
    ACCESSES,
    Link,
    Use,
    accesses_of,
    ept_rights,
    hardware_walk,
    is_usable,
    rights_of,
    tlb_uses,
)

__all__ = ["Coherence"]

TABLES_CHANGE = REQ_MMU_FREE_OBSOLETE_ROOTS | REQ_MMU_SYNC | REQ_LOAD_MMU_PGD | REQ_TLB_FLUSH_GUEST
TLB_CHANGES = TABLES_CHANGE | REQ_TLB_FLUSH | REQ_TLB_FLUSH_CURRENT
FLUSHING = (
    CR0_PG,
    MASK64,
    CR4_PGE | CR4_PSE | CR4_PAE | CR4_LA57 | CR4_SMEP | CR4_PCIDE,
    EFER_LMA | EFER_NX,
    1,
    MASK64,
)
"""Bits of each number of `_registers_of` whose change empties the TLB."""
LOADING_PDPTRS = (CR0_PG, MASK64, CR4_PGE | CR4_PSE | CR4_PAE | CR4_SMEP, EFER_LMA, 1, MASK64)
"""The same for the PDPTE registers of PAE (AMD APM vol. 2, 5.2.3; Intel SDM vol. 3, 4.4.1)."""
MAX_TRACKED = 4096
ACCESS_NAMES = ("read", "written", "executed", "read by CPL 3", "written by CPL 3", "executed by CPL 3")
NOTHING = bytes(4096)
"""A page as it looks while the host does not map it."""
LOW_HALF = 0xFFFFFFFF
WRITES = 0b010010
AD_BITS = 0x60
MMIO = 1 << 51 | 1

Problem = tuple[str, str]
"""Predicate and what is wrong."""


@dataclass(slots=True)
class Flushes:
    """When a vCPU flushed last: all, all of a PCID but global translations, single pages (by number).

    pcid    the current PCID, which flushes of single pages and what is asked here are of; 0 without PCIDs
    roots   the CR3s that it had since it flushed all: global translations found there stay usable
    kept    the CR3s that a PCID had since it was flushed: all translations found there stay usable
    """

    everything: int = -1
    pcid: int = 0
    contexts: dict[int, int] = field(default_factory=lambda: {0: -1})
    pages: dict[int, dict[int, int]] = field(default_factory=dict)
    global_pages: dict[int, int] = field(default_factory=dict)
    roots: set[int] = field(default_factory=set)
    kept: dict[int, set[int]] = field(default_factory=dict)

    def context(self) -> int:
        """When all of the current PCID but global translations was flushed last."""
        return max(self.everything, self.contexts[self.pcid])

    def single_pages(self) -> dict[int, int]:
        """When pages of the current PCID were flushed one by one."""
        return self.pages.get(self.pcid, {})

    def since(self, address: int) -> int:
        return max(self.context(), self.single_pages().get(address >> 12, -1))

    def since_global(self, address: int) -> int:
        return max(self.everything, self.global_pages.get(address >> 12, -1))

    def oldest(self) -> int:
        """Values that ended by then are of no use."""
        return self.everything if self.roots else max(self.everything, min(self.contexts.values()))

    def flush(self, time: int) -> None:
        """All translations go."""
        self.everything = time
        self.contexts = {self.pcid: time}
        self.pages.clear()
        self.global_pages.clear()
        self.roots.clear()
        self.kept.clear()

    def flush_page(self, address: int, time: int) -> None:
        """INVLPG: the address of the current PCID goes, and what is global of it."""
        self.pages.setdefault(self.pcid, {})[address >> 12] = time
        self.global_pages[address >> 12] = time

    def load_root(self, old: int, pcid: int, time: int | None) -> None:
        """MOV to CR3: all of the PCID but global translations goes, also of another CR3; without a time
        nothing does.
        """
        self.kept.setdefault(self.pcid, set()).add(old)
        self.pcid = pcid
        self.contexts.setdefault(pcid, -1)
        if time is not None:
            self.contexts[pcid] = time
            self.pages.pop(pcid, None)
            self.kept.pop(pcid, None)
        self.roots.add(old)


class Coherence(Checker):
    """Holds a machine against the specification: after an op where it was touched, every `every` ops all.

    Its clock counts ops; what a table entry was up to op n may not be used after a flush in a later op.
    """

    name = "coherence"

    def __init__(self, player: Player, every: int = 1) -> None:
        super().__init__(player)
        self.machine = player.machine
        self.kvm = player.machine.kvm
        self.words = self.machine.arena.view()
        self.memory = GuestMemory(self.kvm)
        self.every = every
        self.clock = 0
        self.tdp = bool(self.kvm.parameters.tdp_enabled)
        self.flushes = [Flushes() for _ in self.kvm.vcpus]
        self.pdptrs = [[0] * 4 for _ in self.kvm.vcpus]
        for vcpu in self.kvm.vcpus:
            self._load_pdptrs(vcpu)
        self.before = [_registers_of(vcpu) for vcpu in self.kvm.vcpus]
        self.tracked: dict[int, bytes] = {}
        self.unlogged: list[int] = []
        self.formats: dict[int, set[tuple[int, int]]] = {}
        self._track()
        player.on_meanwhile.append(self._meanwhile)

    # -- what is known of the guest -----------------------------------------------------------------------

    def _levels(self, cr0: int, cr4: int, efer: int) -> int:
        if not cr0 & CR0_PG:
            return 0
        if efer & EFER_LMA:
            return 5 if cr4 & CR4_LA57 else 4
        return 3 if cr4 & CR4_PAE else 2

    def guest_registers(self, vcpu: Vcpu) -> Registers:
        """How the vCPU translates linear addresses now; in L2, whose paging is off, L2's physical ones."""
        if vcpu.guest_mode:
            return self.nested_registers(vcpu)
        regs = Registers()
        regs.set_levels(self._levels(vcpu.cr0, vcpu.cr4, vcpu.efer))
        regs.root = vcpu.cpu.root if self.tdp else vcpu.cr3
        if regs.levels == 3 and not self.tdp:
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
        """How addresses go through nested tables: L1's while the vCPU is in L2, else none are in the way."""
        regs = Registers()
        regs.nested = True
        l1 = vcpu.l1_state
        if vcpu.guest_mode and l1 is not None:
            regs.set_levels(self._levels(l1.cr0, l1.cr4, l1.efer))
            regs.root = vcpu.nested_cr3
            regs.nx = bool(l1.efer & EFER_NX)
            regs.pse = True
            regs.pa_bits = vcpu.maxphyaddr
        return regs

    def _load_pdptrs(self, vcpu: Vcpu) -> None:
        """The processor loads its PDPTE registers from memory, all or, if one has a reserved bit, none."""
        base = vcpu.cr3 & 0xFFFFFFE0
        reserved = 0x1E6 | MASK64 >> vcpu.maxphyaddr << vcpu.maxphyaddr
        pdptrs = [self.memory.word(base + 8 * i) for i in range(4)]
        if not any(pdpte & P and pdpte & reserved for pdpte in pdptrs):
            self.pdptrs[vcpu.id] = pdptrs

    def _note_flushes(self, op: Op, outcome: str) -> None:
        """Which flushes the op was. They are taken for older than what the op itself changed."""
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

    def _note_registers(
        self, vcpu: Vcpu, flushes: Flushes, before: Sequence[int], after: Sequence[int], time: int
    ) -> None:
        """Registers changed other than by MOV to CR3. That flushes, but for CR0.WP, CR4.SMAP and the like."""
        flushes.pcid = _pcid(vcpu)
        flushes.contexts.setdefault(flushes.pcid, -1)
        if any((a ^ b) & mask for a, b, mask in zip(before, after, FLUSHING, strict=True)):
            flushes.flush(time)
        pae = self._levels(after[0], after[2], after[3]) == 3
        if pae and any((a ^ b) & mask for a, b, mask in zip(before, after, LOADING_PDPTRS, strict=True)):
            self._load_pdptrs(vcpu)

    def loaded_cr3(self, vcpu: Vcpu, before: int) -> None:
        """A MOV to CR3 was carried out that this checker did not see as an op."""
        self.flushes[vcpu.id].load_root(before, _pcid(vcpu), self.clock - 1)
        self._load_pdptrs(vcpu)

    def note_walk(self, op: Op, address: int) -> None:
        """KVM read the guest's tables for an address: the values that they have now."""
        self.clock += 1
        vcpu = self.kvm.vcpus[op.vcpu]
        tables = set(self._tables_on_way(self.guest_registers(vcpu), address, self.clock))
        self._track(self._note_changes(op, tables))

    def note_flush(self, op: Op, played: OpResult) -> None:
        """The op may have flushed: INVLPG of what is on the way to its address, else everything."""
        if isinstance(op, kinds.Invlpg):
            self.note_walk(op, op.gva)
        else:
            self.clock += 1
            self._track(self._note_changes(op))
        self.clock += 1
        self._note_flushes(op, _outcome(played))

    def check_fault(self, op: Op, played: OpResult) -> list[Violation]:
        """Whether a #PF that the guest got is one that its tables give; only that is checked."""
        self.checks += 1
        return self._check_result(op, played)

    def catch_up(self) -> None:
        """The tables changed and somebody else kept their former values."""
        for gfn in self.tracked:
            self.tracked[gfn] = self._page(gfn)
        self._track(list(self.tracked))

    # -- what changed in memory ----------------------------------------------------------------------------

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
        """The tables that the entries of a table lead to."""
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

    # -- checking ------------------------------------------------------------------------------------------

    def before_op(self, op: Op) -> None:
        """Remember the registers, so that a change of one is seen."""
        self.before = [_registers_of(vcpu) for vcpu in self.kvm.vcpus]

    def after_op(self, op: Op, played: OpResult | None) -> list[Violation]:
        """What is usable and may not be, what was refused and may not be."""
        self.clock += 1
        self.checks += 1
        self._note_flushes(op, _outcome(played))
        self.unlogged.clear()
        changed = self._note_changes(op)
        self._track(changed)
        found = [] if played is None else self._check_result(op, played)
        found += self._check_log(op)
        if self.clock % self.every == 0:
            found += self.check_machine(op)
            self.forget()
        elif isinstance(op, kinds.Access | kinds.Invlpg | kinds.Exec):
            found += self._check_address(op, op.gva)
        return found

    def _meanwhile(self, op: Op, result: dict[str, Any] | None) -> None:
        """The guest does something in the middle of an op of the host: its flushes and its changes count."""
        self.clock += 1
        if result is not None:
            self._note_flushes(op, str(result.get("outcome", "")))
        self._track(self._note_changes(op))
        self.before_op(op)

    def forget(self) -> None:
        """Drop the former values that no vCPU may use any more."""
        self.memory.forget(min(flushes.oldest() for flushes in self.flushes))

    def finish(self) -> list[Violation]:
        """The whole machine once more."""
        return self.check_machine(None)

    def check_machine(self, op: Op | None) -> list[Violation]:
        found: list[Violation] = []
        for vcpu in self.kvm.vcpus:
            found += self._check_tables(op, vcpu)
            found += self._check_tlb(op, vcpu)
        found += self._check_frames(op)
        return found

    def _check_address(self, op: Op, address: int) -> list[Violation]:
        """One address on the tables of the vCPU that used it."""
        vcpu = self.kvm.vcpus[op.vcpu]
        if self.tdp or not self._tables_settled(vcpu):
            return []
        uses = self._use_of(vcpu, address)
        return [] if uses is None else self._judge_use(op, vcpu, self.guest_registers(vcpu), uses)

    def _tables_settled(self, vcpu: Vcpu) -> bool:
        return not vcpu.requests & TABLES_CHANGE and vcpu.mmu.root_hpa != INVALID_PAGE

    def _root(self, vcpu: Vcpu) -> tuple[int, int]:
        """Root and levels of the tables that the hardware walks for KVM."""
        if self.tdp:
            return vcpu.cpu.nested_root, vcpu.mmu.shadow_level()
        return vcpu.cpu.root, vcpu.cpu.levels

    def _use_of(self, vcpu: Vcpu, address: int) -> Use | None:
        """What the tables behind the root give for one address, if anything."""
        root, levels = self._root(vcpu)
        path, rights = hardware_walk(self.words, root, levels, address, vcpu.host_maxphyaddr)
        if not path:
            return None
        level, _, entry = path[-1]
        if not is_usable(entry, vcpu.host_maxphyaddr) or not (level == 1 or entry & PS):
            return None
        accesses = accesses_of(rights, smep=bool(vcpu.cpu.cr4_smep), nested=self.tdp)
        frame = entry & ADDR & -(1 << 3 + 9 * level)
        return Use(address & -(1 << 3 + 9 * level), level, frame, accesses, tuple(path))

    def _check_tables(self, op: Op | None, vcpu: Vcpu) -> Iterator[Violation]:
        """Everything that the tables behind the root of a vCPU allow."""
        if not self._tables_settled(vcpu):
            return
        regs = self.nested_registers(vcpu) if self.tdp else self.guest_registers(vcpu)
        flushes = self.flushes[vcpu.id]
        since = flushes.context()
        for use, states in self._sweep(vcpu, regs, since):
            yield from self._judge_use(op, vcpu, regs, use, states, since)
        for page in flushes.single_pages() if not self.tdp else ():
            single = self._use_of(vcpu, page << 12)
            if single is not None:
                yield from self._judge_use(op, vcpu, regs, single)

    def _sweep(self, vcpu: Vcpu, regs: Registers, since: int) -> Iterator[tuple[Use, tuple[State, ...]]]:
        """Every leaf behind the root, with the states of the guest's own walk there.

        Tables may be shared in hostile ways, so what is behind a table is looked at once for each set of
        states of the guest's walk that arrives there.
        """
        root, levels = self._root(vcpu)
        pa_bits = vcpu.host_maxphyaddr
        smep, ept = bool(vcpu.cpu.cr4_smep), bool(self.kvm.ept)
        seen: set[tuple[object, ...]] = set()
        top = root & (ADDR | 0xFE0 if levels == 3 else ADDR)
        stack: list[tuple[int, int, int, int, tuple[State, ...], tuple[Link, ...]]] = [
            (top, levels, 7, 0, (self.memory.start(regs),), ())
        ]
        while stack:
            table, level, above, prefix, states, path = stack.pop()
            key = (table, level, above, states, prefix & self._needed(regs, states))
            if not level or key in seen:
                continue
            seen.add(key)
            shift = 3 + 9 * level
            is_pdpte = levels == 3 and level == 3
            entries = self.words[table >> 3 : (table >> 3) + (4 if is_pdpte else 512)].tolist()
            for index, entry in enumerate(entries):
                if not entry & 7 or not is_usable(entry, pa_bits, ept=ept):
                    continue
                address = prefix | index << shift
                rights = above
                if not is_pdpte:
                    rights &= ept_rights(entry) if ept else rights_of(entry)
                here = (*path, (level, table + 8 * index, entry))
                after = self._advance(regs, states, address, shift, since)
                if level == 1 or (entry & PS and not is_pdpte):
                    accesses = accesses_of(rights, smep=smep, nested=self.tdp)
                    yield Use(address, level, entry & ADDR & -(1 << shift), accesses, here), after
                else:
                    stack.append((entry & ADDR, level - 1, rights, address, after, here))

    def _needed(self, regs: Registers, states: Iterable[State]) -> int:
        """The address bits above a table that the guest's walk has not used yet."""
        needed = 0
        for level, _, _ in states:
            if level == -6:
                return MASK64
            needed = max(needed, 12 + regs.index_bits * (abs(level) - (level < 0)))
        return (1 << needed) - 1

    def _advance(
        self, regs: Registers, states: Iterable[State], address: int, shift: int, since: int
    ) -> tuple[State, ...]:
        """Let the guest's walk read the entries whose index is known: bits from `shift` on."""
        done: list[State] = []
        todo = list(states)
        while todo:
            state = todo.pop()
            if state[0] <= 0 or 12 + regs.index_bits * (state[0] - 1) < shift:
                done.append(state)
            else:
                todo += self.memory.step(regs, state, address, since, [])
        return tuple(sorted(set(done)))

    def _check_tlb(self, op: Op | None, vcpu: Vcpu) -> Iterator[Violation]:
        if not self.machine.tlb or vcpu.requests & TLB_CHANGES or vcpu.mmu.root_hpa == INVALID_PAGE:
            return
        if vcpu.guest_mode and vcpu.cr0 & CR0_PG:
            return
        regs = self.guest_registers(vcpu)
        if self.tdp:
            running = Registers() if vcpu.guest_mode else regs
        else:
            running = Registers()
            running.smep = bool(vcpu.cpu.cr4_smep)
        for use in tlb_uses(vcpu, running):
            yield from self._judge_use(op, vcpu, regs, use)

    # -- judging -------------------------------------------------------------------------------------------

    def judge_access(
        self, vcpu: Vcpu, regs: Registers, address: int, mode: int, frame: int
    ) -> Problem | None:
        """What is wrong with an access that reached a frame; mode: kind of access, plus 4 for CPL 3."""
        number = ACCESSES.index((mode >> 2 & 1, mode & 3))
        ways = self.ways(regs, self.flushes[vcpu.id], address)
        if self._maps_own_entry(regs, address, ways):
            ways = [(gpa, rights & ~UNUSED | DIRTY) for gpa, rights in ways]
        return self._judge(regs, ways, frame, 1 << number)

    def _offsets(self, level: int) -> tuple[int, ...]:
        """Pages of a huge page that stand for all."""
        pages = 1 << 9 * (level - 1)
        return (0,) if level == 1 else (0, pages // 2 - 1, pages - 1)

    def _judge_use(
        self,
        op: Op | None,
        vcpu: Vcpu,
        regs: Registers,
        use: Use,
        states: tuple[State, ...] | None = None,
        since: int = -1,
    ) -> list[Violation]:
        if not use.accesses:
            return []
        flushes = self.flushes[vcpu.id]
        for page in self._offsets(use.level):
            address = use.address + (page << 12)
            if states is None:
                ways = self.ways(regs, flushes, address)
            else:
                ways = self._finish_walk(regs, states, address, since)
            frame = use.frame + (page << 12)
            problem = self._judge(regs, ways, frame, use.accesses)
            if problem is not None and self._maps_own_entry(regs, address, ways):
                ways = [(gpa, rights & ~UNUSED | DIRTY) for gpa, rights in ways]
                problem = self._judge(regs, ways, frame, use.accesses)
            if problem is not None:
                return [self._violation(op, vcpu, regs, use, address, problem)]
        return []

    def _maps_own_entry(self, regs: Registers, address: int, ways: Iterable[tuple[int, int]]) -> bool:
        """Whether a translation leads to a table that it came through: an access may have set A and D there
        and then overwritten them, all in one op.
        """
        tables = set(self._tables_on_way(regs, address, -1))
        return any(gpa >> 12 in tables for gpa, _ in ways)

    def ways(self, regs: Registers, flushes: Flushes, address: int) -> list[tuple[int, int]]:
        """(gpa, rights) of every translation of an address that its last flush leaves."""
        ways = self.memory.walk(regs, address, flushes.since(address), [])
        current = regs.root
        for regs.root in flushes.kept.get(flushes.pcid, ()):
            ways += self.memory.walk(regs, address, flushes.since(address), [])
        regs.root = current
        if regs.pge:
            for regs.root in {current, *flushes.roots}:
                older = self.memory.walk(regs, address, flushes.since_global(address), [])
                ways += [way for way in older if way[1] & GLOBAL and way not in ways]
            regs.root = current
        return ways

    def _finish_walk(
        self, regs: Registers, states: Iterable[State], address: int, since: int
    ) -> list[tuple[int, int]]:
        ways = []
        for level, base, rights in self._advance(regs, states, address, 0, since):
            size = 1 << (63 if level == -6 else 12 + regs.index_bits * (-level - 1))
            ways.append((base | address & size - 1, rights))
        return ways

    def _judge(
        self, regs: Registers, ways: list[tuple[int, int]], frame: int, accesses: int
    ) -> Problem | None:
        """What is wrong with using a frame for accesses, given the translations that are allowed."""
        if not ways:
            return "stale-translation", "the guest's tables do not map it, since the last flush"
        here = [(gpa, rights) for gpa, rights in ways if self.memory.page(gpa >> 12, 0) == frame]
        if not here:
            to = " or ".join(sorted({f"gpa {gpa & -4096:#x}" for gpa, _ in ways}))
            behind = self.behind(frame)
            if not behind:
                return "frame-outside-memory", f"frame {frame:#x} backs no guest page; it may be {to}"
            return "wrong-frame", f"frame {frame:#x} is that of gpa {behind[0][1]:#x}; it may be {to}"
        for n, (user, kind) in enumerate(ACCESSES):
            if not accesses >> n & 1:
                continue
            allowed = [way for way in here if not way[1] & UNUSED and permits(regs, way[1], user, kind)]
            if kind == 1:
                allowed = [
                    (gpa, rights)
                    for gpa, rights in allowed
                    if (rights & DIRTY or regs.levels == 0) and self.memory.page(gpa >> 12, 1) == frame
                ]
            if not allowed:
                return (
                    "more-rights",
                    f"it can be {ACCESS_NAMES[n]}, which {self._denier(regs, here, user, kind)}",
                )
        if accesses & WRITES and not any(self.may_be_written(gpa >> 12) for gpa, _ in here):
            return "not-logged", f"gpa {here[0][0] & -4096:#x} can be written and is not marked as dirty"
        return None

    def _denier(self, regs: Registers, here: list[tuple[int, int]], user: int, kind: int) -> str:
        """Who forbids an access to a page that is mapped."""
        gpa, rights = here[0]
        slot = self.memory.slot_at(gpa >> 12)
        if not permits(regs, rights, user, kind):
            return "the guest's tables forbid"
        if rights & UNUSED:
            return "needs A in all entries of the guest's tables"
        if kind == 1 and slot is not None and not slot.writable():
            return "its read-only slot forbids"
        if kind == 1 and self.memory.page(gpa >> 12, 1) == MASK64:
            return "the host forbids"
        return "needs D in the guest's entry"

    def may_be_written(self, gfn: int) -> bool:
        """Whether a page is dirty already, if it is one of a slot that logs in a bitmap."""
        slot = self.memory.slot_at(gfn)
        parameters = self.kvm.parameters
        if slot is None or not slot.logs_dirty():
            return True
        if parameters.cpu_dirty_log_size or parameters.dirty_ring_size:
            return True
        page = gfn - slot.base_gfn
        return bool(slot.log_words()[page >> 6] >> (page & 63) & 1)

    def behind(self, frame: int) -> list[tuple[MemSlot, int]]:
        """(slot, gpa) of the guest pages that a frame backs; of the zero page none."""
        found = []
        for slot in self.kvm.memslots:
            index = slot.mapping.index_of(frame >> 12)
            if index is not None and 0 <= index - slot.first_page < slot.npages:
                found.append((slot, slot.base_gfn + index - slot.first_page << 12))
        return found

    def _check_frames(self, op: Op | None) -> Iterator[Violation]:
        """Every leaf of every table, reachable or not: the frame is the guest's, and it is written if at all
        as slots and host allow.
        """
        ept = bool(self.kvm.ept)
        for sp in self.kvm.owners:
            if sp is None:
                continue
            level = sp.role & ROLE_LEVEL
            entries = self.words[sp.hpa >> 3 : (sp.hpa >> 3) + 512].tolist()
            for index, entry in enumerate(entries):
                if not entry & 7 or (level > 1 and not entry & PS) or not is_usable(entry, 46, ept=ept):
                    continue
                problem = self._judge_frame(entry & ADDR & -(1 << 3 + 9 * level), level, entry)
                if problem is not None:
                    says = f"SPTE {entry:#x} at [{index}] of {_page_name(sp)}: {problem[1]}"
                    yield self._tell(op, problem[0], says, [])

    def _judge_frame(self, frame: int, level: int, entry: int) -> Problem | None:
        if frame == 0:
            return ("more-rights", "the host's zero page can be written") if entry & W else None
        for page in self._offsets(level):
            behind = self.behind(frame + (page << 12))
            if not behind:
                return "frame-outside-memory", f"frame {frame + (page << 12):#x} backs no guest page"
            gfns = [gpa >> 12 for _, gpa in behind]
            if entry & W and all(self.memory.page(gfn, 1) == MASK64 for gfn in gfns):
                return "more-rights", f"gpa {gfns[0] << 12:#x} can be written; slot or host forbids"
            if entry & W and not any(self.may_be_written(gfn) for gfn in gfns):
                return "not-logged", f"gpa {gfns[0] << 12:#x} can be written and is not marked as dirty"
        return None

    # -- what the guest got --------------------------------------------------------------------------------

    def _check_result(self, op: Op, played: OpResult) -> list[Violation]:
        outcome = played.result.get("outcome")
        vcpu = self.kvm.vcpus[op.vcpu]
        if vcpu.guest_mode or not isinstance(op, kinds.Access | kinds.Exec | kinds.Nop) or op.l2:
            return []
        if outcome == "exception" and played.result.get("vector") == PF_VECTOR:
            return self._check_exception(op, played, vcpu)
        if outcome == "timeout" and not isinstance(op, kinds.Exec):
            return self._check_endless(op, vcpu)
        if outcome == "ok" and isinstance(op, kinds.Access) and op.kind == "read":
            return self._check_value(op, played, vcpu)
        return []

    def _check_exception(self, op: Op, played: OpResult, vcpu: Vcpu) -> list[Violation]:
        """A #PF: the tables refuse what the error code tells of, now or before the op changed them."""
        address = int(played.result["cr2"], 16)
        code = int(played.result["error_code"], 16)
        kind = 1 if code & PFERR_W else 2 if code & PFERR_F else 0
        if not self.is_granted(vcpu, address, code >> 2 & 1, kind):
            return []
        regs = self.guest_registers(vcpu)
        says = f"vCPU {vcpu.id} got #PF({code:#x}) at {address:#x}, which its tables allow"
        return [self._tell(op, "refused", says, self._guest_lines(regs, self.flushes[vcpu.id], address))]

    def is_granted(self, vcpu: Vcpu, address: int, user: int, kind: int) -> bool:
        """Whether the tables allow an access in every way that they can be read, now and before this op."""
        regs = self.guest_registers(vcpu)
        regs.nx_reserved = regs.bit8_reserved = True
        refused: Refusals = []
        ways = self.memory.walk(regs, address, self.clock - 1, refused)
        if refused or not ways or self._emulator_lacks_pdptes(regs):
            return False
        if vcpu.cr4 >> 21 & 1 and not user:
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
        """Whether KVM's emulator may walk with older PDPTEs than the processor.

        Under nested paging it keeps those it has if one in memory is invalid (load_pdptrs), and a processor
        that sets A in PDPTEs makes them so.
        """
        if not self.tdp or regs.levels != 3:
            return False
        return any(self.memory.word((regs.root & ~0x1F) + 8 * i) & (P | A) == P | A for i in range(4))

    def _check_endless(self, op: Op, vcpu: Vcpu) -> list[Violation]:
        """The guest got nowhere: not on an access that could be served."""
        cpu = vcpu.cpu
        address, code = cpu.fault_gva, cpu.fault_error_code
        kind = 1 if code & PFERR_W else 2 if code & PFERR_F else 0
        if not self._tables_settled(vcpu) or vcpu.mmu.root_hpa == 0:
            return []
        if not self.is_granted(vcpu, address, 1 if code & PFERR_U else 0, kind):
            return []
        regs = self.guest_registers(vcpu)
        gpas = [gpa for gpa, _ in self.memory.walk(regs, address, self.clock - 1, [])]
        if any(self.memory.page(gpa >> 12, kind == 1) == MASK64 for gpa in gpas):
            return []
        says = f"vCPU {vcpu.id} faults for ever at {address:#x}, which its tables allow"
        return [self._tell(op, "refused", says, self._guest_lines(regs, self.flushes[vcpu.id], address))]

    def _check_value(self, op: kinds.Access, played: OpResult, vcpu: Vcpu) -> list[Violation]:
        """What was read is what is in memory where the tables lead, or what user space answers."""
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
        says = f"vCPU {vcpu.id} read {value:#x} at {op.gva:#x}; memory has {may}"
        return [self._tell(op, "wrong-value", says, self._guest_lines(regs, self.flushes[vcpu.id], op.gva))]

    def _is_revived_mmio(self, vcpu: Vcpu, address: int) -> bool:
        """Whether an access met an MMIO SPTE where memory is by now.

        A sync gives an MMIO SPTE the current generation without a look at the slots (sync_mmio_spte,
        6.12.111), so that the access goes to user space until the SPTE is zapped.
        """
        root, levels = self._root(vcpu)
        path, _ = hardware_walk(self.words, root, levels, address, 64)
        return not self.tdp and bool(path) and path[-1][2] & MMIO == MMIO

    def _has_odd_tables(self, regs: Registers, address: int) -> bool:
        """Whether the guest's own walk meets a table in a read-only slot or in none.

        KVM then emulates the instruction, and where the offsets in their pages agree it takes the table's
        entry for the operand (emulator_can_use_gpa, 6.12.111).
        """
        slots = map(self.memory.slot_at, self._tables_on_way(regs, address, self.clock - 1))
        return any(slot is None or not slot.writable() for slot in slots)

    def _tables_on_way(self, regs: Registers, address: int, since: int) -> Iterator[int]:
        """gfns of the guest's tables that a walk may pass."""
        states = [self.memory.start(regs)]
        while states:
            state = states.pop()
            if state[0] > 0:
                yield state[1] >> 12
                states += self.memory.step(regs, state, address, since, [])

    def _check_log(self, op: Op) -> list[Violation]:
        """Tables that the guest, or KVM in its name (A and D), has written in this op are marked as dirty.

        What it writes in the middle of an op that reads the log need not be.
        """
        says = "gpa {:#x}, a table of the guest, was written and is not marked as dirty"
        return [self._tell(op, "not-logged", says.format(gfn << 12), []) for gfn in self.unlogged]

    # -- telling -------------------------------------------------------------------------------------------

    def _tell(self, op: Op | None, predicate: str, says: str, shows: Sequence[str]) -> Violation:
        if op is None:
            return Violation(self.name, predicate, says, self.player.op_number - 1, "end", shows=shows)
        number = self.player.op_number - (0 if isinstance(op, kinds.SetAc | kinds.SetDump) else 1)
        return Violation(self.name, predicate, says, number, op.text, shows=shows)

    def explain(self, vcpu: Vcpu, address: int) -> list[str]:
        """The guest's walk for an address beside the shadow's."""
        lines = self._guest_lines(self.guest_registers(vcpu), self.flushes[vcpu.id], address)
        if self.tdp:
            return lines
        root, levels = self._root(vcpu)
        path, _ = hardware_walk(self.words, root, levels, address, vcpu.host_maxphyaddr)
        return lines + self._shadow_lines(Use(address, 1, 0, 0, tuple(path))) if path else lines

    def _violation(
        self, op: Op | None, vcpu: Vcpu, regs: Registers, use: Use, address: int, problem: Problem
    ) -> Violation:
        where = "tables" if use.path else "TLB"
        space = "gpa" if self.tdp and use.path and not vcpu.guest_mode else "gva"
        shown = _canonical(address, regs.levels)
        says = f"vCPU {vcpu.id}, {space} {shown:#x} in its {where}: {problem[1]}"
        shows = self._guest_lines(regs, self.flushes[vcpu.id], address)
        shows += self._shadow_lines(use)
        return self._tell(op, problem[0], says, shows)

    def _guest_lines(self, regs: Registers, flushes: Flushes, address: int) -> list[str]:
        """The guest's own walk, with the values that entries had since the last flush."""
        since = flushes.since(address)
        lines = [f"guest, level {regs.levels}, root {regs.root:#x}" if regs.levels else "guest: no paging"]
        states = [self.memory.start(regs)]
        while states and states[0][0] > 0:
            state = states[0]
            level, table = state[0], state[1]
            if level == 3 and regs.pdptrs is not None:
                lines.append(f"  L3 PDPTE {regs.pdptrs[address >> 30 & 3]:#x}")
            else:
                size = regs.entry_bytes
                index = address >> 12 + regs.index_bits * (level - 1) & (1 << regs.index_bits) - 1
                gpa = table + index * size
                now, *old = self.memory.values(gpa, size, since)
                was = "".join(f", was {value:#x}" for value in old)
                lines.append(f"  L{level} [{index}] at gpa {gpa:#x}: {now:#x}{was}")
            states = self.memory.step(regs, state, address, since, [])
        return lines

    def _shadow_lines(self, use: Use) -> list[str]:
        if not use.path:
            names = [name for n, name in enumerate(ACCESS_NAMES) if use.accesses >> n & 1]
            return [f"TLB, level {use.level}: frame {use.frame:#x}, can be {', '.join(names)}"]
        lines = ["shadow"]
        for level, at, entry in use.path:
            sp = self.kvm.page_at(at & ~0xFFF)
            page = "root table" if sp is None else _page_name(sp)
            lines.append(f"  L{level} [{at >> 3 & 511}] of {page}: {entry:#x}")
        return lines


def _page_name(sp: ShadowPage) -> str:
    return f"page {sp.hpa:#x} (gfn {sp.gfn:#x}, role {sp.role:#x})"


def _registers_of(vcpu: Vcpu) -> tuple[int, ...]:
    nested = vcpu.nested_cr3 if vcpu.guest_mode else 0
    return vcpu.cr0 & (CR0_PG | CR0_WP), vcpu.cr3, vcpu.cr4, vcpu.efer, int(vcpu.guest_mode), nested


def _outcome(played: OpResult | None) -> str:
    return "" if played is None else str(played.result.get("outcome", ""))


def _pcid(vcpu: Vcpu) -> int:
    return vcpu.cr3 & PCID_MASK if vcpu.cr4 & CR4_PCIDE else 0


def _is_of_the_guest(op: Op) -> bool:
    return isinstance(op, kinds.GUEST_OPS)


def _half_kept(changed: int) -> int:
    """The bits of the 4-byte entry beside the one that changed, if only one did."""
    return (
        0 if changed >> 32 and changed & LOW_HALF else MASK64 ^ LOW_HALF if changed & LOW_HALF else LOW_HALF
    )


def _straddles(op: Op, entry_size: int) -> bool:
    """Whether KVM loses sight of a table that the op writes.

    An emulated write across entries is seen as one of the first only (kvm_mmu_track_write, 6.12.111).
    """
    if not isinstance(op, kinds.Access) or op.kind == "read":
        return False
    return op.gva % entry_size + op.size > entry_size


def _canonical(address: int, levels: int) -> int:
    bits = 3 + 9 * levels + 9
    if levels > 3 and address >> (bits - 1) & 1:
        return address | MASK64 >> bits << bits
    return address
