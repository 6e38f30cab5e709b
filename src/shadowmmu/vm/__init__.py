"""The public face for programs: a virtual machine on KVM's shadow MMU, as objects to ask and to print.

`Vm` has slots, vCPUs, guest page tables, traces and statistics; everything below it stays reachable:
`vm.machine.kvm` is `struct kvm`.
"""

from ..kvm.exits.page_fault_exit import EndlessFaults, KvmRunError
from ..kvm.exits.run import DirtyRingFull
from .config import ConfigurationError
from .faults import Access, GuestFault, VmExit
from .nested import L2, Nested
from .slots import Backing, Slot, Slots
from .sptes import Role, ShadowPage, Spte
from .stats import Stats
from .trace import Trace
from .vcpu import Vcpu
from .verdict import Verdict
from .vm import Vm
from .walk import Entry, Walk

__all__ = [
    "L2",
    "Access",
    "Backing",
    "ConfigurationError",
    "DirtyRingFull",
    "EndlessFaults",
    "Entry",
    "GuestFault",
    "KvmRunError",
    "Nested",
    "Role",
    "ShadowPage",
    "Slot",
    "Slots",
    "Spte",
    "Stats",
    "Trace",
    "Vcpu",
    "Verdict",
    "Vm",
    "VmExit",
    "Walk",
]
