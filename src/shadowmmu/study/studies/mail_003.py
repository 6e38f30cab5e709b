"""Mail 003, June 2010: how far to prefetch, and from where."""

from __future__ import annotations

from ...vm.slots import Backing
from ..configuration import Configuration
from ..study import Alternative, Case, Results, Study
from ..words import change, least, ratio, time_change

_BASE = Configuration(memory="256M")
_WINDOWS = ("8_aligned", "off", "16_aligned", "16_from_fault")


def _window_verdict(results: Results) -> str:
    def faults(case: str, window: str) -> float:
        return results.value(case, window, "faults")

    backward = {window: faults("backward", window) for window in _WINDOWS}
    best = least(backward)
    used = {
        window: 1 - results.value("random", window, "unused") / results.value("random", window, "sptes_made")
        for window in _WINDOWS
    }
    return (
        f"Scanned forwards, a window of 16 from the fault on takes "
        f"{faults('forward', '16_from_fault'):,.0f} faults and "
        f"one aligned to 16 takes {faults('forward', '16_aligned'):,.0f}; scanned backwards the first takes "
        f"{backward['16_from_fault']:,.0f}, the second {backward['16_aligned']:,.0f}: {best} is best there, "
        f"{ratio(backward['off'], backward[best])} fewer than without prefetching, and Avi Kivity's advice "
        f"to align is right. "
        f"The price is paid by random reads: of the SPTEs made, {used['8_aligned']:.0%} are used with "
        f"8_aligned and "
        f"{used['16_aligned']:.0%} with 16_aligned."
    )


WINDOW = Study(
    name="003-prefetch-window",
    question="How many neighbours should a shadow page fault map, and starting where?",
    about=(
        "Xiao Guangrong's patch of June 2010 maps the 16 entries after the fault. Avi Kivity answers: align "
        "the window to "
        "16, which helps memory that is scanned backwards. What was merged is a window of 8, aligned."
    ),
    cases=(
        Case("forward", "sequential", {"pages": 4096}),
        Case("backward", "backward", {"pages": 4096}),
        Case("stride 4", "strided", {"pages": 4096, "stride": 4}),
        Case("random", "random", {"pages": 16384, "reads": 4000}),
        Case("zipf", "zipf", {"pages": 16384, "reads": 20000}),
    ),
    alternatives=tuple(Alternative(one, _BASE.with_design(prefetch_window=one)) for one in _WINDOWS),
    columns=("faults", "sptes_made", "unused", "seconds"),
    plotted="faults",
    verdict=_window_verdict,
)

_READS = {
    "both in batches": {},
    "gptes one by one": {"prefetch_gpte_reads": "one_by_one"},
    "lookups one by one": {"prefetch_host_lookups": "one_by_one"},
    "both one by one": {"prefetch_gpte_reads": "one_by_one", "prefetch_host_lookups": "one_by_one"},
}


def _batching_verdict(results: Results) -> str:
    batch = "both in batches"
    parts = []
    for case in results.study.cases:
        gptes, lookups = (
            {one: results.value(case.label, one, counter) for one in _READS}
            for counter in ("prefetch_gptes", "prefetch_lookups")
        )
        read = change(gptes[batch], gptes["gptes one by one"])
        looked_up = change(lookups[batch], lookups["lookups one by one"])
        parts.append(f"{case.label}: {read} gptes read and {looked_up} lookups")
    same = all(
        results.value(case.label, one, "faults") == results.value(case.label, batch, "faults")
        for case in results.study.cases
        for one in _READS
    )
    return (
        f"In batches, against one by one: {'; '.join(parts)}. The number of faults "
        f"{'does not depend on it' if same else 'depends on it'}. A batch of gptes is one page made "
        "accessible for all, where one by one each is; a lookup of a run keeps its place in the "
        "host's tables."
    )


BATCHING = Study(
    name="003-batching",
    question="Read gptes and look up host pages for prefetching together, or one by one?",
    about=(
        "The patch of June 2010 reads each gpte, and looks up each host page, when the one before has been "
        "mapped; what was merged reads all gptes with the fault's own, and looks up runs of neighbours in "
        "direct pages. The window is the patch's, 16, aligned as Avi Kivity advises."
    ),
    cases=(
        Case("indirect, forward", "sequential", {"pages": 4096}),
        Case("indirect, random", "random", {"pages": 16384, "reads": 4000}),
        Case("direct, forward", "huge-memory", {"pages": 4096, "step": 1}),
        Case("direct, random", "huge-memory", {"pages": 16384, "step": 1, "reads": 4000}),
    ),
    alternatives=tuple(
        Alternative(one, _BASE.with_design(prefetch_window="16_aligned", **design))
        for one, design in _READS.items()
    ),
    columns=("prefetch_gptes", "prefetch_lookups", "faults", "sptes_made"),
    plotted="prefetch_lookups",
    verdict=_batching_verdict,
)


def _above_verdict(results: Results) -> str:
    parts = []
    for case in results.study.cases:
        faults, seconds, unused = (
            [results.value(case.label, one, counter) for one in ("prefetched", "not prefetched")]
            for counter in ("faults", "seconds", "unused")
        )
        parts.append(
            f"{case.label}: {change(*faults)} faults, {time_change(*seconds)}, {unused[0]:,.0f} SPTEs never "
            f"used instead of {unused[1]:,.0f}"
        )
    return (
        f"With it: {'; '.join(parts)}. A huge page faults once in 2 MiB, so that the faults which could be "
        "spared are few from the start."
    )


ABOVE_LEVEL_1 = Study(
    name="003-above-level-1",
    question="Should huge pages be prefetched, too?",
    about=(
        "The patch of June 2010 prefetches at every level, where guest and host have pages of that size; "
        "what was merged only small pages. Guest and host have pages of 2 MiB here; memory is read once in "
        "each of them, or at random."
    ),
    cases=(
        Case("forward", "huge-memory", {"pages": 1 << 20}),
        Case("random, a quarter of them", "huge-memory", {"pages": 1 << 20, "reads": 512}),
        Case("16 reads in each", "huge-memory", {"pages": 1 << 20, "step": 32}),
    ),
    alternatives=tuple(
        Alternative(
            label,
            Configuration(memory="4G", backing=Backing.HUGE2M).with_design(
                prefetch_above_level_1=one, prefetch_window="16_aligned"
            ),
        )
        for one, label in (("no", "not prefetched"), ("yes", "prefetched"))
    ),
    columns=("faults", "sptes_made", "unused", "seconds"),
    plotted="faults",
    verdict=_above_verdict,
)

STUDIES = (WINDOW, BATCHING, ABOVE_LEVEL_1)
