"""Figures that were published about KVM's shadow paging, and what the model says of the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .configuration import Configuration
from .costs import Costs
from .measure import Measurement, measure
from .words import span

__all__ = ["CLOSE", "FIGURES", "Compared", "Figure", "compare"]

CLOSE = 0.25
"""A figure is met if ours deviates by no more than this part."""

Pair = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Figure:
    """A published figure: what something was before a change, or in one way, and after it, or in another.

    Attributes:
        name: What it is about, short.
        source: Who published it, where.
        unit: "s" or what is counted.
        published: The two numbers.
        ours: Returns those of the model.
        difference: What stands between the two, in a sentence; what to say where they are not close.
        absolute: The first number is compared, not how often the second is in it.
    """

    name: str
    source: str
    unit: str
    published: Pair
    ours: Callable[[Costs], Pair]
    difference: str
    absolute: bool = False


@dataclass(frozen=True, slots=True)
class Compared:
    """A figure with the model's numbers.

    Attributes:
        figure: The published one.
        ours: The model's two numbers.
    """

    figure: Figure
    ours: Pair

    @property
    def same_direction(self) -> bool:
        """Return whether both change, or both differ, in the same direction."""
        return _sign(self.figure.published) == _sign(self.ours)

    @property
    def close(self) -> bool:
        """Return whether ours is within CLOSE of what was published."""
        theirs, ours = self._compared(self.figure.published), self._compared(self.ours)
        return theirs is not None and ours is not None and abs(ours - theirs) <= CLOSE * theirs

    def _compared(self, pair: Pair) -> float | None:
        if self.figure.absolute:
            return pair[0]
        return pair[0] / pair[1] if pair[0] and pair[1] else None

    @property
    def verdict(self) -> str:
        """Return how the two agree, in a line."""
        if not self.same_direction:
            return f"the other direction: {self.figure.difference}"
        if self.close:
            return f"the same direction, within {CLOSE:.0%}"
        return (
            f"the same direction, not as much: {self.figure.difference}"
            if self._less
            else (f"the same direction, more: {self.figure.difference}")
        )

    @property
    def _less(self) -> bool:
        theirs, ours = self._compared(self.figure.published), self._compared(self.ours)
        if theirs is None or ours is None:
            return theirs is None
        return max(ours, 1 / ours) < max(theirs, 1 / theirs) if not self.figure.absolute else ours < theirs

    def shown(self, pair: Pair) -> str:
        """Return two numbers for people."""
        ratio = "" if self.figure.absolute or not pair[1] else f" ({pair[0] / pair[1]:.3g})"
        return f"{_number(pair[0], self.figure.unit)} : {_number(pair[1], self.figure.unit)}{ratio}"

    def as_row(self) -> dict[str, Any]:
        """Return it as a flat row."""
        return {
            "figure": self.figure.name,
            "source": self.figure.source,
            "unit": self.figure.unit,
            "published": list(self.figure.published),
            "ours": list(self.ours),
            "same_direction": self.same_direction,
            "close": self.close,
            "verdict": self.verdict,
        }


def _sign(pair: Pair) -> int:
    return (pair[0] > pair[1]) - (pair[0] < pair[1])


def _number(value: float, unit: str) -> str:
    if unit == "s":
        return span(value)
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def compare(costs: Costs, figures: tuple[Figure, ...] | None = None) -> Iterator[Compared]:
    """Measure what the model says of each figure, by default of all."""
    for figure in FIGURES if figures is None else figures:
        yield Compared(figure, figure.ours(costs))


# -- what is measured ----------------------------------------------------------------------------------------

_NESTED = Configuration(memory="64M", nested=True, params={"kvm_amd.npt": 1, "kvm.tdp_mmu": "Y"})
_TDP = Configuration(memory="64M", params={"kvm_amd.npt": 1, "kvm.tdp_mmu": "Y"})
_PML = Configuration(memory="64M", vendor="intel", params={"kvm_intel.ept": 1, "kvm.tdp_mmu": "Y"})
_SHADOW = Configuration(memory="64M")
_LAZY = {"kvm.eager_page_split": "N"}
_WAITING = (
    "64 vCPUs wait for mmu_lock in the measurement; the model has the work of one, without waiting: faults "
    "that take the lock become faults that do not, or none"
)
_LOOKED_AT = (
    "the time without it is that of write protection, for which the model has no cost; splitting comes on top"
)


def _run(name: str, configuration: Configuration, costs: Costs, **parameters: int) -> Measurement:
    return measure(name, configuration, costs, parameters=parameters, audited=False)


def _seconds(
    before: Configuration, after: Configuration, name: str, **parameters: int
) -> Callable[[Costs], Pair]:
    """Return what measures the time of a workload on two machines."""

    def pair(costs: Costs) -> Pair:
        first, second = (_run(name, one, costs, **parameters)["seconds"] for one in (before, after))
        return first, second

    return pair


def _collisions(before: dict[str, str], after: dict[str, str]) -> Callable[[Costs], Pair]:
    def pair(costs: Costs) -> Pair:
        large = Configuration(memory="52G", params={"kvm_amd.npt": 1, "kvm.tdp_mmu": "N"})
        first, second = (
            _run("huge-memory", large.with_design(**one), costs, pages=50 << 18)["collisions"]
            for one in (before, after)
        )
        return first, second

    return pair


def _prefetched(costs: Costs) -> Pair:
    first, second = (
        _run("huge-memory", _SHADOW.with_design(prefetch_window=one), costs, pages=8192, step=1)["fixed"]
        for one in ("off", "16_from_fault")
    )
    return first, second


def _exits_of_a_guest_fault(costs: Costs) -> Pair:
    """Without unsync, as in 2007; one exit is the guest's own page fault, which KVM passes on."""
    first, second = (
        _run("demand", _SHADOW.with_design(unsync="never", pte_write_prefetches=one), costs, pages=256)
        for one in ("no", "yes")
    )
    return first["exits"] / first["guest_exceptions"], second["exits"] / second["guest_exceptions"]


