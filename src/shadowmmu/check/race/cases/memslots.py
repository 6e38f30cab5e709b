"""Faults against user space, which changes what is at guest addresses."""

from __future__ import annotations

from collections.abc import Callable

from ..case import Case
from .spte import EMPTY

Threads = dict[str, Callable[[], None]]


class R47(Case):
    """kvm_vcpu_pre_fault_memory() against kvm_set_memory_region()."""

    name = "R47"
    title = "KVM_PRE_FAULT_MEMORY for a slot that user space deletes"
    protections = {
        "eagain": "prefaulting a slot that is being deleted or moved ends with EAGAIN, it is not retried",
        "srcu": "the ioctl looks slots up in an SRCU section, and deletion waits for it before it zaps",
        "invalid_first": "the slot is marked as invalid before it is zapped (KVM_MEMSLOT_INVALID)",
    }
    missing = frozenset({"eagain"})
    verdict = (
        "Confirmed in the model of the protocol: up to 6.17 a fault in an invalid slot is retried, by a "
        "vCPU after it left SRCU, but by the ioctl in the section that the deletion waits for: "
        "neither gets on until a signal comes. KVM_RUN is not affected. 6.18 returns EAGAIN "
        "(kvm_mmu_faultin_pfn)."
    )

    def setup(self) -> None:
        self.s = self.shared(slot="valid", spte=EMPTY)
        self.mmu_lock = self.lock()
        self.srcu = self.rcu("srcu", held=self.has("srcu"))

    def threads(self) -> Threads:
        return {"KVM_PRE_FAULT_MEMORY": self.prefault, "KVM_SET_USER_MEMORY_REGION": self.delete}

    def prefault(self) -> None:
        s = self.s
        with self.srcu.read():
            slot = s.slot
            if slot == "invalid":
                if self.has("eagain"):
                    return
                s.wait(
                    lambda values: values["slot"] != "invalid", "slot", "retries while the slot is invalid"
                )
            if slot == "valid":
                with self.mmu_lock.read():
                    s.spte = "pfn1"

    def delete(self) -> None:
        s = self.s
        if self.has("invalid_first"):
            s.slot = "invalid"
            self.srcu.synchronize()
        with self.mmu_lock:
            s.spte = EMPTY
        s.slot = EMPTY
        self.srcu.synchronize()

    def check(self) -> None:
        if self.s.peek("spte") != EMPTY:
            self.bad("an SPTE maps the memory of a slot that was deleted")


class R48(Case):
    """kvm_zap_gfn_range(): what is at these addresses changes, and no notifier says so."""

    name = "R48"
    title = "kvm_zap_gfn_range() against a fault that looked at what is there before it changed"
    protections = {
        "change_first": "the page at the address is given up before it is zapped (APICv is inhibited)",
        "in_progress": "an invalidation is in progress while the zap has dropped mmu_lock in its middle",
        "seq_moves": "mmu_invalidate_seq moves when the zap ends (kvm_mmu_invalidate_end)",
        "seq_first": "the fault reads the sequence before it looks what is at the address (smp_rmb)",
    }

    def setup(self) -> None:
        self.s = self.shared(apicv="on", seq=0, in_progress=0, spte="APIC page")
        self.mmu_lock = self.lock()

    def threads(self) -> Threads:
        return {"page fault": self.fault, "APICv is inhibited": self.inhibit}

    def fault(self) -> None:
        s = self.s
        if self.has("seq_first"):
            seq = s.seq
            apicv = s.apicv
        else:
            apicv = s.apicv
            seq = s.seq
        if apicv == "off":
            return
        with self.mmu_lock.read():
            if s.in_progress or s.seq != seq:
                return
            s.spte = "APIC page"

    def inhibit(self) -> None:
        self.in_order("change_first", self.change, self.zap)

    def change(self) -> None:
        self.s.apicv = "off"

    def zap(self) -> None:
        s = self.s
        with self.mmu_lock:
            if self.has("in_progress"):
                s.in_progress = 1
            s.spte = EMPTY
        self.note("cond_resched_rwlock_write: a long range, others wait")
        with self.mmu_lock:
            if self.has("seq_moves"):
                s.seq += 1
            s.in_progress = 0

    def check(self) -> None:
        if self.s.peek("spte") != EMPTY:
            self.bad("the guest still uses the APIC page, which is not emulated any more")


CASES = (R47, R48)
