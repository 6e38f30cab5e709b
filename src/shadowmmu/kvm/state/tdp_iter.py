"""Walking a TDP tree (arch/x86/kvm/mmu/tdp_iter.c, 6.12.111)."""

from cython import uint as u32, ulonglong as u64

from ...x86.arrays import filled
from ...x86.bits import ADDR, PS
from ..bits import PT64_ROOT_MAX_LEVEL, ROLE_LEVEL, SPTE_MMU_PRESENT
from .shadow_page import ShadowPage
from .vm import Kvm


class TdpIter:
    """A walk in pre-order over the SPTEs of a root, a table before what is below it.

    level, gfn    where it stands: an SPTE of that level, for the pages from gfn on
    sptep         address of that SPTE, and `old_spte` its value when it was last read
    valid         whether it stands anywhere
    yielded       the tables may have changed: next() starts again at the root, for the same gfn
    next_gfn      the page it is on its way to; it only grows
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
        """Stand on the root's SPTE for gfn; never go below min_level."""
        self.root_level = root.role & ROLE_LEVEL
        self.min_level = min_level
        self.tables[self.root_level] = root.spt
        self.next_gfn = gfn
        self._restart()

    def _restart(self) -> None:
        self.yielded = False
        self.yielded_gfn = self.next_gfn
        self.valid = True
        self._stand(self.root_level)

    def _stand(self, level: u32) -> None:
        """Read the SPTE for next_gfn in the table of `level` on the path."""
        shift: u64 = 9 * (level - 1)
        self.level = level
        self.gfn = (self.next_gfn >> shift) << shift
        self.sptep = self.tables[level] + ((self.next_gfn >> shift) & 511) * 8
        self.old_spte = self.kvm.words[self.sptep >> 3]

    def next(self) -> None:
        """Go to the next SPTE: below this one, else beside it, else beside a table above."""
        if self.yielded:
            self._restart()
        elif not self._descend():
            self._advance()

    def _descend(self) -> bool:
        """Step into the table behind the SPTE, which is read again: it may have lost that table."""
        if self.level == self.min_level:
            return False
        self.old_spte = self.kvm.words[self.sptep >> 3]
        if not self.old_spte & SPTE_MMU_PRESENT or self.old_spte & PS:
            return False
        self.tables[self.level - 1] = self.old_spte & ADDR
        self._stand(self.level - 1)
        return True

    def _advance(self) -> None:
        """Step to the following SPTE, up as far as tables end here."""
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
        """Whether to let others have mmu_lock: somebody waits, and the walk came on since it last did."""
        return self.kvm.need_resched and self.next_gfn != self.yielded_gfn
