"""A scenario: a machine's setup and the operations played on it.

`parser.load_scenario` reads one from a file of the scenario language, `from_recording.rebuild_scenario` makes
one from a recording; `setup.resolve` turns either into the `Setup` that a player carries out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ...kvm.design.switches import kernel_text, value_of
from .host_processor import HostError, HostProcessor
from .modes import Mode
from .module_params import (
    VENDORS,
    choices,
    known_params,
    nested_paging_of,
    param_value,
    params_of_vendor,
)
from .ops import (
    UNRECORDED,
    Op,
)
from .setup import (
    ScenarioError,
    SetupLine,
    Vcpu,
    Vmcb,
)
from .text import shown

__all__ = ["Scenario"]

EFER_SVME = 0x1000


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario as written, or as rebuilt from a recording (then `setup` holds single entries only)."""

    name: str
    path: str
    title: str
    kernel: str
    params: Mapping[str, str]
    """Module parameters as a recording's header names them: `kvm_amd.npt` = `N`, ..."""
    design: Mapping[str, str]
    """Switches that are not as the kernel has them, switch name -> value name."""
    modes: tuple[str, ...]
    """The paging mode of each vCPU."""
    maxphyaddr: int
    """Bits of a physical address as the guest's CPUID has them."""
    host: HostProcessor
    """What it runs on; a scenario's host has five-level page tables if its guest may."""
    vcpus: tuple[Vcpu, ...]
    vmcbs: tuple[Vmcb, ...]
    """What each vCPU says about its L2; empty if the guest is no hypervisor."""
    setup: tuple[SetupLine, ...]
    ops: tuple[Op, ...]

    def with_kernel(self, release: str) -> Scenario:
        """Return the same scenario on another kernel, `6.1.176` for example. Raises DesignError if that is
        not known.
        """
        return replace(self, kernel=kernel_text(release))

    def with_vendor(self, vendor: str) -> Scenario:
        """Return the same scenario on a processor of a vendor, `intel` or `amd`. Raises ScenarioError if it
        cannot be.
        """
        if vendor not in VENDORS:
            raise ScenarioError(f"there is no vendor {vendor!r}; there are {', '.join(VENDORS)}")
        if vendor == "intel" and self.vmcbs:
            raise ScenarioError(f"{self.path}: a guest that is a hypervisor is modelled on AMD only")
        return replace(self, params=params_of_vendor(self.params, vendor)).with_host({})

    def with_host(self, values: Mapping[str, str]) -> Scenario:
        """Return the same on another host, `l1tf` -> `44`. Raises ScenarioError if it cannot be."""
        try:
            host = self.host.with_settings(values)
            host.check(vmx="kvm_intel.ept" in self.params)
        except HostError as error:
            raise ScenarioError(f"{self.path}: {error}") from None
        return replace(self, host=host)

    def with_params(self, values: Mapping[str, str]) -> Scenario:
        """Return the same scenario with other module parameters, `kvm_intel.eptad` -> `0`.

        Nested paging that they turn on brings the TDP MMU, unless they say otherwise. Raises ScenarioError.
        """
        params = dict(self.params)
        for name, value in values.items():
            if name not in known_params(params):
                known = ", ".join(known_params(params))
                raise ScenarioError(
                    f"{self.path}: there is no parameter {shown(repr(name))}; there are {known}"
                )
            held = param_value(name, value)
            if held is None:
                raise ScenarioError(
                    f"{self.path}: {shown(repr(value))} is not a value of {name}; use {choices(name)}"
                )
            params[name] = held
        nested_paging = nested_paging_of(params)
        if params[nested_paging] == "N":
            if self.vmcbs:
                raise ScenarioError(f"{self.path}: a guest that is a hypervisor needs {nested_paging}")
            params["kvm.tdp_mmu"] = "N"
        elif self.params[nested_paging] == "N" and "kvm.tdp_mmu" not in values:
            params["kvm.tdp_mmu"] = "Y"
        return replace(self, params=params)

    def with_design(self, values: Mapping[str, str]) -> Scenario:
        """Return the same scenario with other values of switches, names both. Raises DesignError for what
        there is not.
        """
        for name, value in values.items():
            value_of(name, value)
        return replace(self, design={**self.design, **values})

    @property
    def recorded_ops(self) -> tuple[Op, ...]:
        """The ops that leave a record, in order: number n is the recording's op n."""
        return tuple(op for op in self.ops if not isinstance(op, UNRECORDED))


def mode_names(modes: Sequence[Mode], nvcpus: int) -> tuple[str, ...]:
    """Return the name of each vCPU's mode; one may stand for all."""
    return tuple(mode.name for mode in (modes if len(modes) > 1 else [modes[0]] * nvcpus))


def any_long5(modes: Sequence[Mode]) -> bool:
    return any(mode.name == "long5" for mode in modes)
