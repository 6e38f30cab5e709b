from ...x86.bits cimport *
from ..bits cimport *
from .mark_dirty cimport mark_page_dirty_in_slot
from ..state.memslots cimport MemSlot
from ..state.vm cimport Kvm

cpdef u64 read_page(MemSlot slot, u64 gfn) except? 1
cpdef u64 table_page(Kvm kvm, u64 gfn) except? 1
cpdef u64 write_page(MemSlot slot, u64 gfn) except? 1
cpdef u64 fault_in_page(MemSlot slot, u64 index, u64 write) except? 1
cpdef u64 read_page_atomic(Kvm kvm, u64 gfn) except? 1
