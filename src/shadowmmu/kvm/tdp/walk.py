"""Long walks over all roots that let go of mmu_lock in between (tdp_mmu_iter_cond_resched, 6.12.111)."""

from cython import uint as u32, ulonglong as u64

from ..spte.flush import kvm_flush_remote_tlbs
from ..state.cond_resched import mmu_lock_dropped
from ..state.shadow_page import ShadowPage
from ..state.tdp_iter import TdpIter
from ..state.vm import Kvm
from .rcu import rcu_read_lock, rcu_read_unlock
from .roots import tdp_mmu_next_root


class TdpWalk:
    """A visit to every SPTE from `min_level` up for the pages [start, end), in every valid root.

    step() returns true where it let go of mmu_lock: anything may happen before the next step, which goes on
    behind the last page visited. It does so when somebody waits (Kvm.need_resched), or where visit() says so
    by setting it.yielded. A flush that is due comes before that. `flush` tells at the end whether one is due
    still, `changed` whether any SPTE was changed.
    """

    def __init__(self, kvm: Kvm, start: u64, end: u64, min_level: u32) -> None:
        self.kvm = kvm
        self.start = start
        self.end = end
        self.min_level = min_level
        self.only_valid = True
        self.can_yield = True
        self.flush = False
        self.changed = False
        self.it = TdpIter(kvm)
        self.root: ShadowPage | None = None
        self.started = False

    def visit(self) -> bool:
        """Look at the SPTE on which self.it stands; False if it must be looked at again."""
        raise NotImplementedError

    def next_root(self) -> None:
        """Go on with the next root; self.root is None behind the last one."""
        self.started = True
        self.root = tdp_mmu_next_root(self.kvm, self.root, self.only_valid)
        if self.root is not None:
            self.it.start(self.root, self.min_level, self.start)

    def step(self) -> bool:
        if not self.started:
            self.next_root()
        it: TdpIter = self.it
        while self.root is not None:
            rcu_read_lock(self.kvm)
            if it.yielded:
                it.next()
            while it.valid and it.gfn < self.end:
                if self.can_yield and it.should_yield():
                    if self.flush:
                        kvm_flush_remote_tlbs(self.kvm)
                        self.flush = False
                    it.yielded = True
                    rcu_read_unlock(self.kvm)
                    return True
                if self.visit():
                    if it.yielded:
                        rcu_read_unlock(self.kvm)
                        return True
                    it.next()
            rcu_read_unlock(self.kvm)
            self.next_root()
        return False

    def finish(self) -> bool:
        """All steps that are left; whether a flush is due."""
        while self.step():
            mmu_lock_dropped(self.kvm)
        return self.flush
