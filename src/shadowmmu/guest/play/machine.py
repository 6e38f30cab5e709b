"""A machine: host memory, a VM on it, and the user-space side that owns the VM's memory slots."""

import errno
from dataclasses import fields

from ...host.address_space import AddressSpace
from ...host.backing import Backing, HostError
from ...host.mapping import Mapping
from ...host.memory import Arena
from ...host.switches import HostSwitches
from ...kvm.design.design import Design
from ...kvm.guest_access.dirty_ring import kvm_dirty_ring_alloc
from ...kvm.memory.memory_region import RegionError, kvm_set_memory_region
from ...kvm.memory.notifier import MmuNotifier
from ...kvm.registers.pml import vmx_create_pml_buffer
from ...kvm.state.vcpu import Vcpu
from ...kvm.state.vm import Kvm, Parameters
from ...x86.bits import CR4_LA57, CR4_PCIDE, MASK64
from ...x86.implementation import MANUAL, Implementation
from ...x86.processor import Processor

LARGEST_ARENA = 1 << 42


class UserSlot:
    """What user space knows of a slot: it may differ from what KVM accepted."""

    def __init__(self, gpa: int, size: int, flags: int, mapping: Mapping) -> None:
        self.gpa = gpa
        self.size = size
        self.flags = flags
        self.mapping = mapping
        self.used = True


class Machine:
    """A VM with its host.

    `design` says how KVM behaves (by default as 6.12.111),
    tlb=False lets every access walk.
    `nested`: the guest is a hypervisor, so that the state of the MMUs for its guests is of interest.
    """

    def __init__(
        self,
        parameters: Parameters | None = None,
        *,
        design: Design | None = None,
        tlb: bool = True,
        implementation: Implementation = MANUAL,
    ) -> None:
        parameters = parameters or Parameters()
        self.arena = Arena(min(LARGEST_ARENA, 1 << parameters.host_maxphyaddr))
        self.host = AddressSpace(self.arena)
        self.kvm = Kvm(self.arena, self.host, parameters, design)
        self.host.notifiers.append(MmuNotifier(self.kvm))
        for field in fields(HostSwitches):
            setattr(self.host.switches, field.name, getattr(self.kvm.design, field.name))
        self.tlb = tlb
        self.implementation = implementation
        self.slots: dict[int, UserSlot] = {}
        self.nested = False

    def add_vcpu(self, maxphyaddr: int, *, la57: bool = True) -> Vcpu:
        """Add a vCPU as it is after reset; maxphyaddr is the guest's; la57: it may have five-level tables."""
        cpu = Processor(self.arena.view(), tlb=self.tlb, implementation=self.implementation)
        vcpu = Vcpu(self.kvm, len(self.kvm.vcpus), cpu)
        kvm_dirty_ring_alloc(vcpu)
        vmx_create_pml_buffer(vcpu)
        vcpu.maxphyaddr = maxphyaddr
        vcpu.wide_cr0 = self.implementation.wide_cr0
        vcpu.bad_cr3_fails_entry = self.implementation.bad_cr3_fails_entry
        vcpu.implicit_obeys_ac = self.implementation.implicit_obeys_ac
        vcpu.efer_missing = ~self.implementation.efer & MASK64
        vcpu.cr4_missing = (0 if self.implementation.pcid else CR4_PCIDE) | (0 if la57 else CR4_LA57)
        return vcpu

    # -- slots -------------------------------------------------------------------------------------------

    def set_slot(
        self,
        id: int,
        gpa: int,
        size: int,
        flags: int = 0,
        *,
        kind: Backing = Backing.ANON,
        populated: bool = True,
        skew: int = 0,
        keep: bool = False,
    ) -> None:
        """Give slot `id` memory and tell KVM; `keep`: the memory it had, if the size is the same.

        Raises RegionError if KVM refuses; user space has changed its mind all the same.
        """
        old = self.slots.get(id)
        if keep and old is not None and old.size == size:
            mapping = old.mapping
        else:
            mapping = self.host.map(size >> 12, kind, offset=gpa + skew, populated=populated)
        self.slots[id] = UserSlot(gpa, size, flags, mapping)
        self.set_region(id)

    def set_region(self, id: int) -> None:
        """Call KVM_SET_USER_MEMORY_REGION for a slot as user space has it. Raises RegionError."""
        slot = self.slots[id]
        size = slot.size if slot.used else 0
        kvm_set_memory_region(self.kvm, id, slot.gpa, size, slot.flags, slot.mapping)

    def delete_slot(self, id: int) -> None:
        """Delete slot `id`; its memory stays. Raises RegionError if KVM has no such slot."""
        if id not in self.slots:
            raise RegionError(errno.EINVAL, f"slot {id} does not exist")
        self.slots[id].used = False
        self.set_region(id)

    # -- the host's own accesses to guest memory -----------------------------------------------------------

    def hva(self, gpa: int) -> int:
        """Return the host address of a guest address. Raises HostError if no slot has it."""
        for slot in self.slots.values():
            if slot.used and slot.gpa <= gpa < slot.gpa + slot.size:
                return slot.mapping.hva + gpa - slot.gpa
        raise HostError(errno.EFAULT, f"no slot has guest address {gpa:#x}")

    def host_read(self, gpa: int, size: int) -> int:
        """Read `size` bytes of guest memory from user space. Raises HostError."""
        hva = self.hva(gpa)
        return self.arena.load(self.host.touch(hva, write=False) | (hva & 0xFFF), size)

    def host_write(self, gpa: int, size: int, value: int) -> None:
        """Write `size` bytes of guest memory from user space. Raises HostError."""
        hva = self.hva(gpa)
        self.arena.store(self.host.touch(hva, write=True) | (hva & 0xFFF), size, value)

    def peek(self, gpa: int) -> bytes | None:
        """Return the page at gpa; None if no slot has it. Reading faults it in, as for any user space."""
        try:
            hva = self.hva(gpa & ~0xFFF)
        except HostError:
            return None
        mapping, index = self.host.find(hva)
        word = mapping.page(index) or mapping.fault(index, 0)
        return self.arena.page_bytes(word >> 12 << 12) if word else bytes(4096)
