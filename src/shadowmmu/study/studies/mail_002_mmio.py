"""Mail 002, June 2013: MMIO SPTEs, what makes them stale, and faults that take no lock."""

from __future__ import annotations

from ..configuration import Configuration
from ..study import Alternative, Case, Results, Study
from ..words import change, listed, span, time_change

_SMALL = Configuration(memory="64M")
_MMIO = {
    "SPTEs and cache": {},
    "no cache": {"vcpu_mmio_cache": "no"},
    "no MMIO SPTEs": {"mmio_caching": "no"},
    "neither": {"mmio_caching": "no", "vcpu_mmio_cache": "no"},
}


def _mmio_verdict(results: Results) -> str:
    parts = []
    for case in results.study.cases:
        each = {}
        for one in _MMIO:
            accesses = results.value(case.label, one, "mmio")
            counters = ("guest_walks", "faults", "emulations", "exits")
            each[one] = [results.value(case.label, one, counter) / accesses for counter in counters]
        walks = [f"{each[one][0]:.2f} with {one}" for one in _MMIO]
        seconds = [results.value(case.label, one, "seconds") for one in ("neither", "SPTEs and cache")]
        parts.append(
            f"{case.label}: an access takes {each['SPTEs and cache'][3]:.2f} exits and "
            f"{each['SPTEs and cache'][2]:.2f} emulations, and KVM walks the guest's tables {listed(walks)}; "
            f"it takes {time_change(*seconds)} without both"
        )
    return f"{'; '.join(parts)}. The exit and the emulation stay: only the way to them gets shorter."


MMIO = Study(
    name="002-mmio",
    question="What does it bring to remember where MMIO is?",
    about=(
        "Patch 4 documents two memories: an SPTE with a reserved bit, whose fault says MMIO at once, and the "
        "vCPU's last MMIO access, which spares the walk of the guest's tables. A driver reads a status and "
        "rings a doorbell, on one page or on eight in turn."
    ),
    cases=(
        Case("one page", "mmio-device", {"pages": 1, "rounds": 2000}),
        Case("8 pages", "mmio-device", {"pages": 8, "rounds": 250}),
    ),
    alternatives=tuple(Alternative(one, _SMALL.with_design(**design)) for one, design in _MMIO.items()),
    columns=("guest_walks", "faults", "exits", "emulations", "mmio", "seconds"),
    plotted="guest_walks",
    verdict=_mmio_verdict,
)

_STALE = Configuration(memory="1G")
_INVALIDATION = {
    "generation": {},
    "walk": {"mmio_invalidation": "walk"},
    "generation of 3 bits": {"mmio_generation_bits": "3"},
}


def _invalidation_verdict(results: Results) -> str:
    smallest, largest = results.study.cases[0].label, results.study.cases[-1].label
    rounds = results.study.cases[0].parameters["rounds"]
    searched = [results.value(case, "walk", "shadow_pages") for case in (smallest, largest)]
    zapped = {one: results.value(largest, one, "shadow_pages_zapped") for one in _INVALIDATION}
    seconds = {one: results.value(largest, one, "seconds") for one in _INVALIDATION}
    faults = {one: results.value(largest, one, "faults") for one in _INVALIDATION}
    wrapped, kept = ([found["generation of 3 bits"], found["generation"]] for found in (zapped, seconds))
    return (
        f"Each of {rounds} new slots makes the walk search every shadow page under one hold of mmu_lock: "
        f"about {searched[0]:,.0f} pages with {smallest}, {searched[1]:,.0f} with {largest}. A generation is "
        f"one increment, whatever is mapped. With {largest} the walk zaps {zapped['walk']:,.0f} pages, the "
        f"generation {zapped['generation']:,.0f}; the walk takes "
        f"{change(faults['walk'], faults['generation'])} faults. If only 3 bits of the generation are kept "
        f"it wraps and zaps all: {wrapped[0]:,.0f} pages in all, and {time_change(*kept)}. With 19 bits "
        "that happens once in 262,144 changes."
    )


MMIO_INVALIDATION = Study(
    name="002-mmio-invalidation",
    question="What does it cost to forget where MMIO was when slots change?",
    about=(
        "Patch 7 lets each MMIO SPTE carry the generation of the slots, so that old ones are stale at once. "
        "Before, all pages were searched for them and those that had one zapped. The time of that search is "
        "not in the times here; pages zapped and faults are."
    ),
    cases=(
        Case("8 MiB mapped", "mmio-slots", {"pages": 1 << 11, "rounds": 50}),
        Case("64 MiB mapped", "mmio-slots", {"pages": 1 << 14, "rounds": 50}),
        Case("512 MiB mapped", "mmio-slots", {"pages": 1 << 17, "rounds": 50}),
    ),
    alternatives=tuple(
        Alternative(one, _STALE.with_design(**design)) for one, design in _INVALIDATION.items()
    ),
    columns=("shadow_pages_zapped", "faults", "mmio_sptes", "shadow_pages", "seconds"),
    plotted="seconds",
    verdict=_invalidation_verdict,
    audited=False,
    logarithmic=True,
)

