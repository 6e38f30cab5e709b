"""Freeing tables only when no walk can be in them: read-copy-update (kernel 6.12.111)."""

from ..state.shadow_page import ShadowPage
from ..state.vm import Kvm


def rcu_read_lock(kvm: Kvm) -> int:
    """Enter a section in which no table is freed. Sections nest."""
    kvm.rcu_readers += 1
    return 0


def rcu_read_unlock(kvm: Kvm) -> int:
    """Leave the section; when the last reader leaves, the waiting tables are freed."""
    kvm.rcu_readers -= 1
    if not kvm.rcu_readers and kvm.rcu_waiting:
        sp: ShadowPage
        for sp in kvm.rcu_waiting:
            tdp_mmu_free_sp(kvm, sp)
        kvm.rcu_waiting.clear()
    return 0


def call_rcu(kvm: Kvm, sp: ShadowPage) -> None:
    """Free a table as soon as no reader is left that may have found it."""
    if kvm.rcu_readers:
        kvm.rcu_waiting.append(sp)
    else:
        tdp_mmu_free_sp(kvm, sp)


def tdp_mmu_free_sp(kvm: Kvm, sp: ShadowPage) -> None:
    """Free the frame of a table that nobody can reach."""
    kvm.owners[sp.spt >> 12] = None
    kvm.arena.free_table(sp.spt)
