"""Constants of the host's memory. Never compiled: bits.pxd is the C view of this file."""

PAGES_2M = 512
PAGES_1G = 512 * 512
SIZE_2M = 2 << 20

# a word of the host's page table (host/mapping.py); bits 12 and up are the pfn
KNOWN = 1
PRESENT = 2
WRITABLE = 4
ZERO = 8

# what a VMA allows: PROT_READ, PROT_READ | PROT_WRITE (include/uapi/asm-generic/mman-common.h)
PROT_NONE = 0
PROT_READ = 1
PROT_RW = 3
PROT_MASK = 3

# what else distinguishes VMAs, above the protection; not the kernel's numbers
VM_HUGEPAGE = 1 << 2
VM_NOHUGEPAGE = 1 << 3
VM_HUGETLB = 1 << 4
VM_SHARED = 1 << 5
VM_NORESERVE = 1 << 6
VM_ACCOUNT = 1 << 7
VM_RAND_READ = 1 << 8
VM_SEQ_READ = 1 << 9
VM_DONTCOPY = 1 << 10
VM_DONTDUMP = 1 << 11
VM_WIPEONFORK = 1 << 12
VM_MERGEABLE = 1 << 13

# /sys/kernel/mm/transparent_hugepage/enabled: which VMAs may get huge pages
THP_NEVER = 0
THP_MADVISE = 1
THP_ALWAYS = 2

FAULT_AROUND_PAGES = 16
"""fault_around_bytes of mm/memory.c, in pages."""
