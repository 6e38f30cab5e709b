"""The fast path of a guest: a stream of accesses, with KVM after every fault (the loop of vcpu_run)."""

from collections.abc import Sequence

from cython import uint as u32, ulonglong as u64

from ...kvm.bits import INVALID_PAGE, RET_PF_EFAULT, RET_PF_EMULATE, RET_PF_ENOSPC
from ...kvm.exits.page_fault_exit import ENDLESS, EndlessFaults, handle_page_fault
from ...kvm.exits.run import vcpu_enter_guest
from ...kvm.state.running_vcpu import loaded
from ...kvm.state.vcpu import Vcpu
from ...x86.bits import NESTED_FAULT, PF_VECTOR


def run_accesses(vcpu: Vcpu, gvas: Sequence[int], kinds: Sequence[int], start: u64) -> u64:
    """Make the accesses from index `start` on; `len(gvas)`, or the index of one that needs more than the MMU.

    `gvas` has format 'Q', `kinds` format 'B': 0 read, 1 write, 2 fetch, plus 4 for CPL 3. If it stops early,
    either an exception is pending for the guest (vcpu.exception; a #GP if there is none and
    vcpu.cpu.fault_vector is 13), or vcpu.last_result is RET_PF_EMULATE, RET_PF_EFAULT or RET_PF_ENOSPC.

    Raises EndlessFaults for an access that faults again and again; and what vcpu_enter_guest raises.
    """
    n: u64 = len(gvas)
    i: u64 = start
    nested: u32 = vcpu.kvm.parameters.tdp_enabled
    exiting: u64 = NESTED_FAULT if nested else PF_VECTOR
    faults: u32 = 0
    endless: u32 = ENDLESS
    with loaded(vcpu):
        while True:
            if vcpu.requests or vcpu.mmu.root_hpa == INVALID_PAGE:
                vcpu_enter_guest(vcpu)
            reached: u64 = vcpu.cpu.run(gvas, kinds, i)
            if reached == n or vcpu.cpu.fault_vector != exiting:
                return reached
            faults = faults + 1 if reached == i else 1
            if faults > endless:
                raise EndlessFaults(f"the access to {gvas[i]:#x} faults forever")
            i = reached
            address: u64 = vcpu.cpu.walker.nested_fault_gpa if nested else vcpu.cpu.fault_gva
            result: u32 = handle_page_fault(vcpu, address, vcpu.cpu.fault_error_code, nested)
            if result in (RET_PF_EMULATE, RET_PF_EFAULT, RET_PF_ENOSPC) or vcpu.exception is not None:
                return i
