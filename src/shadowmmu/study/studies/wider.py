"""Beyond the mails: which way of virtualizing memory costs what, by workload."""

from __future__ import annotations

from ..configuration import Configuration
from ..study import Alternative, Case, Results, Study
from ..words import ratio

_BASE = Configuration()


def _paging_verdict(results: Results) -> str:
    parts = []
    for case in ("fork storm", "kernel build", "mmap loop", "pointer chase"):
        shadow, nested = (results.value(case, one, "seconds") for one in ("shadow paging", "nested paging"))
        better = "nested" if shadow > nested else "shadow"
        parts.append(f"{case}: {better} paging, {ratio(max(shadow, nested), min(shadow, nested))}")
    sides = ("shadow paging", "nested paging")
    exits = [results.value("fork storm", one, "exits") for one in sides]
    return (
        "Where page tables change nested paging wins, where they stand still shadow paging does, because a "
        f"TLB miss walks one dimension ({'; '.join(parts)}). A fork storm takes {ratio(*exits)} as many "
        "exits with shadow paging."
    )


PAGING = Study(
    name="shadow-or-nested",
    question="Shadow paging or nested paging?",
    about=(
        "The same guest on shadow pages (npt=0), on nested page tables by the TDP MMU, and on nested page "
        "tables by shadow "
        "pages (tdp_mmu=0). Times are those of exits, faults and walks, not of the guest's own work."
    ),
    cases=(
        Case("fork storm", "fork-storm", {"pages": 1024, "forks": 16}),
        Case("kernel build", "build", {"jobs": 12}),
        Case("mmap loop", "mmap-loop", {"rounds": 60}),
        Case("switch ring", "switch-ring"),
        Case("pointer chase", "pointer-chase", {"rounds": 16}),
        Case("migration", "migration", {"rounds": 3, "pages": 4096}),
    ),
    alternatives=(
        Alternative("shadow paging", _BASE),
        Alternative("nested paging", _BASE.with_params({"kvm_amd.npt": 1, "kvm.tdp_mmu": "Y"})),
        Alternative("nested, no TDP MMU", _BASE.with_params({"kvm_amd.npt": 1, "kvm.tdp_mmu": "N"})),
    ),
    columns=("exits", "faults", "walk_loads", "shadow_pages_made", "seconds"),
    plotted="seconds",
    verdict=_paging_verdict,
    logarithmic=True,
)

STUDIES = (PAGING,)
