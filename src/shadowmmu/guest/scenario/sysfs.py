"""Files below /sys that a scenario writes: parameters of KVM's modules, settings of huge pages."""

import errno
import re
from collections.abc import Callable

from ...host.backing import HugePages
from ...host.bits import THP_ALWAYS, THP_MADVISE, THP_NEVER
from ...host.madvise import NotModelled
from ...kvm.memory.kstrtox import kstrtobool, kstrtouint
from ...kvm.memory.memory_region import RegionError
from ...kvm.memory.nx_recovery import set_nx_huge_pages
from ...kvm.state.vm import Kvm
from .module_params import is_param

_DIRECTORIES = (
    "block", "bus", "class", "dev", "devices", "firmware", "fs", "hypervisor", "kernel", "module", "power",
)  # fmt: skip
_THP = "/sys/kernel/mm/transparent_hugepage"
_ENABLED = {"never": THP_NEVER, "madvise": THP_MADVISE, "always": THP_ALWAYS}
_DEFRAG = ("always", "defer+madvise", "defer", "madvise", "never")
_READ_ONLY_THP = ("hpage_pmd_size",)

_BOOLS = {
    "kvm.eager_page_split": "eager_page_split",
    "kvm.flush_on_reuse": "flush_on_reuse",
    "kvm.ignore_msrs": "ignore_msrs",
}
"""Parameters that take effect at once, and the field of `Parameters` that has them."""
_BOOLS_WITHOUT_EFFECT = frozenset(
    {
        "kvm.pi_inject_timer",
        "kvm.report_ignored_msrs",
        "kvm_amd.dump_invalid_vmcb",
        "kvm_intel.dump_invalid_vmcs",
    }
)
_UINTS = {
    "kvm.nx_huge_pages_recovery_ratio": "nx_huge_pages_recovery_ratio",
    "kvm.nx_huge_pages_recovery_period_ms": "nx_huge_pages_recovery_period_ms",
}
_UINTS_WITHOUT_EFFECT = frozenset(
    f"kvm.{name}"
    for name in (
        "force_emulation_prefix", "halt_poll_ns", "halt_poll_ns_grow", "halt_poll_ns_grow_start",
        "halt_poll_ns_shrink", "min_timer_period_us", "tsc_tolerance_ppm",
    )
)  # fmt: skip
_ONLY_NEW = frozenset(
    f"{module}.{name}"
    for module, name in (
        ("kvm", "enable_virt_at_load"), ("kvm", "lapic_timer_advance"), ("kvm_amd", "debug_swap"),
        ("kvm_amd", "sev_snp"), ("kvm_amd", "vnmi"),
    )
)  # fmt: skip
"""Parameters that exist with the switch `new_module_parameters`."""
_REMOVED = frozenset({"kvm.kvmclock_periodic_sync", "kvm_amd.debug_swap"})
"""Those that exist with the switch `old_module_parameters`."""
_ONLY_OLD = frozenset({"kvm.lapic_timer_advance_ns"})
"""Those that exist without it."""


def thp_enabled(text: str) -> int:
    """Return THP_* of what reading `enabled` shows, `always [madvise] never`."""
    return next((value for name, value in _ENABLED.items() if f"[{name}]" in text), THP_MADVISE)


class SysFs:
    """The files of a VM's host. All methods raise RegionError with the errno of write(), or of open().

    `wake` is called when the recovery worker of NX huge pages may have something to do.
    """

    def __init__(self, kvm: Kvm, huge_pages: HugePages, wake: Callable[[], None]) -> None:
        self.kvm = kvm
        self.huge_pages = huge_pages
        self.wake = wake

    def write(self, path: str, value: str) -> None:
        """Write a file. Raises NotModelled for those that the model knows nothing about."""
        parameter = re.fullmatch("/sys/module/(kvm|kvm_amd|kvm_intel)/parameters/([^/]+)", path)
        if parameter:
            self.write_parameter(parameter[1], parameter[2], value)
        elif path == _THP:
            raise RegionError(errno.EISDIR, f"{path} is a directory")
        elif path.startswith(f"{_THP}/"):
            self._write_huge_pages(path.removeprefix(f"{_THP}/"), value)
        elif re.match("/sys/[^/]", path) and path.split("/")[2] not in _DIRECTORIES:
            raise RegionError(errno.ENOENT, f"{path} does not exist")
        else:
            raise NotModelled(f"what {path} does is not modelled")

    def _write_huge_pages(self, name: str, value: str) -> None:
        if name in _READ_ONLY_THP:
            raise RegionError(errno.EACCES, f"{name} is read-only")
        if name == "enabled" and value in _ENABLED:
            self.huge_pages.enabled = _ENABLED[value]
        elif name == "use_zero_page" and value in ("0", "1"):
            self.huge_pages.use_zero_page = value == "1"
        elif name in ("enabled", "use_zero_page") or (name == "defrag" and value not in _DEFRAG):
            raise RegionError(errno.EINVAL, f"{value} is not a value of {name}")
        elif name == "shmem_enabled" and value != "never":
            raise NotModelled("huge pages of shared memory (shmem_enabled) are not modelled")
        elif name.startswith(("khugepaged", "hugepages-")):
            raise NotModelled(f"what {_THP}/{name} does is not modelled")
        elif name not in ("defrag", "shmem_enabled"):
            raise RegionError(errno.ENOENT, f"{_THP}/{name} does not exist")

    def write_parameter(self, module: str, name: str, value: str) -> None:
        """Write a parameter of a loaded module."""
        full = f"{module}.{name}"
        if full == "kvm.nx_huge_pages":
            set_nx_huge_pages(self.kvm, value)
        elif full in _BOOLS:
            setattr(self.kvm.parameters, _BOOLS[full], kstrtobool(value))
        elif full in _UINTS:
            setattr(self.kvm.parameters, _UINTS[full], kstrtouint(value))
            self.wake()
        elif full in _BOOLS_WITHOUT_EFFECT:
            kstrtobool(value)
        elif full in _UINTS_WITHOUT_EFFECT:
            kstrtouint(value)
        else:
            self._write_other_parameter(full, value)

    def _write_other_parameter(self, full: str, value: str) -> None:
        """Write a parameter that is read-only, or not the same in all kernels."""
        new = self.kvm.design.new_module_parameters
        missing = _ONLY_OLD if new else _ONLY_NEW
        if not self.kvm.design.old_module_parameters:
            missing |= _REMOVED
        other_vendor = "kvm_amd." if self.kvm.parameters.vmx else "kvm_intel."
        if not is_param(full) or full in missing or full.startswith(other_vendor):
            raise RegionError(errno.ENOENT, f"the parameter {full} does not exist")
        if not new and full == "kvm.tdp_mmu":
            kstrtobool(value)
        elif full in _ONLY_OLD:
            kstrtouint(value.removeprefix("-"))
        else:
            raise RegionError(errno.EACCES, f"{full} is read-only")
