"""What the bits of a leaf SPTE imply for the next access (fast_page_fault, make_spte, 6.12.111)."""

from __future__ import annotations

from shadowmmu.kvm.state.spte_masks import SpteMasks
from shadowmmu.x86.bits import PS, W

__all__ = ["leaf_sentences", "leaf_summary"]


def leaf_sentences(word: int, masks: SpteMasks, *, readable: bool, tracked: bool) -> list[str]:
    """Return the sentences about a leaf SPTE; `tracked`: its rights are set aside for the next access."""
    said = []
    if tracked:
        said.append(
            "Its rights are set aside so that the next access faults and is seen; that fault restores them "
            "without mmu_lock (restore_acc_track_spte)."
        )
    said += _writes(word, masks)
    if not tracked and not readable:
        said.append("It cannot be read.")
    if masks.user and not masks.x and not word & masks.user:
        said.append(
            "User code faults: a table of the guest lacks U, or CR0.WP is clear and its kernel wrote to a "
            "read-only page."
        )
    if word & (masks.x | masks.nx) != masks.x and not tracked:
        said.append("Fetches fault: the guest forbids them, or it is a huge page under kvm.nx_huge_pages.")
    said += _accessed_and_dirty(word, masks)
    return said


def leaf_summary(word: int, masks: SpteMasks, printed: str, *, tracked: bool) -> str:
    """Return rights as KVM prints them, A, D, and why it is read-only: `r-xu A write-protected`."""
    words = [printed]
    words += [name for name, mask in (("A", masks.accessed), ("D", masks.dirty), ("huge", PS)) if word & mask]
    if tracked:
        words.append("access-tracked")
    elif not word & W:
        if word & masks.mmu_writable:
            words.append("logged")
        else:
            words.append("write-protected" if word & masks.host_writable else "host read-only")
    return " ".join(words)


def _writes(word: int, masks: SpteMasks) -> list[str]:
    mmu_writable = bool(word & masks.mmu_writable)
    host_writable = bool(word & masks.host_writable)
    if word & W:
        if mmu_writable and host_writable:
            return ["Writable: writes cause no exit."]
        missing = "MMU-writable" if not mmu_writable else "host-writable"
        return [f"Writable although {missing} is clear: KVM never makes such an SPTE."]
    if mmu_writable:
        return [
            f"Read-only although MMU-writable ({_bit(masks.mmu_writable)}) is set: for dirty logging or "
            "access tracking.",
            "A write is fixed without mmu_lock by fast_page_fault if the page is direct; an indirect one "
            "takes the slow path.",
        ]
    if not host_writable:
        return [
            f"Read-only because host-writable ({_bit(masks.host_writable)}) is clear: the host maps the page "
            "read-only (zero page, KSM, copy-on-write, a read-only slot).",
            "A write makes KVM ask the host for a page that may be written.",
        ]
    return [
        f"Read-only because MMU-writable ({_bit(masks.mmu_writable)}) is clear: write-protected by KVM, "
        "because the frame holds a table of the guest that is shadowed, or the guest's own tables do not "
        "grant writes.",
        "A write takes mmu_lock: KVM makes the table unsync, or emulates the write, or gives the guest its "
        "#PF.",
    ]


def _accessed_and_dirty(word: int, masks: SpteMasks) -> list[str]:
    said = []
    if masks.accessed and not word & masks.accessed:
        said.append("Nobody accessed it yet: it was prefetched, or aged since.")
    if masks.dirty and word & masks.dirty and not word & W:
        said.append("Dirty is left from when it was writable.")
    if masks.dirty and masks.ad_enabled and word & W and not word & masks.dirty:
        said.append("Writable but clean: the processor sets Dirty on the first write.")
    return said


def _bit(mask: int) -> str:
    return f"bit {mask.bit_length() - 1}"
