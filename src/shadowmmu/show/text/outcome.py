"""The result of an op in a few words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shadowmmu.show.text.runs import address_runs

__all__ = ["outcome_details"]

_EXITS = {
    8: "(shutdown: a triple fault, the vCPU cannot continue)",
    9: "(the processor refused to enter the guest)",
    17: "(KVM cannot emulate this)",
    31: "(the dirty ring is full)",
}
"""KVM_EXIT_* that end KVM_RUN, by number, in words."""


def outcome_details(result: Mapping[str, Any]) -> list[str]:
    """Return what a result says besides its `outcome`: values, errors, dirty pages, MMIO accesses."""
    outcome = result["outcome"]
    parts = [str(value) for key, value in result.items() if key == "value"]
    if outcome == "exception":
        parts = [f"#{result['vector']}", *(f"{k} {result[k]}" for k in ("error_code", "cr2") if k in result)]
    elif outcome == "vmexit":
        parts = [f"to L1: {_vmexit(result)}"]
    elif outcome != "ok":
        parts = [str(result[key]) for key in ("errno", "reason", "port") if key in result]
        parts += [_EXITS[result["reason"]]] if outcome == "exit" and result.get("reason") in _EXITS else []
    if "dirty" in result:
        parts.append(f"dirty {' '.join(address_runs(result['dirty'])) or 'nothing'}")
    if "gpa" in result:
        parts.append(f"gpa {result['gpa']}" if result.get("valid") else "no translation")
    for access in result.get("mmio", ()):
        parts.append(f"MMIO {'write' if access['write'] else 'read'} {access['gpa']} {access['data']}")
    return parts


def _vmexit(result: Mapping[str, Any]) -> str:
    """Return why L2's run ended, as its VMCB reports it to L1."""
    from shadowmmu.x86.svm import SVM_EXIT_NPF, exit_reason

    code, info1 = int(result["code"], 16), int(result["info1"], 16)
    if code != SVM_EXIT_NPF:
        return exit_reason(code)
    return f"nested page fault at {result['info2']}, error code {info1:#x}"
