"""Points where a long operation drops mmu_lock so that waiters can run (cond_resched_rwlock_write)."""

from .vm import Kvm


def mmu_lock_dropped(kvm: Kvm) -> None:
    """Run what waits for mmu_lock (kvm.meanwhile). It finds the lock free, and is not called recursively."""
    meanwhile, kvm.meanwhile = kvm.meanwhile, None
    if meanwhile is not None:
        meanwhile()
        kvm.meanwhile = meanwhile
