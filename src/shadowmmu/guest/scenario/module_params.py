"""Module parameters of KVM as scenarios and the headers of recordings give them: `kvm_amd.npt` = `N`, ..."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ...kvm.memory.dirty_log import cpu_dirty_log_size
from ...kvm.state.vm import Parameters

__all__ = [
    "DEFAULT_PARAMS",
    "MORE_PARAMS",
    "VENDORS",
    "choices",
    "is_param",
    "known_params",
    "nested_paging_of",
    "not_modelled",
    "param_value",
    "parameters_of",
    "params_of_vendor",
    "values_of_param",
    "yes_no",
]

_YES = {"1", "y", "Y", "on", "ON", "On"}
_NO = {"0", "n", "N", "off", "OFF", "Off"}
_NX_HUGE_PAGES = {"off": "N", "force": "Y", "auto": "N", "never": "never"}
_RATIO, _PERIOD = "kvm.nx_huge_pages_recovery_ratio", "kvm.nx_huge_pages_recovery_period_ms"

VENDORS: Mapping[str, Mapping[str, str]] = {
    "amd": {"kvm_amd.npt": "N"},
    "intel": {"kvm_intel.ept": "N", "kvm_intel.eptad": "Y", "kvm_intel.pml": "Y"},
}
"""The parameters of the vendors' modules; the first of each is for nested paging."""

DEFAULT_PARAMS: Mapping[str, str] = {
    **VENDORS["amd"],
    "kvm.tdp_mmu": "Y",
    "kvm.eager_page_split": "Y",
    "kvm.nx_huge_pages": "N",
    "kvm.flush_on_reuse": "N",
    "kvm.ignore_msrs": "N",
}
"""What the header of every recording has."""
MORE_PARAMS: Mapping[str, str] = {"kvm.mmio_caching": "Y", _RATIO: "60", _PERIOD: "0"}
"""What a header has only if it was given."""
MORE_OF_INTEL: Mapping[str, str] = {"kvm_intel.mbec": "Y"}
"""The same, of Intel's module; since 7.3, without effect on other kernels."""

_OTHERS = {
    "kvm": "enable_virt_at_load halt_poll_ns halt_poll_ns_grow halt_poll_ns_grow_start halt_poll_ns_shrink "
    "mitigate_smt_rsb enable_pmu pi_inject_timer force_emulation_prefix enable_vmware_backdoor "
    "vector_hashing tsc_tolerance_ppm kvmclock_periodic_sync min_timer_period_us report_ignored_msrs "
    "lapic_timer_advance lapic_timer_advance_ns",
    "kvm_amd": "vnmi intercept_smi dump_invalid_vmcb avic tsc_scaling lbrv vgif vls nrips nested "
    "pause_filter_count pause_filter_count_max pause_filter_count_shrink pause_filter_count_grow "
    "pause_filter_thresh force_avic debug_swap sev sev_es sev_snp",
    "kvm_intel": "enlightened_vmcs ple_gap ple_window ple_window_grow ple_window_max ple_window_shrink "
    "allow_smaller_maxphyaddr preemption_timer dump_invalid_vmcs error_on_inconsistent_vmcs_config nested "
    "enable_ipiv enable_apicv fasteoi emulate_invalid_guest_state unrestricted_guest flexpriority vnmi vpid "
    "nested_early_check enable_shadow_vmcs sgx",
}
"""What 6.1.176 and 6.12.111 have besides, by module (`modinfo -p`)."""


def yes_no(params: Mapping[str, bool]) -> dict[str, str]:
    """Return parameters as headers show them."""
    return {name: "Y" if value else "N" for name, value in params.items()}


def params_of_vendor(params: Mapping[str, str], vendor: str) -> dict[str, str]:
    """Return the parameters with those of another vendor's module; nested paging is used as before."""
    module = dict(VENDORS[vendor])
    if next(iter(module)) in params:
        return dict(params)
    nested_paging = params[nested_paging_of(params)]
    modules = {name for names in (*VENDORS.values(), MORE_OF_INTEL) for name in names}
    module[nested_paging_of(module)] = nested_paging
    return {**module, **{name: value for name, value in params.items() if name not in modules}}


def param_value(name: str, value: str) -> str | None:
    """Return the value of a parameter as headers show it; None if it cannot have that value."""
    if name in (_RATIO, _PERIOD):
        number = int(value) if re.fullmatch("[0-9]{1,10}", value) else -1
        return str(number) if 0 <= number < 1 << 32 else None
    if value in _YES:
        return "Y"
    if value in _NO:
        return "N"
    return _NX_HUGE_PAGES.get(value) if name == "kvm.nx_huge_pages" else None


def known_params(params: Mapping[str, str]) -> list[str]:
    """Return the names that may be given, on the processor of these parameters."""
    more = [*MORE_PARAMS, *(MORE_OF_INTEL if "kvm_intel.ept" in params else ())]
    return [*(name for name in params if name != "thp" and name not in more), *more]


def choices(name: str) -> str:
    """Return what a parameter can be, for a message."""
    return "a number of 32 bits" if name in (_RATIO, _PERIOD) else "Y or N"


def values_of_param(name: str) -> list[str]:
    """Return all values that a parameter can have, as headers show them; none if they are numbers."""
    if name in (_RATIO, _PERIOD):
        return []
    return ["Y", "N", *(["never"] if name == "kvm.nx_huge_pages" else [])]


def not_modelled(name: str) -> bool:
    """Return whether KVM has the parameter `module.name`, but its effect is not modelled."""
    module, _, parameter = name.partition(".")
    return parameter in _OTHERS.get(module, "").split()


def is_param(name: str) -> bool:
    """Return whether KVM, of some kernel and vendor, has the parameter `module.name`."""
    modelled = (DEFAULT_PARAMS, MORE_PARAMS, VENDORS["intel"], MORE_OF_INTEL)
    return any(name in names for names in modelled) or not_modelled(name)


def nested_paging_of(params: Mapping[str, str]) -> str:
    """Return the name of the parameter for nested paging."""
    return "kvm_intel.ept" if "kvm_intel.ept" in params else "kvm_amd.npt"


def parameters_of(params: Mapping[str, str]) -> Parameters:
    """Return KVM's parameters for these module parameters; those that are not given have their defaults."""
    given = {**DEFAULT_PARAMS, **MORE_PARAMS, **VENDORS["intel"], **MORE_OF_INTEL, **params}
    yes = {name for name, value in given.items() if value in ("Y", "1")}
    parameters = Parameters()
    parameters.vmx = "kvm_intel.ept" in params
    parameters.tdp_enabled = nested_paging_of(params) in yes
    parameters.ept_ad_bits = "kvm_intel.eptad" in yes
    parameters.mbec = "kvm_intel.mbec" in yes
    parameters.cpu_dirty_log_size = cpu_dirty_log_size(
        vmx=parameters.vmx,
        ept=parameters.tdp_enabled,
        ept_ad_bits=parameters.ept_ad_bits,
        pml="kvm_intel.pml" in yes,
    )
    parameters.tdp_mmu = "kvm.tdp_mmu" in yes
    parameters.eager_page_split = "kvm.eager_page_split" in yes
    parameters.mmio_caching = "kvm.mmio_caching" in yes
    parameters.nx_huge_pages = "kvm.nx_huge_pages" in yes
    parameters.nx_huge_pages_recovery_ratio = int(given[_RATIO])
    parameters.nx_huge_pages_recovery_period_ms = int(given[_PERIOD])
    parameters.flush_on_reuse = "kvm.flush_on_reuse" in yes
    parameters.ignore_msrs = "kvm.ignore_msrs" in yes
    return parameters
