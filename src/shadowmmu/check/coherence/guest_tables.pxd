from ...host.memory cimport Arena
from ...kvm.state.memslots cimport MemSlot
from ...kvm.state.vm cimport Kvm
from ...x86.bits cimport *
cimport cython

@cython.final
cdef class Registers:
    cdef public u64 levels, root, pa_bits
    cdef public list pdptrs
    cdef public bint wp, nx, nx_reserved, bit8_reserved, smep, pse, pge, nested
    cdef readonly u64 index_bits, entry_bytes

cpdef bint permits(Registers regs, u64 rights, u64 user, u64 kind) except -1

@cython.final
cdef class GuestMemory:
    cdef readonly Kvm kvm
    cdef readonly Arena arena
    cdef readonly dict past
    cpdef MemSlot slot_at(self, u64 gfn)
    cpdef u64 page(self, u64 gfn, u64 write) except? 1
    cpdef u64 word(self, u64 gpa) except? 0xdead
    cpdef changed(self, u64 gpa, u64 old, i64 time, u64 kept=*)
    cpdef changed_unseen(self, u64 gpa, u64 old)
    cpdef list values(self, u64 gpa, u64 size, i64 since)
    cpdef u64 refusal(self, Registers regs, u64 level, u64 entry) except? 77
    cpdef bint _takes_bits(self, u64 gpa) except -1
    cpdef object start(self, Registers regs)
    cpdef list step(self, Registers regs, object state, u64 gva, i64 since, object refused)
    cpdef list walk(self, Registers regs, u64 gva, i64 since, object refused)
