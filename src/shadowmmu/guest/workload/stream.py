"""The instructions of a guest as a stream, run at full speed until one needs more than KVM's MMU.

An instruction is a byte of `kinds`, an address and a value: accesses as in guest/play/accesses.py (0 read,
1 write, 2 fetch, plus 4 for CPL 3), which move no data, then the stores of the guest's kernel to its page
tables and its clearing of pages, which do, and two that only KVM or the processor can carry out.
"""

from __future__ import annotations

from collections.abc import Sequence

from cython import uint as u32, ulonglong as u64

from ...host.memory import Arena
from ...kvm.bits import INVALID_PAGE, RET_PF_EFAULT, RET_PF_EMULATE, RET_PF_ENOSPC
from ...kvm.exits.page_fault_exit import ENDLESS, EndlessFaults, handle_page_fault
from ...kvm.exits.run import vcpu_enter_guest
from ...kvm.state.vcpu import Vcpu
from ...x86.bits import FAULT, NESTED_FAULT, PF_VECTOR, WRITE
from ...x86.processor import Processor

__all__ = ["CLEAR", "INVLPG", "MOV_CR3", "STORE4", "STORE8", "run_stream"]

STORE4, STORE8 = 8, 9
"""Kinds: store 4 or 8 bytes at CPL 0, within a page."""
CLEAR = 10
"""Kind: fill the page at the address with zeros, by REP STOS of 8 bytes at CPL 0."""
INVLPG, MOV_CR3 = 11, 12
"""Kinds: INVLPG of the address; MOV of the value to CR3."""
WORDS = 512


def _run_guest(
    cpu: Processor, arena: Arena, kinds: Sequence[int], gvas: Sequence[int], values: Sequence[int], start: u64
) -> u64:
    """Run until an instruction faults or is neither access nor store; return its index, or `len(gvas)`."""
    n: u64 = len(gvas)
    i: u64 = start
    kind: u32
    hpa: u64
    word: u64
    while i < n:
        kind = kinds[i]
        if kind > CLEAR:
            return i
        if kind < STORE4:
            if cpu.translate(gvas[i], kind | cpu.eflags_ac << 3) == FAULT:
                return i
        else:
            hpa = cpu.translate(gvas[i], WRITE)
            if hpa == FAULT:
                return i
            if kind != CLEAR:
                arena.store(hpa, 8 if kind == STORE8 else 4, values[i])
            elif not arena.is_zeros(hpa):
                for word in range(hpa >> 3, (hpa >> 3) + WORDS):
                    arena.words[word] = 0
        i += 1
    return n


def run_stream(
    vcpu: Vcpu, kinds: Sequence[int], gvas: Sequence[int], values: Sequence[int], start: u64
) -> u64:
    """Run the instructions from index `start` on; `len(gvas)`, or the index of one that is not completed.

    `kinds` has format 'B', `gvas` and `values` 'Q'. The one that is not completed is INVLPG or MOV_CR3, or an
    access: then an exception is pending for the guest (vcpu.exception; without one, vcpu.cpu.fault_vector is
    its vector), or vcpu.last_result is RET_PF_EMULATE, RET_PF_EFAULT or RET_PF_ENOSPC.

    Raises EndlessFaults for an access that faults again and again; and what vcpu_enter_guest raises.
    """
    n: u64 = len(gvas)
    i: u64 = start
    nested: u32 = vcpu.kvm.parameters.tdp_enabled
    exiting: u64 = NESTED_FAULT if nested else PF_VECTOR
    faults: u32 = 0
    endless: u32 = ENDLESS
    while True:
        if vcpu.requests or vcpu.mmu.root_hpa == INVALID_PAGE:
            vcpu_enter_guest(vcpu)
        reached: u64 = _run_guest(vcpu.cpu, vcpu.kvm.arena, kinds, gvas, values, i)
        if reached == n or kinds[reached] > CLEAR or vcpu.cpu.fault_vector != exiting:
            return reached
        faults = faults + 1 if reached == i else 1
        if faults > endless:
            raise EndlessFaults(f"the access to {gvas[i]:#x} faults forever")
        i = reached
        address: u64 = vcpu.cpu.walker.nested_fault_gpa if nested else vcpu.cpu.fault_gva
        result: u32 = handle_page_fault(vcpu, address, vcpu.cpu.fault_error_code, nested)
        if result in (RET_PF_EMULATE, RET_PF_EFAULT, RET_PF_ENOSPC) or vcpu.exception is not None:
            return i
