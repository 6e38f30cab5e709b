"""The sentence that the numbers of a difference support, and no other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .difference import CounterPair, Difference

__all__ = ["verdict"]

_READ_FIRST = (
    ("pf_taken", "page fault", "page faults"),
    ("remote_tlb_flush_requests", "flush request", "flush requests"),
    ("tlb_flush", "TLB flush", "TLB flushes"),
    ("insn_emulation", "emulated instruction", "emulated instructions"),
    ("made", "shadow page made", "shadow pages made"),
    ("mmu_shadow_zapped", "shadow page zapped", "shadow pages zapped"),
    ("mmu_unsync", "unsync page", "unsync pages"),
    ("kvm_mmu_set_spte", "SPTE installed", "SPTEs installed"),
    ("prefetch_gptes", "gpte read for prefetching", "gptes read for prefetching"),
    ("prefetch_lookups", "host lookup for prefetching", "host lookups for prefetching"),
)
"""Counters that cost time, and what one and several are called in a sentence."""
_OF_DESIGNS = ("prefetch_gptes", "prefetch_lookups")
"""Counted only where a switch of prefetching is not at its default: nothing can be said if one side has
none.
"""
_MOST = 4


def verdict(difference: Difference, unsafe: Iterable[str] = ()) -> str:
    """Return what the difference comes to; `unsafe` are settings known to be wrong."""
    right = difference.right
    count, total = len(difference.differing), len(difference.ops)
    unequal = [pair for pair in difference.counters if pair.left != pair.right]
    if not count and not unequal:
        sentences = [f"No difference: {difference.left} and {right} do the same in all {_ops(total)}."]
    else:
        where = f"{count} of {_ops(total)}" if count else f"none of {_ops(total)}"
        sentences = [f"{right} differs in {where}{_of_counters(difference, unequal)}."]
    stale = difference.counter("stale values")
    if stale.left != stale.right:
        sentences.append(f"Stale values were read {stale.left} and {stale.right} times.")
    sentences += [f"{setting} is known to be unsafe." for setting in unsafe]
    return " ".join(sentences)


def _of_counters(difference: Difference, unequal: Sequence[CounterPair]) -> str:
    """Return the end of the sentence: what the counters say, those first that cost time."""
    pairs = [(difference.counter(name), one, several) for name, one, several in _READ_FIRST]
    changed = [
        _compared(pair, one, several)
        for pair, one, several in pairs
        if pair.left != pair.right and _is_said(pair)
    ]
    if changed:
        left = len(changed) - _MOST
        more = f", and {left} more counter{'' if left == 1 else 's'}" if left > 0 else ""
        return f": {', '.join(changed[:_MOST])}{more}"
    others = [pair for pair in unequal if _is_said(pair)]
    if others:
        return ": " + ", ".join(f"{pair.name} {pair.right} instead of {pair.left}" for pair in others[:_MOST])
    return "" if unequal else "; all counters are equal"


def _is_said(pair: CounterPair) -> bool:
    return pair.name not in _OF_DESIGNS or bool(pair.left and pair.right)


def _ops(count: int) -> str:
    return f"{count} op{'' if count == 1 else 's'}"


def _compared(pair: CounterPair, one: str, several: str) -> str:
    words = one if pair.right == 1 else several
    if not pair.left:
        return f"{pair.right} {words} instead of none"
    if not pair.right:
        return f"no {one} instead of {pair.left}"
    percent = round(100 * (pair.right / pair.left - 1))
    change = f"{percent:+d} %" if percent else "less than 1 % apart"
    return f"{pair.right} {words} instead of {pair.left} ({change})"
