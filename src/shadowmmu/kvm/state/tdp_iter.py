"""The iterator over a tree of the TDP MMU (struct tdp_iter, arch/x86/kvm/mmu/tdp_iter.c, 6.12.111)."""

from cython import uint as u32, ulonglong as u64

from ...x86.arrays import filled
from ...x86.bits import ADDR, PS
from ..bits import PT64_ROOT_MAX_LEVEL, ROLE_LEVEL, SPTE_MMU_PRESENT
from .shadow_page import ShadowPage
from .vm import Kvm


class TdpIter:
    """A pre-order walk over the SPTEs of a root: an SPTE before those of the table below it (struct
    tdp_iter).

    Attributes:
        kvm: The VM.
        tables: tables[level] is the physical address of the table of that level on the path; valid from
            `level` to `root_level` (pt_path).
        root_level: Level of the root's SPTEs.
        min_level: Lowest level to descend to.
        level: Level of the current SPTE.
        gfn: First frame that the current SPTE maps.
        next_gfn: Frame that the walk is on its way to; it only grows (next_last_level_gfn).
        yielded_gfn: next_gfn when mmu_lock was last dropped (yielded_gfn).
        sptep: Physical address of the current SPTE.
        old_spte: Its value when it was last read.
        valid: The walk has a current SPTE; False at the end.
        yielded: mmu_lock was dropped, so the tables may have changed: next() starts again at the root, for
            the same next_gfn.
    """

    def __init__(self, kvm: Kvm) -> None:
        self.kvm = kvm
        self.tables = filled(PT64_ROOT_MAX_LEVEL + 1)
        self.root_level = 0
        self.min_level = 1
        self.level = 0
        self.gfn = 0
        self.next_gfn = 0
        self.yielded_gfn = 0
        self.sptep = 0
        self.old_spte = 0
        self.valid = False
        self.yielded = False

    def start(self, root: ShadowPage, min_level: u32, gfn: u64) -> None:
        """Begin at the root's SPTE for gfn; never descend below min_level (tdp_iter_start)."""
        self.root_level = root.role & ROLE_LEVEL
        self.min_level = min_level
        self.tables[self.root_level] = root.spt
        self.next_gfn = gfn
        self._restart()

    def _restart(self) -> None:
        """Stand on the root's SPTE for next_gfn (tdp_iter_restart)."""
        self.yielded = False
        self.yielded_gfn = self.next_gfn
        self.valid = True
        self._stand(self.root_level)

    def _stand(self, level: u32) -> None:
        """Make the SPTE for next_gfn in the table of `level` on the path the current one, and read it."""
        shift: u64 = 9 * (level - 1)
        self.level = level
        self.gfn = (self.next_gfn >> shift) << shift
        self.sptep = self.tables[level] + ((self.next_gfn >> shift) & 511) * 8
        self.old_spte = self.kvm.words[self.sptep >> 3]

    def next(self) -> None:
        """Step to the next SPTE: in the table below, else in the same table, else in one above
        (tdp_iter_next).
        """
        if self.yielded:
            self._restart()
        elif not self._descend():
            self._advance()

    def _descend(self) -> bool:
        """Step into the table that the SPTE points to; it is read again, the table may be unlinked by now
        (try_step_down). Return whether there was one.
        """
        if self.level == self.min_level:
            return False
        self.old_spte = self.kvm.words[self.sptep >> 3]
        if not self.old_spte & SPTE_MMU_PRESENT or self.old_spte & PS:
            return False
        self.tables[self.level - 1] = self.old_spte & ADDR
        self._stand(self.level - 1)
        return True

    def _advance(self) -> None:
        """Step to the following SPTE, at a higher level where tables end (try_step_side, try_step_up)."""
        shift: u64 = 9 * (self.level - 1)
        one: u64 = 1
        while (self.gfn >> shift) & 511 == 511:
            if self.level == self.root_level:
                self.valid = False
                return
            self.level += 1
            shift += 9
        self.next_gfn = ((self.gfn >> shift) + one) << shift
        self._stand(self.level)

    def should_yield(self) -> bool:
        """Return whether to drop mmu_lock: somebody waits for it, and the walk advanced since it was last
        dropped.
        """
        return self.kvm.need_resched and self.next_gfn != self.yielded_gfn
