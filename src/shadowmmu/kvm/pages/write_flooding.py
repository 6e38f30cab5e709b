"""Write flooding: a table that is written again and again without being used is not taken for one any more.

Each emulated write counts in the shadow page of an upper-level table (kvm_mmu_track_write); at the limit the
page is zapped. Whatever uses the page sets its count to 0 again: a lookup, a fetch through it
(__clear_sp_write_flooding_count), a root that is loaded, the walk of a fault whose write is emulated.
Behaviour of 6.12.111.
"""

from cython import uint as u32, ulonglong as u64

from ...x86.bits import ADDR
from ..bits import SPTE_MMU_PRESENT
from ..spte.spte import is_last_spte
from ..state.shadow_page import ShadowPage
from ..state.vcpu import Vcpu
from ..state.vm import Kvm
from .shadow_walk import shadow_walk_level, shadow_walk_root, shadow_walk_sptep


def detect_write_flooding(sp: ShadowPage, limit: u32) -> bool:
    """Count a write to an upper-level table. Return whether it is write number `limit` since a walk last used
    the table; limit 0: never.
    """
    if sp.level() == 1:
        return False
    sp.write_flooding_count += 1
    return 0 < limit <= sp.write_flooding_count


def shadow_page_table_clear_flood(vcpu: Vcpu, addr: u64) -> None:
    """Reset the counts of the shadow pages on the walk for addr, one of which is about to be written
    (shadow_page_table_clear_flood).
    """
    kvm: Kvm = vcpu.kvm
    table: u64 = shadow_walk_root(vcpu, addr)
    level: u32 = shadow_walk_level(vcpu)
    while table:
        kvm.sptep_to_sp(table).write_flooding_count = 0
        spte: u64 = kvm.words[shadow_walk_sptep(table, addr, level) >> 3]
        if not spte & SPTE_MMU_PRESENT or is_last_spte(spte, level):
            return
        table = spte & ADDR
        level -= 1
