"""Page-modification logging: the processor logs which pages become dirty (vmx.c, x86.c, 6.12.111).

Every vCPU has a table of 512 guest-physical addresses, emptied into the dirty log at every exit. It is used
while any slot logs.
"""

from ...x86.bits import PML_ENTRIES
from ..bits import MEM_LOG_DIRTY_PAGES, REQ_UPDATE_CPU_DIRTY_LOGGING
from ..guest_access.mark_dirty import mark_page_dirty_in_slot
from ..state.running_vcpu import loaded
from ..state.vcpu import Vcpu
from ..state.vm import Kvm


def vmx_create_pml_buffer(vcpu: Vcpu) -> None:
    """Give a new vCPU its table, if the VM uses page-modification logging."""
    if vcpu.kvm.parameters.cpu_dirty_log_size:
        vcpu.cpu.ept.pml_address = vcpu.kvm.arena.alloc_table()
        vmx_update_cpu_dirty_logging(vcpu)


def vmx_update_cpu_dirty_logging(vcpu: Vcpu) -> None:
    """Let the processor log if and only if a slot logs."""
    vcpu.cpu.ept.pml_enabled = nr_memslots_dirty_logging(vcpu.kvm) != 0


def vmx_flush_pml_buffer(vcpu: Vcpu) -> None:
    """Empty the table into the dirty log, oldest entry first; done at every exit."""
    ept, kvm = vcpu.cpu.ept, vcpu.kvm
    if ept.pml_index == PML_ENTRIES - 1:
        return
    first = 0 if ept.pml_index >= PML_ENTRIES else ept.pml_index + 1
    with loaded(vcpu):
        for index in range(first, PML_ENTRIES):
            gfn = kvm.read_spte(ept.pml_address + 8 * index) >> 12
            slot = kvm.gfn_to_memslot(gfn)
            if slot is not None:
                mark_page_dirty_in_slot(kvm, slot, gfn)
    ept.pml_index = PML_ENTRIES - 1


def nr_memslots_dirty_logging(kvm: Kvm) -> int:
    """Return the number of slots that log."""
    return sum(slot.flags & MEM_LOG_DIRTY_PAGES != 0 for slot in kvm.memslots)


def kvm_mmu_update_cpu_dirty_logging(kvm: Kvm, *, enable: bool) -> None:
    """Inform all vCPUs if dirty logging was started (`enable`) for the first slot, or stopped for
    the last.
    """
    if not kvm.parameters.cpu_dirty_log_size:
        return
    slots = nr_memslots_dirty_logging(kvm)
    if (enable and slots == 1) or not slots:
        for vcpu in kvm.vcpus:
            vcpu.make_request(REQ_UPDATE_CPU_DIRTY_LOGGING)


def kvm_arch_sync_dirty_log(kvm: Kvm) -> None:
    """Make every vCPU exit, so that its table is emptied before user space reads the dirty log."""
    if kvm.parameters.cpu_dirty_log_size:
        for vcpu in kvm.vcpus:
            vmx_flush_pml_buffer(vcpu)
