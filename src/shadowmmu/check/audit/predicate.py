"""A predicate: a named condition that holds for the MMU whenever mmu_lock is free."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from ...kvm.state.vcpu import Vcpu
from .shadow_copy import FrameKey, Page, Spte
from .tables import Tables

__all__ = ["PREDICATES", "Finding", "Predicate", "Scope", "of_page", "of_spte", "predicate"]


class Scope(Enum):
    """What a predicate is about: it is asked once for each of these."""

    VM = "the VM"
    SWEEP = "the VM, in full sweeps only"
    VCPU = "a vCPU"
    PAGE = "a shadow page that is not special"
    ANY_PAGE = "a shadow page"
    SPECIAL = "a special page, above the directories of one vCPU"
    TDP_PAGE = "a table of the TDP MMU"
    LINK = "an SPTE that points to a table"
    LEAF = "an SPTE that maps memory"
    ENTRY = "any SPTE that is not empty"
    FRAME = "a guest frame, by its rmap"
    TABLE = "a guest table"


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong, and what it is about: addresses of SPTEs and of tables, frames by rmap, vCPUs."""

    says: str
    sptes: tuple[int, ...] = ()
    pages: tuple[int, ...] = ()
    frames: tuple[FrameKey, ...] = ()
    vcpus: tuple[Vcpu, ...] = ()


@dataclass(frozen=True, slots=True)
class Predicate:
    """A named condition: `means` is one line that states it, `symbols` are the kernel's functions that
    maintain it, `ask` yields what is wrong with one subject of the scope.
    """

    name: str
    means: str
    symbols: tuple[str, ...]
    scope: Scope
    ask: Callable[[Tables, Any], Iterable[Finding]]


Subject = TypeVar("Subject")
Ask = Callable[[Tables, Subject], Iterator[Finding]]

PREDICATES: dict[str, Predicate] = {}
"""All predicates, by name."""


def predicate(name: str, scope: Scope, means: str, *symbols: str) -> Callable[[Ask[Subject]], Ask[Subject]]:
    """Register a function, which yields what is wrong with one subject of the scope, as a predicate.

    `means` stands for its docstring; nobody calls it by its own name.
    """

    def enter(ask: Ask[Subject]) -> Ask[Subject]:
        if name in PREDICATES:
            raise ValueError(f"two predicates are named {name}")
        PREDICATES[name] = Predicate(name, means, symbols, scope, ask)
        return ask

    return enter


def of_page(page: Page, says: str) -> Finding:
    """Return a finding about one page."""
    return Finding(says, pages=(page.hpa,))


def of_spte(spte: Spte, says: str) -> Finding:
    """Return a finding about one SPTE."""
    return Finding(says, sptes=(spte.address,))
