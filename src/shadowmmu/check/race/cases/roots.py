"""Roots, generations and memory slots: which of them may still be used while they are removed."""

from __future__ import annotations

from collections.abc import Callable

from ..case import Case
from .spte import EMPTY

Threads = dict[str, Callable[[], None]]


class T1(Case):
    """kvm_tdp_mmu_get_root() against the last kvm_tdp_mmu_put_root()."""

    name = "T1"
    title = "TDP MMU: a reference to a root is taken while the last one is dropped"
    protections = {
        "unless_zero": "a reference is taken by increment-unless-zero (refcount_inc_not_zero)",
        "rcu": "roots are walked under RCU and freed after a grace period",
    }

    def setup(self) -> None:
        self.s = self.shared(listed=True, references=1, freed=False)
        self.readers = self.rcu(held=self.has("rcu"))

    def threads(self) -> Threads:
        return {"walk of roots": self.walk, "put root": self.put}

    def walk(self) -> None:
        s = self.s
        with self.readers.read():
            if not s.listed:
                return
            if s.freed:
                self.bad("the reference count of a freed root is read")
            got = s.update(
                "references", lambda n: n + 1 if n or not self.has("unless_zero") else n, "get, unless zero"
            )
        if (got or not self.has("unless_zero")) and s.freed:
            self.bad("a freed root is used")
        if got and s.add("references", -1) == 1:
            self.free()

    def put(self) -> None:
        if self.s.add("references", -1) == 1:
            self.free()

    def free(self) -> None:
        self.s.listed = False
        self.readers.synchronize()
        self.s.freed = True


class T2(Case):
    """tdp_mmu_next_root(): the next root is got before the present one is put."""

    name = "T2"
    title = "TDP MMU: a walk over roots drops mmu_lock, and its root is freed"
    protections = {"reference": "the walk holds a reference to its root across a yield"}

    def setup(self) -> None:
        self.s = self.shared(references=1, root="live")
        self.mmu_lock = self.lock()

    def threads(self) -> Threads:
        return {"walk over roots": self.walk, "vCPU drops its root": self.put}

    def walk(self) -> None:
        s = self.s
        with self.mmu_lock.read():
            if s.root != "live":
                return
            if self.has("reference") and not s.update(
                "references", lambda n: n + bool(n), "get, unless zero"
            ):
                return
        self.note("yields")
        with self.mmu_lock.read():
            if s.root != "live":
                self.bad("a freed root is walked")
        if self.has("reference"):
            self.put()

    def put(self) -> None:
        if self.s.add("references", -1) == 1:
            with self.mmu_lock.write():
                self.s.root = "freed"


class R22(Case):
    """kvm_mmu_zap_all_fast() against a vCPU that loads a root and runs."""

    name = "R22"
    title = "zap-all by generation against a vCPU that loads a root"
    protections = {
        "generation_first": "the generation changes before vCPUs get the request",
        "one_critical_section": "both are done under one hold of mmu_lock",
    }

    def setup(self) -> None:
        self.s = self.shared(generation=0, request=False, mode="OUTSIDE", freed=False)
        self.mmu_lock = self.lock()

    def threads(self) -> Threads:
        return {"zap all": self.zap_all, "vCPU": self.vcpu, "zap of others": self.zap_obsolete}

    def vcpu(self) -> None:
        s = self.s
        root = self.load()
        for _ in range(2):
            s.mode = "IN_GUEST"
            self.fence()
            if s.request:
                s.mode = "OUTSIDE"
                s.request = False
                root = self.load()
                continue
            if root == 0 and s.freed:
                self.bad("the guest runs on a root that was freed")
            s.mode = "OUTSIDE"

    def load(self) -> int:
        with self.mmu_lock:
            root: int = self.s.generation
            self.note(f"root of generation {root}")
        return root

    def change(self) -> None:
        self.s.generation = 1

    def tell(self) -> None:
        self.s.request = True
        self.kick()

    def kick(self) -> None:
        self.s.wait(
            lambda values: values["mode"] == "OUTSIDE", "mode", "kick: wait until no vCPU is in the guest"
        )

    def zap_all(self) -> None:
        if self.has("one_critical_section") and self.has("generation_first"):
            with self.mmu_lock:
                self.change()
                self.tell()
        elif self.has("generation_first"):
            with self.mmu_lock:
                self.change()
            with self.mmu_lock:
                self.tell()
        else:
            self.tell()
            with self.mmu_lock:
                self.change()
        self.zap_obsolete()

    def zap_obsolete(self) -> None:
        with self.mmu_lock:
            if self.s.generation == 1 and not self.s.freed:
                self.kick()
                self.s.freed = True


