"""Where things are, in guest-physical memory and in the address space of every process."""

PAGE = 4096
USER_END = 0x7FFFFFFFF000
STACK_TOP = 0x7FFFFFFFE000
STACK_SIZE = 8 << 20
STACK_BOTTOM = STACK_TOP - STACK_SIZE
MMAP_TOP = 0x7FFFF7000000
LOWEST_MMAP = 0x10000
LOW_TOP = 0x80000000
"""End of where MAP_32BIT puts things."""

DIRECT_MAP = 0xFFFF888000000000
"""All guest memory, by 2 MiB pages, not executable."""
TEXT = 0xFFFFFFFF81000000
"""One page: the entry code."""

KERNEL_PGD = 0x1000
DIRECT_PUD, TEXT_PUD, TEXT_PMD, TEXT_PTE = 0x2000, 0x3000, 0x4000, 0x5000
TEXT_PAGE, GDT_PAGE, STACK_PAGE = 0x6000, 0x7000, 0x8000
WORK, WORK_SIZE = 0x10000, 0x40000
"""What the entry code is to do."""
DIRECT_PMDS = 0x50000
"""One page for each GiB of memory."""
LARGEST_MEMORY = 64 << 30
LEAST_MEMORY = 4 << 20

KERNEL_CS, KERNEL_DS, USER_DS, USER_CS = 0x10, 0x18, 0x2B, 0x33
GDT = (0, 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0, 0x00CFF3000000FFFF, 0x00AFFB000000FFFF)
"""The null descriptor, then by selector: 0x10 and 0x18 of the kernel, 0x28 and 0x30 of user mode."""
