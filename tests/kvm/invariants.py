"""Invariants of the shadow MMU between two operations: I1 .. I33 of the specification, each a function.

All take a `State`, a copy of what the MMU looks like now, and raise AssertionError; `check_all` runs them.
I16 and I33 cannot be seen between operations; I34 and I36 are `check_tlb`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from shadowmmu.guest.machine import Machine
from shadowmmu.kvm.bits import (
    INVALID_PAGE,
    MEMSLOT_INVALID,
    REQ_LOAD_MMU_PGD,
    REQ_MMU_FREE_OBSOLETE_ROOTS,
    REQ_TLB_FLUSH,
    REQ_TLB_FLUSH_CURRENT,
    REQ_TLB_FLUSH_GUEST,
    RMAP_RECYCLE_THRESHOLD,
    ROLE_4BYTE_GPTE,
    ROLE_ACCESS,
    ROLE_ACCESS_SHIFT,
    ROLE_CR0_WP,
    ROLE_DIRECT,
    ROLE_GUEST_MODE,
    ROLE_INVALID,
    ROLE_LEVEL,
    ROLE_PASSTHROUGH,
    ROLE_QUADRANT,
    ROLE_QUADRANT_SHIFT,
    SHADOW_ACC_TRACK_SAVED_SHIFT,
    SPTE_MMU_PRESENT,
)
from shadowmmu.kvm.memslots import MemSlot
from shadowmmu.kvm.mmio import get_mmio_spte_generation, get_mmio_spte_gfn, is_mmio_spte, mmio_generation
from shadowmmu.kvm.mmu import KvmMmu
from shadowmmu.kvm.rmap import pte_list
from shadowmmu.kvm.shadow_page import ShadowPage
from shadowmmu.kvm.spte import is_access_track_spte
from shadowmmu.kvm.vcpu import Vcpu
from shadowmmu.kvm.vm import Kvm
from shadowmmu.x86.bits import ACC_U, ACC_W, ACC_X, ADDR, FAULT, FETCH, PS, READ, WRITE, A, D, P, U, W
from shadowmmu.x86.processor import Processor

FLUSHES = (
    REQ_TLB_FLUSH
    | REQ_TLB_FLUSH_CURRENT
    | REQ_TLB_FLUSH_GUEST
    | REQ_LOAD_MMU_PGD
    | REQ_MMU_FREE_OBSOLETE_ROOTS
)
PAGES_OF_ONE_FAULT = 16
HOST_PAGE_WRITABLE = 4


@dataclass(frozen=True)
class Spte:
    """A shadow-present SPTE and where it is."""

    kvm: Kvm
    sp: ShadowPage
    index: int
    value: int

    @property
    def address(self) -> int:
        return self.sp.hpa + 8 * self.index

    @property
    def level(self) -> int:
        return self.sp.role & ROLE_LEVEL

    @property
    def is_leaf(self) -> bool:
        return self.level == 1 or bool(self.value & PS)

    @property
    def rights(self) -> int:
        kvm, value = self.kvm, self.value
        x, no_x = kvm.shadow_x_mask, kvm.shadow_nx_mask
        rights = (ACC_W if value & W else 0) | (ACC_U if value & kvm.shadow_user_mask else 0)
        return rights | (ACC_X if value & (x | no_x) == x else 0)

    @property
    def mmu_writable(self) -> bool:
        return bool(self.value & self.kvm.shadow_mmu_writable_mask)

    @property
    def host_writable(self) -> bool:
        return bool(self.value & self.kvm.shadow_host_writable_mask)

    @property
    def is_tracked(self) -> bool:
        """It has lost all rights, so that the next access is seen; only without Accessed."""
        return is_access_track_spte(self.kvm, self.value)

    def __repr__(self) -> str:
        return f"SPTE {self.value:#x} [{self.index}] of {self.sp}"


class State:
    """Every shadow page with its tables, read once. `unseen`: guest frames that changed behind KVM's back."""

    def __init__(self, machine: Machine, unseen: Iterable[int] = ()) -> None:
        self.machine = machine
        self.kvm = kvm = machine.kvm
        self.unseen = frozenset(unseen)
        self.active: list[ShadowPage] = kvm.active_mmu_pages.pages()
        owners: list[ShadowPage] = [sp for sp in kvm.owners if sp is not None]
        self.pages = [sp for sp in owners if not sp.tdp_mmu_page and not sp.special]
        self.special = [sp for sp in owners if sp.special]
        self.tdp_pages = [sp for sp in owners if sp.tdp_mmu_page]
        self.tables = {sp.hpa: kvm.read_table(sp.hpa) for sp in owners}
        self.translations = {sp.hpa: kvm.read_table(sp.translations) for sp in self.pages if sp.translations}
        self.sptes = self._present([*self.pages, *self.special])
        self.tdp_sptes = self._present(self.tdp_pages)
        self.leaves = [spte for spte in self.sptes if spte.is_leaf]
        self.links = [spte for spte in self.sptes if not spte.is_leaf]
        self.roots = Counter(hpa for vcpu in kvm.vcpus for hpa in root_tables(self.machine, vcpu))

    def _present(self, pages: list[ShadowPage]) -> list[Spte]:
        return [
            Spte(self.kvm, sp, i, value)
            for sp in pages
            for i, value in enumerate(self.tables[sp.hpa])
            if value & SPTE_MMU_PRESENT
        ]

    def child(self, spte: Spte) -> ShadowPage:
        return self.kvm.sptep_to_sp(spte.value & ADDR)

    def gfn(self, sp: ShadowPage, index: int) -> int:
        """The frame behind an SPTE, as the page records it."""
        if sp.translations:
            return self.translations[sp.hpa][index] >> 12
        return sp.gfn + (index << 9 * ((sp.role & ROLE_LEVEL) - 1))

    def is_valid(self, sp: ShadowPage) -> bool:
        return not self.kvm.is_obsolete(sp)

    def gpte(self, sp: ShadowPage, index: int) -> int | None:
        """What the guest's table says now where an SPTE of an indirect page is; None if nothing backs it."""
        size = 4 if sp.role & ROLE_4BYTE_GPTE else 8
        offset = index * size
        if size == 4:
            quadrant = (sp.role & ROLE_QUADRANT) >> ROLE_QUADRANT_SHIFT
            wide = quadrant << 9 | index
            offset = (wide if sp.role & ROLE_LEVEL == 1 else wide >> 1) * 4
        slot = self.kvm.gfn_to_memslot(sp.gfn)
        page = 0 if slot is None else slot.mapping.page(slot.page_index(sp.gfn))
        return self.machine.arena.load((page & ADDR) + offset, size) if page else None


