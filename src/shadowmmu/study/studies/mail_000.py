"""Mail 000, April 2022: how a shadow page is found or made, and what the search of its hash bucket costs."""

from __future__ import annotations

from ..configuration import Configuration
from ..study import Alternative, Case, Results, Study
from ..words import change, listed, ratio, time_change

_LARGE = Configuration(memory="52G")
_BUCKETS = {
    "hash_64, 4096": {"hash_function": "hash_64", "hash_bits": "12"},
    "hash_64, 1024": {"hash_function": "hash_64", "hash_bits": "10"},
    "low bits, 4096": {"hash_function": "gfn", "hash_bits": "12"},
    "low bits, 1024": {"hash_function": "gfn", "hash_bits": "10"},
}
_GIB = 1 << 18
_COUNTING = 1 / 3e9
"""Seconds that it takes to count a page that is passed: an increment of a register, at 3 GHz."""


def _hash_verdict(results: Results) -> str:
    today, *others = _BUCKETS
    longest = {one: results.value("50 GiB, direct", one, "collisions") for one in _BUCKETS}
    times = {one: results.value("50 GiB, direct", one, "seconds") for one in _BUCKETS}
    worst = max(longest, key=lambda one: longest[one])
    big = results.study.cases[-1].label
    measured = results.of(big, today)[0]
    counting = measured["hash_passed"] * _COUNTING / measured["seconds"]
    return (
        f"With 50 GiB in direct pages a search passes up to {longest[today]:,.0f} other pages with "
        f"{today} buckets, {listed([f'{longest[one]:,.0f} with {one}' for one in others])}; the MMU needs "
        f"{time_change(times[worst], times[today])} with {worst} as with {today}. Counting the collisions is "
        f"an increment for each page that is passed: {counting:.2%} of the MMU's time at {big}, at a cycle "
        f"each. So the statistic costs {'next to nothing' if counting < 0.01 else 'something'}, and "
        f"{'it shows a bad hash' if longest[worst] > 10 * longest[today] else 'it shows no bad hash here'} "
        f"({ratio(longest[worst], longest[today])} between best and worst)."
    )


HASH = Study(
    name="000-hash",
    question="How long are searches in the hash of shadow pages, and is their statistic worth its cycles?",
    about=(
        "Sean Christopherson asks in passing why KVM still keeps max_mmu_page_hash_collisions. Direct pages "
        "of a guest with 2 MiB pages on small host pages have gfns that are multiples of 512, which the low "
        "bits put into few buckets. One word is read in each 2 MiB; leaf tables lie side by side."
    ),
    cases=(
        Case("12 GiB, direct", "huge-memory", {"pages": 12 * _GIB}),
        Case("50 GiB, direct", "huge-memory", {"pages": 50 * _GIB}),
        Case("50 GiB, tables", "many-tables", {"pages": 50 * 512}),
    ),
    alternatives=tuple(Alternative(one, _LARGE.with_design(**design)) for one, design in _BUCKETS.items()),
    columns=("collisions", "hash_passed", "shadow_pages", "seconds"),
    plotted="collisions",
    verdict=_hash_verdict,
    logarithmic=True,
    audited=False,
)

_NESTED = Configuration(
    memory="256M", nested=True, direct_map="2M", params={"kvm_amd.npt": 1, "kvm.tdp_mmu": "Y"}
)


def _nested_verdict(results: Results) -> str:
    parts = []
    better = 0
    for case in results.study.cases:
        exits, seconds = (
            [results.value(case.label, one, counter) for one in ("write-protected", "unsync")]
            for counter in ("exits", "seconds")
        )
        better += seconds[0] < seconds[1]
        parts.append(f"{case.label}: {change(*exits)} exits and {time_change(*seconds)}")
    count = len(results.study.cases)
    answer = {0: "Unsync pays for nested guests, too", count: "Nested guests are better off without unsync"}
    return (
        f"{answer.get(better, 'It depends on how many gptes of a table are written at once')}. "
        f"Without it: {'; '.join(parts)}. Write protection costs an exit and an emulation for each gpte, "
        "unsync one exit for each table and a sync at each VMRUN with a flush."
    )


UNSYNC_NESTED = Study(
    name="000-unsync-nested",
    question="Do nested guests need tables that get out of sync?",
    about=(
        "The thread wants to remove unsync for nested MMUs before they get code of their own. Here L1 moves "
        "pages of L2: it writes their gptes, flushes, and runs L2, which reads the pages. L1's nested tables "
        "may get out of sync, or stay write-protected."
    ),
    cases=(
        Case("64 neighbours", "nested-tables", {"rounds": 60, "taken": 64}),
        Case(
            "16 pages, each in a table of its own",
            "nested-tables",
            {"rounds": 60, "taken": 16, "spread": 512},
        ),
        Case("one page", "nested-tables", {"rounds": 400, "taken": 1}),
    ),
    alternatives=(
        Alternative("unsync", _NESTED),
        Alternative("write-protected", _NESTED.with_design(unsync="not_nested")),
    ),
    columns=("exits", "emulated_stores", "remote_flushes", "seconds"),
    plotted="seconds",
    verdict=_nested_verdict,
)

_FLOWS = ("merged", "sketch", "v3", "single")


def _flow_verdict(results: Results) -> str:
    parts = []
    for case in results.study.cases:
        flushes = {one: results.value(case.label, one, "remote_flushes") for one in _FLOWS}
        others = [f"{one} {change(flushes[one], flushes['merged'])}" for one in _FLOWS[1:]]
        parts.append(f"{case.label}: {', '.join(others)}")
    pages = {
        one: [results.value(case.label, one, "shadow_pages_made") for case in results.study.cases]
        for one in _FLOWS
    }
    same = all(pages[one] == pages["merged"] for one in _FLOWS)
    return (
        f"{'All flows make the same pages' if same else 'The flows do not make the same number of pages'}. "
        f"Requests to flush, against those of merged: {'; '.join(parts)}. The flush that sketch and v3 add "
        "follows each sync in a lookup, whether anything changed or not."
    )


GET_PAGE_FLOW = Study(
    name="000-get-page-flow",
    question="What do the ways to find or make a shadow page differ in?",
    about=(
        "The mail sketches another division of kvm_mmu_get_page than the series it answers; what was merged "
        "is a third. They differ in whether a page that is found unsync is always followed by a flush."
    ),
    cases=(
        Case("shared tables", "shared-tables", {"rounds": 200}),
        Case("kernel build", "build", {"jobs": 12}),
        Case("switch ring", "switch-ring"),
    ),
    alternatives=tuple(
        Alternative(one, Configuration(memory="256M").with_design(get_page_flow=one)) for one in _FLOWS
    ),
    columns=("remote_flushes", "local_flushes", "shadow_pages_made", "exits", "seconds"),
    plotted="remote_flushes",
    verdict=_flow_verdict,
)

STUDIES = (HASH, UNSYNC_NESTED, GET_PAGE_FLOW)
