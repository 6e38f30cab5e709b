"""Guest tables that are shadowed: unsync pages, the re-read of guest entries, sync."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..case import Case
from .spte import EMPTY

Threads = dict[str, Callable[[], None]]


class R13(Case):
    """mmu_try_to_unsync_pages() against a flush of the guest (kvm_mmu_sync_roots)."""

    name = "R13"
    title = "a guest table becomes writable before its page is seen to be unsync"
    protections = {
        "smp_wmb": "unsync is set before the SPTE is writable",
        "smp_rmb": "the flush reads unsync after the guest's write",
    }

    def setup(self) -> None:
        self.s = self.shared(spte="", unsync=False, gpte="old", shadow="old", flushed=False)

    def threads(self) -> Threads:
        return {"page fault": self.fault, "guest, other vCPU": self.guest}

    def fault(self) -> None:
        self.in_order("smp_wmb", self.mark, self.map)

    def mark(self) -> None:
        self.s.unsync = True

    def map(self) -> None:
        self.s.spte = "W"

    def guest(self) -> None:
        if self.has("smp_rmb"):
            if self.write() and self.s.unsync:
                self.sync()
            return
        unsync = self.s.unsync
        if self.write() and unsync:
            self.sync()

    def write(self) -> bool:
        def change(values: dict[str, Any]) -> bool:
            if values["spte"] != "W":
                return False
            values.update(gpte="new", flushed=True)
            return True

        return bool(self.s.step("spte gpte", "writes its table if W, flushes, exits", change))

    def sync(self) -> None:
        self.s.shadow = self.s.gpte

    def check(self) -> None:
        if self.s.peek("flushed") and self.s.peek("shadow") != self.s.peek("gpte"):
            self.bad("the guest has flushed, and the shadow is stale")


class R14(Case):
    """account_shadowed() against the early return of kvm_mmu_track_write()."""

    name = "R14"
    title = "the first table that is shadowed against an emulated write that sees no shadow pages"
    protections = {
        "fault_barrier": "a full barrier between indirect_shadow_pages++ and the re-read of the gpte",
        "emulator_barrier": "a full barrier between the write and the look at indirect_shadow_pages",
        "reread": "the gpte is read again once the page is accounted for (gpte_changed)",
    }
    needs_tso = frozenset({"fault_barrier", "emulator_barrier"})

    def setup(self) -> None:
        self.s = self.shared(indirect=0, gpte="old", spte=EMPTY)
        self.mmu_lock = self.lock()

    def threads(self) -> Threads:
        return {"page fault": self.fault, "emulator": self.emulate}

    def fault(self) -> None:
        s = self.s
        walked = s.gpte
        with self.mmu_lock:
            s.indirect = 1
            self.fence("fault_barrier")
            if not self.has("reread") or s.gpte == walked:
                s.spte = walked

    def emulate(self) -> None:
        s = self.s
        s.gpte = "new"
        self.fence("emulator_barrier")
        if s.indirect:
            with self.mmu_lock:
                s.spte = EMPTY

    def check(self) -> None:
        if self.s.peek("spte") == "old":
            self.bad("the SPTE is of the old gpte, and nobody will zap it")


class R15(Case):
    """FNAME(fetch): what was walked without the lock is looked at again."""

    name = "R15"
    title = "a guest entry changes between the walk and its shadowing"
    protections = {
        "reread": "the gpte is read again before the shadow page is linked (FNAME(gpte_changed))",
        "protect_before_reread": "the table is write-protected before the gpte is read again",
    }

    def setup(self) -> None:
        self.s = self.shared(gpte="old", writable=True, spte=EMPTY)
        self.mmu_lock = self.lock()

    def threads(self) -> Threads:
        return {"page fault": self.fault, "guest": self.guest}

    def fault(self) -> None:
        walked = self.s.gpte
        with self.mmu_lock:
            if not self.has("protect_before_reread"):
                same = self.s.gpte == walked
                self.protect()
            else:
                self.protect()
                same = not self.has("reread") or self.s.gpte == walked
            if same:
                self.s.spte = walked

    def protect(self) -> None:
        self.s.step("writable", "write-protect the table, flush", lambda v: v.update(writable=False))

    def guest(self) -> None:
        def change(values: dict[str, Any]) -> bool:
            if values["writable"]:
                values["gpte"] = "new"
            return bool(values["writable"])

        if not self.s.step("writable gpte", "writes the gpte if it can", change):
            with self.mmu_lock:
                self.note("emulates the write")
                self.s.gpte = "new"
                self.s.spte = EMPTY

    def check(self) -> None:
        if self.s.peek("spte") not in (EMPTY, self.s.peek("gpte")):
            self.bad("a stale gpte is shadowed, and its table is protected: nobody will sync it")


class R16(Case):
    """Two faults of the TDP MMU, with mmu_lock held for reading, at one table of L1."""

    name = "R16"
    title = "two faults make one page unsync at the same time"
    protections = {
        "pages_lock": "mmu_unsync_pages_lock is held (mmu_try_to_unsync_pages)",
        "check_again": "unsync is looked at again under that lock",
    }

    def setup(self) -> None:
        self.s = self.shared(unsync=False, mmu_unsync=0)
        self.unsync_lock = self.lock("mmu_unsync_pages_lock", held=self.has("pages_lock"))
        self.mmu_lock = self.lock()

    def threads(self) -> Threads:
        return {"page fault of vCPU 0": self.fault, "page fault of vCPU 1": self.fault}

    def fault(self) -> None:
        with self.mmu_lock.read():
            if self.s.unsync:
                return
            with self.unsync_lock:
                if not self.has("check_again") or not self.s.unsync:
                    self.s.mmu_unsync += 1
                    self.s.unsync = True

    def check(self) -> None:
        if self.s.peek("mmu_unsync") != 1:
            self.bad(f"one page is counted {self.s.peek('mmu_unsync')} times")


class R17(Case):
    """mmu_sync_children(): the page becomes sync and write-protected."""

    name = "R17"
    title = "a page is synced while a TLB still lets its table be written"
    protections = {"flush_before_sync": "after write-protection all TLBs are flushed before gptes are read"}

    def setup(self) -> None:
        self.s = self.shared(tlb="W", spte="W", unsync=True, gpte="old", shadow="old")
        self.mmu_lock = self.lock()

    def threads(self) -> Threads:
        return {"sync": self.sync, "guest": self.guest}

    def sync(self) -> None:
        with self.mmu_lock:
            self.s.spte = ""
            self.in_order("flush_before_sync", self.flush, self.read)

    def flush(self) -> None:
        self.s.step("tlb", "flush all TLBs", lambda values: values.update(tlb=""))

    def read(self) -> None:
        self.s.unsync = False
        self.s.shadow = self.s.gpte

    def guest(self) -> None:
        def change(values: dict[str, Any]) -> None:
            if values["tlb"] == "W":
                values["gpte"] = "new"

        self.s.step("tlb gpte", "writes its table if its TLB lets it", change)

    def check(self) -> None:
        if not self.s.peek("unsync") and self.s.peek("shadow") != self.s.peek("gpte"):
            self.bad("the page is in sync, and its shadow is stale")


CASES = (R13, R14, R15, R16, R17)