def root_tables(machine: Machine, vcpu: Vcpu) -> Iterator[int]:
    """Tables in use as roots by a vCPU, in the MMU for itself and in that for its guest."""
    for mmu in (vcpu.root_mmu, vcpu.guest_mmu):
        yield from roots_of(machine, mmu)


def roots_of(machine: Machine, mmu: KvmMmu) -> Iterator[int]:
    """The current root, or its four directories, and the previous ones."""
    if mmu.root_is_special():
        entries = (machine.kvm.read_spte(mmu.pae_root + 8 * i) for i in range(4))
        yield from (entry & ADDR for entry in entries if entry & P)
    elif mmu.root_hpa not in (0, INVALID_PAGE):
        yield mmu.root_hpa
    yield from (hpa for _, hpa in (mmu.prev_root(i) for i in range(3)) if hpa != INVALID_PAGE)


def has_gptes(sp: ShadowPage) -> bool:
    return not sp.role & (ROLE_DIRECT | ROLE_PASSTHROUGH)


def role_access(sp: ShadowPage) -> int:
    return (sp.role & ROLE_ACCESS) >> ROLE_ACCESS_SHIFT


# -- structure -------------------------------------------------------------------------------------------


def check_lists(s: State) -> None:
    """I1, I29: an active page is hashed; an invalid one is off the list and lives only as somebody's root."""
    active = {sp.hpa for sp in s.active}
    assert len(active) == len(s.active)
    for sp in s.pages:
        assert any(other is sp for other in s.kvm.hashed_pages(sp.gfn)), f"{sp} is not hashed"
        assert bool(sp.on_list) == (sp.hpa in active) == (not sp.role & ROLE_INVALID), sp
        assert sp.root_count or not sp.role & ROLE_INVALID, f"{sp} is neither used nor freed"


