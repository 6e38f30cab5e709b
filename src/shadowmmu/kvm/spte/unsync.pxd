cimport cython
from ...x86.bits cimport *
from ..bits cimport *
from ..state.memslots cimport MemSlot
from .rmap cimport RmapIterator
from ..state.shadow_page cimport ShadowPage
from .spte cimport spte_index
from ..state.vm cimport Kvm

cpdef void mark_unsync(Kvm kvm, u64 sptep) except *
cpdef void kvm_mmu_mark_parents_unsync(Kvm kvm, ShadowPage sp) except *
cpdef void clear_unsync_child_bit(ShadowPage sp, u64 index) except *

@cython.final
cdef class UnsyncWalk:
    cdef readonly Kvm kvm
    cdef readonly list pages, indices, parent
    cdef readonly u64 position
    cdef readonly u64 index[PT64_ROOT_MAX_LEVEL + 1]
    cdef bint collect(self, ShadowPage sp) except -1
    cdef bint _add(self, ShadowPage sp, u64 index) except -1
    cdef i64 _walk(self, ShadowPage sp) except? 77
    cdef ShadowPage first_leaf(self)
    cdef ShadowPage next_leaf(self)
    cdef void clear_parents(self) except *

cpdef i64 mmu_try_to_unsync_pages(Kvm kvm, MemSlot slot, u64 gfn, u32 can_unsync, u32 prefetch) except? 77
cdef void _kvm_unsync_page(Kvm kvm, ShadowPage sp) except *
cpdef void kvm_unlink_unsync_page(Kvm kvm, ShadowPage sp) except *
