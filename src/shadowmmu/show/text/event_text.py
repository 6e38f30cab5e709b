"""Recorded events as lines for people: a whole event, or what it tells in short."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

__all__ = ["event_line", "event_lines"]

_SAID_BY_EXIT = ("kvm_page_fault", "kvm_nested_vmexit", "kvm_nested_intercepts")
_SAID_BY_FAULT = ("EXCEPTION_NMI", "EPT_VIOLATION")
"""Exits of an Intel processor whose address is only in the page fault's event that follows."""


def event_line(event: Mapping[str, Any]) -> str:
    """Return an event as recorded, on one line."""
    fields = (f"{key}={value}" for key, value in event.items() if key not in ("e", "t"))
    return " ".join([event["e"], *fields, *([event["t"]] if "t" in event else [])])


def event_lines(events: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Return events in short, each guest walk on one line, without walks that fetch the trampoline's code."""
    walk: list[str] = []
    reason = ""
    for event in events:
        if walk and event["e"] != "kvm_mmu_paging_element":
            yield " ".join(walk)
            walk = []
        if event.get("tramp"):
            continue
        if event["e"] == "kvm_mmu_pagetable_walk":
            walk = [f"walk {event['addr']} pferr {event['pferr']}:"]
        elif event["e"] == "kvm_mmu_paging_element":
            walk.append(event["pte"])
        elif event["e"] == "kvm_exit" and event["reason"] in _SAID_BY_FAULT:
            reason = event["reason"]
        elif event["e"] == "kvm_page_fault" and reason:
            yield _vmx_fault(event["t"], reason)
            reason = ""
        elif event["e"] not in _SAID_BY_EXIT:
            yield _short(event)
    if walk:
        yield " ".join(walk)


def _short(event: Mapping[str, Any]) -> str:
    from shadowmmu.kvm.tracepoints.exits import NestedVmenter
    from shadowmmu.kvm.tracepoints.reasons import pferr_flags

    name = event["e"].removeprefix("kvm_").removeprefix("mmu_")
    if name == "exit":
        if event["reason"] == "PF excp":
            return f"page fault at {event['info2']} ({pferr_flags(int(event['info1'], 16)) or 'read'})"
        if event["reason"] == "npf":
            return _nested_page_fault(event["info2"], int(event["info1"], 16))
        return f"exit {event['reason']}"
    if name == "nested_vmenter":
        enter = NestedVmenter.from_text(event["t"])
        return f"L2 starts on {'nested' if enter.tdp_enabled else 'guest'}_cr3 {enter.guest_pgd:#x}"
    if name == "nested_vmexit_inject":
        return "the exit is L1's"
    if name == "tdp_mmu_spte_changed":
        count = f" ({event['n']} in a row)" if "n" in event else ""
        return f"TDP gfn {event['gfn']} level {event['level']}: {event['old']} -> {event['new']}{count}"
    if name == "split_huge_page":
        failed = {0: "", -11: ": again, the caches are filled", -28: ": no shadow page may be made"}
        why = failed.get(event["errno"], f": errno {event['errno']}")
        return f"split gfn {event['gfn']} level {event['level']} {event['spte']}{why}"
    if name == "spte_requested":
        return f"wants {event['pfn']} at gfn {event['gfn']} level {event['level']}"
    if name == "set_spte":
        return f"{event['at']} = {event['spte']} ({event['perm']}) level {event['level']}, gfn {event['gfn']}"
    if "sync" in event:
        words = [name, f"gfn {event['gfn']} level {event['level']} {event['access']}"]
        words += [f"quadrant {event['q']}"] if "q" in event else []
        words += [flag for flag in ("direct", "invalid") if flag in event]
        words += ["unsync"] if event["sync"] == "unsync" else []
        words += ["new" if event["created"] else "found"] if "created" in event else []
        return " ".join(words)
    return event_line({**event, "e": name})


def _vmx_fault(text: str, reason: str) -> str:
    """Return a page fault on an Intel processor, by the text of its event: its error
    code, or exit qualification.
    """
    from shadowmmu.kvm.tracepoints.exits import PageFault
    from shadowmmu.kvm.tracepoints.reasons import ept_violation_text, pferr_flags

    fault = PageFault.from_text(text)
    address, code = fault.fault_address, fault.error_code
    if reason == "EPT_VIOLATION":
        return f"EPT violation at {address:#x} ({ept_violation_text(code)})"
    return f"page fault at {address:#x} ({pferr_flags(code) or 'read'})"


def _nested_page_fault(gpa: str, error_code: int) -> str:
    from shadowmmu.kvm.tracepoints.reasons import pferr_flags
    from shadowmmu.x86.bits import PFERR_GUEST_PAGE

    low = error_code & 0xFFFFFFFF
    what = "a table of the guest, " if error_code & PFERR_GUEST_PAGE else ""
    return f"nested page fault at {gpa} ({what}{pferr_flags(low)})"