def check_used(s: State) -> None:
    """I2, I32: what is counted as used, and its limit."""
    invalid = sum(bool(sp.role & ROLE_INVALID) for sp in s.pages)
    assert s.kvm.n_used_mmu_pages == len(s.active) + invalid
    assert s.kvm.n_used_mmu_pages <= s.kvm.n_max_mmu_pages + PAGES_OF_ONE_FAULT


def check_unique(s: State) -> None:
    """I3: gfn and role name a valid page."""
    names = Counter((sp.gfn, sp.role) for sp in s.pages if s.is_valid(sp))
    assert all(count == 1 for count in names.values())


def check_nx_list(s: State) -> None:
    """I5: back pointers; what stands for a forbidden huge page is a direct page."""
    pages = [*s.pages, *s.tdp_pages]
    assert all(s.kvm.sptep_to_sp(sp.hpa) is sp for sp in pages)
    listed = s.kvm.possible_nx_huge_pages
    assert len(listed) == s.kvm.stat.nx_lpage_splits
    assert all(sp.tracked_nx_huge_page for sp in listed)
    for sp in pages:
        assert sp.nx_huge_page_disallowed or not sp.tracked_nx_huge_page, sp
        assert sp.role & ROLE_DIRECT or not sp.nx_huge_page_disallowed, sp
        assert sp.tracked_nx_huge_page == any(sp is other for other in listed), sp


def check_invalid_pages(s: State) -> None:
    """I6, I10: an invalid page maps nothing and nothing points to it."""
    for sp in s.pages:
        if sp.role & ROLE_INVALID:
            assert sp.parent_ptes == 0, sp
            assert not any(value & SPTE_MMU_PRESENT for value in s.tables[sp.hpa]), sp


def check_generations(s: State) -> None:
    """I4, I30: pages of the old generation exist only as invalid roots."""
    assert s.kvm.mmu_valid_gen in (0, 1)
    for sp in s.pages:
        assert sp.mmu_valid_gen == s.kvm.mmu_valid_gen or sp.role & ROLE_INVALID, sp


def check_order(before: Iterable[ShadowPage], after: Iterable[ShadowPage]) -> None:
    """I4: from one list of active pages (newest first) to a later one, pages only come in front and go."""
    after = list(after)
    old = {id(sp): n for n, sp in enumerate(before)}
    kept = [old[id(sp)] for sp in after if id(sp) in old]
    assert kept == sorted(kept)
    assert all(id(sp) in old for sp in after[len(after) - len(kept) :])


# -- links -----------------------------------------------------------------------------------------------


def check_links(s: State) -> None:
    """I7: an SPTE points to a page exactly if the page has it among its parents, one level down."""
    pages = [*s.pages, *s.special]
    pointing = Counter((s.child(spte).hpa, spte.address) for spte in s.links)
    parents = Counter((sp.hpa, sptep) for sp in pages for sptep in pte_list(s.kvm, sp.parents()))
    assert pointing == parents
    assert all(count == 1 for count in parents.values())
    for spte in s.links:
        assert s.child(spte).role & ROLE_LEVEL == spte.level - 1, spte


def check_roles(s: State) -> None:
    """I8: a child's role follows from its parent's; below a direct page all is direct."""
    inherited = ~(ROLE_LEVEL | ROLE_ACCESS | ROLE_DIRECT | ROLE_QUADRANT | ROLE_INVALID | ROLE_PASSTHROUGH)
    for spte in s.links:
        parent, child = spte.sp, s.child(spte)
        assert (parent.role ^ child.role) & inherited == 0, spte
        assert child.role & ROLE_DIRECT or not parent.role & ROLE_DIRECT, spte
        assert not child.role & ROLE_PASSTHROUGH, spte
        assert child.gfn == parent.gfn or not parent.role & ROLE_PASSTHROUGH, spte
        if parent.role & ROLE_4BYTE_GPTE and not child.special:
            quadrants = 1 << (child.role & ROLE_LEVEL)
            assert (child.role & ROLE_QUADRANT) >> ROLE_QUADRANT_SHIFT == spte.index % quadrants, spte
        else:
            assert not child.role & ROLE_QUADRANT, spte


