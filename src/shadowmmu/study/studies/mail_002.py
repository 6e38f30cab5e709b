"""Mail 002, June 2013: what the documentation of the MMU should say, and whether its mechanisms pay."""

from __future__ import annotations

from ..configuration import Configuration
from ..study import Alternative, Case, Results, Study
from ..words import ratio, span

_ZAP_SIZES = {"64 MiB": 1 << 14, "256 MiB": 1 << 16, "1 GiB": 1 << 18, "4 GiB": 1 << 20}
_ZAP = Configuration(memory="4608M")


def _zap_verdict(results: Results) -> str:
    sizes = list(_ZAP_SIZES)
    hold = {
        kind: [results.value(size, kind, "longest_hold") for size in sizes] for kind in ("generation", "walk")
    }
    return (
        f"By walk the lock is held for {span(hold['walk'][0])} with {sizes[0]} mapped and "
        f"{span(hold['walk'][-1])} with "
        f"{sizes[-1]}, and no vCPU can fault meanwhile; by generation never longer than "
        f"{span(max(hold['generation']))}, "
        f"{ratio(hold['walk'][-1], hold['generation'][-1])} less, however much is mapped. Both zap the same "
        f"pages."
    )


ZAP_ALL = Study(
    name="002-zap-all",
    question="How long does a guest stand still when all its shadow pages are zapped?",
    about=(
        "Patch 6 documents zapping by generation: pages become obsolete at once and are zapped in steps, "
        "with mmu_lock dropped "
        "in between. Before, all were zapped under one hold. The time is that of the longest hold, by the "
        "costs of an SPTE and "
        "of a page."
    ),
    cases=tuple(Case(label, "zap-all", {"pages": pages}) for label, pages in _ZAP_SIZES.items()),
    alternatives=tuple(Alternative(one, _ZAP.with_design(zap_all=one)) for one in ("generation", "walk")),
    columns=("longest_hold", "sptes_zapped", "shadow_pages_zapped", "remote_flushes"),
    plotted="longest_hold",
    verdict=_zap_verdict,
    logarithmic=True,
)


def _unsync_verdict(results: Results) -> str:
    costs = []
    for case in ("fork storm", "mmap loop", "kernel build"):
        leaf, never = (results.value(case, one, "exits") for one in ("leaf", "never"))
        seconds = [results.value(case, one, "seconds") for one in ("leaf", "never")]
        costs.append(
            f"{case} {never / leaf:.1f} times the exits and {seconds[1] / seconds[0]:.1f} times the time"
        )
    return (
        f"Write-protecting every table instead costs: {'; '.join(costs)}. "
        "Letting leaf tables get out of sync pays."
    )


UNSYNC = Study(
    name="002-unsync",
    question="What does it bring that leaf tables may get out of sync?",
    about=(
        "Patch 3 says why only leaf tables may. Without unsync every write to a shadowed table is emulated; "
        "with it the first "
        "write makes the table writable, and the guest's own flush brings it back in sync."
    ),
    cases=(
        Case("fork storm", "fork-storm", {"pages": 1024, "forks": 16}),
        Case("mmap loop", "mmap-loop", {"rounds": 60}),
        Case("kernel build", "build", {"jobs": 12}),
    ),
    alternatives=tuple(
        Alternative(one, Configuration().with_design(unsync=one)) for one in ("leaf", "never")
    ),
    columns=("exits", "emulated_stores", "flooded", "remote_flushes", "seconds"),
    plotted="exits",
    verdict=_unsync_verdict,
)


_THRESHOLDS = ("3", "off", "1", "8", "64")


_EQUAL = 1.01
"""Times whose ratio is less are taken as the same."""


def _flood_verdict(results: Results) -> str:
    cases = [case.label for case in results.study.cases]

    def of(case: str, counter: str) -> dict[str, float]:
        return {one: results.value(case, one, counter) for one in _THRESHOLDS}

    gains = {case: of(case, "seconds")["off"] / of(case, "seconds")["3"] for case in cases}
    most = max(cases, key=lambda case: gains[case])
    same = [case for case in cases if 1 / _EQUAL < gains[case] < _EQUAL]
    sentences = []
    if most not in same:
        seconds, stores = of(most, "seconds"), of(most, "emulated_stores")
        sentences.append(
            f"In a {most} KVM's threshold of 3 takes {span(seconds['3'])} of MMU work, no threshold "
            f"{span(seconds['off'])} ({ratio(seconds['off'], seconds['3'])} as much): "
            f"{stores['off']:,.0f} stores are emulated instead of {stores['3']:,.0f}. "
            f"A threshold of 1 takes {span(seconds['1'])}, as it zaps tables that are still in use: "
            f"{of(most, 'shadow_pages_made')['1']:,.0f} shadow pages are made instead of "
            f"{of(most, 'shadow_pages_made')['3']:,.0f}."
        )
    if same:
        sentences.append(f"To a {' and a '.join(same)} it makes no difference whether there is one.")
    return " ".join(sentences)


FLOODING = Study(
    name="002-write-flooding",
    question="After how many writes is a page no page table any more?",
    about=(
        "Patch 3 documents write_flooding_count: the third write to an upper table without a use in between "
        "zaps its page."
    ),
    cases=(
        Case("fork storm", "fork-storm", {"pages": 1024, "forks": 16}),
        Case("kernel build", "build", {"jobs": 12}),
        Case("table churn", "table-churn", {"rounds": 20}),
    ),
    alternatives=tuple(
        Alternative(one, Configuration().with_design(write_flooding=one)) for one in _THRESHOLDS
    ),
    columns=("exits", "emulated_stores", "flooded", "shadow_pages_made", "seconds"),
    plotted="seconds",
    verdict=_flood_verdict,
)

STUDIES = (ZAP_ALL, UNSYNC, FLOODING)
