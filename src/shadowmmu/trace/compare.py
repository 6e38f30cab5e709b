"""The yardstick: whether two recordings are the same, op by op and part by part.

What belongs to the recorder's own guest code is left out, because a player may have other code: instruction
pointers, the guest walks that only fetch that code, the bytes of emulated instructions, the details of its
VMRUNs; and an address inside its pages counts as the start of its page. Of the address of an SPTE in a page
that has no name, because the op freed it, the offset counts. Leading zeros and counters of zero mean nothing.
All else counts, down to the order of events and of the entries of an rmap.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shadowmmu.guest.scenario.modes import MODES, TRAMP_SIZE
from shadowmmu.guest.scenario.setup import L2_CODE, PAGE

__all__ = ["PARTS", "Comparison", "OpDifference", "comparable", "compare"]

PARTS = ("result", "stats", "gptes", "events", "state")
"""The parts of an op that are compared, in this order."""

_STORED_AS = {"state": "delta"}
_CODE_PAGES = [(mode.tramp_gva, TRAMP_SIZE) for mode in MODES.values() if mode.name != "nopaging"]
_CODE_PAGES.append((L2_CODE, PAGE))
_LEFT_OUT = frozenset({"rip", "tramp"})
_BARE_ADDRESSES = frozenset({"addr", "info1", "info2"})
_NAME_ONLY = frozenset({"kvm_emulate_insn", "kvm_nested_vmenter", "kvm_nested_intercepts"})
_WITH_STRINGS = frozenset(
    {
        "kvm_mmu_get_page", "kvm_mmu_sync_page", "kvm_mmu_unsync_page", "kvm_mmu_prepare_zap_page",
        "kvm_mmu_walker_error", "kvm_inj_exception", "kvm_inj_virq", "kvm_mmio", "vcpu_match_mmio", "kvm_msr",
        "kvm_set_spte_hva", "kvm_nested_vmenter_failed",
    }
)  # fmt: skip
"""Events whose text is strings, or (the last) a host address."""
_STRING_FIELDS = frozenset({"reason", "perm", "error_code"})
_REASON = re.compile(r"reason: \w*")
_UNNAMED = re.compile(r"\?[0-9a-f]+")
_UNKNOWN_PAGE = re.compile(r"\?[0-9a-f]+([0-9a-f]{3})")
"""An SPTE of a page that an op made and freed: of its address only the offset is the same everywhere."""
_RIP = re.compile(r" rip 0x[0-9a-f]+")
_HEX = re.compile(r"0x[0-9a-f]+")
_BARE_HEX = re.compile(r"(0x)?[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class OpDifference:
    """An op that is not the same."""

    index: int
    """Row of the recording, 0 for op -1."""
    parts: Mapping[str, tuple[Any, Any]]
    """Part -> (expected, got) in comparable form, for the parts that differ; got is None for a missing op."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How much of a recording another one reproduces."""

    ops: int
    equal: int
    """Ops with all parts equal."""
    parts: Mapping[str, int]
    """Part -> ops in which it is equal."""
    first: OpDifference | None

    @property
    def whole(self) -> bool:
        """Whether all is equal."""
        return self.ops == self.equal


def compare(
    expected: Sequence[Mapping[str, Any]],
    got: Sequence[Mapping[str, Any]],
    *,
    strings: bool = True,
    events: Collection[str] | None = None,
) -> Comparison:
    """Compare the rows of two recordings; rows of `got` beyond the expected ones do not count.

    strings: False if the texts of the expected events have lost their strings.
    events: tracepoints that the expected rows can hold, by default all; others of `got` do not count.
    """
    equal = 0
    parts = dict.fromkeys(PARTS, 0)
    first: OpDifference | None = None
    for index, row in enumerate(expected):
        other = got[index] if index < len(got) else None
        differing: dict[str, tuple[Any, Any]] = {}
        for part in PARTS:
            wanted = comparable(row, part, strings=strings)
            seen = None if other is None else comparable(other, part, strings=strings, events=events)
            if other is None or wanted != seen:
                differing[part] = wanted, seen
            else:
                parts[part] += 1
        if not differing:
            equal += 1
        elif first is None:
            first = OpDifference(index, differing)
    return Comparison(len(expected), equal, parts, first)


def comparable(
    row: Mapping[str, Any], part: str, *, strings: bool = True, events: Collection[str] | None = None
) -> Any:
    """Return a part of a row without what does not count; None if nothing is left."""
    value = row.get(_STORED_AS.get(part, part))
    if part == "events" and value is not None and events is not None:
        value = [event for event in value if event["e"] in events]
    if part == "events" and value is not None:
        counted = [event for event in value if _counts(event) and (strings or not _may_be_timer(event))]
        value = [_event(event, strings=strings) for event in counted]
        if not strings:
            value = [
                event
                for event, before in zip(value, [None, *value], strict=False)
                if not _again(event, before)
            ]
    value = _comparable(value)
    if part == "stats" and value:
        counters = {group: {name: n for name, n in held.items() if n} for group, held in value.items()}
        value = {group: held for group, held in counters.items() if held}
    return value or None


def _may_be_timer(event: Mapping[str, Any]) -> bool:
    """Return whether an exit without a reason can be a host interrupt: when those come, nobody knows.

    INVLPG and writes to control registers look the same; their emulation follows.
    """
    if event["e"] not in ("kvm_exit", "kvm_nested_vmexit"):
        return False
    return event.get("info1") == event.get("info2") == "0"


def _again(event: Mapping[str, Any], before: Mapping[str, Any] | None) -> bool:
    """Return whether the kernel gave up entering the guest, as it does to let others run,
    and injects once more.
    """
    return event["e"] == "kvm_inj_exception" and event == before


def _event(event: Mapping[str, Any], *, strings: bool) -> Mapping[str, Any]:
    """Return what counts of an event."""
    name = event["e"]
    if name in _NAME_ONLY or (not strings and name in _WITH_STRINGS):
        return {"e": name}
    if strings:
        return event
    return {key: _unnamed(held) for key, held in event.items() if key not in _STRING_FIELDS}


def _unnamed(value: Any) -> Any:
    """Return a field without strings and host addresses: SPTEs in pages that came and
    went, frames without use.
    """
    return _REASON.sub("reason: ", _UNNAMED.sub("?", value)) if isinstance(value, str) else value


def _counts(value: Any) -> bool:
    return not (isinstance(value, dict) and value.get("tramp"))


def _comparable(value: Any) -> Any:
    match value:
        case dict():
            return {key: _field(key, held) for key, held in value.items() if key not in _LEFT_OUT}
        case list() | tuple():
            return [_comparable(held) for held in value if _counts(held)]
        case str():
            return _HEX.sub(lambda match: _number(match[0]), _RIP.sub("", value))
        case _:
            return value


def _field(key: str, value: Any) -> Any:
    if key == "at" and (match := _UNKNOWN_PAGE.fullmatch(value)):
        return f"?{match[1]}"
    held = _comparable(value)
    bare = key in _BARE_ADDRESSES and isinstance(held, str) and _BARE_HEX.fullmatch(held)
    return _number(held) if bare else held


def _number(digits: str) -> str:
    value = int(digits, 16)
    for first, size in _CODE_PAGES:
        if first <= value < first + size:
            value &= ~0xFFF
    return f"{value:#x}"