_TDP = Configuration(memory="256M", params={"kvm_amd.npt": 1, "kvm.tdp_mmu": "Y"})
_PATHS = {"yes": "with the fast path", "no": "without"}


def _fast_verdict(results: Results) -> str:
    parts, seconds = [], []
    for case in results.study.cases:
        fast, locked = (results.value(case.label, _PATHS["yes"], counter) for counter in ("fast", "locked"))
        before = results.value(case.label, _PATHS["no"], "locked")
        times = [results.value(case.label, one, "seconds") for one in _PATHS.values()]
        seconds.append(f"{case.label} {span(times[0])} against {span(times[1])}")
        parts.append(
            f"{case.label}: {fast:,.0f} of {fast + locked:,.0f} faults take no lock, and {locked:,.0f} "
            f"instead of {before:,.0f} take it"
        )
    return (
        f"{'; '.join(parts)}. The MMU's time, without any waiting for the lock: {'; '.join(seconds)}. What "
        "vCPUs, and the thread that reads the log, wait for each other comes on top where the lock is taken."
    )


FAST_PAGE_FAULT = Study(
    name="002-fast-page-fault",
    question="How many faults of a migration can do without mmu_lock?",
    about=(
        "Patch 5 documents the fast page fault: a write to an SPTE that is read-only only because of dirty "
        "logging is let through by one compare-and-exchange. A guest on nested page tables is migrated in "
        "three rounds."
    ),
    cases=tuple(
        Case(f"{written} % written", "migration", {"rounds": 3, "pages": 8192, "written": written})
        for written in (5, 50, 100)
    ),
    alternatives=tuple(
        Alternative(label, _TDP.with_design(fast_page_fault=one)) for one, label in _PATHS.items()
    ),
    columns=("locked", "fast", "exits", "seconds"),
    plotted="locked",
    verdict=_fast_verdict,
)

_I386 = (
    Configuration(memory="256M", paging="pae").with_design(empty_spte="0").with_params({"kvm.tdp_mmu": "N"})
)
_WORDS = {
    "64-bit stores": ({}, ""),
    "32-bit stores": ({"host_word": "32"}, ""),
    "32-bit, no count": (
        {"host_word": "32", "clear_spte_count": "no"},
        "a reader without mmu_lock can see half of one SPTE and half of the next",
    ),
}


def _word_verdict(results: Results) -> str:
    parts = []
    differ = False
    for case in results.study.cases:
        written = {
            one: results.value(case.label, one, "sptes_made") + results.value(case.label, one, "sptes_zapped")
            for one in _WORDS
        }
        times = [results.value(case.label, one, "seconds") for one in ("32-bit stores", "64-bit stores")]
        differ |= times[0] != times[1] or written["32-bit stores"] != written["64-bit stores"]
        parts.append(
            f"{case.label}: {written['64-bit stores']:,.0f} leaf SPTEs are made or zapped, which is as many "
            f"stores with 64 bits and {2 * written['32-bit stores']:,.0f} with 32"
        )
    return (
        f"{'; '.join(parts)}. Faults, flushes and pages {'differ, too' if differ else 'are the same'}; "
        "the price is a second store and a barrier for each SPTE, and one increment for each that is zapped, "
        "by which readers without mmu_lock see that they must read again."
    )


HOST_WORD = Study(
    name="002-host-word",
    question="What does a 64-bit SPTE cost on a 32-bit host?",
    about=(
        "Patch 2 documents how an SPTE is written in two halves, and the count of cleared SPTEs by which "
        "lockless walks notice that they read halves of two. The guest is a PAE one on shadow pages."
    ),
    cases=(
        Case("fork storm", "fork-storm", {"pages": 1024, "forks": 8}),
        Case("mmap loop", "mmap-loop", {"rounds": 30}),
    ),
    alternatives=tuple(
        Alternative(one, _I386.with_design(**design), unsafe) for one, (design, unsafe) in _WORDS.items()
    ),
    columns=("sptes_made", "sptes_zapped", "remote_flushes", "exits", "seconds"),
    plotted="seconds",
    verdict=_word_verdict,
)

STUDIES = (MMIO, MMIO_INVALIDATION, FAST_PAGE_FAULT, HOST_WORD)
