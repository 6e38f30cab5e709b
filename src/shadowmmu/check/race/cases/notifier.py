"""Faults against the host, which takes memory away (mmu_notifier)."""

from __future__ import annotations

from collections.abc import Callable

from ..case import Case
from .spte import EMPTY

Threads = dict[str, Callable[[], None]]


class R18(Case):
    """mmu_invalidate_retry_gfn(): a fault that began before, or in, an invalidation starts again."""

    name = "R18a"
    title = "page fault against an invalidation: no SPTE may map a page that the host took away"
    protections = {
        "in_progress_check": "the fault retries while an invalidation is in progress",
        "seq_check": "the fault retries if mmu_invalidate_seq moved",
        "seq_before_pfn": "the sequence is read before the host page is looked up (smp_rmb)",
        "seq_at_end": "the sequence moves when the invalidation ends, not when it begins",
    }

    def setup(self) -> None:
        self.s = self.shared(seq=0, in_progress=0, host="pfn1", spte=EMPTY)
        self.mmu_lock = self.lock()

    def threads(self) -> Threads:
        return {"page fault": self.fault, "mmu_notifier": self.invalidate}

    def fault(self) -> None:
        s = self.s
        if self.has("seq_before_pfn"):
            seq = s.seq
            pfn = s.host
        else:
            pfn = s.host
            seq = s.seq
        if pfn == EMPTY:
            return
        with self.mmu_lock:
            if self.has("in_progress_check") and s.in_progress:
                return
            if self.has("seq_check") and s.seq != seq:
                return
            s.spte = pfn

    def invalidate(self) -> None:
        s = self.s
        with self.mmu_lock:
            s.in_progress = 1
            if not self.has("seq_at_end"):
                s.seq += 1
            s.spte = EMPTY
        s.host = EMPTY
        self.note("the host frees pfn1")
        with self.mmu_lock:
            if self.has("seq_at_end"):
                s.seq += 1
            s.in_progress = 0

    def check(self) -> None:
        if self.s.peek("spte") != EMPTY:
            self.bad(f"an SPTE maps {self.s.peek('spte')}, which the host has freed")


class R18Union(Case):
    """Two invalidations at a time: one pair of start and end for both."""

    name = "R18b"
    title = "two overlapping invalidations: the range is the union until both are over"
    protections = {"union": "a second invalidation widens the range (kvm_mmu_invalidate_range_add)"}

    def setup(self) -> None:
        self.s = self.shared(seq=0, in_progress=0, range=(0, 0), host="pfn1", spte=EMPTY)
        self.mmu_lock = self.lock()

    def threads(self) -> Threads:
        return {
            "page fault of gfn 1": self.fault,
            "invalidate gfn 1": lambda: self.invalidate(1),
            "invalidate gfn 5": lambda: self.invalidate(5),
        }

    def fault(self) -> None:
        s = self.s
        seq = s.seq
        pfn = s.host
        if pfn == EMPTY:
            return
        with self.mmu_lock:
            if s.in_progress:
                start, end = s.range
                if start <= 1 < end:
                    return
            if s.seq == seq:
                s.spte = pfn

    def invalidate(self, gfn: int) -> None:
        s = self.s
        with self.mmu_lock:
            s.in_progress += 1
            if s.in_progress == 1 or not self.has("union"):
                s.range = (gfn, gfn + 1)
            else:
                start, end = s.range
                s.range = (min(start, gfn), max(end, gfn + 1))
            if gfn == 1:
                s.spte = EMPTY
        if gfn == 1:
            s.host = EMPTY
        with self.mmu_lock:
            s.seq += 1
            s.in_progress -= 1

    def check(self) -> None:
        if self.s.peek("spte") != EMPTY:
            self.bad("an SPTE maps a page that the host has freed")


class R19(Case):
    """The end of an invalidation as code without mmu_lock sees it."""

    name = "R19"
    title = "the order of the sequence and of 'in progress' at the end of an invalidation, without mmu_lock"
    protections = {
        "smp_wmb": "the sequence moves before 'in progress' falls",
        "smp_rmb": "the reader looks at 'in progress' before the sequence",
    }

    def setup(self) -> None:
        self.s = self.shared(seq=0, in_progress="no", host="pfn1")

    def threads(self) -> Threads:
        return {"check before the lock": self.fault, "mmu_notifier": self.invalidate}

    def fault(self) -> None:
        s = self.s
        seq = s.seq
        pfn = s.host
        if self.has("smp_rmb"):
            in_progress = s.in_progress
            now = s.seq
        else:
            now = s.seq
            in_progress = s.in_progress
        if in_progress != "yes" and now == seq and in_progress == "no more" and pfn != EMPTY:
            self.bad("the invalidation is over, and the reader believes that there was none")

    def invalidate(self) -> None:
        self.s.in_progress = "yes"
        self.s.host = EMPTY
        self.in_order("smp_wmb", self.move, self.end)

    def move(self) -> None:
        self.s.seq += 1

    def end(self) -> None:
        self.s.in_progress = "no more"


