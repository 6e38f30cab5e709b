"""Writes and reads of an SPTE on a host whose largest store has 32 bits, one memory access at a time.

An SPTE is two words there. A reader without mmu_lock may see the halves of two values; the order of the
stores, and a count in the shadow page, keep it from taking such a torn value for a translation (union
split_spte, __set_spte, __update_clear_spte_fast, __update_clear_spte_slow, __get_spte_lockless of
arch/x86/kvm/mmu/mmu.c, 6.12.111 with CONFIG_X86_32).

SpteWrite and LocklessRead make one access with each step(), so that steps of several vCPUs can be put in any
order. On a host with `host_word` 64 each is a single access.
"""

from ..bits import SPTE_MMU_PRESENT
from ..state.vm import Kvm

WORD = 0xFFFFFFFF
BOTH = ("both",)
SET = ("high", "low")
CLEAR = ("low", "high")
EXCHANGE = ("exchange low", "load high", "high")
COUNT = ("count",)


class SpteWrite:
    """One write of an SPTE; step() makes the next memory access.

    Setting an empty SPTE stores the half with the present bit last, any other change stores it first. An SPTE
    never becomes one of a different page directly, it is emptied in between; emptying one increments the
    count of its page. With `fetch` the low half is exchanged, so bits that the processor sets meanwhile are
    not lost.

    Attributes:
        kvm: The VM.
        sptep: Physical address of the SPTE.
        new: Value to store.
        old: Value before the write; with `fetch` exact only after the last step.
        done: Number of accesses made.
        accesses: Names of the accesses, in order.
    """

    def __init__(self, kvm: Kvm, sptep: int, new: int, *, fetch: bool = False) -> None:
        self.kvm = kvm
        self.sptep = sptep
        self.new = new
        self.old = kvm.read_spte(sptep)
        self.done = 0
        self.accesses = self._plan(fetch=fetch)

    def _plan(self, *, fetch: bool) -> tuple[str, ...]:
        """Return the names of the accesses."""
        if self.kvm.design.host_word != 32:
            return BOTH
        if not self.old & SPTE_MMU_PRESENT and self.new != self.kvm.design.empty_spte:
            return SET
        counts = not self.new & SPTE_MMU_PRESENT and self.kvm.design.clear_spte_count
        return (EXCHANGE if fetch else CLEAR) + (COUNT if counts else ())

    def step(self) -> bool:
        """Make the next access. Return whether there is another."""
        arena = self.kvm.arena
        access = self.accesses[self.done]
        self.done += 1
        if access == "both":
            arena.store(self.sptep, 8, self.new)
        elif access == "count":
            self.kvm.sptep_to_sp(self.sptep).clear_spte_count += 1
        elif access == "load high":
            self.old = self.old & WORD | arena.load(self.sptep + 4, 4) << 32
        elif access == "high":
            arena.store(self.sptep + 4, 4, self.new >> 32)
        else:
            if access == "exchange low":
                self.old = self.old & ~WORD | arena.load(self.sptep, 4)
            arena.store(self.sptep, 4, self.new & WORD)
        return self.done < len(self.accesses)


class LocklessRead:
    """One read of an SPTE without mmu_lock; step() makes the next load.

    The low half is loaded before and after the high half, until both loads agree. Without the count that is
    not enough: the SPTE may have been emptied and set to one with the same low half.

    Attributes:
        kvm: The VM.
        sptep: Physical address of the SPTE.
        value: The SPTE; complete after the last step.
        retries: Number of times that the read began anew.
        count: clear_spte_count of the page when the read began.
        next: Name of the next load; "" after the last.
    """

    def __init__(self, kvm: Kvm, sptep: int) -> None:
        self.kvm = kvm
        self.sptep = sptep
        self.value = 0
        self.retries = 0
        self.count = 0
        self.next = "both" if kvm.design.host_word != 32 else self._first()

    def _first(self) -> str:
        """Return the name of the first load."""
        return "count" if self.kvm.design.clear_spte_count else "low"

    def _again(self) -> str:
        """Count a retry. Return the name of the first load."""
        self.retries += 1
        return self._first()

    def step(self) -> bool:
        """Make the next load. Return whether there is another."""
        arena = self.kvm.arena
        match self.next:
            case "both":
                self.value = arena.load(self.sptep, 8)
                self.next = ""
            case "count":
                self.count = self.kvm.sptep_to_sp(self.sptep).clear_spte_count
                self.next = "low"
            case "low":
                self.value = arena.load(self.sptep, 4)
                self.next = "high"
            case "high":
                self.value |= arena.load(self.sptep + 4, 4) << 32
                self.next = "low again"
            case "low again" if arena.load(self.sptep, 4) != self.value & WORD:
                self.next = self._again()
            case "low again":
                self.next = "count again" if self.kvm.design.clear_spte_count else ""
            case _:
                same = self.kvm.sptep_to_sp(self.sptep).clear_spte_count == self.count
                self.next = "" if same else self._again()
        return self.next != ""
