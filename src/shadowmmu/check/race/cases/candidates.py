"""Suspicions from reading KVM 6.12, and what became of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..case import Case
from .spte import EMPTY, has, put, take

Threads = dict[str, Callable[[], None]]


class Rc1(Case):
    """kvm_arch_mmu_enable_log_dirty_pt_masked() protects huge pages like tables, and does not flush."""

    name = "R-c1"
    title = (
        "CLEAR_DIRTY_LOG clears MMU-writable of a huge SPTE, and its flush comes after mmu_lock is dropped"
    )
    protections = {"flush_before_unlock": "the huge SPTE's flush is done before mmu_lock is released"}
    missing = frozenset({"flush_before_unlock"})
    verdict = (
        "Confirmed in the model of the protocol: 6.12 breaks its own rule that who clears MMU-writable "
        "flushes before mmu_lock is released (kvm_mmu_slot_gfn_write_protect() returns that a flush is due,"
        " kvm_arch_mmu_enable_log_dirty_pt_masked() drops that). It needs KVM_DIRTY_LOG_INITIALLY_SET, a "
        "huge page that eager splitting left (off, or out of memory), a writable 2 MiB translation in a "
        "TLB, and L1's nested tables shadowed inside that page between the unlock and the ioctl's flush. "
        "Then a write to such a table is not seen, and the shadow page is stale until it is zapped. Nothing"
        " outside the guest's own memory becomes reachable: what L1 does to its own tables is at stake. With "
        "shadow paging it needs no L2. Reproduced on 7.3.4, see docs/kernel-reports/clear-log.md."
    )

    def setup(self) -> None:
        self.s = self.shared(spte="2M MW W", tlb="W", gpte="old", shadow="")
        self.mmu_lock = self.lock()

    def threads(self) -> Threads:
        return {"KVM_CLEAR_DIRTY_LOG": self.clear, "nested fault": self.shadow, "L1, other vCPU": self.write}

    def clear(self) -> None:
        with self.mmu_lock:
            self.s.spte = take(self.s.spte, "W", "MW")
            if self.has("flush_before_unlock"):
                self.flush()
        self.flush()

    def flush(self) -> None:
        self.s.step("tlb", "flush all TLBs", lambda values: values.update(tlb=""))

    def shadow(self) -> None:
        with self.mmu_lock:
            old = self.s.spte
            if has(old, "W") or has(old, "MW"):
                self.s.spte = take(old, "W", "MW")
                self.flush()
            self.s.shadow = self.s.gpte

    def write(self) -> None:
        def change(values: dict[str, Any]) -> None:
            if values["tlb"] == "W":
                values["gpte"] = "new"

        self.s.step("tlb gpte", "writes its table if its TLB lets it", change)

    def check(self) -> None:
        if self.s.peek("shadow") not in ("", self.s.peek("gpte")):
            self.bad("a table was written without an exit while it was shadowed: the shadow stays stale")


class Rc2(Case):
    """kvm_rmap_age_gfn_range() on a host without Accessed and Dirty; a shadow MMU that is direct."""

    name = "R-c2"
    title = "ageing without A/D bits drops the W that a fast page fault set after the SPTE was read"
    protections = {
        "marked_when_protected": "who took W before marked the page dirty then (mmu_spte_update)",
        "zap_before_clean": "the host cleans a page only after a notifier, whose zap marks it and flushes",
    }
    verdict = (
        "W is dropped, as suspected: the exchange overwrites it, and a write in between is never reported "
        "to the host by that SPTE. No data is lost: an SPTE that is MMU-writable without W lost W in "
        "mmu_spte_update(), which marked the page dirty, and the host cleans a page only after a notifier "
        "that zaps and flushes. The write before that is in the page when it is written back; the log has "
        "it too. What is left is one more fault. The TDP MMU ages under mmu_lock held for writing, but fast "
        "page faults take no lock there either; its accounting uses the SPTE that the exchange returned for "
        "its trace only, so that the same holds."
    )

    def setup(self) -> None:
        marked = self.has("marked_when_protected")
        self.s = self.shared(spte="pfn1 A MW", host_dirty=marked, tlb="", page=0, disk=0)
        self.mmu_lock = self.lock()

    def threads(self) -> Threads:
        return {"ageing": self.age, "vCPU": self.vcpu, "write-back": self.write_back}

    def age(self) -> None:
        s = self.s
        with self.mmu_lock:
            old = s.spte
            if not has(old, "A"):
                return
            if has(old, "W"):
                s.host_dirty = True
            s.xchg("spte", put(take(old, "A", "W"), "tracked"))

    def vcpu(self) -> None:
        s = self.s
        old = s.spte
        if not has(old, "MW") or not s.cmpxchg("spte", old, put(take(old, "tracked"), "A", "W")):
            return

        def write(values: dict[str, Any]) -> None:
            if has(values["spte"], "W"):
                values.update(tlb="W")
            if values["tlb"] == "W":
                values.update(page=1)

        s.step("spte tlb page", "writes the page if it may", write)

    def write_back(self) -> None:
        self.in_order("zap_before_clean", self.zap, self.clean)

    def zap(self) -> None:
        s = self.s
        with self.mmu_lock:
            if has(s.xchg("spte", EMPTY), "W"):
                s.host_dirty = True
            s.step("tlb", "flush all TLBs", lambda values: values.update(tlb=""))

    def clean(self) -> None:
        def change(values: dict[str, Any]) -> None:
            if values["host_dirty"]:
                values.update(disk=values["page"], host_dirty=False)

        self.s.step("host_dirty disk page", "write the page to disk if it is dirty", change)

    def check(self) -> None:
        s = self.s
        if s.peek("page") != s.peek("disk") and not s.peek("host_dirty") and s.peek("spte") == EMPTY:
            self.bad("the guest wrote the page, and the host drops it as clean")


class Rc3(Case):
    """Mail 001, 23/23: splitting flushes only if an entry of the reused child leads to another table."""

    name = "R-c3"
    title = "huge pages are split into tables used again that map pages with fewer rights, no flush"
    protections = {
        "flush_for_fewer_rights": "a split flushes if its table has an SPTE that is not MMU-writable",
        "caller_flush": "KVM_CLEAR_DIRTY_LOG flushes before it returns, whatever the split did",
        "flush_on_mmu_writable": "write-protection for shadowing flushes if MMU-writable was set, W or not",
    }
    verdict = (
        "Confirmed: the mail's rule is unsafe for nested guests, and so is no flush at all. An SPTE of the "
        "table can have fewer rights in two ways. Logging clears W and leaves MMU-writable: harmless, as the "
        "ioctl flushes before user space copies, and who shadows the page meanwhile sees MMU-writable and "
        "flushes. But a page that was a table of L1's has neither, and keeps it so when it is a table no "
        "more. When it becomes one again before the ioctl's flush nothing is MMU-writable and nobody "
        "flushes: a write through the huge page in a TLB is not seen, and the shadow stays stale. 6.1.176 "
        "and 6.12.111 flush at each such link (__link_shadow_page); 7.3.4 does not, where it was reproduced."
    )

    def setup(self) -> None:
        first = dict.fromkeys(("link1", "link2"), "2M W") | dict.fromkeys(("tlb1", "tlb2"), "W")
        self.s = self.shared(
            **first, child1="MW", child2="", page=0, copy=0, logged=False, shadowed1=False, shadowed2=False
        )
        self.mmu_lock = self.lock()

    def threads(self) -> Threads:
        return {"KVM_CLEAR_DIRTY_LOG": self.clear, "shadowing": self.shadow, "guest": self.write}

    def clear(self) -> None:
        s = self.s
        with self.mmu_lock:
            s.link1 = "table"
            self.note("logging cleared W of the child's SPTE: no flush")
        with self.mmu_lock:
            s.link2 = "table"
            if self.has("flush_for_fewer_rights"):
                self.flush("tlb2")
        if self.has("caller_flush"):
            self.flush("tlb1", "tlb2")
        s.step("page copy", "user space copies page 1", lambda v: v.update(copy=v["page"]))

    def flush(self, *tlbs: str) -> None:
        names = " ".join(tlbs)
        self.s.step(names, f"flush {names}", lambda values: values.update(dict.fromkeys(tlbs, "")))

    def shadow(self) -> None:
        for number in ("1", "2"):
            with self.mmu_lock:
                self._protect(number)
                setattr(self.s, f"shadowed{number}", True)

    def _protect(self, number: str) -> None:
        """Write-protect one page (kvm_vcpu_write_protect_gfn): its own SPTE, and the huge
        one if there is one.
        """
        s = self.s
        link, child = getattr(s, f"link{number}"), getattr(s, f"child{number}")
        if link != "table":
            setattr(s, f"link{number}", take(link, "W"))
        if child:
            setattr(s, f"child{number}", take(child, "W", "MW"))
        writable = has(child, "MW") if self.has("flush_on_mmu_writable") else has(child, "W")
        if link != "table" or writable:
            self.flush(f"tlb{number}")

    def write(self) -> None:
        for number in ("1", "2"):
            tlb, shadowed = f"tlb{number}", f"shadowed{number}"

            def change(values: dict[str, Any], tlb: str = tlb, shadowed: str = shadowed) -> bool:
                if values[tlb] == "W":
                    values.update({"page": 1} if tlb == "tlb1" else {})
                    return bool(values[shadowed])
                values.update({"logged": True} if tlb == "tlb1" else {})
                return False

            what = f"writes page {number}, faults without W"
            if self.s.step(f"{tlb} page logged {shadowed}", what, change):
                self.bad(f"the guest wrote page {number}, a shadowed table, without an exit")

    def check(self) -> None:
        s = self.s
        if s.peek("page") != s.peek("copy") and not s.peek("logged"):
            self.bad("a write is lost: it is in no copy and not logged")


CASES = (Rc1, Rc2, Rc3)
