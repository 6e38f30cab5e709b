"""Where mmu_lock is let go of in the middle of something long: who waits for it has a turn."""

from .vm import Kvm


def mmu_lock_dropped(kvm: Kvm) -> None:
    """Let happen what was put off until now (Kvm.meanwhile). What it does finds mmu_lock free."""
    meanwhile, kvm.meanwhile = kvm.meanwhile, None
    if meanwhile is not None:
        meanwhile()
        kvm.meanwhile = meanwhile