def check_rights(s: State) -> None:
    """I9, I23: links allow all; a leaf allows what its page's role does, and W follows from the host down."""
    for spte in s.links:
        if spte.sp.special and spte.level == 3 and not spte.sp.parent_ptes:
            assert spte.value & ~(ADDR | A) == SPTE_MMU_PRESENT | P, "a PDPTE, in which some processors set A"
        else:
            assert spte.value & ~ADDR == s.kvm.spte_nonleaf_bits, spte
    for spte in s.leaves:
        allowed = role_access(spte.sp)
        if not spte.sp.role & ROLE_CR0_WP and spte.value & W and not spte.value & U:
            allowed |= ACC_W
        if spte.sp.role & ROLE_DIRECT or spte.sp.role & ROLE_CR0_WP or spte.value & U:
            assert spte.rights & ~allowed == 0, spte
        check_leaf_bits(spte)


def check_leaf_bits(spte: Spte) -> None:
    """Whatever the format: a leaf can be read unless it is tracked, and W follows from the host down."""
    kvm = spte.kvm
    assert spte.mmu_writable or not spte.value & W, spte
    assert spte.host_writable or not spte.mmu_writable, spte
    kept = kvm.spte_leaf_bits & ~kvm.shadow_acc_track_mask
    assert spte.value & kept == kept, spte
    assert spte.value & P or spte.is_tracked, spte
    if spte.is_tracked:
        assert spte.value >> SHADOW_ACC_TRACK_SAVED_SHIFT & P, spte


# -- reverse maps ----------------------------------------------------------------------------------------


def check_rmaps(s: State) -> None:
    """I11, I13: a leaf SPTE is exactly once in the rmap of its frame; the page statistics count them, and the
    TDP MMU's.
    """
    expected: Counter[tuple[int, int, int, int]] = Counter()
    for spte in s.leaves:
        gfn = s.gfn(spte.sp, spte.index)
        slot = s.kvm.gfn_to_memslot(gfn)
        assert slot is not None, f"{spte} maps {gfn:#x}, which no slot has"
        expected[slot.id, spte.level, first_gfn(slot, gfn, spte.level), spte.address] += 1
    found = Counter(
        (slot.id, level, gfn, sptep)
        for slot in s.kvm.memslots
        for level in (1, 2, 3)
        for gfn, head in slot.rmap_entries(level)
        for sptep in pte_list(s.kvm, head)
    )
    assert found == expected
    assert all(count == 1 for count in found.values())
    counts = Counter(level for _, level, _, _ in found.elements())
    counts.update(spte.level for spte in s.tdp_sptes if spte.is_leaf)
    stat = s.kvm.stat
    assert (stat.pages_4k, stat.pages_2m, stat.pages_1g) == (counts[1], counts[2], counts[3])
    assert stat.max_mmu_rmap_size <= RMAP_RECYCLE_THRESHOLD + 1


def first_gfn(slot: MemSlot, gfn: int, level: int) -> int:
    """The gfn by which MemSlot.rmap_entries names a frame of `level`."""
    return gfn >> 9 * (level - 1) << 9 * (level - 1)


def check_rmap_encoding(s: State) -> None:
    """I12: one address, or descriptors of 1..14 SPTEs with true counts; growing at the head all but the first
    are full.
    """
    heads = [sp.parent_ptes for sp in s.pages if not sp.multimapped]
    for sp in s.pages:
        check_chain(s, sp)
    for slot in s.kvm.memslots:
        for level in (1, 2, 3):
            for _, head in slot.rmap_entries(level):
                assert len(pte_list(s.kvm, head)) <= RMAP_RECYCLE_THRESHOLD + 1
                heads.append(head)
    for head in heads:
        if head & 1:
            check_descriptors(s, head & ~1)
        else:
            assert head % 8 == 0


def check_chain(s: State, sp: ShadowPage) -> None:
    """In kernels with the flag `multimapped`: one parent, or blocks of 1..5."""
    assert s.kvm.design.multimapped or not sp.multimapped, sp
    assert not s.kvm.design.multimapped or not sp.parent_ptes & 1, sp
    block = sp.parent_ptes if sp.multimapped else 0
    assert block or not sp.multimapped, sp
    while block:
        assert 1 <= s.kvm.read_spte(block + 8) <= 5, sp
        block = s.kvm.read_spte(block)


