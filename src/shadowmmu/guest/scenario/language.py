"""The words of the scenario language: how each is written, what it means, and a line that shows it.

The parsers take the usage of their error messages from here; `shadowmmu run --help-language` and the
documentation print all of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import wrap

__all__ = ["GROUPS", "RULES", "WORDS", "Word", "language_text"]


@dataclass(frozen=True, slots=True)
class Word:
    """A statement or an operation of the language.

    usage    how it is written; [ ] encloses what may be left out, | separates alternatives
    means    what it does, in a sentence or two
    example  a line that can be played
    setup    whether it may stand before `start`
    op       whether it may stand after `start`
    forms    prefixes that it may have: `u` runs it in user mode, `l2` in the guest's guest
    """

    usage: str
    means: str
    example: str
    setup: bool = False
    op: bool = False
    forms: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The word itself."""
        return self.usage.partition(" ")[0].partition("[")[0]


RULES: tuple[str, ...] = (
    "A scenario is a text file in UTF-8, one statement a line; `#` starts a comment.",
    "Lines up to `start` describe the virtual machine, lines after it are operations, played in order.",
    "Numbers are written as in C: 31, 0x1f, 017. Sizes and addresses may end in K, M or G.",
    "GPA is an address in the guest's memory, GVA one that the guest's page tables translate. CR3, TABLE "
    "and NCR3 are GPAs of page tables. FLAGS are the low bits of a page-table entry: P=1, W=2, U=4, "
    "A=0x20, D=0x40.",
    "`@1 OP` plays an operation on vCPU 1, without it on vCPU 0. In the setup, mode, tramp, map, pt, npt "
    "and ntramp take `@1` after the word (`map@1`), if the vCPUs have different paging modes.",
    "Accesses are made in supervisor mode; with `u` before the word in user mode (CPL 3), with `l2` by "
    "the guest's guest. They have 8 bytes in 64-bit modes, else 4.",
    "The guest's own code needs memory and page tables: `tramp CR3` maps it into an address space. The "
    "first operation of a vCPU makes its root and maps this code, so that scenarios begin with `nop`.",
)
"""What holds for all lines."""


def _setup(usage: str, means: str, example: str) -> Word:
    return Word(usage, means, example, setup=True)


def _op(usage: str, means: str, example: str) -> Word:
    return Word(usage, means, example, op=True)


def _anywhere(usage: str, means: str, example: str) -> Word:
    return Word(usage, means, example, setup=True, op=True)


def _access(usage: str, means: str, example: str) -> Word:
    return Word(usage, means, example, op=True, forms=("u", "l2"))


