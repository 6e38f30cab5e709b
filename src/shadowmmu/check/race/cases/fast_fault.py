"""Fast page faults: W is set without mmu_lock, while others clear it, zap, log, or reuse the page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..case import Case
from .spte import EMPTY, has, put, take

Threads = dict[str, Callable[[], None]]


def fast_fault(s: Any) -> bool:
    """Set W by cmpxchg if the SPTE is MMU-writable; whether that was done."""
    old = s.spte
    if not has(old, "MW") or has(old, "W"):
        return False
    return bool(s.cmpxchg("spte", old, put(old, "W")))


class R1(Case):
    """The frame is given to another page of the guest between the read and the cmpxchg: the SPTE is equal."""

    name = "R1"
    title = "fast page fault: an SPTE that is the same word again, for another gfn (ABA)"
    protections = {
        "direct_only": "fast_page_fault() is for direct MMUs, where the SPTE's place fixes the gfn"
    }

    def setup(self) -> None:
        self.s = self.shared(spte="pfn1 MW", maps=1, logged=0)

    def threads(self) -> Threads:
        return {"fast_page_fault": self.fault, "host and guest": self.reuse}

    def fault(self) -> None:
        if fast_fault(self.s):
            self.s.logged = 1

    def reuse(self) -> None:
        self.s.xchg("spte", EMPTY)
        self.note("the host gives pfn1 to another page")
        if not self.has("direct_only"):
            self.note("the guest's PTE points to gfn 2")
            self.s.maps = 2
        self.s.spte = "pfn1 MW"

    def check(self) -> None:
        s = self.s
        if has(s.peek("spte"), "W") and s.peek("logged") != s.peek("maps"):
            self.bad(f"gfn {s.peek('maps')} is writable, gfn {s.peek('logged')} is logged")


class R2(Case):
    """A zap assumes that nobody changes an SPTE without W, and stores."""

    name = "R2"
    title = "zap: W and Dirty that a fast page fault and the processor set are lost by a plain store"
    protections = {
        "mmu_writable_is_volatile": "MMU-writable without W counts as volatile: the zap exchanges "
        "(spte_has_volatile_bits)"
    }

    def setup(self) -> None:
        self.s = self.shared(spte="pfn1 A MW", written=False, host_dirty=False)

    def threads(self) -> Threads:
        return {"zap": self.zap, "fast_page_fault": lambda: void(fast_fault(self.s)), "processor": self.write}

    def zap(self) -> None:
        old = self.s.spte
        volatile = not has(old, "A") or (has(old, "W") and not has(old, "D"))
        if self.has("mmu_writable_is_volatile"):
            volatile |= has(old, "MW") and not has(old, "W")
        if volatile:
            old = self.s.xchg("spte", EMPTY)
        else:
            self.s.spte = EMPTY
        if has(old, "D"):
            self.s.host_dirty = True

    def write(self) -> None:
        self.s.step("spte written", "writes the page if W, sets D", processor_writes)

    def check(self) -> None:
        if self.s.peek("written") and not self.s.peek("host_dirty"):
            self.bad("the page was written, and the host does not know")


def void(_: object) -> None:
    """Return nothing: for threads whose result is not used."""


def processor_writes(values: dict[str, Any]) -> None:
    """Write once as the guest, without a TLB: if W is set the processor sets Dirty."""
    if has(values["spte"], "W"):
        values["spte"] = put(values["spte"], "D")
        values["written"] = True


class R3(Case):
    """Logging cleared W and will flush later; shadowing the page in between must not rely on a clear W."""

    name = "R3"
    title = "write-protection of a table to be shadowed misses the flush that dirty logging still owes"
    protections = {
        "flush_on_mmu_writable": "the flush is decided on MMU-writable of the old SPTE, not on W "
        "(spte_write_protect, leaf_spte_change_needs_tlb_flush)",
        "flush_before_unlock": "the flush is done before mmu_lock is released",
    }

    def setup(self) -> None:
        self.s = self.shared(spte="pfn1 MW W", tlb="W", shadowed=False)
        self.mmu_lock = self.lock()

    def threads(self) -> Threads:
        return {"dirty log": self.log, "shadowing": self.shadow, "guest": self.write}

    def log(self) -> None:
        with self.mmu_lock:
            self.s.spte = take(self.s.spte, "W")
        self.flush()

    def flush(self) -> None:
        self.s.step("tlb", "flush all TLBs", lambda values: values.update(tlb=""))

    def shadow(self) -> None:
        with self.mmu_lock:
            old = self.s.spte
            self.s.spte = take(old, "W", "MW")
            flush = has(old, "MW" if self.has("flush_on_mmu_writable") else "W")
            if flush and self.has("flush_before_unlock"):
                self.flush()
            self.s.shadowed = True
        if flush and not self.has("flush_before_unlock"):
            self.flush()

    def write(self) -> None:
        if self.s.step(
            "tlb shadowed",
            "writes through its TLB if that has W",
            lambda v: v["tlb"] == "W" and v["shadowed"],
        ):
            self.bad("the guest wrote a shadowed table: no exit, and the page is not unsync")


class R4(Case):
    """A fast page fault, and a page table to be shadowed at the same page."""

    name = "R4"
    title = "fast page fault against write-protection of a page table"
    protections = {
        "cmpxchg": "fast_page_fault() sets W by cmpxchg of the whole SPTE",
        "clears_mmu_writable": "write-protection for shadowing clears MMU-writable with W",
    }

    def setup(self) -> None:
        self.s = self.shared(spte="pfn1 A MW", shadowed=False)
        self.mmu_lock = self.lock()

    def threads(self) -> Threads:
        return {"fast_page_fault": self.fault, "shadowing": self.shadow}

    def fault(self) -> None:
        if self.has("cmpxchg"):
            fast_fault(self.s)
            return
        old = self.s.spte
        if has(old, "MW"):
            self.s.spte = put(old, "W")

    def shadow(self) -> None:
        with self.mmu_lock:
            old = self.s.spte
            new = take(old, "W", "MW") if self.has("clears_mmu_writable") else take(old, "W")
            self.s.xchg("spte", new)
            self.s.shadowed = True

    def check(self) -> None:
        if has(self.s.peek("spte"), "W") and self.s.peek("shadowed"):
            self.bad("a shadowed table is writable")


class _Logged(Case):
    """A guest that writes a page which is logged; user space gets and clears the log, then copies."""

    writes = 2

    def setup(self) -> None:
        self.s = self.shared(spte="pfn1 MW", tlb="", bit=0, page=0, copy=0)

    def threads(self) -> Threads:
        return {"vCPU": self.vcpu, "dirty log": self.log}

    def vcpu(self) -> None:
        for value in range(1, self.writes + 1):
            while not self.write(value):
                self.fault()

    def write(self, value: int) -> bool:
        def change(values: dict[str, Any]) -> bool:
            if values["tlb"] != "W" and not has(values["spte"], "W"):
                return False
            values.update(tlb="W", page=value)
            return True

        done = bool(self.s.step("tlb spte page", f"page = {value}", change))
        if not done:
            self.execution.say(" faults")
        return done

    def fault(self) -> None:
        """Set W, then mark the page dirty."""
        if fast_fault(self.s):
            self.s.bit = 1

    def log(self) -> None:
        raise NotImplementedError

    def protect(self) -> None:
        self.s.update("spte", lambda spte: take(spte, "W"), "clear W")

    def flush(self) -> None:
        self.s.step("tlb", "flush all TLBs", lambda values: values.update(tlb=""))

    def copy(self) -> None:
        self.s.step("page copy", "user space copies the page", lambda v: v.update(copy=v["page"]))

    def check(self) -> None:
        s = self.s
        if s.peek("page") != s.peek("copy") and not s.peek("bit"):
            self.bad(
                f"a write is lost: the page is {s.peek('page')}, the copy {s.peek('copy')}, nothing is logged"
            )


class R5(_Logged):
    """KVM_GET_DIRTY_LOG."""

    name = "R5"
    title = "fast page fault against KVM_GET_DIRTY_LOG: no write may escape the log"
    protections = {
        "mark_after_cmpxchg": "the page is marked dirty after W is set (fast_pf_fix_direct_spte)",
        "snapshot_before_protect": "the bitmap is read before W is cleared (kvm_get_dirty_log_protect)",
        "flush": "all TLBs are flushed before the ioctl returns",
    }

    def fault(self) -> None:
        if self.has("mark_after_cmpxchg"):
            super().fault()
        else:
            self.s.bit = 1
            fast_fault(self.s)

    def log(self) -> None:
        if self.has("snapshot_before_protect"):
            snapshot = self.s.xchg("bit", 0)
            self.protect()
        else:
            self.protect()
            snapshot = self.s.xchg("bit", 0)
        if snapshot:
            if self.has("flush"):
                self.flush()
            self.copy()


class R43(_Logged):
    """KVM_CLEAR_DIRTY_LOG with the bitmap initially set: all pages are writable until the first CLEAR."""

    name = "R43"
    title = "KVM_CLEAR_DIRTY_LOG, bitmap initially set: clear the bit, protect, flush, in this order"
    protections = {
        "bit_before_protect": "the bit is cleared before W is cleared (kvm_clear_dirty_log_protect)",
        "flush": "all TLBs are flushed before the ioctl returns",
    }

    def setup(self) -> None:
        self.s = self.shared(spte="pfn1 MW W", tlb="", bit=1, page=0, copy=0)

    def log(self) -> None:
        self.in_order("bit_before_protect", lambda: self.s.xchg("bit", 0), self.protect)
        if self.has("flush"):
            self.flush()
        self.copy()


class R6Level(Case):
    """Only the page that faulted is logged."""

    name = "R6a"
    title = "fast page fault on a huge page of a slot that logs: the other pages are writable, unlogged"
    protections = {"level_1_when_logging": "a huge SPTE of a slot that logs is left to the slow path"}

    def setup(self) -> None:
        self.s = self.shared(spte="2M MW", logged="", written="")

    def threads(self) -> Threads:
        return {"fast_page_fault": self.fault, "guest": self.write}

    def fault(self) -> None:
        if self.has("level_1_when_logging"):
            self.note("the slot logs, and the SPTE is huge: slow path")
            return
        if fast_fault(self.s):
            self.s.logged = "gfn0"

    def write(self) -> None:
        def change(values: dict[str, Any]) -> None:
            if has(values["spte"], "W"):
                values["written"] = "gfn1"

        self.s.step("spte written", "writes gfn1 if W", change)

    def check(self) -> None:
        if self.s.peek("written"):
            self.bad("gfn1 was written, and only gfn0 is logged")


class R6Srcu(Case):
    """The slot that a fault looks at is the one from before logging was enabled."""

    name = "R6b"
    title = "fast page fault on a huge page with the slot from before logging was enabled"
    protections = {
        "srcu_wait": "the new slot is published, then faults with the old one end, then W is cleared"
    }

    def setup(self) -> None:
        self.s = self.shared(spte="2M MW", logs=False, enabled=False)
        self.srcu = self.rcu("srcu", held=self.has("srcu_wait"))

    def threads(self) -> Threads:
        return {"fast_page_fault": self.fault, "enable logging": self.enable}

    def fault(self) -> None:
        with self.srcu.read():
            if not self.s.logs:
                fast_fault(self.s)

    def enable(self) -> None:
        self.s.logs = True
        self.srcu.synchronize()
        self.s.update("spte", lambda spte: take(spte, "W"), "clear W")
        self.s.enabled = True

    def check(self) -> None:
        if has(self.s.peek("spte"), "W"):
            self.bad("a huge page is writable after logging was enabled")


class R42(Case):
    """The slow path with the slot from before logging was enabled."""

    name = "R42"
    title = "page fault with the slot from before logging was enabled makes a writable SPTE, unlogged"
    protections = {"srcu_wait": "faults with the old slot end before W is cleared (kvm_swap_active_memslots)"}

    def setup(self) -> None:
        self.s = self.shared(spte=EMPTY, logs=False, logged=False)
        self.srcu = self.rcu("srcu", held=self.has("srcu_wait"))
        self.mmu_lock = self.lock()

    def threads(self) -> Threads:
        return {"page fault": self.fault, "enable logging": self.enable}

    def fault(self) -> None:
        with self.srcu.read():
            logs = self.s.logs
            with self.mmu_lock.read():
                self.s.cmpxchg("spte", EMPTY, "pfn1 MW W")
                if logs:
                    self.s.logged = True

    def enable(self) -> None:
        self.s.logs = True
        self.srcu.synchronize()
        with self.mmu_lock.write():
            self.s.spte = take(self.s.spte, "W")

    def check(self) -> None:
        if has(self.s.peek("spte"), "W") and not self.s.peek("logged"):
            self.bad("the page is writable and not in the log")


class R7(Case):
    """Page-modification logging: the processor logs a page when it sets Dirty, unless its TLB has it set."""

    name = "R7"
    title = "PML: Dirty is cleared, and a TLB that has it set writes on without logging"
    protections = {"flush": "all TLBs are flushed before the ioctl returns"}

    def setup(self) -> None:
        self.s = self.shared(spte="W D", tlb="W D", logged=False, page=0, copy=0)

    def threads(self) -> Threads:
        return {"dirty log": self.log, "processor": self.write}

    def log(self) -> None:
        self.s.update("spte", lambda spte: take(spte, "D"), "clear D")
        if self.has("flush"):
            self.s.step("tlb", "flush all TLBs", lambda values: values.update(tlb=""))
        self.s.step("page copy", "user space copies the page", lambda v: v.update(copy=v["page"]))

    def write(self) -> None:
        def change(values: dict[str, Any]) -> None:
            if not has(values["tlb"], "D"):
                values["logged"] |= not has(values["spte"], "D")
                values["tlb"] = values["spte"] = put(values["spte"], "D")
            values["page"] = 1

        self.s.step("spte tlb page logged", "page = 1", change)

    def check(self) -> None:
        s = self.s
        if s.peek("page") != s.peek("copy") and not s.peek("logged"):
            self.bad("the page was written after it was copied, and is not in the log")


class R8(Case):
    """Rights that access tracking cleared are restored while the page is zapped."""

    name = "R8"
    title = "fast page fault restores a tracked SPTE that is zapped meanwhile"
    protections = {"cmpxchg": "the rights are restored by cmpxchg"}

    def setup(self) -> None:
        self.s = self.shared(spte="pfn1 tracked", freed=False)
        self.mmu_lock = self.lock()

    def threads(self) -> Threads:
        return {"fast_page_fault": self.fault, "zap": self.zap}

    def fault(self) -> None:
        old = self.s.spte
        if not has(old, "tracked"):
            return
        if self.has("cmpxchg"):
            self.s.cmpxchg("spte", old, "pfn1 R X")
        else:
            self.s.spte = "pfn1 R X"

    def zap(self) -> None:
        with self.mmu_lock:
            self.s.xchg("spte", EMPTY)
        self.s.freed = True

    def check(self) -> None:
        if self.s.peek("freed") and self.s.peek("spte") != EMPTY:
            self.bad("an SPTE maps a page that the host has freed")


class R9(Case):
    """Liveness: others change the SPTE each time the fault comes to its cmpxchg. Two tries here, KVM five."""

    name = "R9"
    title = "fast page fault gives up after some tries; a spurious fault stores nothing"
    protections = {"limited_tries": "after five tries the slow path takes over (fast_page_fault)"}
    tries = 2

    def setup(self) -> None:
        self.s = self.shared(spte="pfn1 MW", page=0)
        self.mmu_lock = self.lock()

    def threads(self) -> Threads:
        return {"page fault": self.fault, "ageing": self.age}

    def fault(self) -> None:
        tries = 0
        while True:
            old = self.s.spte
            tries += 1
            if has(old, "W") or self.s.cmpxchg("spte", old, put(old, "W")):
                return
            if self.has("limited_tries") and tries == self.tries:
                with self.mmu_lock:
                    self.note("slow path")
                return
            if tries > self.tries:
                self.bad(f"the vCPU has tried {tries} times, and may for ever")

    def age(self) -> None:
        for word in ("pfn1 MW A", "pfn1 MW", "pfn1 MW A"):
            with self.mmu_lock:
                self.s.xchg("spte", word)


CASES = (R1, R2, R3, R4, R5, R6Level, R6Srcu, R7, R8, R9, R42, R43)