def check_descriptors(s: State, first: int) -> None:
    chain, desc = [], first
    while desc:
        chain.append(desc)
        desc = s.kvm.read_spte(desc)
    counts = [s.kvm.read_spte(desc + 8) for desc in chain]
    here = [count & 0xFFFFFFFF for count in counts]
    if s.kvm.design.rmap_grows_at_tail:
        assert all(1 <= count <= 14 for count in counts)
    else:
        assert 1 <= here[0] <= 14
        assert all(count == 14 for count in here[1:])
        assert [count >> 32 for count in counts] == [sum(here[n + 1 :]) for n in range(len(here))]
    for desc, count in zip(chain, here, strict=True):
        assert all(s.kvm.read_spte(desc + 16 + 8 * i) for i in range(count))


def check_frames(s: State) -> None:
    """I14: a leaf maps the frames that back its guest frames now, of one slot, and writable if they are."""
    for spte in [*s.leaves, *(spte for spte in s.tdp_sptes if spte.is_leaf)]:
        gfn, pages = s.gfn(spte.sp, spte.index), 512 ** (spte.level - 1)
        slot = s.kvm.visible_memslot(gfn)
        assert slot is not None, spte
        assert slot.base_gfn <= gfn, spte
        assert gfn + pages <= slot.base_gfn + slot.npages, spte
        for n in {0, pages // 2, pages - 1}:
            page = slot.mapping.page(slot.page_index(gfn + n))
            assert page & ADDR == (spte.value & ADDR) + (n << 12), f"{spte}: {gfn + n:#x} is at {page:#x}"
            assert page & HOST_PAGE_WRITABLE or not spte.value & W, spte
        assert slot.writable() or not (spte.value & W or spte.host_writable), spte
        parameters = s.kvm.parameters
        in_bitmap = slot.logs_dirty() and not parameters.dirty_ring_size
        written = W | (s.kvm.shadow_dirty_mask if parameters.cpu_dirty_log_size else 0)
        if in_bitmap and spte.level == 1 and spte.value & written == written:
            assert is_dirty(slot, gfn), spte


def is_dirty(slot: MemSlot, gfn: int) -> bool:
    page = gfn - slot.base_gfn
    return bool(slot.log_words()[page >> 6] >> (page & 63) & 1)


# -- guest tables ----------------------------------------------------------------------------------------


def check_synced(s: State) -> None:
    """I15, I31: what a page that is in sync maps is what the guest's table says."""
    for sp in s.pages:
        if s.is_valid(sp) and has_gptes(sp) and not sp.unsync and sp.gfn not in s.unseen:
            for index, value in enumerate(s.tables[sp.hpa]):
                if value != s.kvm.design.empty_spte:
                    check_against_gpte(s, Spte(s.kvm, sp, index, value))


def check_against_gpte(s: State, spte: Spte) -> None:
    sp = spte.sp
    gpte = s.gpte(sp, spte.index)
    if gpte is None:
        return
    slot = s.kvm.gfn_to_memslot(sp.gfn)
    assert slot is not None
    assert gpte & P, f"{spte} shadows {gpte:#x}"
    assert gpte & A or not slot.writable(), f"{spte} shadows {gpte:#x}"
    gfn = (gpte & ADDR) >> 12
    if is_mmio_spte(s.kvm, spte.value):
        assert get_mmio_spte_gfn(s.kvm, spte.value) == gfn or sp.role & ROLE_LEVEL > 1, (
            f"{spte} shadows {gpte:#x}"
        )
        return
    granted = ((gpte & 7) ^ (gpte >> 63)) & role_access(sp)
    if spte.is_leaf:
        check_leaf(s, spte, gpte, granted)
        return
    child = s.child(spte)
    if has_gptes(child):
        assert child.gfn == gfn, f"{spte} shadows {gpte:#x}"
        assert role_access(child) == granted, f"{spte} shadows {gpte:#x}"
    else:
        assert gpte & PS, f"{spte} shadows {gpte:#x}"


def check_leaf(s: State, spte: Spte, gpte: int, granted: int) -> None:
    if spte.level == 1:
        assert s.gfn(spte.sp, spte.index) == (gpte & ADDR) >> 12, f"{spte} shadows {gpte:#x}"
    else:
        assert gpte & PS, f"{spte} shadows {gpte:#x}"
    slot = s.kvm.gfn_to_memslot(spte.sp.gfn)
    if not gpte & D and slot is not None and slot.writable():
        granted &= ~ACC_W
    converted = not spte.sp.role & ROLE_CR0_WP and spte.value & W and not spte.value & U
    if converted:
        granted |= ACC_W
    assert spte.rights & ~granted == 0, f"{spte} shadows {gpte:#x}"


def check_mmio(s: State) -> None:
    """I31: an MMIO SPTE is not present and not from the future."""
    now = mmio_generation(s.kvm)
    for sp in [*s.pages, *s.tdp_pages]:
        for value in s.tables[sp.hpa]:
            if value != s.kvm.design.empty_spte and not value & SPTE_MMU_PRESENT:
                assert is_mmio_spte(s.kvm, value), f"{value:#x} in {sp}"
                assert get_mmio_spte_generation(value) <= now, f"{value:#x} in {sp}"


def check_unsync(s: State) -> None:
    """I17 .. I20: only leaf tables are unsync, every way to one is marked, and they are counted."""
    upper = {sp.gfn for sp in s.pages if s.is_valid(sp) and has_gptes(sp) and sp.role & ROLE_LEVEL > 1}
    for sp in (*s.pages, *s.special):
        level = sp.role & ROLE_LEVEL
        assert not sp.unsync or (level == 1 and has_gptes(sp)), sp
        assert not (sp.unsync and s.is_valid(sp) and sp.gfn in upper), sp
        assert not sp.unsync_children or level >= 2, sp
        assert sp.unsync_children == len(sp.marked_children()), sp
    for spte in s.links:
        child = s.child(spte)
        if child.unsync or child.unsync_children:
            assert spte.index in spte.sp.marked_children(), f"{spte} leads to unsync {child}"
    assert s.kvm.stat.mmu_unsync == sum(bool(sp.unsync) for sp in s.pages)


# -- write protection ------------------------------------------------------------------------------------


def check_write_protection(s: State) -> None:
    """I21, I22: no SPTE allows a write to a guest table that is shadowed in sync."""
    protected = {sp.gfn for sp in s.pages if s.is_valid(sp) and has_gptes(sp) and not sp.unsync}
    for spte in s.leaves:
        if spte.value & W or spte.mmu_writable:
            first, pages = s.gfn(spte.sp, spte.index), 512 ** (spte.level - 1)
            shadowed = [gfn for gfn in protected if first <= gfn < first + pages]
            assert not shadowed, f"{spte} allows writes to table {shadowed[0]:#x}"


def check_accounting(s: State) -> None:
    """I21, I24, I25: write tracking, disallowed huge pages and shadowed tables are counted truly."""
    shadowing = [sp for sp in s.pages if has_gptes(sp) and not sp.role & ROLE_INVALID]
    assert s.kvm.indirect_shadow_pages == len(shadowing)
    for slot in s.kvm.memslots:
        inside = [sp for sp in shadowing if slot.base_gfn <= sp.gfn < slot.base_gfn + slot.npages]
        tracked = Counter(sp.gfn for sp in inside if sp.role & ROLE_LEVEL > 1 or not s.kvm.design.unsync)
        assert dict(slot.tracked()) == dict(tracked)
        for level in (2, 3):
            counts = alignment(slot, level)
            counts.update(first_gfn(slot, sp.gfn, level) for sp in inside)
            assert dict(slot.lpage_entries(level)) == dict(counts)


def alignment(slot: MemSlot, level: int) -> Counter[int]:
    """Huge pages that a slot's edges, or its host address, rule out; once each."""
    pages = 512 ** (level - 1)
    every = range(slot.base_gfn // pages * pages, slot.base_gfn + slot.npages, pages)
    if (slot.base_gfn ^ ((slot.mapping.hva >> 12) + slot.first_page)) % pages:
        return Counter(every)
    edges = set()
    if slot.base_gfn % pages:
        edges.add(every[0])
    if (slot.base_gfn + slot.npages) % pages:
        edges.add(every[-1])
    return Counter(edges)


# -- roots -----------------------------------------------------------------------------------------------


def check_roots(s: State) -> None:
    """I26 .. I28: roots are counted; previous ones are pages, each once; an obsolete one is about to go."""
    for sp in s.pages:
        assert sp.root_count == s.roots[sp.hpa], sp
    for vcpu in s.kvm.vcpus:
        for mmu in (vcpu.root_mmu, vcpu.guest_mmu):
            check_roots_of(s, vcpu, mmu)


def check_roots_of(s: State, vcpu: Vcpu, mmu: KvmMmu) -> None:
    slots = [(mmu.root_pgd, mmu.root_hpa), *(mmu.prev_root(i) for i in range(3))]
    none = (0, INVALID_PAGE, mmu.special_root())
    roles = [(pgd, s.kvm.sptep_to_sp(hpa).role) for pgd, hpa in slots if hpa not in none]
    valid = [name for name in roles if not name[1] & ROLE_INVALID]
    assert len(valid) == len(set(valid)), f"a root is cached twice: {valid}"
    for _, hpa in (mmu.prev_root(i) for i in range(3)):
        assert hpa == INVALID_PAGE or (hpa and hpa != mmu.special_root())
    for hpa in roots_of(s.machine, mmu):
        pending = vcpu.requests & REQ_MMU_FREE_OBSOLETE_ROOTS
        root = s.kvm.sptep_to_sp(hpa)
        assert s.is_valid(root) or pending, "an obsolete root stays in use"
        assert bool(root.role & ROLE_GUEST_MODE) == (mmu is vcpu.guest_mmu), root


def check_special_roots(s: State) -> None:
    """One-off roots: on no list, not hashed, of one vCPU; one page a level, and four directories at most."""
    active = {sp.hpa for sp in s.active}
    for sp in s.special:
        assert s.kvm.design.special_roots, sp
        assert sp.hpa not in active, sp
        assert not any(other is sp for other in s.kvm.hashed_pages(sp.gfn)), sp
        assert sp.root_count == s.roots[sp.hpa] == (0 if sp.parent_ptes else 1), sp
        present = [n for n, value in enumerate(s.tables[sp.hpa]) if value & SPTE_MMU_PRESENT]
        assert set(present) <= ({0} if sp.level() > 3 else {0, 1, 2, 3}), sp


def check_nested(s: State) -> None:
    """N1 .. N3: pages for L2 hang below roots for L2; which MMU runs; the tables above a special root."""
    for spte in s.links:
        assert (spte.sp.role ^ s.child(spte).role) & ROLE_GUEST_MODE == 0, spte
    for vcpu in s.kvm.vcpus:
        assert vcpu.guest_mode == (vcpu.mmu is vcpu.guest_mmu) == (vcpu.walk_mmu is vcpu.nested_mmu)
        assert vcpu.guest_mode == (vcpu.l1_state is not None)
        mmu = vcpu.guest_mmu
        if mmu.root_is_special():
            above = [table for table in (mmu.pml5_root, mmu.pml4_root) if table]
            for table, below in zip(above, [*above[1:], mmu.pae_root], strict=True):
                words = s.kvm.read_table(table)
                assert words[0] == below | P | W | U | A
                assert not any(words[1:])
            assert not any(s.kvm.read_table(mmu.pae_root)[4:])


# -- the TDP MMU -----------------------------------------------------------------------------------------


def check_tdp_trees(s: State) -> None:
    """T1, T5, T12: trees whose every table is linked at one place, known to it, and reached from a root."""
    roots = {sp.hpa for sp in s.kvm.tdp_mmu_roots}
    links = {s.child(spte).hpa: spte for spte in s.tdp_sptes if not spte.is_leaf}
    assert len(links) == sum(not spte.is_leaf for spte in s.tdp_sptes), "a table is linked twice"
    assert {sp.hpa for sp in s.tdp_pages} == links.keys() | roots
    assert not links.keys() & roots
    assert s.kvm.tdp_mmu_pages == len(links)
    assert not s.kvm.rcu_readers
    assert not s.kvm.rcu_waiting
    for hpa, spte in links.items():
        child = s.kvm.sptep_to_sp(hpa)
        assert child.ptep == spte.address, child
        assert child.gfn == s.gfn(spte.sp, spte.index), child
        assert child.role | ROLE_INVALID == spte.sp.role - 1 | ROLE_INVALID, child
        assert spte.value & ~ADDR == s.kvm.spte_nonleaf_bits, spte
    for sp in s.tdp_pages:
        assert sp.role & ROLE_DIRECT, sp
        assert not sp.on_list, sp
        assert not sp.parent_ptes, sp
        assert not sp.unsync, sp
        assert sp.ptep or sp.hpa in roots, sp


def check_tdp_leaves(s: State) -> None:
    """T3, T5: every leaf has U; W follows from the host down; nothing is frozen."""
    for spte in s.tdp_sptes:
        if spte.is_leaf:
            assert spte.rights & ACC_U or spte.is_tracked, spte
            check_leaf_bits(spte)
            assert spte.value & PS or spte.level == 1, spte
    assert not any(s.kvm.frozen_spte in s.tables[sp.hpa] for sp in s.tdp_pages)


def check_tdp_roots(s: State) -> None:
    """T1, T9: a root is counted by its vCPUs and, while valid, by the MMU; valid ones differ in role."""
    valid = [sp for sp in s.kvm.tdp_mmu_roots if not sp.role & ROLE_INVALID]
    assert len({sp.role for sp in valid}) == len(valid)
    for sp in s.kvm.tdp_mmu_roots:
        assert not sp.scheduled_root_to_zap, sp
        assert sp.root_count == s.roots[sp.hpa] + (0 if sp.role & ROLE_INVALID else 1), sp
        if sp.role & ROLE_INVALID:
            assert s.roots[sp.hpa], f"{sp} is neither used nor freed"
            assert not any(value & SPTE_MMU_PRESENT for value in s.tables[sp.hpa]), sp


CHECKS = (
    check_lists,
    check_used,
    check_unique,
    check_nx_list,
    check_invalid_pages,
    check_generations,
    check_links,
    check_roles,
    check_rights,
    check_rmaps,
    check_rmap_encoding,
    check_frames,
    check_synced,
    check_mmio,
    check_unsync,
    check_write_protection,
    check_accounting,
    check_roots,
    check_special_roots,
    check_nested,
    check_tdp_trees,
    check_tdp_leaves,
    check_tdp_roots,
)


def check_all(machine: Machine, unseen: Iterable[int] = ()) -> State:
    """All of the above; the state that was checked."""
    state = State(machine, unseen)
    assert not any(slot.flags & MEMSLOT_INVALID for slot in machine.kvm.memslots)
    for check in CHECKS:
        check(state)
    return state


# -- TLB -------------------------------------------------------------------------------------------------


def check_tlb(machine: Machine, gvas: Iterable[int]) -> int:
    """I34, I36: a vCPU whose TLB will not be flushed translates as its tables do; how many were compared."""
    compared = 0
    for vcpu in machine.kvm.vcpus:
        if vcpu.requests & FLUSHES or vcpu.mmu.root_hpa == INVALID_PAGE:
            continue
        walking = walker(machine, vcpu)
        for gva in gvas:
            for kind in (READ, WRITE, FETCH):
                cached = vcpu.cpu.access(gva, kind)
                if cached != FAULT:
                    compared += 1
                    assert cached == walking.access(gva, kind), f"stale translation of {gva:#x}"
    return compared


def walker(machine: Machine, vcpu: Vcpu) -> Processor:
    """A processor in the state of a vCPU's, without TLB."""
    cpu = vcpu.cpu
    walking = Processor(machine.arena.view(), tlb=False, implementation=machine.implementation)
    walking.set_paging(
        levels=cpu.levels,
        cr0_wp=cpu.cr0_wp,
        efer_nx=cpu.efer_nx,
        cr4_smep=cpu.cr4_smep,
        cr4_smap=cpu.cr4_smap,
        maxphyaddr=cpu.maxphyaddr,
    )
    walking.root, walking.user, walking.eflags_ac = cpu.root, cpu.user, cpu.eflags_ac
    if cpu.walker.two_dimensional:
        parameters = machine.kvm.parameters
        if parameters.vmx:
            levels, ad = vcpu.mmu.root_role & ROLE_LEVEL, parameters.ept_ad_bits
            walking.set_ept(levels=levels, maxphyaddr=vcpu.host_maxphyaddr, ad=ad)
        else:
            walking.set_nested(levels=parameters.tdp_level, maxphyaddr=vcpu.host_maxphyaddr)
        walking.nested_root = cpu.nested_root
    return walking
