"""Names for host addresses, so that recordings of different machines can be compared.

`S7` is shadow page number 7, `S7[3]` its SPTE 3, `S7|827` an SPTE that points to it (rest of the bits 0x827),
`gpa:800000|e67` an SPTE that maps the page at guest address 0x800000, `zero|825` one of the zero page,
`mmio:...` an MMIO SPTE, `frozen` an SPTE of a table that the TDP MMU removed, `pfn?...` a page at no
guest address, `?...` an address in no known shadow page.

Shadow pages are numbered in order of creation, as far as the states show it: a page is a new one when no
page was at its address before, when the one that was there had another gfn or role, or when the op zapped
such a page and made one again. A page that an op makes and destroys gets no number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import Any

from shadowmmu.kvm.design.design import Design
from shadowmmu.kvm.tracepoints.event import Event
from shadowmmu.kvm.tracepoints.mmu import GetPage, PageEvent, PrepareZapPage
from shadowmmu.kvm.tracepoints.role_layout import layout_of

__all__ = ["Area", "Names", "RawState", "State"]

RawState = Mapping[str, Any]
"""The MMU's state in raw addresses (trace.snapshot)."""

State = dict[str, Any]
"""The state as recordings show it."""

Area = tuple[int, int, int]
"""Host memory made for a slot: host virtual address, bytes, the gpa it was made for."""

_PA = 0x000F_FFFF_FFFF_F000
_EMPTY = {0: "none", 1 << 63: "none63"}
_NO_SLOT = 1 << 63
_INVALID_ROOT = (1 << 64) - 1
_MMIO = 1 << 51
_EPT_MMIO, _EPT_MMIO_MASK = 6, 1 << 63 | 7
_FROZEN = 0x1A0
_FROZEN_IGNORED = 1 << 63 | 1 << 10
_HUGE = 1 << 7
_ROLE_DIRECT, _ROLE_INVALID, _ROLE_4_BYTE = 1 << 7, 1 << 11, 1 << 4

_PageKey = tuple[int, int, int, bool, str]
"""What an event's text says about a page: gfn, level, quadrant, direct, access."""