GROUPS: dict[str, tuple[Word, ...]] = {
    "Any line": (
        _anywhere(
            "title TEXT",
            "The scenario's title, in one line of its output and in recordings.",
            "title two writes",
        ),
        _anywhere(
            "param kvm|kvm_amd|kvm_intel NAME=VALUE...",
            "A module parameter, in force before the VM is created; the default is kvm_amd npt=0, that "
            "is shadow paging.",
            "param kvm_amd npt=1",
        ),
        _anywhere(
            "vendor amd|intel",
            "Whose processor: SVM with NPT, or VMX with EPT.",
            "vendor intel",
        ),
        _anywhere(
            "design SWITCH=VALUE...",
            "Set switches of the MMU's design otherwise than the kernel has them; `shadowmmu designs` "
            "lists them.",
            "design write_flooding=off",
        ),
    ),
    "The machine": (
        _setup(
            "mode[@N] long4|long5|pae|32|nopaging",
            "Paging mode of all vCPUs, or of vCPU N: four- or five-level, PAE, two-level, or no paging.",
            "mode long4",
        ),
        _setup(
            "vcpus N",
            "Number of vCPUs, 1 to 8; 1 unless this is written.",
            "vcpus 2",
        ),
        _setup(
            "physbits N",
            "Bits of a physical address by the guest's CPUID, 32 to 52; those of the host unless this is "
            "written.",
            "physbits 36",
        ),
        _setup(
            "hostbits N",
            "Bits of a physical address of the host's processor, 32 to 52; 40 unless this is written.",
            "hostbits 52",
        ),
        _setup(
            "host [l1tf=BITS] [exitinfo=yes|no]",
            "How else the host's processor differs, one of Intel's. l1tf: it is vulnerable to L1TF, and its "
            "L1 cache uses BITS of a physical address (hostbits to 46). exitinfo: exit qualifications of EPT "
            "violations have the rights of the linear address, as they have unless this is written.",
            "host l1tf=44 exitinfo=no",
        ),
        _anywhere(
            "cap CAP ARG",
            "Enable a capability of the VM by its number (KVM_ENABLE_CAP). Refused as an operation, it "
            "is an error outcome.",
            "cap 168 3",
        ),
        _setup(
            "nested",
            "The guest is a hypervisor (L1) that runs a guest (L2) with nested paging; needs `param "
            "kvm_amd npt=1`. Slot 62 gets its VMCBs and L2's code.",
            "nested",
        ),
    ),
    "Memory slots": (
        _anywhere(
            "slot ID GPA SIZE [dirty] [ro] [lazy] [thp|huge2m|huge1g|memfd] [keep] [skew=N]",
            "A memory slot (KVM_SET_USER_MEMORY_REGION): dirty logs writes, ro is read-only, lazy is not "
            "populated, the next four say which host pages back it, skew shifts the host address against "
            "the GPA. As an operation it creates or changes the slot; keep then takes the memory that a "
            "slot of this ID and size had.",
            "slot 0 0x0 16M",
        ),
        _op(
            "delslot ID",
            "Delete a slot; its host memory stays.",
            "delslot 0",
        ),
        _op(
            "movslot ID GPA",
            "Move a slot to another address.",
            "movslot 0 0x40000000",
        ),
        _op(
            "dirtylog on|off ID",
            "Start or stop dirty logging of a slot.",
            "dirtylog on 0",
        ),
        _op(
            "roflag on|off ID",
            "Set or clear KVM_MEM_READONLY of a slot, which KVM refuses for a slot that exists.",
            "roflag on 0",
        ),
        _op(
            "getdirty ID",
            "KVM_GET_DIRTY_LOG: report the pages of a slot that were written since.",
            "getdirty 0",
        ),
        _op(
            "cleardirty ID FIRST N",
            "KVM_CLEAR_DIRTY_LOG of N pages from page FIRST of the slot.",
            "cleardirty 0 0 64",
        ),
        _op(
            "harvestring",
            "User space takes the entries of this vCPU's dirty ring.",
            "harvestring",
        ),
        _op(
            "resetrings",
            "KVM_RESET_DIRTY_RINGS.",
            "resetrings",
        ),
        _op(
            "nrmmu N",
            "KVM_SET_NR_MMU_PAGES: at most N shadow pages; less than 64 is refused.",
            "nrmmu 64",
        ),
    ),
    "Guest page tables and data": (
        _setup(
            "alloc GPA",
            "Where `map` takes pages for page tables from, upwards.",
            "alloc 0x2000",
        ),
        _setup(
            "nonleaf FLAGS",
            "Flags of the non-leaf entries that `map` makes; 0x27 unless this is written.",
            "nonleaf 0x67",
        ),
        _setup(
            "tramp[@N] [CR3]",
            "Map the guest's own code into the address space of CR3.",
            "tramp 0x1000",
        ),
        _setup(
            "map[@N] CR3 GVA GPA FLAGS [level=L] [n=N] [stride=S] [gstride=S]",
            "Map GVA to GPA in the tables of CR3, making tables where they are missing: n leaves of a "
            "level, 1 unless written, with a stride between the GVAs and a gstride between the GPAs of "
            "one page each.",
            "map 0x1000 0x400000 0x800000 0x67 n=8",
        ),
        _anywhere(
            "pt[@N] TABLE INDEX VALUE",
            "Store one page-table entry. As an operation the host stores it, unseen by KVM; its page is "
            "watched.",
            "pt 0x4000 7 0x807067",
        ),
        _setup(
            "poke GPA VALUE",
            "Store 8 bytes of data.",
            "poke 0x800000 0x1111",
        ),
        _setup(
            "code GPA",
            "Store a short instruction there, a target for exec.",
            "code 0x802000",
        ),
        _anywhere(
            "watch GPA",
            "Report changes of this page with every operation, as those of page tables are.",
            "watch 0x4000",
        ),
    ),
    "The start and the end": (
        _setup(
            "start [cr3=GPA] [ncr3=GPA] [cr0=V] [cr4=V] [efer=V] [NAME@N=V]",
            "End the setup and start the vCPUs with these registers; NAME@N is a register of vCPU N only.",
            "start cr3=0x1000",
        ),
        _setup(
            "nodump",
            "Record no state until `dump on`.",
            "nodump",
        ),
        _op(
            "dump on|off",
            "Whether the operations that follow record the MMU's state.",
            "dump off",
        ),
        _op(
            "end",
            "End the scenario here; what follows is not played.",
            "end",
        ),
    ),
    "Operations of the guest": (
        _access(
            "read GVA [size=N]",
            "Read 1, 2, 4 or 8 bytes.",
            "read 0x400000",
        ),
        _access(
            "write GVA [VALUE] [size=N]",
            "Write 1, 2, 4 or 8 bytes; 0 without a value. A guest edits a page table by writing through "
            "an address that maps it.",
            "write 0x400000 42",
        ),
        _access(
            "xchg GVA [VALUE] [size=N]",
            "Exchange 4 or 8 bytes with a register.",
            "xchg 0x400000 1",
        ),
        _access(
            "add GVA [VALUE] [size=N]",
            "Add to 4 or 8 bytes: an instruction that KVM does not take for one that writes page tables.",
            "add 0x400000 1",
        ),
        _access(
            "cmpxchg GVA NEW EXPECTED [size=N]",
            "Compare and exchange 4 or 8 bytes.",
            "cmpxchg 0x400000 2 1",
        ),
        _access(
            "stos GVA [VALUE] [n=COUNT]",
            "Store 4 bytes COUNT times in a row (rep stosl).",
            "stos 0x400000 0 n=4",
        ),
        _access(
            "nop",
            "Run the guest without an access of its own.",
            "nop",
        ),
        _access(
            "exec GVA",
            "Jump there; `code` puts an instruction where it may land.",
            "exec 0x402000",
        ),
        _op(
            "invlpg GVA",
            "Flush one address from the guest's TLB.",
            "invlpg 0x400000",
        ),
        _op(
            "cr0 VALUE",
            "Write CR0; bit 16 is WP, bit 31 PG.",
            "cr0 0x80000033",
        ),
        _op(
            "cr3 VALUE",
            "Write CR3: another root, and a flush of the TLB.",
            "cr3 0x1000",
        ),
        _op(
            "cr4 VALUE",
            "Write CR4; bit 20 is SMEP, bit 21 SMAP.",
            "cr4 0x100020",
        ),
        _op(
            "efer VALUE",
            "Write EFER; bit 11 is NX.",
            "efer 0xd00",
        ),
        _op(
            "wrmsr MSR VALUE",
            "Write a model-specific register.",
            "wrmsr 0x277 0x7040600070406",
        ),
        _op(
            "ac on|off",
            "EFLAGS.AC of the following operations, which lifts SMAP.",
            "ac on",
        ),
    ),
    "Operations of the host": (
        _op(
            "madvise_dontneed GPA LEN",
            "Give the host memory there back (MADV_DONTNEED); the next access finds a new page.",
            "madvise_dontneed 0x800000 4K",
        ),
        _op(
            "madvise GPA LEN ADVICE",
            "madvise() of the host memory with any advice, by number.",
            "madvise 0x800000 4K 4",
        ),
        _op(
            "mprotect GPA LEN ro|rw|none",
            "Change the protection of the host memory.",
            "mprotect 0x800000 4K ro",
        ),
        _op(
            "remap GPA LEN",
            "Put fresh anonymous memory in place of the old.",
            "remap 0x800000 4K",
        ),
        _op(
            "hosttouch GPA LEN",
            "The host writes a byte of each page.",
            "hosttouch 0x800000 8K",
        ),
        _op(
            "age GPA LEN [flush]",
            "The host's page reclaim asks whether the memory was accessed, and clears the record of it "
            "(mmu notifier clear_young, with flush clear_flush_young).",
            "age 0x800000 4K",
        ),
        _op(
            "lru_age",
            "The host's multi-generational LRU ages all memory of the hypervisor's process: it asks KVM "
            "about each page (kvm_age_hva; 6.1 does not). The last pages to be faulted in are on no list of "
            "a real kernel yet; here it asks about them too.",
            "lru_age",
        ),
        _op(
            "hostread GPA [size=4|8]",
            "The host reads guest memory.",
            "hostread 0x800000",
        ),
        _op(
            "hostwrite GPA VALUE [size=4|8]",
            "The host writes guest memory, unseen by KVM.",
            "hostwrite 0x800000 5",
        ),
        _op(
            "modparam MODULE NAME VALUE",
            "Write a parameter of a loaded module.",
            "modparam kvm nx_huge_pages 1",
        ),
        _op(
            "sysfs PATH VALUE",
            "Write a file of the host's sysfs.",
            "sysfs /sys/kernel/mm/transparent_hugepage/enabled never",
        ),
        _op(
            "sleep_ms N",
            "Let time pass on the host.",
            "sleep_ms 100",
        ),
        _op(
            "hostsregs [cr0=V] [cr3=V] [cr4=V] [efer=V]",
            "User space sets registers of the vCPU (KVM_SET_SREGS).",
            "hostsregs cr3=0x1000",
        ),
        _op(
            "translate GVA",
            "Translate an address as KVM_TRANSLATE does.",
            "translate 0x400000",
        ),
        _op(
            "prefault GPA LEN",
            "Map memory ahead of accesses (KVM_PRE_FAULT_MEMORY; with nested paging only).",
            "prefault 0x800000 4K",
        ),
        _op(
            "meanwhile N OP",
            "Play an operation of a guest in the middle of the next line, when that drops mmu_lock for "
            "the Nth time.",
            "meanwhile 1 @1 read 0x400000",
        ),
    ),
    "A guest that is a hypervisor": (
        _setup(
            "npt[@N] map|pt ...",
            "As map and pt, in the nested page tables that L1 keeps for L2.",
            "npt map 0x40000 0x400000 0x800000 0x67",
        ),
        _setup(
            "ntramp[@N] NCR3",
            "Map L2's own code into these nested page tables.",
            "ntramp 0x40000",
        ),
        _setup(
            "l2code GPA",
            "Store an instruction there, a target for l2exec.",
            "l2code 0x803000",
        ),
        _op(
            "l2exit",
            "VMMCALL in L2, which ends in L1.",
            "l2exit",
        ),
        _op(
            "ncr3 VALUE",
            "L1 runs L2 with another nested CR3.",
            "ncr3 0x40000",
        ),
        _op(
            "vmcb [ncr3=V] [asid=N] [tlb=N]",
            "Change the VMCB that L1 runs L2 with; no VMRUN.",
            "vmcb asid=2",
        ),
        _op(
            "l1invlpga ADDRESS [ASID]",
            "INVLPGA in L1.",
            "l1invlpga 0x400000 1",
        ),
    ),
}
"""All words, in groups for readers."""

WORDS: dict[str, Word] = {word.name: word for group in GROUPS.values() for word in group}
"""The same by name, without prefixes."""


def language_text(width: int = 80) -> str:
    """Return the reference of the language for a terminal of `width` columns."""
    return "\n".join(_text_lines(width))


def _text_lines(width: int) -> Iterator[str]:
    for rule in RULES:
        yield from wrap(rule, width)
        yield ""
    for title, words in GROUPS.items():
        yield title
        for word in words:
            yield ""
            yield from wrap(word.usage, width, initial_indent="  ", subsequent_indent="      ")
            yield from wrap(word.means, width, initial_indent="      ", subsequent_indent="      ")
            yield from wrap(_about(word), width, initial_indent="      ", subsequent_indent="      ")
        yield ""


def _about(word: Word) -> str:
    """Return where a word may stand, its forms and its example."""
    places = [text for text, may in (("before", word.setup), ("after", word.op)) if may]
    forms = [f"also {form}{word.name}" for form in word.forms]
    about = ", ".join([f"{' and '.join(places)} start", *forms])
    return f"[{about}]  {word.example}"
