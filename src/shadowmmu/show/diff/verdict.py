"""The sentence that the numbers of a difference support, and no other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .difference import CounterPair, Difference

__all__ = ["verdict"]

_READ_FIRST = (
    ("pf_taken", "page faults"),
    ("remote_tlb_flush_requests", "flush requests"),
    ("tlb_flush", "TLB flushes"),
    ("insn_emulation", "emulated instructions"),
    ("made", "shadow pages made"),
    ("mmu_shadow_zapped", "shadow pages zapped"),
    ("mmu_unsync", "unsync pages"),
    ("kvm_mmu_set_spte", "SPTEs installed"),
    ("prefetch_gptes", "gptes read for prefetching"),
    ("prefetch_lookups", "host lookups for prefetching"),
)
"""Counters that cost time, and what they are called in a sentence."""
_MOST = 4


def verdict(difference: Difference, unsafe: Iterable[str] = ()) -> str:
    """Return what the difference comes to; `unsafe` are settings of the right side known to be wrong."""
    right = difference.right
    count, total = len(difference.differing), len(difference.ops)
    unequal = [pair for pair in difference.counters if pair.left != pair.right]
    if not count and not unequal:
        sentences = [f"No difference: {difference.left} and {right} do the same in all {_ops(total)}."]
    else:
        sentences = [f"{right} differs in {count} of {_ops(total)}{_of_counters(difference, unequal)}."]
    stale = difference.counter("stale values")
    if stale.left != stale.right:
        sentences.append(f"Stale values were read {stale.left} and {stale.right} times.")
    sentences += [f"{setting} is known to be unsafe." for setting in unsafe]
    return " ".join(sentences)


def _of_counters(difference: Difference, unequal: Sequence[CounterPair]) -> str:
    """The end of the sentence: what the counters say, those first that cost time."""
    pairs = [(difference.counter(name), words) for name, words in _READ_FIRST]
    changed = [_compared(pair, words) for pair, words in pairs if pair.left != pair.right]
    if changed:
        more = f", and {len(changed) - _MOST} more counters" if len(changed) > _MOST else ""
        return f": {', '.join(changed[:_MOST])}{more}"
    if unequal:
        return f"; of the counters differ {', '.join(pair.label for pair in unequal[:_MOST])}"
    return "; all counters are equal"


def _ops(count: int) -> str:
    return f"{count} op{'' if count == 1 else 's'}"


def _compared(pair: CounterPair, words: str) -> str:
    if not pair.left:
        return f"{pair.right} {words} instead of none"
    if not pair.right:
        return f"no {words} instead of {pair.left}"
    percent = round(100 * (pair.right / pair.left - 1))
    change = f"{percent:+d} %" if percent else "less than 1 % apart"
    return f"{pair.right} {words} instead of {pair.left} ({change})"