class Names:
    """Knows the shadow pages before and after the current op and what backs which guest page."""

    def __init__(self, areas: Mapping[int, Area], design: Design | None = None) -> None:
        """`areas` is a live view: slot id -> memory, in the order in which the slots were first set.

        `design` says where the recorded host has its zero page (page 0 of the model's), and whether event
        texts tell that an op made a page again.
        """
        self._areas = areas
        self._design = design or Design()
        self._layout = layout_of(self._design)
        self._now: dict[int, str] = {}
        self._before: dict[int, str] = {}
        self._identity: dict[str, tuple[int, int]] = {}
        self._created = 0
        self._backing: dict[int, int | str] = {}

    # -- addresses

    def page(self, hpa: int) -> str | None:
        """Return the name of the shadow page at `hpa`, after this op or else before it."""
        return self._now.get(hpa) or self._before.get(hpa)

    def sptep(self, hpa: int) -> str:
        """Return the name of the SPTE at physical address `hpa`."""
        page = self.page(hpa & ~0xFFF)
        return f"{page}[{hpa >> 3 & 511}]" if page else f"?{hpa:x}"

    def pointer(self, hpa: int) -> str:
        """Return the name of a pointer, which may be null."""
        return self.sptep(hpa) if hpa else "null"

    def spte(self, spte: int, *, leaf: bool = False) -> str:
        """Return the name of an SPTE's value; `leaf` says that it cannot point to a shadow page."""
        if spte in _EMPTY:
            return _EMPTY[spte]
        if spte & ~_FROZEN_IGNORED == _FROZEN:
            return "frozen"
        if spte & _MMIO or spte & _EPT_MMIO_MASK == _EPT_MMIO:
            return f"mmio:{spte:x}"
        page = None if leaf else self.page(spte & _PA)
        return f"{page or self.pfn((spte & _PA) >> 12)}|{spte & ~_PA:x}"

    def pfn(self, pfn: int) -> str:
        """Return the name of a host frame: the guest address it backs, also inside a known huge page."""
        if pfn >> 52:
            return "noslot" if pfn == _NO_SLOT else f"error:{pfn:x}"
        for order in (0, 9, 18):
            first = pfn >> order << order
            backed = self._backing.get(first)
            if backed == "zero":
                if first == pfn:
                    return "zero"
            elif isinstance(backed, int) and not backed & (0x1000 << order) - 1:
                return f"gpa:{backed + (pfn - first << 12):x}"
        return f"pfn?{pfn or self._design.zero_page >> 12:x}"

    def hva(self, address: int) -> str:
        """Return the name of a host virtual address in the memory of a slot, its end included."""
        for start, size, gpa in self._areas.values():
            if start <= address <= start + size:
                return f"gpa:{address - start + gpa:x}"
        return f"hva?{address:x}"

    # -- state

    def state(self, raw: RawState, events: Iterable[Event]) -> State:
        """Number the pages of the state after an op and render it; `events` are the op's.

        What was the state so far becomes the one before. Name the events of the op after this.
        """
        self.learn(raw["pfns"])
        self.number(raw["sps"], events)
        on_list = [sp for sp in raw["sps"] if not sp["off_list"]]
        return {
            "kvm": {
                "used": raw["used"],
                "max": raw["max"],
                "gen": raw["gen"],
                "indirect": raw["indirect"],
                "slots_gen": f"{raw['slots_gen']:x}",
                **({"nx_possible": raw["nx_possible"]} if any(raw.get("nx_possible") or ()) else {}),
            },
            "vcpus": {str(vcpu["id"]): self._vcpu(vcpu) for vcpu in raw["vcpus"]},
            "sps": {self._now[sp["hpa"]]: self._shadow_page(sp) for sp in raw["sps"]},
            "order": [self._now[sp["hpa"]] for sp in on_list],
            "slots": {str(s["id"]): [f"{s['gfn']:x}", s["npages"], s["flags"]] for s in raw["slots"]},
            "rmap": {
                f"{slot}/{level}/{gfn:x}": [self.sptep(spte) for spte in sptes]
                for slot, level, gfn, sptes in raw["rmap"]
            },
            "lpage": {f"{slot}/{level}/{gfn:x}": count for slot, level, gfn, count in raw["lpage"]},
            "wtrack": {f"{slot}/{gfn:x}": count for slot, gfn, count in raw["wtrack"]},
        }

    def learn(self, backing: Mapping[int, int | str]) -> None:
        """Learn what frames back now: frame number -> guest address, or "zero"."""
        self._backing.update(backing)

    def fork(self) -> Names:
        """Return names that know the same; what they learn and number stays theirs."""
        other = copy(self)
        other._now, other._before = dict(self._now), dict(self._before)
        other._identity, other._backing = dict(self._identity), dict(self._backing)
        return other

    def number(self, pages: Sequence[Mapping[str, Any]], events: Iterable[Event]) -> None:
        """Number the pages after an op (`hpa`, `gfn`, `role`, newest first); `events` are the op's."""
        remade = _remade(events) if self._design.event_strings else set()
        self._before, self._now = self._now, {}
        for sp in reversed(pages):
            role = sp["role"]
            identity = sp["gfn"], role & ~_ROLE_INVALID
            name = self._before.get(sp["hpa"])
            again = not role & _ROLE_INVALID and self._state_key(sp) in remade
            if name is None or again or self._identity[name] != identity:
                self._created += 1
                name = f"S{self._created}"
                self._identity[name] = identity
            self._now[sp["hpa"]] = name

    def _state_key(self, sp: Mapping[str, Any]) -> _PageKey:
        role = sp["role"]
        access = self._layout.letters(self._layout.role(role))
        return sp["gfn"], role & 15, role >> 5 & 3, bool(role & _ROLE_DIRECT), access

    def _root(self, hpa: int, *, nested: bool) -> str:
        if hpa == _INVALID_ROOT:
            return "invalid"
        if nested and not hpa:
            return "dummy"
        return self._now.get(hpa, f"?{hpa or self._design.zero_page:x}")

    def _vcpu(self, vcpu: Mapping[str, Any]) -> State:
        nested = "guest_mmu" in vcpu
        named = self._mmu(vcpu, nested=nested)
        if nested:
            named["in_l2"] = int(vcpu["in_l2"])
            named["nested_cpu_role"] = f"{self._layout.cpu_role(*vcpu['nested_cpu_role']):x}"
            named["guest_mmu"] = self._mmu(vcpu["guest_mmu"], nested=True)
        return named

    def _mmu(self, mmu: Mapping[str, Any], *, nested: bool) -> State:
        named: State = {
            "pgd": "-" if mmu["root"] == _INVALID_ROOT else f"{mmu['pgd']:x}",
            "root": self._root(mmu["root"], nested=nested),
            "cpu_role": f"{self._layout.cpu_role(*mmu['cpu_role']):x}",
            "root_role": f"{self._layout.role(mmu['root_role']):x}",
            "prev": [
                [f"{pgd:x}", self._root(hpa, nested=nested)]
                for pgd, hpa in mmu["prev"]
                if hpa != _INVALID_ROOT
            ],
        }
        if "pae_root" in mmu:
            named["root"] = "pml4_root" if mmu.get("pml4_root") else "pae_root"
            named["pae_root"] = [self.spte(word) for word in mmu["pae_root"]]
        return named

    def _shadow_page(self, sp: Mapping[str, Any]) -> State:
        role = sp["role"]
        level = role & 15
        named: State = {
            "gfn": f"{sp['gfn']:x}",
            "role": f"{self._layout.role(role):x}",
            "unsync": int(sp["unsync"]),
            "unsync_children": sp["unsync_children"],
            "gen": sp["gen"],
            "root_count": sp["root_count"],
            "flood": sp["flood"],
            "nxd": int(sp["nxd"]),
            "level": level,
            "access": self._layout.letters(self._layout.role(role)),
        }
        for key, value in (
            ("direct", int(bool(role & _ROLE_DIRECT))),
            ("quadrant", role >> 5 & 3),
            ("has_4_byte_gpte", int(bool(role & _ROLE_4_BYTE))),
            ("invalid", int(bool(role & _ROLE_INVALID))),
            ("tdp", int(sp["tdp"])),
        ):
            if value:
                named[key] = value
        named["parents"] = [self.sptep(parent) for parent in sp["parents"]]
        named["sptes"] = {
            str(index): self.spte(spte, leaf=level == 1 or bool(spte & _HUGE))
            for index, spte in sorted(sp["sptes"].items())
        }
        if sp["translations"]:
            words = sorted(sp["translations"].items())
            named["st"] = {str(index): f"{self._layout.translation(word):x}" for index, word in words}
        named["none63"] = sp["none63"]
        if sp["off_list"]:
            named["off_list"] = 1
        return named


def _event_key(event: PageEvent) -> _PageKey:
    return event.gfn, event.level, event.quadrant, event.direct, event.access


def _remade(events: Iterable[Event]) -> set[_PageKey]:
    """Return pages that were zapped and afterwards made again."""
    zapped: set[_PageKey] = set()
    remade: set[_PageKey] = set()
    for event in events:
        if isinstance(event, PrepareZapPage):
            zapped.add(_event_key(event))
        elif isinstance(event, GetPage) and event.created and _event_key(event) in zapped:
            remade.add(_event_key(event))
    return remade
