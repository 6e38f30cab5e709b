"""A copy of the MMU's tables, updated by comparing it with the MMU's own.

A table is compared as bytes with its copy, so a first look at a guest with a million SPTEs costs as much as
its tables have pages, and every later one only what changed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ...guest.play.machine import Machine
from ...host.memory import differing_words
from ...kvm.bits import (
    INVALID_PAGE,
    ROLE_INVALID,
    ROLE_LEVEL,
)
from ...kvm.state.memslots import MemSlot
from ...kvm.state.mmu import KvmMmu
from ...kvm.state.shadow_page import ShadowPage
from ...kvm.tracepoints.event import Event
from ...trace.names import Names
from ...trace.snapshot import backed, shadow_pages
from ...x86.bits import ADDR, P
from .shadow_copy import FrameKey, Page, Spte, pages_at
from .translations import HostWatcher, Translations

__all__ = ["Changes", "Tables"]

NO_SLOT, TDP = -1, -2
"""Stand in for a slot's id: no slot has the frame; the TDP MMU, which has no rmaps, maps it."""
LOG_STEP = 8
"""Bytes of a dirty bitmap that are compared as one."""


@dataclass(slots=True)
class Changes:
    """What has to be looked at again. `everything`: all there is; the rest is empty then."""

    everything: bool = False
    pages: set[int] = field(default_factory=set)
    sptes: set[int] = field(default_factory=set)
    frames: set[FrameKey] = field(default_factory=set)
    tables: set[int] = field(default_factory=set)
    """gfns of guest tables."""
    rewritten: set[int] = field(default_factory=set)
    """gfns of guest tables that changed under a page in sync; also filled if `everything`."""


def _roots_of(machine: Machine, mmu: KvmMmu) -> list[int]:
    """Return the current root, or its four directories, and the previous ones."""
    found = [hpa for hpa in (mmu.prev_root(i)[1] for i in (0, 1, 2)) if hpa != INVALID_PAGE]
    root = mmu.root_hpa
    if root in (0, INVALID_PAGE):
        return found
    if not mmu.root_is_special():
        return [root, *found]
    entries = [machine.kvm.read_spte(mmu.pae_root + 8 * i) for i in range(4)]
    return [*(entry & ADDR for entry in entries if entry & P), *found]


