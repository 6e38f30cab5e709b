"""A Vm's session as a scenario: what `shadowmmu run` plays, and the KVM lab on a real kernel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..guest.scenario.modes import TRAMP_GPA, Mode
from ..guest.scenario.module_params import DEFAULT_PARAMS, VENDORS
from ..guest.scenario.setup import KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, Cap, Pt, Setup, SlotSetup
from .config import ConfigurationError

__all__ = ["scenario_text", "slot_words"]


def slot_words(slot: SlotSetup) -> str:
    """Return a `slot` line."""
    flags = (("dirty", slot.flags & KVM_MEM_LOG_DIRTY_PAGES), ("ro", slot.flags & KVM_MEM_READONLY))
    backings = (("thp", slot.thp), ("huge2m", slot.huge2m), ("huge1g", slot.huge1g), ("memfd", slot.memfd))
    words = [word for word, on in (*flags, ("lazy", slot.lazy), *backings) if on]
    return " ".join(["slot", str(slot.id), f"{slot.gpa:#x}", f"{slot.size:#x}", *words])


def scenario_text(setup: Setup, mode: Mode, cr3: int, history: Iterable[str]) -> str:
    """Return the scenario of a machine and of the operations carried out on it.

    The guest of a scenario has code in memory (at 0xf0000000): it is mapped into the tables at `cr3`, and its
    page faults come besides. Raises ConfigurationError for what a scenario cannot say.
    """
    lines = list(history)
    stream = next((line for line in lines if line.startswith("#")), None)
    if stream is not None:
        raise ConfigurationError(
            f"`{stream.strip('# ')}` is not an operation of a scenario: use other methods"
        )
    if setup.nested:
        raise ConfigurationError("a Vm with nested=True cannot be saved as a scenario yet")
    for action in setup.actions:
        if isinstance(action, SlotSetup) and action.gpa + action.size > TRAMP_GPA:
            raise ConfigurationError(f"memory must end at {TRAMP_GPA:#x} for a scenario: its code is there")
    return "\n".join([*_setup(setup, mode, cr3), *lines, ""])


def _setup(setup: Setup, mode: Mode, cr3: int) -> Iterator[str]:
    yield f"title saved from a Vm of {setup.params['kernel'].split()[0]}"
    if "kvm_intel.ept" in setup.params:
        yield "vendor intel"
    yield f"mode {mode.name}"
    yield f"vcpus {setup.nvcpus}"
    yield f"hostbits {setup.host.maxphyaddr}"
    if setup.host.l1tf:
        yield f"host l1tf={setup.host.l1tf}"
    yield f"physbits {setup.maxphyaddr}"
    usual = {**DEFAULT_PARAMS, **VENDORS["intel"]}
    for name, value in setup.params.items():
        if name not in ("kernel", "thp") and value != usual.get(name):
            module, _, parameter = name.partition(".")
            yield f"param {module} {parameter}={value}"
    for name, value in setup.design.items():
        yield f"design {name}={value}"
    for action in setup.actions:
        if isinstance(action, Cap):
            yield f"cap {action.cap} {action.arg}"
        elif isinstance(action, SlotSetup):
            yield slot_words(action)
        elif isinstance(action, Pt):
            yield f"pt {action.gpa & ~0xFFF:#x} {(action.gpa & 0xFFF) // action.size} {action.value:#x}"
    if mode.name != "nopaging":
        yield f"tramp {cr3:#x}"
    yield f"start cr3={cr3:#x}"