class R23(Case):
    """kvm_mmu_prepare_zap_page() of a page that is a root in use."""

    name = "R23"
    title = "a root is zapped: marked invalid, then vCPUs get a request to free it"
    protections = {"invalid_first": "role.invalid is set before KVM_REQ_MMU_FREE_OBSOLETE_ROOTS is made"}

    def setup(self) -> None:
        self.s = self.shared(invalid=False, request=False, root="old")

    def threads(self) -> Threads:
        return {"zap": self.zap, "vCPU": self.vcpu}

    def zap(self) -> None:
        self.in_order("invalid_first", self.invalidate, self.tell)

    def invalidate(self) -> None:
        self.s.invalid = True

    def tell(self) -> None:
        self.s.request = True

    def vcpu(self) -> None:
        if self.s.xchg("request", False) and self.s.invalid:
            self.s.root = "new"

    def check(self) -> None:
        s = self.s
        if s.peek("invalid") and s.peek("root") == "old" and not s.peek("request"):
            self.bad("the vCPU keeps an invalid root, and its request is used up")


class R24(Case):
    """kvm_tdp_mmu_alloc_root() with mmu_lock held for reading."""

    name = "R24"
    title = "TDP MMU: two vCPUs allocate the same root"
    protections = {
        "pages_lock": "tdp_mmu_pages_lock is held",
        "search_again": "the list is searched again under that lock",
    }

    def setup(self) -> None:
        self.s = self.shared(roots=0)
        self.mmu_lock = self.lock()
        self.pages_lock = self.lock("tdp_mmu_pages_lock", held=self.has("pages_lock"))

    def threads(self) -> Threads:
        return {"vCPU 0": self.load, "vCPU 1": self.load}

    def load(self) -> None:
        with self.mmu_lock.read():
            if self.s.roots:
                return
            with self.pages_lock:
                if not self.has("search_again") or not self.s.roots:
                    self.s.add("roots", 1)

    def check(self) -> None:
        made = self.s.peek("roots")
        if made != 1:
            self.bad(f"{made} roots for one role")


class R25(Case):
    """track_possible_nx_huge_page() after the page was linked."""

    name = "R25"
    title = "TDP MMU: a table made for NX huge pages is zapped before it is on the list"
    protections = {
        "flag_checked_again": "the fault looks at nx_huge_page_disallowed again under tdp_mmu_pages_lock",
        "flag_before_link": "nx_huge_page_disallowed is set before the table is linked",
    }

    def setup(self) -> None:
        self.s = self.shared(flag=False, link=False, listed=False, freed=False)
        self.pages_lock = self.lock("tdp_mmu_pages_lock")

    def threads(self) -> Threads:
        return {"page fault": self.fault, "zap": self.zap}

    def fault(self) -> None:
        self.in_order("flag_before_link", self.flag, self.link)
        with self.pages_lock:
            if not self.has("flag_checked_again") or self.s.flag:
                self.s.listed = True

    def flag(self) -> None:
        self.s.flag = True

    def link(self) -> None:
        self.s.cmpxchg("link", False, True)

    def zap(self) -> None:
        s = self.s
        if not s.cmpxchg("link", True, False):
            return
        if s.flag:
            with self.pages_lock:
                s.flag = False
                s.listed = False
        s.freed = True

    def check(self) -> None:
        if self.s.peek("freed") and self.s.peek("listed"):
            self.bad("a freed table is on the list")


class R26(Case):
    """MMIO SPTEs carry the generation of the slots that they were made by."""

    name = "R26a"
    title = "an MMIO SPTE made while memory slots change hides the new slot"
    protections = {
        "old_number": "until the update is done MMIO SPTEs get the old generation ",
        "srcu_wait": "the generation changes after all faults with the old slots have ended",
    }

    def setup(self) -> None:
        self.s = self.shared(slots="without gfn", generation=0, in_progress=False, mmio=None)
        self.srcu = self.rcu("srcu", held=self.has("srcu_wait"))

    def threads(self) -> Threads:
        return {"page fault": self.fault, "KVM_SET_USER_MEMORY_REGION": self.update}

    def fault(self) -> None:
        s = self.s
        with self.srcu.read():
            if s.slots == "without gfn":
                s.mmio = s.generation

    def update(self) -> None:
        s = self.s
        old_number = self.has("old_number")
        s.step(
            "slots generation in_progress",
            "publish the new slots",
            lambda v: v.update(slots="with gfn", in_progress=True, generation=0 if old_number else 2),
        )
        self.srcu.synchronize()
        s.step(
            "generation in_progress", "generation = 2", lambda v: v.update(generation=2, in_progress=False)
        )

    def check(self) -> None:
        if self.s.peek("mmio") == self.s.peek("generation"):
            self.bad("a valid MMIO SPTE hides memory")


