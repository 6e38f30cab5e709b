"""What a Vm is made of: arguments checked, and turned into the setup of a scenario."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal, TypeVar

from ..guest.scenario.host_processor import HostProcessor
from ..guest.scenario.modes import MODES, Mode
from ..guest.scenario.module_params import DEFAULT_PARAMS, VENDORS
from ..guest.scenario.scenario import EFER_SVME, Scenario
from ..guest.scenario.setup import (
    NESTED_GPA,
    NESTED_SIZE,
    NESTED_SLOT,
    Cap,
    Pt,
    ScenarioError,
    Setup,
    SetupAction,
    SlotSetup,
    Vcpu,
    Vmcb,
)
from ..kvm.design.switches import DesignError, kernel_text
from ..kvm.guest_access.dirty_ring import ENTRY_BYTES
from ..kvm.memory.capabilities import KVM_CAP_DIRTY_LOG_RING
from ..kvm.state.spte_masks import MOST_L1TF_BITS
from ..x86.bits import CR4_LA57
from ..x86.sizes import size_of

__all__ = [
    "PAGE",
    "ConfigurationError",
    "Paging",
    "Vendor",
    "aligned",
    "bytes_of",
    "check_word",
    "member",
    "setup_of",
]

PAGE = 4096
MOST_VCPUS = 8
_LARGEST = 1 << 41

Paging = Literal["nopaging", "32", "pae", "long4", "long5"]
Vendor = Literal["amd", "intel"]
AnyEnum = TypeVar("AnyEnum", bound=Enum)


class ConfigurationError(ValueError):
    """An argument that cannot be; the text says what it must be."""


def bytes_of(name: str, size: int | str) -> int:
    """Return a size in bytes from a number or from text such as `64M`. Raises ConfigurationError."""
    if isinstance(size, str) and (number := size_of(size)) is not None:
        return number
    if isinstance(size, bool) or not isinstance(size, int):
        raise ConfigurationError(f"{name}={size!r} must be a number of bytes, or text such as '64M' or '2G'")
    return size


def whole_pages(name: str, size: int | str, page: int = PAGE) -> int:
    """Return a size in bytes, a positive number of whole pages. Raises ConfigurationError."""
    number = bytes_of(name, size)
    if not 0 < number <= _LARGEST or number % page:
        raise ConfigurationError(
            f"{name}={size!r} must be a positive multiple of {page:#x}, at most {_LARGEST:#x}"
        )
    return number


def aligned(name: str, address: int, page: int, limit: int = 1 << 52) -> int:
    """Return an address that is a multiple of `page` below `limit`. Raises ConfigurationError."""
    if isinstance(address, bool) or not isinstance(address, int) or not 0 <= address < limit:
        shown = f"{address:#x}" if isinstance(address, int) else repr(address)
        raise ConfigurationError(f"{name}={shown} must be an address from 0 to {limit - 1:#x}")
    if address % page:
        raise ConfigurationError(f"{name}={address:#x} must be a multiple of the page size {page:#x}")
    return address


def member(name: str, value: object, kind: type[AnyEnum]) -> AnyEnum:
    """Return a value that is a member of an enumeration. Raises ConfigurationError."""
    if not isinstance(value, kind):
        known = ", ".join(f"{kind.__name__}.{one.name}" for one in kind)
        raise ConfigurationError(f"{name}={value!r} must be one of {known}")
    return value


def one_of(name: str, value: str, known: Mapping[str, object]) -> str:
    """Return a word that is one of those known. Raises ConfigurationError."""
    if value not in known:
        raise ConfigurationError(f"{name}={value!r} must be one of {', '.join(map(repr, known))}")
    return value


def within(name: str, value: int, least: int, most: int) -> int:
    """Return a number in a range, both ends included. Raises ConfigurationError."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ConfigurationError(f"{name}={value!r} must be a number from {least} to {most}")
    return value


def _parameter(value: object) -> str:
    """Return a module parameter's value as the command line has it."""
    if isinstance(value, bool):
        return "Y" if value else "N"
    return str(value)


def _scenario(
    mode: Mode,
    vendor: str,
    kernel: str,
    params: Mapping[str, object],
    design: Mapping[str, str],
    *,
    host: HostProcessor,
    physbits: int,
    vmcbs: tuple[Vmcb, ...],
) -> Scenario:
    """Return a scenario without any setup, which checks kernel, parameters and switches."""
    plain = Scenario(
        name="Vm",
        path="Vm",
        title="",
        kernel=kernel_text(kernel),
        params={**DEFAULT_PARAMS, "kvm.tdp_mmu": "N", "thp": "always [madvise] never"},
        design={},
        modes=(mode.name,),
        maxphyaddr=physbits,
        host=host,
        vcpus=(),
        vmcbs=vmcbs,
        setup=(),
        ops=(),
    )
    values = {name: _parameter(value) for name, value in params.items()}
    return plain.with_vendor(vendor).with_params(values).with_design(design)


