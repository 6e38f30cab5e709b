"""Objects of an interpreted VM that report what is done to them: memory, shadow pages, roots, requests."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from shadowmmu.kvm.bits import (
    INVALID_PAGE,
    REQ_TLB_FLUSH_CURRENT,
    REQ_TLB_FLUSH_GUEST,
    ROLE_INVALID,
)
from shadowmmu.kvm.state.mmu import KvmMmu
from shadowmmu.kvm.state.shadow_page import ShadowPage
from shadowmmu.kvm.state.stats import VmStat
from shadowmmu.kvm.state.vcpu import Vcpu
from shadowmmu.kvm.state.vm import Kvm
from shadowmmu.show.reasons.change import Change, causes_of, is_bookkeeping
from shadowmmu.show.reasons.effect import effect_of
from shadowmmu.trace.names import Names

__all__ = ["Watch"]

_LOCAL_FLUSHES = {REQ_TLB_FLUSH_CURRENT: "its current TLB context", REQ_TLB_FLUSH_GUEST: "its guest's TLB"}


class _Words:
    """The machine's memory: writes are reported."""

    def __init__(self, words: Any, watch: Watch) -> None:
        self._words = words
        self._watch = watch

    def __getitem__(self, index: Any) -> Any:
        return self._words[index]

    def __len__(self) -> int:
        return len(self._words)

    def unwatched(self, index: int, count: int) -> list[int]:
        """Return a copy of words."""
        return list(self._words[index : index + count])

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(index, slice):
            self._words[index] = value
            return
        old = self._words[index]
        self._words[index] = value
        if old != value:
            self._watch.wrote(index, old, value)


class _Vm(Kvm):
    """Reports shadow pages that are made and freed."""

    watch: Watch

    def read_table(self, hpa: int) -> list[int]:
        """Return a table's entries, in one piece: reads are not reported."""
        return self.words.unwatched(hpa >> 3, 512)  # type: ignore[attr-defined, no-any-return]

    def set_owner(self, spt: int, sp: ShadowPage | None) -> None:
        old = self.page_at(spt)
        super().set_owner(spt, sp)
        if sp is not None:
            self.watch.made(sp)
        elif old is not None:
            self.watch.page(old, "freed")


class _Page(ShadowPage):
    """Reports what becomes of it; in sentences it stands for its name."""

    watch: Watch

    def __setattr__(self, name: str, value: Any) -> None:
        old = getattr(self, name, None)
        super().__setattr__(name, value)
        if name == "unsync" and bool(old) != bool(value):
            self.watch.page(self, "unsync" if value else "in sync")
        elif name == "role" and old is not None and value & ~old & ROLE_INVALID:
            self.watch.page(self, "zapped")

    @property
    def at_level(self) -> int:
        """The level, for sentences."""
        return self.level()

    def __format__(self, spec: str) -> str:
        return self.watch.mention(self)


class _Mmu(KvmMmu):
    """Reports its roots."""

    watch: Watch
    whose: str

    def __setattr__(self, name: str, value: Any) -> None:
        old = getattr(self, name, INVALID_PAGE)
        super().__setattr__(name, value)
        if name == "root_hpa" and old != value:
            self.watch.root(self.whose, old, value)


class _Stat(VmStat):
    """Reports flush requests to all vCPUs."""

    watch: Watch

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "remote_tlb_flush_requests":
            self.watch.flush("all vCPUs", "their whole TLB")


class _Vcpu(Vcpu):
    """Reports its own flush requests."""

    watch: Watch

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "requests" or not self.watch.is_dropped(self, sys._getframe(1)):
            super().__setattr__(name, value)

    def make_request(self, request: int) -> None:
        super().make_request(request)
        if request in _LOCAL_FLUSHES:
            self.watch.flush(f"vCPU {self.id}", _LOCAL_FLUSHES[request])