class R26Wrap(Case):
    """The generation comes round: here after 2 updates, in KVM after 2^18."""

    name = "R26b"
    title = "the MMIO generation wraps, and SPTEs of an old one look valid"
    protections = {
        "zap_on_wrap": "when the generation is 0 all pages are zapped (kvm_mmu_invalidate_mmio_sptes)"
    }

    def setup(self) -> None:
        self.s = self.shared(slots="without gfn", generation=0, mmio=None)
        self.srcu = self.rcu("srcu")
        self.mmu_lock = self.lock()

    def threads(self) -> Threads:
        return {"page fault": self.fault, "KVM_SET_USER_MEMORY_REGION": self.update}

    def fault(self) -> None:
        with self.srcu.read():
            if self.s.slots == "without gfn":
                with self.mmu_lock:
                    self.s.mmio = self.s.generation

    def update(self) -> None:
        for _ in range(2):
            self.s.slots = "with gfn"
            self.srcu.synchronize()
            generation = (self.s.generation + 2) % 4
            if generation == 0 and self.has("zap_on_wrap"):
                with self.mmu_lock:
                    self.s.mmio = None
            self.s.generation = generation

    def check(self) -> None:
        if self.s.peek("mmio") == self.s.peek("generation"):
            self.bad("a valid MMIO SPTE hides memory")


class R27(Case):
    """A slot is deleted in two steps: marked INVALID first, then removed."""

    name = "R27"
    title = "a slot is deleted, and a fault takes its INVALID slot for none"
    protections = {"retry_if_invalid": "a fault in a slot that is INVALID is retried (kvm_faultin_pfn)"}

    def setup(self) -> None:
        self.s = self.shared(slot="valid", spte="pfn1")
        self.srcu = self.rcu("srcu")
        self.mmu_lock = self.lock()

    def threads(self) -> Threads:
        return {"page fault": self.fault, "delete slot": self.delete}

    def fault(self) -> None:
        with self.srcu.read():
            slot = self.s.slot
            if slot == "INVALID" and self.has("retry_if_invalid"):
                return
            with self.mmu_lock:
                if slot == "valid":
                    self.s.spte = "pfn1"
                    return
                if self.s.spte not in (EMPTY, "MMIO"):
                    self.bad("an MMIO SPTE replaces a mapping that is in an rmap")
                self.s.spte = "MMIO"

    def delete(self) -> None:
        self.s.slot = "INVALID"
        self.srcu.synchronize()
        with self.mmu_lock:
            self.s.spte = EMPTY
        self.s.slot = "none"


class R28(Case):
    """mmu_first_shadow_root_alloc() gives every slot its rmaps, once."""

    name = "R28"
    title = "rmaps are allocated with the first shadow root, while a slot is made"
    protections = {
        "release": "shadow_root_allocated is set after the arrays are (smp_store_release)",
        "slots_arch_lock": "a new slot is published under slots_arch_lock",
    }

    def setup(self) -> None:
        self.s = self.shared(allocated=False, rmap_old=False, rmap_new=False, published=False)
        self.slots_arch_lock = self.lock("slots_arch_lock", held=self.has("slots_arch_lock"))

    def threads(self) -> Threads:
        return {"first shadow root": self.allocate, "new slot": self.create, "rmap user": self.use}

    def allocate(self) -> None:
        with self.slots_arch_lock:
            self.in_order("release", self.arrays, self.flag)

    def arrays(self) -> None:
        self.s.rmap_old = True
        if self.s.published:
            self.s.rmap_new = True

    def flag(self) -> None:
        self.s.allocated = True

    def create(self) -> None:
        with self.slots_arch_lock:
            if self.s.allocated:
                self.s.rmap_new = True
            self.s.published = True

    def use(self) -> None:
        if self.s.allocated and (not self.s.rmap_old or (self.s.published and not self.s.rmap_new)):
            self.bad("a slot without rmaps is used")


CASES = (T1, T2, R22, R23, R24, R25, R26, R26Wrap, R27, R28)
