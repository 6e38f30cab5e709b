"""What the guest, its slots and the host allow, and whether a use of a frame is a part of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...guest.scenario import ops as kinds
from ...guest.scenario.ops import Op
from ...kvm.state.memslots import MemSlot
from ...kvm.state.shadow_page import ShadowPage
from ...kvm.state.vcpu import Vcpu
from ...kvm.state.vm import Kvm
from ...kvm.tracepoints.role_layout import layout_of
from ...x86.bits import (
    MASK64,
    W,
)
from ..checker import Violation
from .flushes import Flushes
from .guest_state import GuestState
from .guest_tables import DIRTY, GLOBAL, UNUSED, Registers, permits
from .usable import (
    ACCESSES,
    Use,
)

__all__ = ["Judge", "Problem", "page_name"]

ACCESS_NAMES = ("read", "written", "executed", "read by CPL 3", "written by CPL 3", "executed by CPL 3")
WRITES = 0b010010
Problem = tuple[str, str]
"""Predicate and what is wrong."""


class Judge(GuestState):
    """Judges translations: (predicate, what is wrong), or None."""

    def judge_access(
        self, vcpu: Vcpu, regs: Registers, address: int, mode: int, frame: int
    ) -> Problem | None:
        """Return what is wrong with an access that reached a frame; mode: kind of access,
        plus 4 for CPL 3.
        """
        number = ACCESSES.index((mode >> 2 & 1, mode & 3))
        ways = self.ways(regs, self.flushes[vcpu.id], address)
        if self._maps_own_entry(regs, address, ways):
            ways = [(gpa, rights & ~UNUSED | DIRTY) for gpa, rights in ways]
        return self._judge(regs, ways, frame, 1 << number)

    def _judge(
        self, regs: Registers, ways: list[tuple[int, int]], frame: int, accesses: int
    ) -> Problem | None:
        """Return what is wrong with using a frame for accesses, given the translations that are allowed."""
        if not ways:
            return "stale-translation", "the guest's tables do not map it, since the last flush"
        here = [(gpa, rights) for gpa, rights in ways if self.memory.page(gpa >> 12, 0) == frame]
        if not here:
            to = " or ".join(sorted({f"gpa {gpa & -4096:#x}" for gpa, _ in ways}))
            backed = self.backed_by(frame)
            if not backed:
                return "frame-outside-memory", f"frame {frame:#x} backs no guest page; it may be {to}"
            return "wrong-frame", f"frame {frame:#x} is that of gpa {backed[0][1]:#x}; it may be {to}"
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

    def _maps_own_entry(self, regs: Registers, address: int, ways: Iterable[tuple[int, int]]) -> bool:
        """Return whether a translation leads to a table that it came through: an access may have set A
        and D there and then overwritten them, all in one op.
        """
        tables = set(self._tables_on_way(regs, address, -1))
        return any(gpa >> 12 in tables for gpa, _ in ways)

    def ways(self, regs: Registers, flushes: Flushes, address: int) -> list[tuple[int, int]]:
        """Return (gpa, rights) of every translation of an address that its last flush leaves."""
        since = flushes.since(address)
        ways = self.memory.walk(regs, address, since, [])
        current, held = regs.root, regs.pdptrs
        for regs.root in flushes.kept.get(flushes.pcid, ()):
            ways += self.memory.walk(regs, address, since, [])
        regs.root = current
        older = [] if held is None else flushes.pdptrs
        for regs.pdptrs in [pdptrs for replaced, pdptrs in older if replaced > since]:
            ways += self.memory.walk(regs, address, since, [])
        regs.pdptrs = held
        if regs.pge:
            since = flushes.since_global(address)
            for regs.root in {current, *flushes.roots}:
                self._add_global(ways, self.memory.walk(regs, address, since, []))
            regs.root = current
            for regs.pdptrs in [pdptrs for replaced, pdptrs in older if replaced > since]:
                self._add_global(ways, self.memory.walk(regs, address, since, []))
            regs.pdptrs = held
        return ways

    @staticmethod
    def _add_global(ways: list[tuple[int, int]], older: Iterable[tuple[int, int]]) -> None:
        """Add the global ones of older translations."""
        ways += [way for way in older if way[1] & GLOBAL and way not in ways]

    def _denier(self, regs: Registers, here: list[tuple[int, int]], user: int, kind: int) -> str:
        """Return who forbids an access to a page that is mapped."""
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

    def backed_by(self, frame: int) -> list[tuple[MemSlot, int]]:
        """Return (slot, gpa) of the guest pages that a frame backs; of the zero page none."""
        found = []
        for slot in self.kvm.memslots:
            index = slot.mapping.index_of(frame >> 12)
            if index is not None and 0 <= index - slot.first_page < slot.npages:
                found.append((slot, slot.base_gfn + index - slot.first_page << 12))
        return found

    def _judge_frame(self, frame: int, level: int, entry: int) -> Problem | None:
        if frame == 0:
            return ("more-rights", "the host's zero page can be written") if entry & W else None
        for page in self._offsets(level):
            backed = self.backed_by(frame + (page << 12))
            if not backed:
                return "frame-outside-memory", f"frame {frame + (page << 12):#x} backs no guest page"
            gfns = [gpa >> 12 for _, gpa in backed]
            if entry & W and all(self.memory.page(gfn, 1) == MASK64 for gfn in gfns):
                return "more-rights", f"gpa {gfns[0] << 12:#x} can be written; slot or host forbids"
            if entry & W and not any(self.may_be_written(gfn) for gfn in gfns):
                return "not-logged", f"gpa {gfns[0] << 12:#x} can be written and is not marked as dirty"
        return None

    def _offsets(self, level: int) -> tuple[int, ...]:
        """Return pages of a huge page that stand for all."""
        pages = 1 << 9 * (level - 1)
        return (0,) if level == 1 else (0, pages // 2 - 1, pages - 1)

    def _tell(self, op: Op | None, predicate: str, says: str, shows: Sequence[str]) -> Violation:
        if op is None:
            return Violation(self.name, predicate, says, self.player.op_number - 1, "end", shows=shows)
        number = self.player.op_number - (0 if isinstance(op, kinds.SetAc | kinds.SetDump) else 1)
        return Violation(self.name, predicate, says, number, op.text, shows=shows)

    def _guest_lines(self, regs: Registers, flushes: Flushes, address: int) -> list[str]:
        """Return the guest's own walk, with the values that entries had since the last flush."""
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
            page = "root table" if sp is None else page_name(self.kvm, sp)
            lines.append(f"  L{level} [{at >> 3 & 511}] of {page}: {entry:#x}")
        return lines


def page_name(kvm: Kvm, sp: ShadowPage) -> str:
    """Return how reports name a shadow page: its frame, gfn and role."""
    return f"page {sp.hpa:#x} (gfn {sp.gfn:#x}, role {layout_of(kvm.design).role(sp.role):#x})"
