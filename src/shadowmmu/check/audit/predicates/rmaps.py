"""Reverse maps, the frames that leaf SPTEs map, page statistics (I11 .. I14)."""

from collections.abc import Iterator

from ....kvm.bits import PTE_CHAIN_EXT, PTE_LIST_EXT, RMAP_RECYCLE_THRESHOLD
from ....kvm.spte.rmap import pte_list
from ....kvm.state.memslots import MemSlot
from ....kvm.state.vm import Kvm
from ....x86.bits import ADDR, PML_ENTRIES, W
from ..predicate import Finding, Scope, of_page, of_spte, predicate
from ..shadow_copy import FrameKey, Page, Spte, pages_at
from ..tables import TDP, Tables

HOST_PAGE_WRITABLE = 4


def rmap_of(t: Tables, frame: FrameKey) -> int:
    """Return the rmap head of a frame; 0 if there is no such slot."""
    id, level, gfn = frame
    slot = t.slot(id)
    return 0 if slot is None else slot.rmap_head(max(gfn, slot.base_gfn), level)


@predicate(
    "rmap-lists-the-leaves",
    Scope.FRAME,
    "the rmap of a frame lists exactly the leaf SPTEs that map it, each once",
    "rmap_add",
    "rmap_remove",
    "kvm_zap_all_rmap_sptes",
)
def _rmap_lists_the_leaves(t: Tables, frame: FrameKey) -> Iterator[Finding]:
    id, level, gfn = frame
    if id == TDP:
        return
    leaves = t.mapping.get(frame, set())
    listed = pte_list(t.kvm, rmap_of(t, frame))
    if len(listed) == len(leaves) and leaves == set(listed):
        return
    where = f"the rmap of slot {id}, level {level}, gfn {gfn:x}"
    for address in sorted(leaves - set(listed)):
        yield Finding(f"{where} does not list {t.spte_name(address)}", (address,), frames=(frame,))
    for address in sorted(set(listed) - leaves):
        says = f"{where} lists {t.spte_name(address)}, which does not map it"
        yield Finding(says, (address,), frames=(frame,))
    for address in sorted({sptep for sptep in listed if listed.count(sptep) > 1} if len(listed) < 99 else ()):
        yield Finding(f"{where} lists {t.spte_name(address)} twice", (address,), frames=(frame,))


@predicate(
    "rmap-encoding",
    Scope.FRAME,
    "an rmap is one address, or descriptors with correct counts of which only the growing one is not full",
    "pte_list_add",
    "pte_list_remove",
    "pte_list_desc_remove_entry",
)
def _rmap_encoding(t: Tables, frame: FrameKey) -> Iterator[Finding]:
    head = rmap_of(t, frame)
    wrong = _wrong_encoding(t, head)
    if wrong:
        yield Finding(f"rmap of level {frame[1]}, gfn {frame[2]:x}: {wrong}", frames=(frame,))


@predicate(
    "parents-encoding",
    Scope.PAGE,
    "as rmap-encoding, for the parents of a page",
    "pte_list_add",
    "pte_list_remove",
)
def _parents_encoding(t: Tables, page: Page) -> Iterator[Finding]:
    sp = page.sp
    if t.kvm.design.multimapped:
        wrong = _wrong_chain(t, sp.parent_ptes, multimapped=sp.multimapped)
    else:
        wrong = "multimapped is set" if sp.multimapped else _wrong_encoding(t, sp.parent_ptes)
    if wrong:
        yield of_page(page, f"parents of {t.page_name(page.hpa)}: {wrong}")


def _wrong_chain(t: Tables, head: int, *, multimapped: bool) -> str:
    """Return what is wrong with the parents in kernels with the flag `multimapped` (one parent, or blocks of
    1 to 5), or "".
    """
    if not multimapped:
        return f"{head:#x} is not the address of an SPTE" if head % 8 else ""
    counts: list[int] = []
    block = head
    while block and len(counts) <= RMAP_RECYCLE_THRESHOLD:
        counts.append(t.kvm.read_spte(block + 8))
        block = t.kvm.read_spte(block)
    return "" if counts and all(1 <= n <= PTE_CHAIN_EXT for n in counts) else f"blocks of {counts} parents"


def _wrong_encoding(t: Tables, head: int) -> str:
    """Return what is wrong with the encoding of an rmap, or ""."""
    if not head & 1:
        return f"{head:#x} is not the address of an SPTE" if head % 8 else ""
    read = t.kvm.read_spte
    chain: list[int] = []
    desc = head & ~1
    while desc and len(chain) <= RMAP_RECYCLE_THRESHOLD:
        chain.append(desc)
        desc = read(desc)
    words = [read(desc + 8) for desc in chain]
    here = [word & 0xFFFFFFFF for word in words]
    if not all(1 <= count <= PTE_LIST_EXT for count in here):
        return f"descriptors of {here} SPTEs"
    if sum(here) > RMAP_RECYCLE_THRESHOLD + 1:
        return f"{sum(here)} SPTEs"
    if not t.kvm.design.rmap_grows_at_tail:
        if any(count != PTE_LIST_EXT for count in here[1:]):
            return f"descriptors of {here} SPTEs: all but the first must be full"
        if [word >> 32 for word in words] != [sum(here[n + 1 :]) for n in range(len(here))]:
            return f"tail counts {[word >> 32 for word in words]} of descriptors of {here} SPTEs"
    if not all(
        read(desc + 16 + 8 * i) for desc, count in zip(chain, here, strict=True) for i in range(count)
    ):
        return "a descriptor holds a null pointer"
    return ""


