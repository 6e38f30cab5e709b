"""KVM_ENABLE_CAP on a VM (kvm_vm_ioctl_enable_cap and its generic part, 6.12.111, on SVM without an irqchip).

Capabilities that concern the MMU have their effect. Of the others it is modelled which arguments KVM accepts.
"""

import errno
from collections.abc import Callable

from ...x86.bits import MASK64, PAGE_SIZE
from ..guest_access.dirty_ring import ENTRY_BYTES, MAX_ENTRIES, RESERVED_ENTRIES
from ..state.vm import Kvm
from .memory_region import RegionError

KVM_CAP_DISABLE_QUIRKS = 116
KVM_CAP_SPLIT_IRQCHIP = 121
KVM_CAP_MAX_VCPU_ID = 128
KVM_CAP_X2APIC_API = 129
KVM_CAP_X86_DISABLE_EXITS = 143
KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 = 168
KVM_CAP_DIRTY_LOG_RING = 192
KVM_CAP_X86_BUS_LOCK_EXIT = 193
KVM_CAP_VM_COPY_ENC_CONTEXT_FROM = 197
KVM_CAP_EXIT_ON_EMULATION_FAILURE = 204
KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM = 206
KVM_CAP_DISABLE_QUIRKS2 = 213
KVM_CAP_VM_DISABLE_NX_HUGE_PAGES = 220
KVM_CAP_DIRTY_LOG_RING_ACQ_REL = 223
KVM_CAP_X86_APIC_BUS_CYCLES_NS = 237

MAX_NR_RESERVED_IOAPIC_PINS = 4096
DISABLE_VALID_EXITS = 0xF
"""MWAIT, HLT, PAUSE and C-states; APERF and MPERF of 7.3 only where the processor has them."""
MAX_TIMER_COUNT = 0xFFFFFFFF * 128
"""Bus cycles that the APIC's timer can be set to, by its largest divider."""
MANUAL_PROTECT, INITIALLY_SET = 1, 2
"""Bits of the argument of KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 (KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, ...)."""

_WITHOUT_EFFECT = {
    159: MASK64,  # MSR_PLATFORM_INFO
    164: MASK64,  # EXCEPTION_PAYLOAD
    182: (1 << 32) - 1,  # HALT_POLL
    188: 7,  # X86_USER_SPACE_MSR
    201: 1 << 12,  # EXIT_HYPERCALL
    218: MASK64,  # X86_TRIPLE_FAULT_EVENT
}
"""Capabilities that the MMU does not see: the bits that their argument may have."""


def kvm_vm_ioctl_enable_cap(kvm: Kvm, cap: int, argument: int) -> None:
    """Enable a capability. Raises RegionError where KVM refuses it: EINVAL for one that it does not know."""
    if cap in _EFFECTS:
        _EFFECTS[cap](kvm, argument)
    elif cap not in _WITHOUT_EFFECT:
        raise RegionError(errno.EINVAL, f"KVM has no capability {cap} to enable")
    elif argument & ~_WITHOUT_EFFECT[cap]:
        allowed = _WITHOUT_EFFECT[cap]
        raise RegionError(
            errno.EINVAL, f"the argument of capability {cap} must have no bits but {allowed:#x}"
        )


def _disable_quirks(kvm: Kvm, quirks: int) -> None:
    """Switch quirks off for good; unknown ones are accepted (KVM_CAP_DISABLE_QUIRKS)."""
    kvm.parameters.disabled_quirks |= quirks & kvm.design.valid_quirks


def _disable_quirks2(kvm: Kvm, quirks: int) -> None:
    """Switch quirks off for good. Raises RegionError for unknown ones."""
    unknown = quirks & ~kvm.design.valid_quirks
    if unknown:
        raise RegionError(errno.EINVAL, f"KVM has no quirks {unknown:#x}")
    _disable_quirks(kvm, quirks)


def _disable_nx_huge_pages(kvm: Kvm, argument: int) -> None:
    """Let the VM's pages be huge and executable whatever kvm.nx_huge_pages says."""
    if argument or kvm.vcpus:
        raise RegionError(errno.EINVAL, "its argument must be 0, and there must not be a vCPU yet")
    kvm.parameters.disable_nx_huge_pages = True


def _set_max_vcpu_id(kvm: Kvm, argument: int) -> None:
    """Limit the numbers of vCPUs, once; the first vCPU sets the limit to KVM_MAX_VCPU_IDS if nobody has."""
    limit: int = kvm.design.max_vcpu_ids
    if argument > limit:
        raise RegionError(errno.EINVAL, f"its argument must be at most {limit}")
    wanted = kvm.parameters.max_vcpu_ids or (limit if kvm.vcpus else 0)
    if wanted and argument != wanted:
        raise RegionError(errno.EINVAL, f"its argument must be {wanted}, as it is set already")
    kvm.parameters.max_vcpu_ids = argument


def _set_x2apic_api(kvm: Kvm, argument: int) -> None:
    """Check KVM_CAP_X2APIC_API, which has no effect here."""
    allowed: int = kvm.design.x2apic_api_flags
    if argument & ~allowed:
        raise RegionError(errno.EINVAL, f"its argument must have no bits but {allowed:#x}")


