"""Walks without mmu_lock, and the freeing of the tables they walk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..case import Case
from .spte import FROZEN, has, put

Threads = dict[str, Callable[[], None]]


class R10(Case):
    """walk_shadow_page_lockless_begin() against kvm_mmu_commit_zap_page()."""

    name = "R10"
    title = "lockless walk of shadow pages against freeing one"
    protections = {
        "reader_barrier": "a full barrier after mode = READING_SHADOW_PAGE_TABLES",
        "request_barrier": "a full barrier between the unlinking and the look at the vCPU's mode",
        "release": "mode = OUTSIDE_GUEST_MODE is a release: all reads of the walk come before it",
        "irqs_off": "interrupts are off on the walk, so that the IPI is acknowledged after it",
        "always_flush": "kvm_mmu_commit_zap_page() makes the request although no TLB needs a flush",
    }
    needs_tso = frozenset({"reader_barrier", "request_barrier"})

    def setup(self) -> None:
        self.s = self.shared(mode="OUTSIDE", link="table", table="live", irqs="on")

    def threads(self) -> Threads:
        return {"lockless walk": self.walk, "zap": self.zap}

    def walk(self) -> None:
        s = self.s
        if self.has("irqs_off"):
            s.step("irqs", "interrupts off", lambda values: values.update(irqs="off"))
        s.mode = "READING"
        self.fence("reader_barrier")
        if s.link == "table":
            self.in_order("release", self.read, self.leave)
        else:
            self.leave()
        s.step("irqs", "interrupts on", lambda values: values.update(irqs="on"))

    def leave(self) -> None:
        self.s.mode = "OUTSIDE"

    def read(self) -> None:
        if self.s.table == "freed":
            self.bad("a freed table is walked")

    def zap(self) -> None:
        s = self.s
        s.link = "none"
        self.fence("request_barrier")
        if self.has("always_flush") and s.mode != "OUTSIDE":
            s.wait(lambda values: values["irqs"] == "on", "irqs", "IPI, acknowledged")
        s.table = "freed"


class R11(Case):
    """A walk of the TDP MMU's tables, one of which is taken out and freed."""

    name = "R11"
    title = "lockless walk and fast page fault in a table of the TDP MMU that is removed"
    protections = {
        "rcu": "tables are freed after an RCU grace period, walks are RCU read sections",
        "frozen": "all entries of a removed table are exchanged for FROZEN_SPTE, whose old value is used",
    }

    def setup(self) -> None:
        self.s = self.shared(link="table", entry="pfn1 MW", table="live", written=False, host_dirty=False)
        self.read_section = self.rcu(held=self.has("rcu"))

    def threads(self) -> Threads:
        return {"fast_page_fault": self.fault, "zap": self.zap}

    def fault(self) -> None:
        s = self.s
        with self.read_section.read():
            if s.link != "table":
                return
            old = s.entry
            if s.table == "freed":
                self.bad("a freed table is walked")
            if not has(old, "MW"):
                return
            if s.cmpxchg("entry", old, put(old, "W")):
                s.written = True

    def zap(self) -> None:
        s = self.s
        s.xchg("link", FROZEN)
        old = s.xchg("entry", FROZEN) if self.has("frozen") else s.entry
        if has(old, "W"):
            s.host_dirty = True
        self.read_section.synchronize()
        s.table = "freed"

    def check(self) -> None:
        if self.s.peek("written") and not self.s.peek("host_dirty"):
            self.bad(
                "a page was made writable in a removed table, and the host does not know that it is dirty"
            )


class _Cached(Case):
    """A processor whose paging-structure cache leads to a table."""

    def walk(self) -> None:
        if self.s.step(
            "cache table",
            "walks on from its paging-structure cache",
            lambda v: v["cache"] and v["table"] == "freed",
        ):
            self.bad("the processor walks a freed table")

    def flush(self) -> None:
        self.s.step("cache", "flush all TLBs", lambda values: values.update(cache=""))


class R12(_Cached):
    """Zapping batches its flushes; a table must not be freed before its own."""

    name = "R12"
    title = "a table is freed while the flush that its removal needs is pending"
    protections = {"flush_before_free": "a pending flush is done before RCU and mmu_lock are released"}

    def setup(self) -> None:
        self.s = self.shared(link="table", cache="table", table="live")

    def threads(self) -> Threads:
        return {"zap": self.zap, "processor": self.walk}

    def zap(self) -> None:
        self.s.link = "none"
        self.in_order("flush_before_free", self.flush, self.free)

    def free(self) -> None:
        self.s.table = "freed"


class R45(_Cached):
    """A huge page takes the place of a table."""

    name = "R45"
    title = "TDP MMU: a table is replaced by a huge page, and paging-structure caches lead to the table"
    protections = {
        "flush": "tdp_mmu_map_handle_target_level() flushes after it replaced a table",
        "flush_inside_rcu": "the flush is done inside the RCU read section, which delays the freeing",
    }

    def setup(self) -> None:
        self.s = self.shared(link="table", cache="table", table="live", removed=False)
        self.read_section = self.rcu()

    def threads(self) -> Threads:
        return {"page fault": self.fault, "RCU callback": self.free, "processor": self.walk}

    def fault(self) -> None:
        with self.read_section.read():
            self.s.cmpxchg("link", "table", "2M page")
            self.s.removed = True
            if self.has("flush") and self.has("flush_inside_rcu"):
                self.flush()
        if self.has("flush"):
            self.flush()

    def free(self) -> None:
        self.s.wait(lambda values: bool(values["removed"]), "removed", "call_rcu() was called")
        self.read_section.synchronize()
        self.s.table = "freed"


class R44(Case):
    """Accessed is cleared without a flush: cheaper, and ageing is a hint."""

    name = "R44"
    title = "clear_young without a flush: a page in use may look idle (accepted)"
    reachable = "the page was used after its Accessed bit was cleared, and looks idle"

    def setup(self) -> None:
        self.s = self.shared(spte="A", tlb="A", used=False, idle=False)

    def threads(self) -> Threads:
        return {"ageing": self.age, "processor": self.use}

    def age(self) -> None:
        self.s.update("spte", lambda spte: "", "clear A")
        self.s.step("spte idle", "look again", lambda v: v.update(idle=not has(v["spte"], "A")))

    def use(self) -> None:
        def change(values: dict[str, Any]) -> None:
            values["used"] = not has(values["spte"], "A")
            if not has(values["tlb"], "A"):
                values["tlb"] = values["spte"] = "A"

        self.s.step("spte tlb used", "uses the page", change)

    def check(self) -> None:
        if self.s.peek("used") and self.s.peek("idle"):
            self.witness(self.reachable)


CASES = (R10, R11, R12, R44, R45)