def _fault(costs: Costs) -> Pair:
    measured = _run("sequential", Configuration(memory="128M"), costs, pages=8192)
    return measured["seconds"] / measured["faults"], 0.0


def _fork(costs: Costs) -> Pair:
    def a_fork(configuration: Configuration) -> float:
        forks = 16
        return _run("fork-storm", configuration, costs, pages=512, forks=forks)["seconds"] / forks

    return a_fork(_SHADOW), a_fork(_TDP)


def _mmap(costs: Costs) -> Pair:
    def exits(configuration: Configuration) -> float:
        measured = _run("mmap-loop", configuration, costs, pages=64, rounds=40)
        return measured["exits"] / (64 * 40)

    return exits(_SHADOW), exits(_TDP)


_SERIES = 'David Matlack, cover letter of "KVM: Extend Eager Page Splitting to the shadow MMU", 2022'
_HASHING = "David Matlack, commit 114df303a7ee, 2016"
_PVM = "Huang and others, PVM, SOSP 2023"
_XIAO = 'Xiao Guangrong, "prefetch ptes when intercepted guest #PF", 2010'
_FAST = 'Xiao Guangrong, cover letter of "KVM: MMU: fast page fault" v7, 2012'
_LOW10, _HASH10 = {"hash_function": "gfn", "hash_bits": "10"}, {"hash_bits": "10"}
_QUARTER = "the published guest has 200 GiB and the model's 50; the longest search grows faster than the mean"

FIGURES: tuple[Figure, ...] = (
    Figure(
        "eager splitting, EPT with PML, 64 vCPUs",
        _SERIES,
        "s",
        (16.50, 0.084),
        _seconds(_PML.with_params(_LAZY), _PML, "huge-log-writes", pages=32),
        _WAITING,
    ),
    Figure(
        "eager splitting, ept=N",
        _SERIES,
        "s",
        (20.09, 18.53),
        _seconds(
            _SHADOW.with_design(eager_split="all").with_params(_LAZY),
            _SHADOW.with_design(eager_split="all"),
            "huge-log-writes",
            pages=32,
        ),
        _WAITING,
    ),
    *(
        Figure(
            f"eager splitting, nested, {written} % written",
            _SERIES,
            "s",
            published,
            _seconds(_NESTED.with_params(_LAZY), _NESTED, "nested-log-writes", pages=32, written=written),
            _WAITING,
        )
        for written, published in ((5, (19.86, 0.906)), (50, (20.08, 8.83)), (100, (20.44, 17.89)))
    ),
    Figure(
        "its price: logging is switched on",
        _SERIES,
        "s",
        (0.104, 1.200),
        _seconds(_NESTED.with_params(_LAZY), _NESTED, "nested-log-on", pages=32),
        _LOOKED_AT,
    ),
    Figure(
        "its price: the log is cleared first",
        _SERIES,
        "s",
        (0.090, 2.664),
        _seconds(_NESTED.with_params(_LAZY), _NESTED, "nested-split", pages=32, aliased=0),
        _LOOKED_AT,
    ),
    Figure(
        "fast page fault",
        _FAST,
        "s",
        (0.5382, 0.2498),
        _seconds(
            _TDP.with_design(fast_page_fault="no"), _TDP, "migration", pages=2048, rounds=2, written=100
        ),
        "vCPUs wait for mmu_lock in the measurement; the model has the work only",
    ),
    Figure(
        "prefetching direct pages, faults",
        _XIAO,
        "faults",
        (1_750_000, 270_000),
        _prefetched,
        "a guest that starts does not read its memory in order, as the model's does",
    ),
    Figure(
        "longest search: low 10 bits, hash_64",
        _HASHING,
        "pages",
        (49_847, 105),
        _collisions(_LOW10, _HASH10),
        _QUARTER,
    ),
    Figure(
        "longest search: 1024 buckets, 4096",
        _HASHING,
        "pages",
        (105, 29),
        _collisions(_HASH10, {}),
        _QUARTER,
    ),
    Figure(
        "exits of a guest fault, gpte mapped when it is written",
        "Avi Kivity, commit 0028425f647b, 2007",
        "exits",
        (3, 2),
        _exits_of_a_guest_fault,
        "the model's process makes tables now and then, too",
    ),
    Figure(
        "a shadow page fault",
        _PVM,
        "s",
        (0.93e-6, 0.0),
        _fault,
        "the costs of exit, fault and SPTE were chosen by this figure, so that it is no test",
        absolute=True,
    ),
    Figure(
        "a fork, shadow against nested paging",
        _PVM,
        "s",
        (505e-6, 82e-6),
        _fork,
        "the guest's own work is in the published times and not in the model's",
    ),
    Figure(
        "mmap and munmap, exits a page",
        _PVM,
        "exits",
        (2, 0),
        _mmap,
        "unsync tables spare exits where many gptes of a table are written",
        absolute=True,
    ),
)
"""The figures, by subject. No cost was chosen to meet one, but for the shadow page fault, which says so."""
