"""SPTEs of the TDP MMU: changed by several with mmu_lock held for reading."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..case import Case
from .spte import EMPTY, FROZEN, has, put, take

Threads = dict[str, Callable[[], None]]


class R29(Case):
    """tdp_mmu_set_spte_atomic() twice."""

    name = "R29"
    title = "TDP MMU: two faults install an SPTE at one place"
    protections = {"cmpxchg": "an SPTE is installed by cmpxchg of what was seen; who fails starts again"}

    def setup(self) -> None:
        self.s = self.shared(spte=EMPTY, tables=0)
        self.mmu_lock = self.lock()

    def threads(self) -> Threads:
        return {"vCPU 0": lambda: self.fault("table0"), "vCPU 1": lambda: self.fault("table1")}

    def fault(self, table: str) -> None:
        with self.mmu_lock.read():
            if self.s.spte != EMPTY:
                return
            if self.has("cmpxchg"):
                if not self.s.cmpxchg("spte", EMPTY, table):
                    return
            else:
                self.s.spte = table
            self.s.add("tables", 1)

    def check(self) -> None:
        if self.s.peek("tables") != 1:
            self.bad(f"{self.s.peek('tables')} tables are counted, one is linked: the other is lost")


class R30(Case):
    """tdp_mmu_zap_spte_atomic(): nothing may come before the flush."""

    name = "R30"
    title = "TDP MMU: an SPTE is zapped and installed anew before the TLBs are flushed"
    protections = {"frozen": "the SPTE is FROZEN until the flush is done, and faults retry (FROZEN_SPTE)"}

    def setup(self) -> None:
        self.s = self.shared(spte="4K", tlb="4K")
        self.mmu_lock = self.lock()

    def threads(self) -> Threads:
        return {"zap": self.zap, "page fault": self.fault}

    def zap(self) -> None:
        with self.mmu_lock.read():
            if not self.s.cmpxchg("spte", "4K", FROZEN if self.has("frozen") else EMPTY):
                return
            self.s.step("tlb", "flush all TLBs", lambda values: values.update(tlb=EMPTY))
            if self.has("frozen"):
                self.s.spte = EMPTY

    def fault(self) -> None:
        with self.mmu_lock.read():
            old = self.s.spte
            if old != EMPTY:
                return

            def install(values: dict[str, Any]) -> bool:
                if values["spte"] != EMPTY:
                    return False
                values["spte"] = "2M"
                return bool(values["tlb"] == "4K")

            if self.s.step("spte tlb", "cmpxchg spte, - -> 2M", install):
                self.bad("one address has a 2 MiB SPTE and a 4 KiB translation of another page in a TLB")


class R31(Case):
    """handle_removed_pt() with mmu_lock held for reading."""

    name = "R31"
    title = "TDP MMU: a fault maps a page in a table that was unlinked"
    protections = {
        "freeze_children": "all entries of a removed table are exchanged for FROZEN_SPTE",
        "wait_while_frozen": "an entry that another zap froze is exchanged again until that zap is done",
    }

    def setup(self) -> None:
        self.s = self.shared(parent="table", entry="pfn1")
        self.mmu_lock = self.lock()

    def threads(self) -> Threads:
        return {"page fault": self.fault, "remove table": self.remove, "zap leaf": self.zap}

    def fault(self) -> None:
        with self.mmu_lock.read():
            if self.s.parent == "table" and self.s.entry == EMPTY:
                self.s.cmpxchg("entry", EMPTY, "pfn2")

    def remove(self) -> None:
        s = self.s
        with self.mmu_lock.read():
            if not s.cmpxchg("parent", "table", EMPTY):
                return
            if not self.has("freeze_children"):
                return
            while s.xchg("entry", FROZEN) == FROZEN and self.has("wait_while_frozen"):
                s.wait(lambda values: values["entry"] != FROZEN, "entry", "the entry is no longer FROZEN")

    def zap(self) -> None:
        s = self.s
        with self.mmu_lock.read():
            if s.parent == "table" and s.cmpxchg("entry", "pfn1", FROZEN):
                self.note("flush all TLBs")
                s.entry = EMPTY

    def check(self) -> None:
        if self.s.peek("entry") != FROZEN:
            self.bad(
                f"a removed table, about to be freed, has an entry that can be used: {self.s.peek('entry')}"
            )


class R32(Case):
    """tdp_iter_step_down() after a yield, or after a cmpxchg that failed."""

    name = "R32"
    title = "TDP MMU: a walk steps down into a table by what it read before it yielded"
    protections = {"read_again": "the SPTE is read again right before the step down (tdp_iter_step_down)"}

    def setup(self) -> None:
        self.s = self.shared(parent="table", table="live")
        self.readers = self.rcu()

    def threads(self) -> Threads:
        return {"walk": self.walk, "page fault": self.replace}

    def walk(self) -> None:
        with self.readers.read():
            seen = self.s.parent
        self.note("yields")
        with self.readers.read():
            if self.has("read_again"):
                seen = self.s.parent
            if seen == "table" and self.s.table == "freed":
                self.bad("a freed table is walked")

    def replace(self) -> None:
        if self.s.cmpxchg("parent", "table", "2M page"):
            self.readers.synchronize()
            self.s.table = "freed"


class R33(Case):
    """tdp_mmu_split_huge_page(): the children are made from what the huge SPTE was."""

    name = "R33a"
    title = "TDP MMU: a huge SPTE is split while the processor and a fast page fault change it"
    protections = {
        "cmpxchg": "the table is linked by cmpxchg of the huge SPTE that the children were made from",
    }

    def setup(self) -> None:
        self.s = self.shared(spte="2M MW A", children="", written=False)

    def threads(self) -> Threads:
        return {"split": self.split, "fast_page_fault": self.fault, "processor": self.write}

    def split(self) -> None:
        s = self.s
        huge = s.spte
        while True:
            s.children = take(huge, "2M")
            if not self.has("cmpxchg"):
                s.spte = "table"
                return
            if s.cmpxchg("spte", huge, "table"):
                return
            huge = s.spte

    def fault(self) -> None:
        old = self.s.spte
        if has(old, "MW"):
            self.s.cmpxchg("spte", old, put(old, "W"))

    def write(self) -> None:
        def change(values: dict[str, Any]) -> None:
            if has(values["spte"], "W"):
                values["spte"] = put(values["spte"], "D")
                values["written"] = True

        self.s.step("spte written", "writes the page if W, sets D", change)

    def check(self) -> None:
        if self.s.peek("written") and not has(self.s.peek("children"), "D"):
            self.bad("the page was written, and no SPTE is Dirty any more")


class R33Exclusive(R33):
    """The same with mmu_lock held for writing: no cmpxchg, but accounting uses what the SPTE really was."""

    name = "R33b"
    title = "TDP MMU: split with mmu_lock held for writing: Dirty set meanwhile reaches the host's page"
    protections = {"true_old": "handle_changed_spte() is given what the exchange returned (tdp_mmu_set_spte)"}

    def setup(self) -> None:
        super().setup()
        self.host_dirty = False

    def split(self) -> None:
        s = self.s
        huge = s.spte
        s.children = take(huge, "2M")
        old = s.xchg("spte", "table")
        self.host_dirty = has(old if self.has("true_old") else huge, "D")

    def check(self) -> None:
        if self.s.peek("written") and not has(self.s.peek("children"), "D") and not self.host_dirty:
            self.bad("the page was written, and the host does not know")


class R35(Case):
    """tdp_mmu_clear_spte_bits(): a plain store where nobody can change the SPTE."""

    name = "R35"
    title = "TDP MMU: bits are cleared by a plain store only if no other bit can change meanwhile"
    protections = {"atomic_if_volatile": "an SPTE with volatile bits is changed by an atomic and-not"}

    def setup(self) -> None:
        self.s = self.shared(clean="W A", dirty="W A D", written=False)

    def threads(self) -> Threads:
        return {"ageing": self.age, "processor": self.write}

    def age(self) -> None:
        for name in ("clean", "dirty"):
            old = getattr(self.s, name)
            volatile = not has(old, "A") or (has(old, "W") and not has(old, "D"))
            if volatile and self.has("atomic_if_volatile"):
                self.s.update(name, lambda spte: take(spte, "A"), f"clear A of {name}")
            else:
                setattr(self.s, name, take(old, "A"))

    def write(self) -> None:
        def change(values: dict[str, Any]) -> None:
            values.update({name: put(values[name], "D") for name in ("clean", "dirty")}, written=True)

        self.s.step("clean dirty written", "writes both pages, sets D", change)

    def check(self) -> None:
        for name in ("clean", "dirty"):
            if self.s.peek("written") and not has(self.s.peek(name), "D"):
                self.bad(f"Dirty of the page that was {name} is lost")


class R46(Case):
    """make_mmu_pages_available(), CVE-2022-45869: pages of nested guests beside those of the TDP MMU."""

    name = "R46"
    title = "TDP MMU: faults that hold mmu_lock for reading make room for shadow pages"
    protections = {
        "shadow_only": "only a fault that needs a shadow page, and holds mmu_lock for writing, recycles"
    }

    def setup(self) -> None:
        self.s = self.shared(active=("page 1", "page 2"), too_many=2, freed=())
        self.mmu_lock = self.lock()

    def threads(self) -> Threads:
        return {
            "TDP fault 0": self.tdp_fault,
            "TDP fault 1": self.tdp_fault,
            "nested fault": self.nested_fault,
        }

    def tdp_fault(self) -> None:
        with self.mmu_lock.read():
            if not self.has("shadow_only"):
                self.recycle()

    def nested_fault(self) -> None:
        with self.mmu_lock:
            self.recycle()

    def recycle(self) -> None:
        """Zap one page as kvm_mmu_zap_oldest_mmu_pages() does."""
        s = self.s
        if not s.too_many:
            return
        oldest, *others = s.active
        s.active = tuple(others)
        s.too_many -= 1
        if oldest in s.freed:
            self.bad(f"{oldest} is zapped and freed twice")
        s.freed = (*s.freed, oldest)

    def check(self) -> None:
        s = self.s
        if {*s.peek("active"), *s.peek("freed")} != {"page 1", "page 2"}:
            self.bad("a page is on no list and not freed")


CASES = (R29, R30, R31, R32, R33, R33Exclusive, R35, R46)
