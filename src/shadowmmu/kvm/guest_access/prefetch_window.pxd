from ...x86.bits cimport *
from ..bits cimport *
from ..design.design cimport Design
from ..state.fault cimport GuestWalker
from ..state.vm cimport Kvm

cpdef u32 window_first(Design design, u32 index) except? 0xdead
cpdef u32 window_end(Design design, u32 index, u32 entries) except? 0xdead
cpdef void read_window(Kvm kvm, GuestWalker w, u64 page, u64 offset, u32 four_byte) except *
