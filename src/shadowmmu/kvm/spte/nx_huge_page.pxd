from ...x86.bits cimport *
from ..state.shadow_page cimport ShadowPage
from ..state.vm cimport Kvm

cpdef void account_nx_huge_page(Kvm kvm, ShadowPage sp, u32 possible) except *
cpdef void track_possible_nx_huge_page(Kvm kvm, ShadowPage sp) except *
cpdef void unaccount_nx_huge_page(Kvm kvm, ShadowPage sp) except *
cpdef void untrack_possible_nx_huge_page(Kvm kvm, ShadowPage sp) except *
