"""Architectural constants: plain integers.

Never compiled; `bits.pxd` gives the same names to C. Sections are those of AMD's APM, volume 2.
"""

# entries of a page table (AMD APM vol. 2, 5.3 and 5.4; PS, G: leaf entries)
P = 1 << 0
W = 1 << 1
U = 1 << 2
PWT = 1 << 3
PCD = 1 << 4
A = 1 << 5
D = 1 << 6
PS = 1 << 7
G = 1 << 8
NX = 1 << 63

# entries of an EPT table (Intel SDM vol. 3C, 29.3.2; memory type, IPAT, D: leaf entries); PS as above
EPT_R = 1 << 0
EPT_W = 1 << 1
EPT_X = 1 << 2
EPT_XU = 1 << 10
EPT_RWX = EPT_R | EPT_W | EPT_X
EPT_TYPE = 7 << 3
EPT_WB = 6 << 3
EPT_IPAT = 1 << 6
EPT_A = 1 << 8
EPT_D = 1 << 9
# exit qualification of an EPT violation (28.2.1): the access, R, W and X of the translation from bit 3 on,
# whether there is a linear address, and whether the access was to its page, not to a table of the guest
EPT_VIOLATION_RWX_SHIFT = 3
EPT_VIOLATION_PROT_XU = 1 << 6
EPT_VIOLATION_GVA_VALID = 1 << 7
EPT_VIOLATION_GVA_TRANSLATED = 1 << 8
EPT_VIOLATION_GVA_USER = 1 << 9
EPT_VIOLATION_GVA_WRITABLE = 1 << 10
EPT_VIOLATION_GVA_NX = 1 << 11
# entries of the page-modification log (29.3.6)
PML_ENTRIES = 512

# the physical address in an 8-byte entry, and a full 64-bit word
ADDR = 0x000F_FFFF_FFFF_F000
MASK64 = 0xFFFF_FFFF_FFFF_FFFF

# most levels of page tables, entries of the page directory pointer table of PAE paging, and combinations of
# the bits of an error code that say what an access is
MAX_LEVELS = 5
PAE_PDPTES = 4
ACCESSES = 16

# no address: what an access that faulted returns
FAULT = 0xFFFF_FFFF_FFFF_FFFF

# error code of a page fault (AMD APM vol. 2, 8.2.15)
PFERR_P = 1 << 0
PFERR_W = 1 << 1
PFERR_U = 1 << 2
PFERR_RSVD = 1 << 3
PFERR_F = 1 << 4
PFERR_PK = 1 << 5
# and of a nested page fault: the walk to the page, or to an entry of the guest's tables (15.25.6)
PFERR_GUEST_FINAL = 1 << 32
PFERR_GUEST_PAGE = 1 << 33

# CR0 (3.1.1)
CR0_PE = 1 << 0
CR0_MP = 1 << 1
CR0_EM = 1 << 2
CR0_TS = 1 << 3
CR0_ET = 1 << 4
CR0_NE = 1 << 5
CR0_WP = 1 << 16
CR0_AM = 1 << 18
CR0_NW = 1 << 29
CR0_CD = 1 << 30
CR0_PG = 1 << 31

# CR3 with CR4.PCIDE (5.5.1)
PCID_MASK = 0xFFF

# CR4 (3.1.3)
CR4_VME = 1 << 0
CR4_PVI = 1 << 1
CR4_TSD = 1 << 2
CR4_DE = 1 << 3
CR4_PSE = 1 << 4
CR4_PAE = 1 << 5
CR4_MCE = 1 << 6
CR4_PGE = 1 << 7
CR4_PCE = 1 << 8
CR4_OSFXSR = 1 << 9
CR4_OSXMMEXCPT = 1 << 10
CR4_UMIP = 1 << 11
CR4_LA57 = 1 << 12
CR4_FSGSBASE = 1 << 16
CR4_PCIDE = 1 << 17
CR4_OSXSAVE = 1 << 18
CR4_SMEP = 1 << 20
CR4_SMAP = 1 << 21
CR4_PKE = 1 << 22

# EFER (3.1.7)
EFER_SCE = 1 << 0
EFER_LME = 1 << 8
EFER_LMA = 1 << 10
EFER_NX = 1 << 11
EFER_SVME = 1 << 12

# RFLAGS (3.1.6)
EFLAGS_AC = 1 << 18

# a translation that the TLB keeps: the nested tables let it be written, and executed
NESTED_W = 1 << 9
NESTED_X = 1 << 10

# rights, as KVM combines them (ACC_* in arch/x86/kvm/mmu.h, 6.12.111)
ACC_X = 1
ACC_W = 2
ACC_U = 4
ACC_ALL = 7

# kinds of access
READ = 0
WRITE = 1
FETCH = 2

# vectors of the exceptions an access can raise (8.1)
UD_VECTOR = 6
GP_VECTOR = 13
PF_VECTOR = 14
# no vector: a nested page fault, which the guest does not see (15.25.6)
NESTED_FAULT = 256

# the smallest page
PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
