"""SPTEs of 32-bit hosts, written and read in two halves (mail 002, patch 2 of 7)."""

from __future__ import annotations

from collections.abc import Callable

from ..case import Case
from ..memory import shown

PRESENT = 0x11110001
"""A low half with P set; both SPTEs of the mail have it."""


class _Halves(Case):
    """An SPTE 0xa_11110001, cleared and then set to 0xb_11110001, and a reader without mmu_lock."""

    def setup(self) -> None:
        self.s = self.shared(low=PRESENT, high=0xA, count=0)

    def threads(self) -> dict[str, Callable[[], None]]:
        return {"__get_spte_lockless": self.reader, "__update_clear_spte_slow": self.writer}

    def reader(self) -> None:
        for _ in range(2):
            count = self.s.count
            low = self.s.low
            high = self.s.high
            again = self.s.low
            if low != again:
                continue
            if self.counts() and self.s.count != count:
                continue
            self.got(high << 32 | low)
            return

    def counts(self) -> bool:
        return True

    def got(self, spte: int) -> None:
        self.note(f"returns {shown(spte)}")
        known = (0, 0xA << 32 | PRESENT, 0xB << 32 | PRESENT)
        if spte not in known:
            if spte & 1:
                self.bad(f"read {spte:#x}: a present SPTE that never was")
            self.witness(f"read {spte:#x}: torn, but P is clear, so that the rest is ignored")

    def writer(self) -> None:
        raise NotImplementedError


class R37Harmless(_Halves):
    """Paolo Bonzini's question: the check passes although the count is updated last."""

    name = "R37a"
    title = "32-bit host: an SPTE read while it is cleared is torn, and harmless (mail 002, the question)"
    protections = {"low_half_first": "an SPTE is cleared from its low half on, which has P (smp_wmb)"}
    reachable = "a torn SPTE passes the reader's check"

    def writer(self) -> None:
        self.in_order("low_half_first", self.clear_low, self.clear_high)
        self.s.count += 1

    def clear_low(self) -> None:
        self.s.xchg("low", 0)

    def clear_high(self) -> None:
        self.s.high = 0


class R37Harmful(_Halves):
    """Xiao Guangrong's answer: cleared and set again between two reads of the low half."""

    name = "R37b"
    title = "32-bit host: a present SPTE that never was, without clear_spte_count (mail 002, the answer)"
    protections = {
        "clear_spte_count": "a page counts the SPTEs it loses, the reader looks before and after",
        "count_before_set": "the count is up before the new SPTE's low half is written (smp_wmb)",
        "count_read_first": "the reader reads the count before the SPTE (smp_rmb)",
    }

    def counts(self) -> bool:
        return self.has("clear_spte_count")

    def reader(self) -> None:
        if self.has("count_read_first"):
            super().reader()
            return
        low = self.s.low
        count = self.s.count
        high = self.s.high
        if self.s.low == low and self.s.count == count:
            self.got(high << 32 | low)

    def writer(self) -> None:
        self.s.low = 0
        self.s.high = 0
        self.in_order("count_before_set", self.count, self.set)

    def count(self) -> None:
        self.s.count += 1

    def set(self) -> None:
        self.s.high = 0xB
        self.s.low = PRESENT


class R37Walker(Case):
    """The processor reads an SPTE in one piece, whenever it likes."""

    name = "R37c"
    title = "32-bit host: the processor walks while an SPTE is set or cleared in halves"
    protections = {
        "high_half_first": "an SPTE is set from its high half on (__set_spte)",
        "low_half_first": "an SPTE is cleared from its low half on (__update_clear_spte_fast)",
    }

    def setup(self) -> None:
        self.s = self.shared(spte=(0, 0))

    def threads(self) -> dict[str, Callable[[], None]]:
        return {"__set_spte": self.set, "processor": self.walk}

    def low(self, value: int) -> None:
        self.s.update("spte", lambda spte: (spte[0], value), f"low = {shown(value)}")

    def high(self, value: int) -> None:
        self.s.update("spte", lambda spte: (value, spte[1]), f"high = {shown(value)}")

    def set(self) -> None:
        self.in_order("high_half_first", lambda: self.high(0xA), lambda: self.low(PRESENT))
        self.in_order("low_half_first", lambda: self.low(0), lambda: self.high(0))

    def walk(self) -> None:
        high, low = self.s.spte
        if low & 1 and high != 0xA:
            self.bad(f"the processor uses {high << 32 | low:#x}")


CASES = (R37Harmless, R37Harmful, R37Walker)
