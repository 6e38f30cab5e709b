# The C view of bits.py: the same names with the same values, as unsigned 64-bit words.
from ..x86.bits cimport u64

cdef extern from *:
    """
    #define HOSTB_PAGES_2M 0x200ULL
    #define HOSTB_PAGES_1G 0x40000ULL
    #define HOSTB_SIZE_2M 0x200000ULL
    #define HOSTB_KNOWN 0x1ULL
    #define HOSTB_PRESENT 0x2ULL
    #define HOSTB_WRITABLE 0x4ULL
    #define HOSTB_ZERO 0x8ULL
    #define HOSTB_PROT_NONE 0x0ULL
    #define HOSTB_PROT_READ 0x1ULL
    #define HOSTB_PROT_RW 0x3ULL
    #define HOSTB_PROT_MASK 0x3ULL
    #define HOSTB_VM_HUGEPAGE 0x4ULL
    #define HOSTB_VM_NOHUGEPAGE 0x8ULL
    #define HOSTB_VM_HUGETLB 0x10ULL
    #define HOSTB_VM_PRIVATE 0x20ULL
    #define HOSTB_FAULT_AROUND_PAGES 0x10ULL
    """
    const u64 PAGES_2M "HOSTB_PAGES_2M"
    const u64 PAGES_1G "HOSTB_PAGES_1G"
    const u64 SIZE_2M "HOSTB_SIZE_2M"
    const u64 KNOWN "HOSTB_KNOWN"
    const u64 PRESENT "HOSTB_PRESENT"
    const u64 WRITABLE "HOSTB_WRITABLE"
    const u64 ZERO "HOSTB_ZERO"
    const u64 PROT_NONE "HOSTB_PROT_NONE"
    const u64 PROT_READ "HOSTB_PROT_READ"
    const u64 PROT_RW "HOSTB_PROT_RW"
    const u64 PROT_MASK "HOSTB_PROT_MASK"
    const u64 VM_HUGEPAGE "HOSTB_VM_HUGEPAGE"
    const u64 VM_NOHUGEPAGE "HOSTB_VM_NOHUGEPAGE"
    const u64 VM_HUGETLB "HOSTB_VM_HUGETLB"
    const u64 VM_PRIVATE "HOSTB_VM_PRIVATE"
    const u64 FAULT_AROUND_PAGES "HOSTB_FAULT_AROUND_PAGES"
