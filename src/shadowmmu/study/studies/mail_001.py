"""Mail 001, June 2022: eager splitting of huge pages for nested guests, and the flush that it can spare."""

from __future__ import annotations

from ..configuration import Configuration
from ..study import Alternative, Case, Results, Study
from ..words import change, span, time_change

NESTED = Configuration(memory="64M", nested=True, params={"kvm_amd.npt": 1, "kvm.tdp_mmu": "Y"})
_RULES = {
    "stable": "",
    "always": "",
    "if_not_identical": (
        "it overlooks SPTEs of an older table that allow less, so that L2 can write a table of L1 through a "
        "stale huge TLB entry, unseen: `shadowmmu check --design split_flush=if_not_identical "
        "scenarios/mails/001-nested-hole.txt` shows it"
    ),
    "never": (
        "a table that was there before may map only a part, and nothing flushes what it does not map: "
        "`shadowmmu run --design split_flush=never scenarios/mails/001-split-harm.txt` shows it"
    ),
}


def _flush_verdict(results: Results) -> str:
    parts = []
    for case in results.study.cases:
        flushes = {one: results.value(case.label, one, "remote_flushes") for one in _RULES}
        seconds = {one: results.value(case.label, one, "seconds") for one in _RULES}
        parts.append(
            f"{case.label}: {flushes['always']:,.0f} requests to flush always, "
            f"{flushes['if_not_identical']:,.0f} by the mail's rule, {flushes['never']:,.0f} never, "
            f"{flushes['stable']:,.0f} in stable kernels; the rule instead of these "
            f"takes {time_change(seconds['if_not_identical'], seconds['stable'])}"
        )
    return f"{'; '.join(parts)}. One of the requests is that of the ioctl."


SPLIT_FLUSH = Study(
    name="001-split-flush",
    question="How many flushes does an eager split need?",
    about=(
        "Paolo Bonzini's patch flushes at a split only if the table was there before and leads on to tables, "
        "for then it may map less. Here L2's memory is split when the dirty log is cleared; of 30 percent of "
        "the pages L2 uses a small part at a second address, whose table the split takes."
    ),
    cases=(
        Case("256 pages, none aliased", "nested-split", {"pages": 256, "aliased": 0}),
        Case("256 pages, 30 % aliased", "nested-split", {"pages": 256, "aliased": 30}),
        Case("the same in one page of 1 GiB", "nested-split", {"pages": 256, "aliased": 30, "giant": 1}),
    ),
    alternatives=tuple(
        Alternative(rule, NESTED.with_design(split_flush=rule), unsafe) for rule, unsafe in _RULES.items()
    ),
    columns=("remote_flushes", "sptes_made", "longest_hold", "seconds"),
    plotted="remote_flushes",
    verdict=_flush_verdict,
    audited=False,
)


def _eager_verdict(results: Results) -> str:
    on = {one: results.value("logging is switched on", one, "seconds") for one in ("eager", "on fault")}
    parts = []
    for case in results.study.cases[1:]:
        locked, seconds = (
            [results.value(case.label, one, counter) for one in ("eager", "on fault")]
            for counter in ("locked", "seconds")
        )
        parts.append(f"{case.label}: {change(*locked)} faults with mmu_lock and {time_change(*seconds)}")
    five = [results.value("5 % written", one, "locked") for one in ("eager", "on fault")]
    return (
        f"Switching logging on takes {span(on['eager'])} with eager splitting and {span(on['on fault'])} "
        f"without. Then the guest has, with it: {'; '.join(parts)}. "
        + (
            "Reads gain: on fault, the first write of 2 MiB takes the huge page away, and each page that is "
            "only read faults once more."
            if five[0] < five[1]
            else "Readers gain nothing here."
        )
    )


EAGER_SPLIT = Study(
    name="001-eager-split",
    question="Split huge pages when logging is switched on, or at the first write?",
    about=(
        "The series splits the huge pages of nested guests before they are written. L2 has 128 MiB in pages "
        "of 2 MiB; logging is switched on; then L2 goes over its memory once, and writes a part of it. "
        "That vCPUs wait for each other at mmu_lock is not in the times: faults with mmu_lock show it."
    ),
    cases=(
        Case("logging is switched on", "nested-log-on", {"pages": 64}),
        Case("5 % written", "nested-log-writes", {"pages": 64, "written": 5}),
        Case("50 % written", "nested-log-writes", {"pages": 64, "written": 50}),
        Case("100 % written", "nested-log-writes", {"pages": 64, "written": 100}),
    ),
    alternatives=(
        Alternative("eager", NESTED),
        Alternative("on fault", NESTED.with_params({"kvm.eager_page_split": "N"})),
    ),
    columns=("locked", "sptes_made", "remote_flushes", "longest_hold", "seconds"),
    plotted="seconds",
    verdict=_eager_verdict,
    audited=False,
    logarithmic=True,
)

STUDIES = (SPLIT_FLUSH, EAGER_SPLIT)
