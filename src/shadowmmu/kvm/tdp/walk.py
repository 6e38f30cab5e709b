"""Long walks over all roots that drop mmu_lock in between (tdp_mmu_iter_cond_resched, 6.12.111)."""

from cython import uint as u32, ulonglong as u64

from ..spte.flush import kvm_flush_remote_tlbs
from ..state.cond_resched import mmu_lock_dropped
from ..state.shadow_page import ShadowPage
from ..state.tdp_iter import TdpIter
from ..state.vm import Kvm
from .rcu import rcu_read_lock, rcu_read_unlock
from .roots import tdp_mmu_next_root


class TdpWalk:
    """A visit to every SPTE from `min_level` up that maps pages [start, end), in every root.

    step() returns True where it dropped mmu_lock: anything may happen before the next step, which continues
    after the last page visited. It drops the lock when somebody waits for it (Kvm.need_resched), or where
    visit() asks for it by setting it.yielded; a flush that is due comes first.

    Attributes:
        kvm: The VM.
        start: First gfn.
        end: The gfn after the last.
        min_level: Lowest level to visit.
        only_valid: Roots that are invalid are skipped.
        can_yield: mmu_lock may be dropped.
        flush: A flush is due for SPTEs changed so far.
        changed: An SPTE was changed; used by some walks only.
        it: Position in the current root.
        root: The current root, with a reference taken; None before the first and after the last.
        started: The first root was looked up.
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
        """Handle the SPTE at self.it. Return False if it must be visited again."""
        raise NotImplementedError

    def next_root(self) -> None:
        """Step to the first SPTE of the next root; self.root is None after the last one."""
        self.started = True
        self.root = tdp_mmu_next_root(self.kvm, self.root, self.only_valid)
        if self.root is not None:
            self.it.start(self.root, self.min_level, self.start)

    def step(self) -> bool:
        """Walk until mmu_lock is dropped (True) or the walk is complete (False)."""
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
        """Make all steps that are left. Return whether a flush is due."""
        while self.step():
            mmu_lock_dropped(self.kvm)
        return self.flush