@dataclass(frozen=True, slots=True)
class Tables:
    """Where a new Vm has its guest's root tables."""

    cr3: int
    ncr3: int
    next_table: int
    """Tables are taken from here downwards."""


def setup_of(
    memory: SlotSetup,
    paging: str,
    *,
    vcpus: int,
    kernel: str,
    vendor: str,
    params: Mapping[str, object],
    design: Mapping[str, str],
    nested: bool,
    dirty_ring: int,
    hostbits: int,
    physbits: int | None,
    l1tf: int,
) -> tuple[Setup, Tables]:
    """Return the setup of a machine without guest code, and where its tables are.

    Raises ConfigurationError.
    """
    mode = MODES[one_of("paging", paging, dict.fromkeys(("nopaging", "32", "pae", "long4", "long5")))]
    one_of("vendor", vendor, VENDORS)
    within("vcpus", vcpus, 1, MOST_VCPUS)
    within("hostbits", hostbits, 32, 52)
    within("l1tf", l1tf, 0, MOST_L1TF_BITS)
    physbits = within("physbits", hostbits if physbits is None else physbits, 32, 52)
    host = HostProcessor(maxphyaddr=hostbits, la57=mode.name == "long5", l1tf=l1tf)
    if memory.size < 16 * PAGE:
        raise ConfigurationError(f"memory={memory.size:#x} must be at least {16 * PAGE:#x}: tables are in it")
    if nested and (vendor == "intel" or paging == "nopaging"):
        raise ConfigurationError("nested=True needs vendor='amd' and a guest that pages")
    if nested and memory.size > NESTED_GPA:
        raise ConfigurationError(f"memory={memory.size:#x} must be at most {NESTED_GPA:#x} with nested=True")
    cr3, ncr3 = memory.size - PAGE, memory.size - 2 * PAGE
    if mode.name in ("32", "pae") and memory.size > 1 << 32:
        cr3, ncr3 = (1 << 32) - PAGE, (1 << 32) - 2 * PAGE
    vmcbs = tuple(Vmcb(n, NESTED_GPA + PAGE * n, ncr3, 1 + n) for n in range(vcpus)) if nested else ()
    params = dict(params) if not nested else {"kvm_amd.npt": 1, **params}
    try:
        scenario = _scenario(mode, vendor, kernel, params, design, host=host, physbits=physbits, vmcbs=vmcbs)
    except (ScenarioError, DesignError) as error:
        raise ConfigurationError(str(error).removeprefix("Vm: ")) from None
    actions: list[SetupAction] = []
    if dirty_ring:
        actions.append(Cap(KVM_CAP_DIRTY_LOG_RING, dirty_ring * ENTRY_BYTES))
    actions.append(memory)
    if nested:
        actions.append(SlotSetup(NESTED_SLOT, NESTED_GPA, NESTED_SIZE, options="nested"))
    next_table = ncr3 if nested else cr3
    if mode.name == "pae":  # a processor reads the four PDPTEs when CR3 is written, and not again
        for root in (cr3, ncr3) if nested else (cr3,):
            next_table -= 4 * PAGE
            actions += [Pt(root + 8 * index, 8, next_table + index * PAGE | 1) for index in range(4)]
    cr4 = mode.cr4 | (CR4_LA57 if mode.name == "long5" else 0)
    efer = mode.efer | (EFER_SVME if nested else 0)
    actions += [Vcpu(n, mode.cr0, cr3 if mode.name != "nopaging" else 0, cr4, efer) for n in range(vcpus)]
    setup = Setup(
        path="Vm",
        modes=(mode.name,) * vcpus,
        maxphyaddr=physbits,
        host=host,
        params={**scenario.params, "kernel": scenario.kernel},
        design=scenario.design,
        actions=(*actions, *vmcbs),
    )
    return setup, Tables(cr3, ncr3, next_table)


def check_word(name: str, value: int, size: int) -> None:
    """Raise ConfigurationError unless a number fits in so many bytes."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 8 * size:
        shown = f"{value:#x}" if isinstance(value, int) else repr(value)
        raise ConfigurationError(f"{name}={shown} must be a number from 0 to {(1 << 8 * size) - 1:#x}")