class Tables:
    """All shadow pages and the TDP MMU's tables, with indexes of what points to them and what they map.

    pages       by the address of their table
    pointing    addresses of the SPTEs that point to the table at an address
    mapping     addresses of the leaf SPTEs by what they map
    named       valid pages by gfn and role
    shadowing   pages that shadow the guest table at a gfn and were not zapped (`valid_at`: that are valid)
    regions     number of such pages (`shadowing`) in a huge page: (slot id, level, first gfn)
    roots       number of times that a table is in use as root
    vcpu_roots  the roots of a vCPU, by id: those of root_mmu and those of guest_mmu
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.kvm = machine.kvm
        self._host = HostWatcher()
        machine.host.notifiers.append(self._host)
        self.names = Names({}, self.kvm.design)
        self.unseen: set[int] = set()
        self._generations = (-1, -1)
        self._pages_changed = False
        self._translations: dict[int, Translations] = {}
        self._clear()

    def _clear(self) -> None:
        self.pages: dict[int, Page] = {}
        self.pointing: defaultdict[int, set[int]] = defaultdict(set)
        self.mapping: defaultdict[FrameKey, set[int]] = defaultdict(set)
        self.named: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
        self.shadowing: defaultdict[int, set[int]] = defaultdict(set)
        self.regions: Counter[FrameKey] = Counter()
        self.roots: Counter[int] = Counter()
        self.vcpu_roots: dict[int, tuple[list[int], list[int]]] = {}
        self.leaves: Counter[int] = Counter()
        self.active: list[ShadowPage] = []
        self.former_active: list[ShadowPage] = []
        self.unsync_pages = 0
        self._logs: dict[int, bytes] = {}

    # -- reading -------------------------------------------------------------------------------------------

    def bytes_at(self, hpa: int) -> bytes:
        """Return the 4 KiB at hpa."""
        return self.machine.arena.page_bytes(hpa)

    def spte(self, address: int) -> Spte | None:
        """Return the SPTE at an address; None if it is empty or in no table."""
        page = self.pages.get(address & ~0xFFF)
        return None if page is None else page.entries.get(address >> 3 & 511)

    def sptes_of(self, page: Page) -> list[Spte]:
        """Return the SPTEs of a page that are not empty, in order."""
        return [page.entries[i] for i in sorted(page.entries)]

    def all_sptes(self) -> Iterator[Spte]:
        """Yield every SPTE that is not empty."""
        for page in self.pages.values():
            yield from self.sptes_of(page)

    def sptes_at(self, addresses: Iterable[int]) -> Iterator[Spte]:
        """Yield the SPTEs at these addresses that are not empty, in order."""
        for address in sorted(addresses):
            spte = self.spte(address)
            if spte is not None:
                yield spte

    def all_frames(self) -> set[FrameKey]:
        """Return all frames that are mapped or have an rmap."""
        found = set(self.mapping)
        for slot in self.kvm.memslots:
            for level in (1, 2, 3):
                found |= {(slot.id, level, gfn) for gfn, _ in slot.rmap_entries(level)}
        return found

    def child(self, spte: Spte) -> Page | None:
        """Return the page that an SPTE points to, or None."""
        return self.pages.get(spte.value & ADDR)

    def gpte(self, page: Page, index: int) -> int | None:
        """Return the guest's entry that an SPTE of an indirect page shadows, as it is now; None if nothing
        backs it.
        """
        if page.guest is None:
            return None
        offset, size = page.gpte_offset(index)
        return int.from_bytes(page.guest[offset : offset + size], "little")

    def gpte_gpa(self, page: Page, index: int) -> int:
        """Return the guest address of that entry."""
        return (page.gfn << 12) + page.gpte_offset(index)[0]

    def slot(self, id: int) -> MemSlot | None:
        for slot in self.kvm.memslots:
            if slot.id == id:
                return slot
        return None

    def valid_at(self, gfn: int) -> Iterator[Page]:
        """Yield the valid pages that shadow the guest table at gfn."""
        return (self.pages[hpa] for hpa in self.shadowing.get(gfn, ()) if self.pages[hpa].valid)

    def is_protected(self, gfn: int) -> bool:
        """Return whether gfn holds a guest table whose shadow is in sync."""
        return any(not page.unsync for page in self.valid_at(gfn))

    def maps_of(self, gfn: int) -> Iterator[int]:
        """Yield the addresses of the leaf SPTEs, of every size and in both MMUs, that map gfn."""
        slot = self.kvm.gfn_to_memslot(gfn)
        for level in (1, 2, 3):
            first = gfn & -pages_at(level)
            if slot is not None:
                yield from self.mapping.get((slot.id, level, first), ())
            yield from self.mapping.get((TDP, level, first), ())

    def translations(self, vcpu: int, tables: tuple[int, ...]) -> Translations:
        """Return what is known to be good in the TLB of a vCPU that uses these tables."""
        known = self._translations.get(vcpu)
        if known is None or known.tables != tables:
            known = self._translations[vcpu] = Translations(tables)
        return known

    # -- names ---------------------------------------------------------------------------------------------

    def number(self, events: Iterable[Event]) -> None:
        """Give new pages their numbers; `events` are those since the last call."""
        if not self._pages_changed:
            return
        try:
            listed, extra = shadow_pages(self.kvm)
        except LookupError:
            return
        self._pages_changed = False
        self.names.number(
            [{"hpa": sp.hpa, "gfn": sp.gfn, "role": sp.role} for sp in (*listed, *extra)], events
        )

    def page_name(self, hpa: int) -> str:
        """Return the name of the page at hpa, as recordings have it."""
        return self.names.page(hpa) or f"page {hpa:#x}"

    def spte_name(self, address: int) -> str:
        """Return the name of the SPTE at an address."""
        return f"{self.page_name(address & ~0xFFF)}[{address >> 3 & 511}]"

    def value_name(self, spte: Spte) -> str:
        """Return what an SPTE holds, as recordings write it."""
        if spte.is_leaf:
            self.names.learn(backed(self.machine, {(spte.value & ADDR) >> 12}))
        return self.names.spte(spte.value, leaf=not spte.is_link)

    # -- looking -------------------------------------------------------------------------------------------

    def look(self, *, again: bool = False) -> Changes:
        """Return what changed since the last look; `again`: drop what is known and treat
        everything as new.
        """
        kvm = self.kvm
        changes = Changes()
        generations = kvm.mmu_valid_gen, kvm.memslots_generation
        former: dict[int, Page] = {}
        if again or generations != self._generations:
            active, former = self.active, self.pages
            self._clear()
            self.active = active
            self._generations = generations
            changes.everything = True
        seen = 0
        for sp in kvm.owners:
            if sp is not None:
                seen += 1
                page = self.pages.get(sp.hpa)
                if page is None or page.sp is not sp:
                    if page is not None:
                        self._drop(page, changes)
                    page = self.pages[sp.hpa] = Page(kvm, sp)
                    changes.pages.add(page.hpa)
                    self._pages_changed = True
                self._compare(page, changes, former.get(page.hpa, page))
        if seen != len(self.pages):
            here = {sp.hpa for sp in kvm.owners if sp is not None}
            for hpa in [hpa for hpa in self.pages if hpa not in here]:
                self._drop(self.pages.pop(hpa), changes)
        self._look_at_roots(changes)
        if changes.everything or self._host.ranges:
            self._translations.clear()
        for known in self._translations.values():
            known.drop(changes.sptes)
        self._look_at_host(changes)
        self._look_at_logs(changes)
        self.former_active, self.active = self.active, kvm.active_mmu_pages.pages()
        if changes.everything:
            return Changes(everything=True, rewritten=changes.rewritten)
        return changes

    def _compare(self, page: Page, changes: Changes, former: Page) -> None:
        """Find what changed in a page; `former` is what was known of it, mostly itself."""
        sp = page.sp
        meta = (
            sp.role,
            sp.unsync,
            sp.unsync_children,
            sp.mmu_valid_gen,
            sp.root_count,
            sp.parents(),
            sp.nx_huge_page_disallowed,
            sp.tracked_nx_huge_page,
            sp.on_list,
            sp.ptep,
            sp.scheduled_root_to_zap,
        )
        if meta != page.meta:
            self._new_meta(page, meta, changes)
        if meta[2] or page.marked:
            marked = frozenset(sp.marked_children())
            if marked != page.marked:
                page.marked = marked
                self._touch_all(page, changes)
        image = self.bytes_at(page.hpa)
        translations = self.bytes_at(sp.translations) if sp.translations else b""
        if image != page.image or translations != page.translations_image:
            self._new_words(page, image, translations, changes)
        if page.valid and page.has_gptes:
            guest = self._guest_table(page)
            if former.read and former.sp is sp and guest != former.guest and not page.unsync:
                changes.rewritten.add(page.gfn)
            page.read = True
            if guest != page.guest:
                page.guest = guest
                self._touch_all(page, changes)

    def _guest_table(self, page: Page) -> bytes | None:
        slot = self.kvm.gfn_to_memslot(page.gfn)
        hpa = slot.mapping.page(slot.page_index(page.gfn)) if slot is not None else 0
        return self.bytes_at(hpa & ADDR) if hpa else None

    def _touch_all(self, page: Page, changes: Changes) -> None:
        """Mark the page, all its SPTEs and those that point to it as changed."""
        changes.pages.add(page.hpa)
        if not changes.everything:
            changes.sptes.update(spte.address for spte in self.sptes_of(page))
            changes.sptes |= self.pointing.get(page.hpa, set())

    def _new_meta(self, page: Page, meta: tuple[int, ...], changes: Changes) -> None:
        former = page.meta
        self._pages_changed |= former[:1] != meta[:1]
        self._unname(page, changes)
        page.meta = meta
        page.role = meta[0]
        page.level = page.role & ROLE_LEVEL
        page.valid = not self.kvm.is_obsolete(page.sp)
        self._name(page, changes)
        changes.pages.add(page.hpa)
        if former[:4] != meta[:4]:
            self._touch_all(page, changes)

    def _name(self, page: Page, changes: Changes) -> None:
        """Add a page to the indexes that depend on its role."""
        if page.valid and not page.tdp and not page.special:
            self.named[page.gfn, page.role].add(page.hpa)
        self.unsync_pages += page.unsync
        if page.has_gptes and not page.role & ROLE_INVALID:
            self.shadowing[page.gfn].add(page.hpa)
            self._count_region(page.gfn, 1)
            changes.tables.add(page.gfn)

    def _unname(self, page: Page, changes: Changes) -> None:
        if not page.meta:
            return
        names = self.named.get((page.gfn, page.role))
        if names is not None:
            names.discard(page.hpa)
        self.unsync_pages -= page.meta[1]
        if page.hpa in self.shadowing.get(page.gfn, ()):
            self.shadowing[page.gfn].remove(page.hpa)
            self._count_region(page.gfn, -1)
            changes.tables.add(page.gfn)

    def _count_region(self, gfn: int, delta: int) -> None:
        slot = self.kvm.gfn_to_memslot(gfn)
        for level in (2, 3):
            self.regions[NO_SLOT if slot is None else slot.id, level, gfn & -pages_at(level)] += delta

    def _new_words(self, page: Page, image: bytes, translations: bytes, changes: Changes) -> None:
        changed = differing_words(page.image, image)
        if translations != page.translations_image:
            if len(translations) == len(page.translations_image):
                changed = sorted({*changed, *differing_words(page.translations_image, translations)})
            else:
                changed = sorted({*changed, *page.entries})
        for i in changed:
            self._forget(page, i, changes)
        words = memoryview(image).cast("Q")
        page.image = image
        page.translations_image, page.translations = translations, memoryview(translations).cast("Q")
        empty = self.kvm.design.empty_spte
        for i in changed:
            if words[i] != empty:
                self._note(Spte(page, i, words[i]), changes)

    def _note(self, spte: Spte, changes: Changes) -> None:
        """Add an SPTE to the indexes."""
        page, address = spte.page, spte.address
        page.entries[spte.index] = spte
        if spte.is_link:
            self.pointing[spte.value & ADDR].add(address)
            changes.pages.add(spte.value & ADDR)
        elif spte.present:
            key = self._frame(spte)
            page.frames[spte.index] = key
            self.mapping[key].add(address)
            self.leaves[page.level] += 1
            changes.frames.add(key)
        changes.sptes.add(address)

    def _forget(self, page: Page, index: int, changes: Changes) -> None:
        """Remove an SPTE as it was from the indexes."""
        address = page.hpa + 8 * index
        changes.sptes.add(address)
        spte = page.entries.pop(index, None)
        if spte is not None and spte.is_link:
            self.pointing[spte.value & ADDR].discard(address)
            changes.pages.add(spte.value & ADDR)
        key = page.frames.pop(index, None)
        if key is not None:
            self.leaves[page.level] -= 1
            sptes = self.mapping[key]
            sptes.discard(address)
            if not sptes:
                del self.mapping[key]
            changes.frames.add(key)
        if page.marked:
            changes.pages.add(page.hpa)

    def _frame(self, spte: Spte) -> FrameKey:
        gfn = spte.gfn & -pages_at(spte.level)
        if spte.page.tdp:
            return TDP, spte.level, gfn
        slot = self.kvm.gfn_to_memslot(spte.gfn)
        return NO_SLOT if slot is None else slot.id, spte.level, gfn

    def _drop(self, page: Page, changes: Changes) -> None:
        """Remove a page that was freed; another may be at its address."""
        self._pages_changed = True
        self._unname(page, changes)
        for index in list(page.entries):
            self._forget(page, index, changes)
        changes.sptes |= self.pointing.get(page.hpa, set())

    # -- what else a predicate depends on ----------------------------------------------------------------

    def _look_at_roots(self, changes: Changes) -> None:
        self.vcpu_roots = {
            vcpu.id: (_roots_of(self.machine, vcpu.root_mmu), _roots_of(self.machine, vcpu.guest_mmu))
            for vcpu in self.kvm.vcpus
        }
        roots = Counter(hpa for both in self.vcpu_roots.values() for found in both for hpa in found)
        if roots != self.roots:
            changes.pages |= {hpa for hpa in {*roots, *self.roots} if roots[hpa] != self.roots[hpa]}
            self.roots = roots

    def _look_at_host(self, changes: Changes) -> None:
        ranges, self._host.ranges = self._host.ranges, []
        for start, end in ranges:
            for slot in self.kvm.memslots:
                hva = slot.mapping.hva + (slot.first_page << 12)
                low, high = max(start, hva), min(end, hva + (slot.npages << 12))
                if low < high:
                    first = slot.base_gfn + (low - hva >> 12)
                    self._touch_frames(slot.id, first, slot.base_gfn + (high - hva + 0xFFF >> 12), changes)

    def _touch_frames(self, id: int, first: int, last: int, changes: Changes) -> None:
        """Mark everything that maps a part of [first, last) as changed."""
        for level in (1, 2, 3):
            size = pages_at(level)
            wanted = range(first & -size, last, size)
            if len(wanted) > len(self.mapping):
                keys = [key for key in self.mapping if key[1] == level and key[2] in wanted]
            else:
                keys = [(owner, level, gfn) for gfn in wanted for owner in (id, TDP)]
            for key in keys:
                changes.sptes |= self.mapping.get(key, set())

    def _look_at_logs(self, changes: Changes) -> None:
        """Mark what maps pages whose dirty bit changed: whether it may be writable depends on that."""
        for slot in self.kvm.memslots:
            if not slot.logs_dirty() or self.kvm.parameters.dirty_ring_size:
                self._logs.pop(slot.id, None)
                continue
            log = bytes(slot.log_words())
            former = self._logs.get(slot.id)
            if log != former:
                self._logs[slot.id] = log
                for at in range(0, len(log), LOG_STEP):
                    if former is None or former[at : at + LOG_STEP] != log[at : at + LOG_STEP]:
                        first = slot.base_gfn + 8 * at
                        self._touch_frames(slot.id, first, first + 8 * LOG_STEP, changes)
