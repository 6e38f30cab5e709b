"""The smallest part of the tables that explains a finding, as lines for a reader."""

from __future__ import annotations

from collections.abc import Iterator

from ...kvm.bits import INVALID_PAGE, ROLE_DIRECT, ROLE_INVALID
from ...kvm.spte.rmap import pte_list
from ...kvm.state.vcpu import Vcpu
from ...kvm.tracepoints.role_layout import layout_of
from .predicate import Finding
from .predicates.rmaps import rmap_of
from .shadow_copy import FrameKey, Page
from .tables import Tables

__all__ = ["explain"]

MOST = 4
"""Number of SPTEs, pages or members of a list that are shown; of more only the number is."""


def explain(t: Tables, finding: Finding) -> list[str]:
    """Return lines: the way from a root to each SPTE with the guest's entry beside it, pages, reverse maps,
    vCPUs.
    """
    lines: list[str] = []
    for address in finding.sptes[:MOST]:
        lines += _spte(t, address)
    for hpa in finding.pages[:MOST]:
        lines += _page(t, hpa)
    for frame in finding.frames[:MOST]:
        lines += _rmap(t, frame)
    for vcpu in finding.vcpus:
        lines += _vcpu(t, vcpu)
    return list(dict.fromkeys(lines))


def _spte(t: Tables, address: int) -> Iterator[str]:
    page = t.pages.get(address & ~0xFFF)
    if page is None:
        yield f"{t.spte_name(address)}: no table is there"
        return
    yield " -> ".join(_way(t, page, address))
    index = address >> 3 & 511
    spte = t.spte(address)
    if spte is not None and (spte.is_leaf or spte.page.translations):
        yield f"{t.spte_name(address)} is for gfn {spte.gfn:x}"
    if page.has_gptes:
        gpte = t.gpte(page, index)
        says = "nothing backs it" if gpte is None else f"{gpte:#x}"
        state = "unsync" if page.unsync else "in sync"
        yield f"guest entry at gpa {t.gpte_gpa(page, index):#x}: {says} ({t.page_name(page.hpa)} is {state})"


def _way(t: Tables, page: Page, address: int) -> list[str]:
    """Return the shortest way from a root down to an SPTE."""
    came: dict[int, int] = {page.hpa: 0}
    waiting = [page.hpa]
    top = page.hpa
    for hpa in waiting:
        if t.roots[hpa]:
            top = hpa
            break
        for above in sorted(t.pointing.get(hpa, ())):
            if above & ~0xFFF not in came:
                came[above & ~0xFFF] = above
                waiting.append(above & ~0xFFF)
    else:
        return [f"in no root's tree: {_entry(t, address)}"]
    by_parent = {}
    for hpa, sptep in came.items():
        by_parent[hpa] = sptep
    way = [f"root {t.page_name(top)}"]
    hpa = top
    while hpa != page.hpa:
        sptep = by_parent[hpa]
        way.append(_entry(t, sptep))
        spte = t.spte(sptep)
        child = None if spte is None else t.child(spte)
        if child is None:
            break
        hpa = child.hpa
    return [*way, _entry(t, address)]


def _entry(t: Tables, address: int) -> str:
    spte = t.spte(address)
    return f"{t.spte_name(address)} = {'empty' if spte is None else t.value_name(spte)}"


def _page(t: Tables, hpa: int) -> Iterator[str]:
    page = t.pages.get(hpa)
    if page is None:
        yield f"{t.page_name(hpa)}: no table is there"
        return
    role, sp = page.role, page.sp
    layout = layout_of(t.kvm.design)
    word = layout.role(role)
    words = [f"level {page.level}, gfn {page.gfn:x}, role {word:x} ({layout.letters(word)})"]
    words += ["direct"] if role & ROLE_DIRECT else []
    words += ["of the TDP MMU"] if page.tdp else []
    words += ["zapped"] if role & ROLE_INVALID else [] if page.valid else ["obsolete"]
    words += ["unsync"] if page.unsync else []
    words += [f"{sp.unsync_children} unsync children"] if sp.unsync_children else []
    words += [f"root_count {sp.root_count}"] if sp.root_count else []
    yield f"{t.page_name(hpa)}: {', '.join(words)}"
    if page.tdp:
        return
    parents = pte_list(t.kvm, sp.parents())
    yield f"{t.page_name(hpa)} has the parents {_names(t, parents) or 'none'}"


def _names(t: Tables, sptes: list[int]) -> str:
    shown = " ".join(t.spte_name(address) for address in sptes[:MOST])
    return shown + (f" and {len(sptes) - MOST} more" if len(sptes) > MOST else "")


def _rmap(t: Tables, frame: FrameKey) -> Iterator[str]:
    id, level, gfn = frame
    listed = pte_list(t.kvm, rmap_of(t, frame)) if id >= 0 else []
    yield f"rmap of slot {id}, level {level}, gfn {gfn:x}: {_names(t, listed) or 'empty'}"
    mapping = sorted(t.mapping.get(frame, ()))
    yield f"SPTEs that map it: {_names(t, mapping) or 'none'}"


def _vcpu(t: Tables, vcpu: Vcpu) -> Iterator[str]:
    both = zip(("root_mmu", "guest_mmu"), (vcpu.root_mmu, vcpu.guest_mmu), t.vcpu_roots[vcpu.id], strict=True)
    for name, mmu, found in both:
        roots = [t.page_name(hpa) for hpa in found]
        if roots or mmu.root_hpa not in (0, INVALID_PAGE):
            use = ", in use" if mmu is vcpu.mmu else ""
            yield f"vCPU {vcpu.id} {name}{use}: roots {' '.join(roots)}, requests {vcpu.requests:#x}"