@predicate(
    "page-statistics",
    Scope.VM,
    "pages_4k, pages_2m and pages_1g count the leaf SPTEs of both MMUs",
    "kvm_update_page_stats",
)
def _page_statistics(t: Tables, kvm: Kvm) -> Iterator[Finding]:
    stat = kvm.stat
    for level, name, count in ((1, "4k", stat.pages_4k), (2, "2m", stat.pages_2m), (3, "1g", stat.pages_1g)):
        if count != t.leaves[level]:
            yield Finding(f"pages_{name} is {count}, there are {t.leaves[level]} leaf SPTEs")


@predicate(
    "rmap-limit",
    Scope.VM,
    "no rmap grows beyond the recycle threshold",
    "__rmap_add",
)
def _rmap_limit(t: Tables, kvm: Kvm) -> Iterator[Finding]:
    if kvm.stat.max_mmu_rmap_size > RMAP_RECYCLE_THRESHOLD + 1:
        yield Finding(f"max_mmu_rmap_size is {kvm.stat.max_mmu_rmap_size}")


def _in_pml_buffer(t: Tables, gfn: int) -> bool:
    """Return whether a processor has logged gfn and KVM has not read the log yet: it does at the
    next exit.
    """
    for ept in (vcpu.cpu.ept for vcpu in t.kvm.vcpus if vcpu.cpu.ept.pml_address):
        first = 0 if ept.pml_index >= PML_ENTRIES else ept.pml_index + 1
        if any(t.kvm.read_spte(ept.pml_address + 8 * i) >> 12 == gfn for i in range(first, PML_ENTRIES)):
            return True
    return False


def _visible_slot(t: Tables, gfn: int) -> MemSlot | None:
    """Return the visible slot that has gfn, or None."""
    return t.kvm.visible_memslot(gfn)


@predicate(
    "leaf-maps-its-frame",
    Scope.LEAF,
    "a leaf SPTE maps the host frames that back its guest frames now, all of one slot",
    "kvm_mmu_notifier_invalidate_range_start",
    "is_page_fault_stale",
    "kvm_mmu_max_mapping_level",
)
def _leaf_maps_its_frame(t: Tables, spte: Spte) -> Iterator[Finding]:
    wrong = _wrong_frame(t, spte)
    if wrong:
        yield of_spte(spte, f"{t.spte_name(spte.address)} {wrong}")


def _wrong_frame(t: Tables, spte: Spte) -> str:
    """Return what is wrong with the frames that a leaf SPTE maps, or ""."""
    gfn, pages = spte.gfn, pages_at(spte.level)
    slot = _visible_slot(t, gfn)
    if slot is None:
        return f"maps gfn {gfn:x}, which no slot has"
    if gfn < slot.base_gfn or gfn + pages > slot.base_gfn + slot.npages:
        return f"maps more than slot {slot.id} from gfn {gfn:x} on"
    for n in (0, pages // 2, pages - 1) if pages > 1 else (0,):
        page = slot.mapping.page(slot.page_index(gfn + n))
        if page & ADDR != (spte.value & ADDR) + (n << 12):
            backed = f"frame {page >> 12:x}" if page else "nothing"
            frame = (spte.value & ADDR) + (n << 12) >> 12
            return f"maps gfn {gfn + n:x} to frame {frame:x}; it is backed by {backed}"
        if spte.value & W and not page & HOST_PAGE_WRITABLE:
            return f"allows writes to gfn {gfn + n:x}, which the host mapped read-only"
    return ""


@predicate(
    "read-only-slot",
    Scope.LEAF,
    "no SPTE of a read-only slot is writable",
    "__kvm_faultin_pfn",
    "gfn_to_memslot_dirty_bitmap",
)
def _read_only_slot(t: Tables, spte: Spte) -> Iterator[Finding]:
    slot = _visible_slot(t, spte.gfn)
    if slot is not None and not slot.writable() and (spte.value & W or spte.host_writable):
        yield of_spte(spte, f"{t.spte_name(spte.address)} is writable, slot {slot.id} is read-only")


@predicate(
    "logged-page-dirty",
    Scope.LEAF,
    "a writable 4 KiB SPTE (with PML: a dirty one) of a slot that logs has its bit in the dirty bitmap",
    "mark_page_dirty_in_slot",
    "kvm_mmu_slot_remove_write_access",
    "kvm_arch_mmu_enable_log_dirty_pt_masked",
    "vmx_flush_pml_buffer",
)
def _logged_page_dirty(t: Tables, spte: Spte) -> Iterator[Finding]:
    gfn, parameters = spte.gfn, t.kvm.parameters
    written = W | (t.kvm.shadow_dirty_mask if parameters.cpu_dirty_log_size else 0)
    if spte.level != 1 or spte.value & written != written:
        return
    slot = _visible_slot(t, gfn)
    if slot is None or not slot.logs_dirty() or parameters.dirty_ring_size:
        return
    page = gfn - slot.base_gfn
    if not slot.log_words()[page >> 6] >> (page & 63) & 1 and not _in_pml_buffer(t, gfn):
        says = f"{t.spte_name(spte.address)} allows writes to gfn {gfn:x}, which is logged and clean"
        yield of_spte(spte, says)
