"""Mail 004, May 2022: shadow pages above the directories of guests with fewer than four levels."""

from __future__ import annotations

from ..configuration import Configuration
from ..study import Alternative, Case, Results, Study
from ..words import change, time_change

_MODES = {
    "32-bit": Configuration(memory="256M", paging="32"),
    "PAE": Configuration(memory="256M", paging="pae"),
}
_ROOTS = ("preallocated", "one_off")


def _roots_verdict(results: Results) -> str:
    parts = []
    for mode in _MODES:
        for case in results.study.cases:
            pages, seconds = (
                [results.value(case.label, f"{mode}, {one}", counter) for one in reversed(_ROOTS)]
                for counter in ("shadow_pages_made", "seconds")
            )
            parts.append(f"{mode}, {case.label}: {change(*pages)} pages and {time_change(*seconds)}")
    ring = {one: results.value("switch ring", f"PAE, {one}", "faults") for one in _ROOTS}
    return (
        f"With one-off special roots, against preallocated ones: {'; '.join(parts)}. Faults make only the "
        f"directories that are used, and link them after each switch of address spaces: a ring of PAE "
        f"processes takes {ring['one_off']:,.0f} faults for its switches, against "
        f"{ring['preallocated']:,.0f}."
    )


SPECIAL_ROOTS = Study(
    name="004-special-roots",
    question="Make the four directories of a 32-bit guest with its root, or by faults?",
    about=(
        "David Matlack's series makes them with the root; Lai Jiangshan's makes the levels above them shadow "
        "pages of their vCPU, and the directories when they are needed. A guest without paging has no "
        "address spaces to switch between, and is not measured."
    ),
    cases=(
        Case("switch ring", "switch-ring", {"rounds": 40}),
        Case("fork storm", "fork-storm", {"pages": 512, "forks": 16}),
        Case("kernel build", "build", {"jobs": 8}),
    ),
    alternatives=tuple(
        Alternative(f"{mode}, {one}", configuration.with_design(special_roots=one))
        for mode, configuration in _MODES.items()
        for one in _ROOTS
    ),
    columns=("shadow_pages_made", "shadow_pages", "faults", "exits", "seconds"),
    plotted="seconds",
    verdict=_roots_verdict,
)

STUDIES = (SPECIAL_ROOTS,)
