"""What a measurement runs on: a machine, its KVM, and a guest kernel in it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..guest.workload.frames import Frames
from ..guest.workload.kernel import DIRECT_MAPS, GuestKernel
from ..guest.workload.stream_cpu import StreamCpu
from ..kvm.design.switches import DEFAULT_KERNEL
from ..vm.config import ConfigurationError, Paging, Vendor, bytes_of
from ..vm.slots import Backing
from ..vm.vm import Vm
from ..x86.sizes import size_of
from .costs import Costs
from .holds import LockHolds

__all__ = ["Configuration", "Guest", "build"]

FIRST_FRAME = 1 << 20
TABLES = 16 << 20
"""Bytes at the top of guest memory for the tables that exist at the start."""
MOST_MMU_PAGES = 1 << 20
DIRECT_MAP_PAGES = ("2M", "4K")


@dataclass(frozen=True, slots=True)
class Configuration:
    """A machine for a workload; the fields as those of `Vm`.

    Attributes:
        paging: The guest's page tables.
        memory: Guest memory, as text such as "256M".
        vcpus: Number of vCPUs.
        backing: What the host gives for the memory.
        kernel: Whose KVM.
        vendor: Whose processor.
        params: Parameters of KVM's modules.
        design: Switches that are not as that kernel has them.
        nested: The guest is a hypervisor.
        direct_map: Page size of the guest kernel's map of all memory, "2M" or "4K".
        contended: Others wait for mmu_lock all the time.
    """

    paging: Paging = "long4"
    memory: str = "512M"
    vcpus: int = 1
    backing: Backing = Backing.ANON
    kernel: str = DEFAULT_KERNEL
    vendor: Vendor = "amd"
    params: Mapping[str, object] = field(default_factory=dict)
    design: Mapping[str, str] = field(default_factory=dict)
    nested: bool = False
    direct_map: str = "2M"
    contended: bool = False

    def with_design(self, **values: str) -> Configuration:
        """Return the same with other values of switches."""
        return replace(self, design={**self.design, **values})

    def with_params(self, values: Mapping[str, object]) -> Configuration:
        """Return the same with other module parameters."""
        return replace(self, params={**self.params, **values})


@dataclass(slots=True)
class Guest:
    """A machine with a guest kernel that has not done anything yet.

    Attributes:
        vm: The machine.
        kernel: The guest's kernel.
        cpus: Its vCPUs.
        rng: The only source of chance.
        configuration: What it was made from.
        host: To be entered (`with`) for each work of the host, whose holds of mmu_lock it measures.
    """

    vm: Vm
    kernel: GuestKernel
    cpus: list[StreamCpu]
    rng: random.Random
    configuration: Configuration
    host: LockHolds


def build(configuration: Configuration, costs: Costs, seed: int) -> Guest:
    """Make a guest. Raises ConfigurationError."""
    if configuration.paging == "nopaging":
        raise ConfigurationError("paging='nopaging': a workload needs a guest with page tables")
    memory = bytes_of("memory", configuration.memory)
    if memory < 2 * TABLES:
        raise ConfigurationError(f"memory={configuration.memory!r} must be at least {2 * TABLES >> 20}M")
    if configuration.direct_map not in DIRECT_MAP_PAGES:
        raise ConfigurationError(
            f"direct_map={configuration.direct_map!r} must be one of {', '.join(DIRECT_MAP_PAGES)}"
        )
    vm = Vm(
        memory,
        configuration.paging,
        vcpus=configuration.vcpus,
        backing=configuration.backing,
        kernel=configuration.kernel,
        vendor=configuration.vendor,
        params=configuration.params,
        design=configuration.design,
        nested=configuration.nested,
    )
    vm.limit_pages(MOST_MMU_PAGES)
    base = DIRECT_MAPS[configuration.paging]
    page = configuration.direct_map
    if page == "2M" and configuration.paging == "32":
        page = "4M"
    size = size_of(page) or 0
    mapped = -(-memory // size) * size
    vm.map(base, 0, mapped, page_size=page, user=False, mmio=mapped > memory)
    mode, root = vm.mode, vm.cr3
    count = 4 if mode.name == "pae" else 4096 // mode.entry_size
    entries = {index: vm.host_read(root + index * mode.entry_size, mode.entry_size) for index in range(count)}
    cpus = [StreamCpu(cpu) for cpu in vm.player.cpus]
    kernel = GuestKernel(
        cpus,
        mode,
        root,
        {index: entry for index, entry in entries.items() if entry},
        Frames(FIRST_FRAME, min(memory, 1 << 32 if mode.name in ("pae", "32") else memory) - TABLES),
    )
    holds = LockHolds(vm.kvm, costs, contended=configuration.contended)
    return Guest(vm, kernel, cpus, random.Random(seed), configuration, holds)