class R20(Case):
    """An invalidation looks its slots up at its start and at its end."""

    name = "R20"
    title = "memory slots change between the start and the end of an invalidation"
    protections = {
        "waits_for_notifiers": "kvm_swap_active_memslots() sleeps while mn_active_invalidate_count"
    }

    def setup(self) -> None:
        self.s = self.shared(active=0, slots="old, new", in_progress=0)
        self.mmu_lock = self.lock()

    def threads(self) -> Threads:
        return {"mmu_notifier": self.invalidate, "KVM_SET_USER_MEMORY_REGION": self.swap}

    def invalidate(self) -> None:
        s = self.s
        s.add("active", 1)
        if "old" in s.slots:
            with self.mmu_lock:
                s.in_progress += 1
        if "old" in s.slots:
            with self.mmu_lock:
                s.in_progress -= 1
        s.add("active", -1)

    def swap(self) -> None:
        waits = self.has("waits_for_notifiers")
        self.s.step(
            "active slots",
            "publish the slots without 'old'",
            lambda values: values.update(slots="new"),
            lambda values: not waits or not values["active"],
        )

    def check(self) -> None:
        if self.s.peek("in_progress"):
            self.bad("an invalidation is in progress for ever: no fault will be fixed any more")


class R21(Case):
    """A root that is being zapped still maps pages."""

    name = "R21"
    title = "TDP MMU: a root that is being zapped, and a notifier that must find its SPTEs"
    protections = {"stays_listed": "a root stays on the list while it is zapped, with a reference"}

    def setup(self) -> None:
        self.s = self.shared(listed=True, spte="pfn1 D", freed=False)
        self.mmu_lock = self.lock()

    def threads(self) -> Threads:
        return {"zap root": self.zap, "mmu_notifier": self.invalidate}

    def zap(self) -> None:
        s = self.s
        if not self.has("stays_listed"):
            with self.mmu_lock:
                s.listed = False
        with self.mmu_lock:
            if s.spte != EMPTY:
                if s.freed:
                    self.bad("a page that the host has freed is marked dirty")
                s.spte = EMPTY
        with self.mmu_lock:
            s.listed = False

    def invalidate(self) -> None:
        s = self.s
        with self.mmu_lock:
            if s.listed:
                s.spte = EMPTY
        s.freed = True


class R34(Case):
    """R18 with the TDP MMU: faults hold mmu_lock for reading only."""

    name = "R34"
    title = "TDP MMU: a fault that holds mmu_lock for reading, and a notifier"
    protections = {"mmu_lock": "the notifier holds mmu_lock for writing"}

    def setup(self) -> None:
        self.s = self.shared(seq=0, in_progress=0, host="pfn1", spte=EMPTY)
        self.mmu_lock = self.lock(held=self.has("mmu_lock"))

    def threads(self) -> Threads:
        return {"page fault": self.fault, "mmu_notifier": self.invalidate}

    def fault(self) -> None:
        s = self.s
        seq = s.seq
        pfn = s.host
        with self.mmu_lock.read():
            if pfn != EMPTY and not s.in_progress and s.seq == seq:
                s.cmpxchg("spte", EMPTY, pfn)

    def invalidate(self) -> None:
        s = self.s
        with self.mmu_lock.write():
            s.in_progress = 1
            s.spte = EMPTY
        s.host = EMPTY
        with self.mmu_lock.write():
            s.seq += 1
            s.in_progress = 0

    def check(self) -> None:
        if self.s.peek("spte") != EMPTY:
            self.bad("an SPTE maps a page that the host has freed")


class R36(Case):
    """kvm_mmu_zap_collapsible_sptes() looks at the host's page tables without a lock."""

    name = "R36"
    title = "collapsible SPTEs are zapped while the host splits the huge page"
    protections = {"only_zaps": "nothing is installed by what was seen: the next fault looks again (R18)"}

    def setup(self) -> None:
        self.s = self.shared(host="2M", spte="4K")
        self.mmu_lock = self.lock()

    def threads(self) -> Threads:
        return {"zap collapsible": self.zap, "host split": self.split}

    def zap(self) -> None:
        level = self.s.host
        with self.mmu_lock:
            if level == "2M":
                self.s.spte = EMPTY if self.has("only_zaps") else "2M"

    def split(self) -> None:
        with self.mmu_lock:
            self.s.spte = EMPTY
        self.s.host = "4K"

    def check(self) -> None:
        if (self.s.peek("spte"), self.s.peek("host")) == ("2M", "4K"):
            self.bad("an SPTE maps 2 MiB of which the host has only small pages")


CASES = (R18, R18Union, R19, R20, R21, R34, R36)