class Watch:
    """Notes what happens to a VM between ops. Values and pages get their names at the end of an op."""

    def __init__(self, kvm: Kvm, names: Names) -> None:
        self._kvm = kvm
        self._names = names
        self.drop: int | None = None
        """Number of the flush request to all vCPUs that is not made, counted from 0."""
        self._requests = 0
        self._dropping = False
        self._noted: list[tuple[Change, Any]] = []
        self._pages: list[ShadowPage] = []
        """Every page ever seen; the index is what `mention` writes."""
        self._named: dict[int, str] = {}
        """Index of a page -> its name."""
        self._values: dict[tuple[int, int], int] = {}
        """(index of a page, index of an SPTE) -> its value as last noted."""
        self._numbers: dict[int, int] = {}
        kvm.words = _Words(kvm.words, self)  # type: ignore[assignment]
        self._become(kvm, _Vm)
        self._become(kvm.stat, _Stat)
        for vcpu in kvm.vcpus:
            self._become(vcpu, _Vcpu)
            for mmu, whose in ((vcpu.root_mmu, ""), (vcpu.guest_mmu, " for L2")):
                mmu.whose = f"vCPU {vcpu.id}{whose}"  # type: ignore[attr-defined]
                self._become(mmu, _Mmu)
        for sp in kvm.owners:
            if sp is not None:
                self._number(sp)

    def _become(self, watched: Any, kind: type) -> None:
        watched.__dict__["watch"] = self
        watched.__class__ = kind

    def _number(self, sp: ShadowPage) -> int:
        number = self._numbers.get(id(sp))
        if number is None:
            number = self._numbers[id(sp)] = len(self._pages)
            self._pages.append(sp)
            self._become(sp, _Page)
        return number

    def mention(self, sp: ShadowPage) -> str:
        """Return what stands for a page in a sentence until it has its name."""
        return f"\0{self._number(sp)}\0"

    # -- what happens ----------------------------------------------------------------------------------

    def wrote(self, index: int, old: int, new: int) -> None:
        """Note a write of a word."""
        frame = sys._getframe(2)
        if is_bookkeeping(frame):
            return
        self._note("spte", index, old, new, frame)

    def made(self, sp: ShadowPage) -> None:
        """Note a new page."""
        self._number(sp)
        self.page(sp, "made")

    def page(self, sp: ShadowPage, what: str) -> None:
        """Note what became of a page."""
        self._note("page", sp, "", what, sys._getframe(2))

    def root(self, whose: str, old: int, new: int) -> None:
        """Note another root of a vCPU."""
        self._note("root", whose, old, new, sys._getframe(2))

    def is_dropped(self, vcpu: Vcpu, frame: Any) -> bool:
        """Return whether a request of kvm_make_all_cpus_request is not to reach a vCPU."""
        dropped = self._dropping and frame.f_code.co_name == "kvm_make_all_cpus_request"
        if dropped and vcpu is self._kvm.vcpus[-1]:
            self._dropping = False
        return dropped

    def flush(self, whose: str, what: str) -> None:
        """Note a flush request."""
        if whose == "all vCPUs":
            self._dropping = self._requests == self.drop
            self._requests += 1
        self._note("flush", whose, "", what, sys._getframe(2))

    def _note(self, kind: str, subject: Any, old: Any, new: Any, frame: Any) -> None:
        raw: Any = (subject, old, new)
        if kind == "spte":
            raw = (self._kvm.page_at(subject << 3), subject, old, new)
        self._noted.append((Change(0, kind, "", "", "", "", causes_of(frame)), raw))

    # -- the end of an op ------------------------------------------------------------------------------

    def changes(self, op: int, state: Mapping[str, Any] | None) -> Iterator[Change]:
        """Yield what was noted since the last call, with the names after the op; `state`: the snapshot."""
        noted, self._noted = self._noted, []
        for number, sp in enumerate(self._pages):
            name = self._names.page(sp.spt)
            if name is not None and (number not in self._named or self._kvm.page_at(sp.spt) is sp):
                self._named[number] = name
        for change, raw in noted:
            found = self._named_change(op, change, raw)
            if found is not None:
                yield found
        if state is not None:
            yield from self._by_processor(op, state)

    def _named_change(self, op: int, change: Change, raw: Any) -> Change | None:
        causes = tuple(
            replace(c, says=None if c.says is None else self._spell(c.says)) for c in change.causes
        )
        if change.kind == "spte":
            sp, index, old, new = raw
            sp = sp or self._kvm.page_at(index << 3)
            if sp is None:
                return None
            number = self._number(sp)
            self._values[number, index & 511] = new
            return self._entry(op, number, index & 511, old, new, causes)
        subject, old, new = raw
        if change.kind == "page":
            kind = "zap" if new == "zapped" else "page"
            return Change(op, kind, self._name(self._number(subject)), "", new, new, causes)
        if change.kind == "root":
            was, now = self._root(old), self._root(new)
            return Change(op, "root", subject, was, now, f"root {was} -> {now}", causes)
        return Change(op, "flush", subject, "", new, f"{subject} must flush {new}", causes)

    def _entry(self, op: int, number: int, index: int, old: int, new: int, causes: Any) -> Change:
        level = self._pages[number].level()
        was, now = (self._names.spte(value, leaf=level == 1 or bool(value & 1 << 7)) for value in (old, new))
        effect = effect_of(self._kvm, old, new, level, now)
        return Change(op, "spte", f"{self._name(number)}[{index}]", was, now, effect, causes)

    def _by_processor(self, op: int, state: Mapping[str, Any]) -> Iterator[Change]:
        """Entries that are not as they were last noted: the processor sets Accessed and Dirty itself."""
        for page in state["sps"]:
            sp = self._kvm.page_at(page["hpa"])
            if sp is None:
                continue
            number = self._number(sp)
            for index, value in page["sptes"].items():
                known = self._values.get((number, index))
                if known is not None and known != value:
                    yield self._entry(op, number, index, known, value, ())
                self._values[number, index] = value

    def _name(self, number: int) -> str:
        sp = self._pages[number]
        return self._named.get(number) or f"a page of gfn {sp.gfn:#x} that lived within an op"

    def _spell(self, says: str) -> str:
        parts = says.split("\0")
        parts[1::2] = [self._name(int(part)) for part in parts[1::2]]
        return "".join(parts)

    def _root(self, hpa: int) -> str:
        if hpa == INVALID_PAGE:
            return "none"
        return "dummy" if hpa == 0 else self._names.page(hpa) or "a table without a shadow page"
