"""Where translations are: the tables below the roots, the TLBs, and every leaf of every table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ...guest.scenario.ops import Op
from ...kvm.bits import (
    INVALID_PAGE,
    REQ_LOAD_MMU_PGD,
    REQ_MMU_FREE_OBSOLETE_ROOTS,
    REQ_MMU_SYNC,
    REQ_TLB_FLUSH,
    REQ_TLB_FLUSH_CURRENT,
    REQ_TLB_FLUSH_GUEST,
    ROLE_LEVEL,
)
from ...kvm.state.vcpu import Vcpu
from ...x86.bits import (
    ADDR,
    CR0_PG,
    MASK64,
    PS,
)
from ..checker import Violation
from .guest_tables import DIRTY, UNUSED, Registers, State
from .judge import Judge, Problem, page_name
from .usable import (
    Link,
    Use,
    accesses_of,
    ept_rights,
    hardware_walk,
    is_usable,
    rights_of,
    tlb_uses,
)

__all__ = ["Places"]

TABLES_CHANGE = REQ_MMU_FREE_OBSOLETE_ROOTS | REQ_MMU_SYNC | REQ_LOAD_MMU_PGD | REQ_TLB_FLUSH_GUEST
TLB_CHANGES = TABLES_CHANGE | REQ_TLB_FLUSH | REQ_TLB_FLUSH_CURRENT


class Places(Judge):
    """Looks at everything that the processors could use."""

    def _check_address(self, op: Op, address: int) -> list[Violation]:
        """Check one address on the tables of the vCPU that used it."""
        vcpu = self.kvm.vcpus[op.vcpu]
        if self.tdp or not self._tables_settled(vcpu):
            return []
        uses = self._use_of(vcpu, address)
        return [] if uses is None else self._judge_use(op, vcpu, self.guest_registers(vcpu), uses)

    def _tables_settled(self, vcpu: Vcpu) -> bool:
        return not vcpu.requests & TABLES_CHANGE and vcpu.mmu.root_hpa != INVALID_PAGE

    def _root(self, vcpu: Vcpu) -> tuple[int, int]:
        """Return the root and the levels of the tables that the hardware walks for KVM."""
        if self.tdp:
            return vcpu.cpu.nested_root, vcpu.mmu.shadow_level()
        return vcpu.cpu.root, vcpu.cpu.levels

    def _use_of(self, vcpu: Vcpu, address: int) -> Use | None:
        """Return what the tables below the root allow for one address, or None."""
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
        """Judge everything that the tables below the root of a vCPU allow."""
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
        """Yield every leaf below the root, with the states of the guest's own walk there.

        Tables may be shared in hostile ways, so what is below a table is looked at once for each set of
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
        """Return the address bits above a table that the guest's walk has not used yet."""
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

    def _finish_walk(
        self, regs: Registers, states: Iterable[State], address: int, since: int
    ) -> list[tuple[int, int]]:
        ways = []
        for level, base, rights in self._advance(regs, states, address, 0, since):
            size = 1 << (63 if level == -6 else 12 + regs.index_bits * (-level - 1))
            ways.append((base | address & size - 1, rights))
        return ways

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

    def _check_frames(self, op: Op | None) -> Iterator[Violation]:
        """Check every leaf of every table, reachable or not: the frame is the guest's, and it is written
        if at all as slots and host allow.
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
                    says = f"SPTE {entry:#x} at [{index}] of {page_name(self.kvm, sp)}: {problem[1]}"
                    yield self._tell(op, problem[0], says, [])

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


def _canonical(address: int, levels: int) -> int:
    bits = 3 + 9 * levels + 9
    if levels > 3 and address >> (bits - 1) & 1:
        return address | MASK64 >> bits << bits
    return address
