"""Requests to vCPUs, the dirty ring, page-modification logging."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..case import Case
from .spte import EMPTY

Threads = dict[str, Callable[[], None]]


class R38(Case):
    """kvm_make_all_cpus_request() against vcpu_enter_guest()."""

    name = "R38"
    title = "a request to flush against a vCPU that is about to enter the guest"
    protections = {
        "request_barrier": "a full barrier between the request and the look at the vCPU's mode",
        "entry_barrier": "a full barrier between mode = IN_GUEST_MODE and the look at the requests",
        "kick": "a vCPU in the guest is kicked out",
    }
    needs_tso = frozenset({"request_barrier", "entry_barrier"})

    def setup(self) -> None:
        self.s = self.shared(mode="OUTSIDE", request=False, spte="pfn1", tlb="pfn1", freed=False)

    def threads(self) -> Threads:
        return {"zap": self.zap, "vCPU": self.vcpu}

    def zap(self) -> None:
        s = self.s
        s.spte = EMPTY
        s.request = True
        self.fence("request_barrier")
        if s.mode == "IN_GUEST" and self.has("kick"):
            s.wait(lambda values: values["mode"] != "IN_GUEST", "mode", "IPI, the vCPU has left the guest")
        s.freed = True

    def vcpu(self) -> None:
        s = self.s
        for _ in range(2):
            s.mode = "IN_GUEST"
            self.fence("entry_barrier")
            if s.request:
                s.mode = "OUTSIDE"
                s.request = False
                s.tlb = s.spte
                continue
            if s.step("tlb freed", "runs", lambda values: values["tlb"] != EMPTY and values["freed"]):
                self.bad("the guest uses a page that the host has freed")
            s.mode = "OUTSIDE"


class R39(Case):
    """A vCPU that is not in the guest gets no IPI, but its request stays."""

    name = "R39"
    title = "a flush is requested of a vCPU that is outside the guest"
    protections = {"always_requested": "the request is made whatever the vCPU's mode is"}

    def setup(self) -> None:
        self.s = self.shared(mode="OUTSIDE", request=False, tlb="pfn1", freed=False)

    def threads(self) -> Threads:
        return {"zap": self.zap, "vCPU, other CPU": self.vcpu}

    def zap(self) -> None:
        s = self.s
        if self.has("always_requested"):
            s.request = True
        if s.mode == "IN_GUEST":
            s.request = True
            s.wait(lambda values: values["mode"] != "IN_GUEST", "mode", "IPI, the vCPU has left the guest")
        s.freed = True

    def vcpu(self) -> None:
        s = self.s
        for _ in range(2):
            s.mode = "IN_GUEST"
            if s.request:
                s.mode = "OUTSIDE"
                s.request = False
                s.tlb = EMPTY
                continue
            if s.step("tlb freed", "runs", lambda values: values["tlb"] != EMPTY and values["freed"]):
                self.bad("the guest uses a page that the host has freed")
            s.mode = "OUTSIDE"


class R40(Case):
    """kvm_dirty_ring_push() and kvm_dirty_ring_reset(), with a ring of one entry."""

    name = "R40a"
    title = "dirty ring: entries are published, harvested and reset"
    protections = {
        "smp_wmb": "slot and offset are written before the flag that says so",
        "read_before_flag": "reset reads an entry before it lets the vCPU use it again",
    }

    def setup(self) -> None:
        self.s = self.shared(flag=0, entry="", writable1=True, writable2=True)

    def threads(self) -> Threads:
        return {"vCPU": self.vcpu, "user space": self.harvest, "reset": self.reset}

    def vcpu(self) -> None:
        self.push("gfn1")
        self.s.wait(lambda values: values["flag"] == 0, "flag", "the ring has room")
        self.push("gfn2")

    def push(self, gfn: str) -> None:
        def entry() -> None:
            self.s.entry = gfn

        def flag() -> None:
            self.s.flag = "DIRTY"

        self.in_order("smp_wmb", entry, flag)

    def harvest(self) -> None:
        s = self.s
        s.wait(lambda values: values["flag"] == "DIRTY", "flag", "an entry is DIRTY")
        if s.entry != "gfn1":
            self.bad("user space harvests an entry that was not written")
        s.flag = "RESET"

    def reset(self) -> None:
        s = self.s
        s.wait(lambda values: values["flag"] == "RESET", "flag", "an entry is to be RESET")
        if self.has("read_before_flag"):
            gfn = s.entry
            s.flag = 0
        else:
            s.flag = 0
            gfn = s.entry
        if gfn == "gfn1":
            s.writable1 = False
        else:
            s.writable2 = False

    def check(self) -> None:
        if self.s.peek("writable1"):
            self.bad("gfn1 was harvested and is writable: its next write is not logged")


class R40Copy(Case):
    """User space must not copy before the pages are protected again."""

    name = "R40b"
    title = "dirty ring: user space copies a page before KVM_RESET_DIRTY_RINGS protected it"
    protections = {"copy_after_reset": "pages are copied after KVM_RESET_DIRTY_RINGS (user space's part)"}

    def setup(self) -> None:
        self.s = self.shared(writable=True, pushed=False, page=1, copy=0)

    def threads(self) -> Threads:
        return {"vCPU": self.vcpu, "user space": self.harvest}

    def vcpu(self) -> None:
        def write(values: dict[str, Any]) -> None:
            if not values["writable"]:
                values.update(writable=True, pushed=True)
            values["page"] = 2

        self.s.step("writable pushed page", "page = 2, pushed if it was protected", write)

    def harvest(self) -> None:
        self.in_order("copy_after_reset", self.reset, self.copy)

    def reset(self) -> None:
        self.s.step("writable", "KVM_RESET_DIRTY_RINGS: protect, flush", lambda v: v.update(writable=False))

    def copy(self) -> None:
        self.s.step("page copy", "copy the page", lambda v: v.update(copy=v["page"]))

    def check(self) -> None:
        s = self.s
        if s.peek("page") != s.peek("copy") and not s.peek("pushed"):
            self.bad("a write is lost: it is in no copy and in no ring")


class R41(Case):
    """kvm_mmu_update_cpu_dirty_logging(): PML on and off while vCPUs run."""

    name = "R41"
    title = "PML is enabled: the count of logging slots, and the request to look at it"
    protections = {"count_first": "nr_memslots_dirty_logging changes before the request is made"}

    def setup(self) -> None:
        self.s = self.shared(count=0, request=False, pml=False)

    def threads(self) -> Threads:
        return {"enable, disable, enable": self.toggle, "vCPU": self.vcpu}

    def toggle(self) -> None:
        for delta in (1, -1, 1):
            self.in_order("count_first", partial(self.s.add, "count", delta), self.tell)

    def tell(self) -> None:
        self.s.xchg("request", True)

    def vcpu(self) -> None:
        for _ in range(3):
            if self.s.xchg("request", False):
                self.s.pml = self.s.count > 0

    def check(self) -> None:
        s = self.s
        if not s.peek("request") and s.peek("pml") != (s.peek("count") > 0):
            self.bad(f"PML is {'on' if s.peek('pml') else 'off'} with {s.peek('count')} slots that log")


CASES = (R38, R39, R40, R40Copy, R41)
