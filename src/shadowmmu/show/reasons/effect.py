"""What the change of an SPTE means, in words."""

from __future__ import annotations

from shadowmmu.kvm.spte.mmio import is_mmio_spte
from shadowmmu.kvm.spte.spte import is_last_spte, is_shadow_present
from shadowmmu.kvm.state.vm import Kvm
from shadowmmu.x86.bits import ADDR, W

__all__ = ["effect_of"]


def effect_of(kvm: Kvm, old: int, new: int, level: int, name: str) -> str:
    """Return what became of an SPTE of `level`; `name` is how recordings show the new value."""
    if new == kvm.frozen_spte:
        return "frozen: it is about to be emptied"
    if is_mmio_spte(kvm, new):
        return "made an MMIO SPTE"
    if not is_shadow_present(new):
        return "removed" if is_shadow_present(old) else "emptied"
    target = name.partition("|")[0]
    if not is_last_spte(new, level):
        return f"led to {target}" if not is_shadow_present(old) else f"led to {target} instead"
    rights = "writable" if new & W else "read-only"
    if not is_shadow_present(old):
        return f"mapped {target}, {rights}"
    if not is_last_spte(old, level):
        return f"a table replaced by the page {target}, {rights}"
    words = [f"moved to {target}"] if (old ^ new) & ADDR else []
    if (old ^ new) & W:
        words.append(f"made {rights}")
    for mask, what in (
        (kvm.shadow_accessed_mask, "Accessed"),
        (kvm.shadow_dirty_mask, "Dirty"),
        (kvm.shadow_mmu_writable_mask, "MMU-writable"),
    ):
        if (old ^ new) & mask:
            words.append(f"{what} {'set' if new & mask else 'cleared'}")
    return ", ".join(words) or "other bits changed"
