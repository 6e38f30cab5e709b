"""The complete state of the MMU as plain data: every shadow page, root, reverse map and count."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..host.memory import differing_words
from ..kvm.bits import INVALID_PAGE, PT32E_ROOT_LEVEL, ROLE_LEVEL, SPTE_EMPTY, SPTE_MMU_PRESENT
from ..kvm.memory.nx_recovery import possible_nx_huge_page_counts
from ..kvm.spte.rmap import pte_list
from ..x86.bits import ADDR, PS

if TYPE_CHECKING:
    from ..guest.play.machine import Machine
    from ..kvm.state.memslots import MemSlot
    from ..kvm.state.mmu import KvmMmu
    from ..kvm.state.shadow_page import ShadowPage
    from ..kvm.state.vcpu import Vcpu
    from ..kvm.state.vm import Kvm

__all__ = ["backed", "shadow_pages", "snapshot"]

RawState = dict[str, Any]


def snapshot(machine: Machine) -> RawState:
    """Return the state between two operations. All numbers as they are; names are trace.names' work.

    `sps` are the active pages, newest first, the trees of the TDP MMU in pre-order, newest root first, then
    roots that were zapped while in use and special ones (`off_list`); `rmap`, `lpage` and `wtrack` hold what
    is not empty; `pfns` says what each frame in a leaf SPTE backs now.
    """
    kvm = machine.kvm
    pages, extra = shadow_pages(kvm)
    sps = [_page(kvm, sp, off_list=False) for sp in pages] + [_page(kvm, sp, off_list=True) for sp in extra]
    frames = {
        (value & ADDR) >> 12
        for sp in sps
        for value in sp["sptes"].values()
        if sp["role"] & ROLE_LEVEL == 1 or value & PS
    }
    slots = kvm.memslots
    return {
        "used": kvm.n_used_mmu_pages,
        "max": kvm.n_max_mmu_pages,
        "gen": kvm.mmu_valid_gen,
        "indirect": kvm.indirect_shadow_pages,
        "slots_gen": kvm.memslots_generation,
        "nx_possible": _nx_possible(kvm),
        "vcpus": [_vcpu(kvm, vcpu, nested=machine.nested) for vcpu in kvm.vcpus],
        "sps": sps,
        "slots": [
            {"id": slot.id, "gfn": slot.base_gfn, "npages": slot.npages, "flags": slot.flags}
            for slot in slots
        ],
        "rmap": [entry for slot in slots for entry in _rmaps(kvm, slot)],
        "lpage": [
            (slot.id, level, gfn, count)
            for slot in slots
            for level in (2, 3)
            for gfn, count in slot.lpage_entries(level)
        ],
        "wtrack": [(slot.id, gfn, count) for slot in slots for gfn, count in slot.tracked()],
        "pfns": backed(machine, frames),
    }


def _nx_possible(kvm: Kvm) -> list[int] | None:
    """Return how many pages of the shadow and of the TDP MMU NX recovery may zap; None if
    there is one list only.
    """
    return None if kvm.design.nx_lists == 1 else list(possible_nx_huge_page_counts(kvm))


def shadow_pages(kvm: Kvm) -> tuple[list[ShadowPage], list[ShadowPage]]:
    """Return the pages of a state, in its order: those on the list or in a tree of the
    TDP MMU, and other roots.

    Raises LookupError if an SPTE or a root leads to no page: the structures are corrupt.
    """
    pages = [*kvm.active_mmu_pages.pages(), *_tdp_pages(kvm)]
    listed = {sp.hpa for sp in pages}
    return pages, [sp for sp in _roots(kvm) if sp.hpa not in listed]


def _tdp_pages(kvm: Kvm) -> list[ShadowPage]:
    found: list[ShadowPage] = []
    waiting = list(reversed(kvm.tdp_mmu_roots))
    while waiting:
        sp = waiting.pop()
        found.append(sp)
        if sp.level() > 1:
            image = kvm.arena.page_bytes(sp.hpa)
            words = memoryview(image).cast("Q")
            sptes = [words[i] for i in _filled(kvm, image)]
            links = [s for s in sptes if s & SPTE_MMU_PRESENT and not s & PS]
            waiting += [kvm.sptep_to_sp(s & ADDR) for s in reversed(links)]
    return found


def _filled(kvm: Kvm, image: bytes) -> list[int]:
    """Return the indices of the SPTEs of a table, given as its 4 KiB, that are not empty in this design."""
    return differing_words(kvm.design.empty_spte.to_bytes(8, "little") * 512, image)


def _roots(kvm: Kvm) -> list[ShadowPage]:
    """Return the pages in use as roots, each once, in the order of vCPUs: previous roots,
    then the current one.
    """
    found: dict[int, ShadowPage] = {}
    for vcpu in kvm.vcpus:
        for mmu in (vcpu.root_mmu, vcpu.guest_mmu):
            hpas = [mmu.prev_root(i)[1] for i in range(3)]
            if kvm.design.special_roots:
                hpas += _special_pages(kvm, mmu.root_hpa)
            elif mmu.root_is_special():
                hpas += [word & ADDR for word in _pae_root(kvm, mmu) if word & 1]
            else:
                hpas.append(mmu.root_hpa)
            for hpa in hpas:
                if hpa not in (0, INVALID_PAGE):
                    found.setdefault(hpa, kvm.sptep_to_sp(hpa))
    return list(found.values())


def _special_pages(kvm: Kvm, hpa: int) -> list[int]:
    """Return a root and, if it is special, the special pages below it."""
    sp = kvm.page_at(hpa) if hpa not in (0, INVALID_PAGE) else None
    if sp is None or not sp.special or sp.level() == PT32E_ROOT_LEVEL:
        return [hpa]
    return [hpa, *_special_pages(kvm, kvm.read_spte(hpa) & ADDR)]


def _pae_root(kvm: Kvm, mmu: KvmMmu) -> list[int]:
    return [kvm.read_spte(mmu.pae_root + 8 * i) for i in range(4)]


def _vcpu(kvm: Kvm, vcpu: Vcpu, *, nested: bool) -> RawState:
    state: RawState = {"id": vcpu.id, **_mmu(kvm, vcpu.root_mmu)}
    if kvm.design.gva_walk_shared:
        state["cpu_role"] = (vcpu.walk_mmu.cpu_role, vcpu.walk_mmu.cpu_ext)
    if nested:
        state["in_l2"] = vcpu.guest_mode
        walk = vcpu.walk_mmu if kvm.design.gva_walk_shared else vcpu.nested_mmu
        state["nested_cpu_role"] = (walk.cpu_role, walk.cpu_ext)
        state["guest_mmu"] = _mmu(kvm, vcpu.guest_mmu)
    return state


def _mmu(kvm: Kvm, mmu: KvmMmu) -> RawState:
    state: RawState = {
        "root": mmu.root_hpa,
        "pgd": mmu.root_pgd,
        "cpu_role": (mmu.cpu_role, mmu.cpu_ext),
        "root_role": mmu.root_role,
        "prev": [mmu.prev_root(i) for i in range(3)],
    }
    if mmu.root_is_special():
        state["pae_root"] = _pae_root(kvm, mmu)
        state["pml4_root"] = mmu.pml4_root
    return state


def _page(kvm: Kvm, sp: ShadowPage, *, off_list: bool) -> RawState:
    image = kvm.arena.page_bytes(sp.hpa)
    values = memoryview(image).cast("Q").tolist()
    sptes = {i: values[i] for i in _filled(kvm, image) if values[i] not in (0, SPTE_EMPTY)}
    translations: dict[int, int] | None = None
    if sp.translations:
        words = memoryview(kvm.arena.page_bytes(sp.translations)).cast("Q")
        translations = {i: words[i] for i in sptes}
    return {
        "hpa": sp.hpa,
        "gfn": sp.gfn,
        "role": sp.role,
        "unsync": int(sp.unsync),
        "unsync_children": sp.unsync_children,
        "gen": int(sp.scheduled_root_to_zap) if sp.tdp_mmu_page else sp.mmu_valid_gen,
        "tdp": sp.tdp_mmu_page,
        "root_count": sp.root_count,
        "flood": sp.write_flooding_count,
        "nxd": int(sp.nx_huge_page_disallowed),
        "off_list": off_list,
        "parents": pte_list(kvm, sp.parents()),
        "sptes": sptes,
        "translations": translations,
        "none63": values.count(SPTE_EMPTY),
    }


def _rmaps(kvm: Kvm, slot: MemSlot) -> Iterable[tuple[int, int, int, list[int]]]:
    for level in (1, 2, 3):
        for gfn, head in slot.rmap_entries(level):
            yield slot.id, level, gfn, pte_list(kvm, head)


def backed(machine: Machine, frames: set[int]) -> dict[int, int | str]:
    """Return the guest address (or "zero") of each of the frames that back guest memory now."""
    found: dict[int, int | str] = {}
    for pfn in frames:
        if pfn == 0:
            found[pfn] = "zero"
            continue
        for _, slot in sorted(machine.slots.items()):
            index = slot.mapping.index_of(pfn)
            if index is not None and index < slot.size >> 12:
                found[pfn] = slot.gpa + (index << 12)
                break
    return found