def _disable_exits(kvm: Kvm, argument: int) -> None:
    """Check KVM_CAP_X86_DISABLE_EXITS, which has no effect here."""
    if argument & ~DISABLE_VALID_EXITS:
        raise RegionError(errno.EINVAL, f"its argument must have no bits but {DISABLE_VALID_EXITS:#x}")
    if kvm.vcpus and not kvm.design.disable_exits_any_time:
        raise RegionError(errno.EINVAL, "there must not be a vCPU yet")


def _set_apic_bus_cycles(kvm: Kvm, argument: int) -> None:
    """Check KVM_CAP_X86_APIC_BUS_CYCLES_NS: ENXIO, because no interrupt controller is in the kernel."""
    if not kvm.design.cap_apic_bus_cycles:
        raise RegionError(errno.EINVAL, f"KVM has no capability {KVM_CAP_X86_APIC_BUS_CYCLES_NS} to enable")
    if not 0 < argument <= MASK64 // MAX_TIMER_COUNT:
        raise RegionError(errno.EINVAL, f"its argument must be 1 to {MASK64 // MAX_TIMER_COUNT}")
    raise RegionError(errno.ENXIO, "an interrupt controller must be in the kernel")


def _set_bus_lock_exit(kvm: Kvm, argument: int) -> None:
    """Check KVM_CAP_X86_BUS_LOCK_EXIT, which has no effect here."""
    if argument & ~3 or argument == 3:
        raise RegionError(errno.EINVAL, "its argument must be 0, 1 or 2")


def _exit_on_emulation_error(kvm: Kvm, argument: int) -> None:
    """Let a failed emulation end KVM_RUN also at CPL 3, instead of #UD."""
    if argument & ~1:
        raise RegionError(errno.EINVAL, "its argument must be 0 or 1")
    kvm.parameters.exit_on_emulation_error = argument != 0


def _set_irqchip(kvm: Kvm, argument: int) -> None:
    """Raise RegionError: EEXIST as KVM does once there is a vCPU; before that because it is not modelled."""
    if argument > MAX_NR_RESERVED_IOAPIC_PINS:
        raise RegionError(errno.EINVAL, f"its argument must be at most {MAX_NR_RESERVED_IOAPIC_PINS}")
    if kvm.vcpus:
        raise RegionError(errno.EEXIST, "the interrupt controller must be made before the first vCPU")
    raise RegionError(errno.EINVAL, "an interrupt controller in the kernel is not modelled")


def _take_encryption_context(kvm: Kvm, argument: int) -> None:
    """Raise RegionError(EBADF): no other VM exists."""
    raise RegionError(errno.EBADF, f"file {argument} must be a VM")


def _enable_manual_dirty_log_protect(kvm: Kvm, flags: int) -> None:
    """Enable KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2. Raises RegionError."""
    if flags & ~(MANUAL_PROTECT | INITIALLY_SET) or flags == INITIALLY_SET:
        raise RegionError(errno.EINVAL, "flags must be 0, 1 (manual protection) or 3 (and initially set)")
    kvm.parameters.manual_dirty_log_protect = bool(flags & MANUAL_PROTECT)
    kvm.parameters.dirty_log_initially_set = bool(flags & INITIALLY_SET)


def _enable_dirty_log_ring(kvm: Kvm, size: int) -> None:
    """Enable KVM_CAP_DIRTY_LOG_RING: rings of `size` bytes for the vCPUs to come. Raises RegionError."""
    reserved = (RESERVED_ENTRIES + kvm.parameters.cpu_dirty_log_size) * ENTRY_BYTES
    if not size or size & (size - 1) or size < PAGE_SIZE or size < reserved:
        least = max(PAGE_SIZE, reserved)
        raise RegionError(
            errno.EINVAL, f"a dirty ring of {size} bytes: must be a power of two, at least {least}"
        )
    if size > MAX_ENTRIES * ENTRY_BYTES:
        most = MAX_ENTRIES * ENTRY_BYTES
        raise RegionError(errno.E2BIG, f"a dirty ring of {size} bytes: must be at most {most}")
    if kvm.parameters.dirty_ring_size or kvm.vcpus:
        raise RegionError(errno.EINVAL, "dirty rings must be chosen once, before the first vCPU")
    kvm.parameters.dirty_ring_size = size


_EFFECTS: dict[int, Callable[[Kvm, int], None]] = {
    KVM_CAP_DISABLE_QUIRKS: _disable_quirks,
    KVM_CAP_SPLIT_IRQCHIP: _set_irqchip,
    KVM_CAP_MAX_VCPU_ID: _set_max_vcpu_id,
    KVM_CAP_X2APIC_API: _set_x2apic_api,
    KVM_CAP_X86_DISABLE_EXITS: _disable_exits,
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: _enable_manual_dirty_log_protect,
    KVM_CAP_X86_BUS_LOCK_EXIT: _set_bus_lock_exit,
    KVM_CAP_VM_COPY_ENC_CONTEXT_FROM: _take_encryption_context,
    KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM: _take_encryption_context,
    KVM_CAP_DIRTY_LOG_RING: _enable_dirty_log_ring,
    KVM_CAP_EXIT_ON_EMULATION_FAILURE: _exit_on_emulation_error,
    KVM_CAP_DISABLE_QUIRKS2: _disable_quirks2,
    KVM_CAP_VM_DISABLE_NX_HUGE_PAGES: _disable_nx_huge_pages,
    KVM_CAP_X86_APIC_BUS_CYCLES_NS: _set_apic_bus_cycles,
    KVM_CAP_DIRTY_LOG_RING_ACQ_REL: _enable_dirty_log_ring,
}
