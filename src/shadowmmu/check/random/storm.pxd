cimport cython
from ...kvm.bits cimport *
from ...kvm.state.memslots cimport MemSlot
from ...kvm.exits.page_fault_exit cimport page_fault_exit
from ...kvm.exits.run cimport vcpu_enter_guest
from ...kvm.state.vcpu cimport Vcpu
from ...kvm.state.vm cimport Kvm
from ...x86.bits cimport *
from ...x86.processor cimport Processor
from ..coherence.guest_tables cimport GuestMemory, Registers, permits

@cython.final
cdef class Storm:
    cdef readonly list vcpus, emulators, cpus, registers, vmcbs
    cdef readonly Kvm kvm
    cdef readonly bint tdp, nested, checking
    cdef readonly object coherence
    cdef readonly GuestMemory memory
    cdef public object failure
    cdef public i64 clock
    cdef readonly u64 exiting, played
    cdef readonly u64 state
    cdef readonly list written
    cdef readonly u64[::1] log, gvas, edits, roots
    cdef u64 next(self) except? 0xdead
    cpdef u64 run(self, u64 count, u32 user, u32 size) except? 0xdead
    cdef int in_l1(self, u32 number, u64 which) except -1
    cdef int edit(self, u32 number, u64 which) except -1
    cdef int vmrun(self, u32 number) except -1
    cdef int vmexit(self, u32 number) except -1
    cdef int note(self, u64 kind, u64 number, u64 mode, u64 size, u64 gva, u64 value) except -1
    @cython.locals(cpu=Processor)
    cdef u64 access(self, Vcpu vcpu, u64 gva, u32 mode) except? 0xdead
    cdef int play(self, u32 number, u64 gva, u32 mode, u64 value, u32 size) except -1
    cdef int store(self, u64 gva, u64 hpa, u64 value, u32 size) except -1
    cdef int note_write(self, u64 hpa) except -1
    cdef int emulate(self, Vcpu vcpu, u64 gva, u32 mode, u64 value, u32 size) except -1
    cdef int invlpg(self, u32 number, u64 gva) except -1
    cdef int load_cr3(self, u32 number, u64 value) except -1
    cdef int check_access(self, Vcpu vcpu, u64 gva, u32 mode, u64 hpa, u32 in_l2) except -1
    cdef Registers registers_of(self, Vcpu vcpu)
    @cython.locals(slot=MemSlot)
    cdef bint logged(self, u64 gfn) except -1
    cdef int check_exception(self, Vcpu vcpu, u64 gva, u32 mode) except -1
    cdef int check_vmexit(self, Vcpu vcpu, u64 gva) except -1
