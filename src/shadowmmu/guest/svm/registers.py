"""The registers of the emulated processor, where Unicorn keeps them: names, bits, reads and writes."""

import ctypes
from typing import Any, NamedTuple

from ...x86.bits import CR0_PE, CR4_LA57, CR4_OSFXSR, CR4_SMAP, MASK64
from .layout import Layout

GPRS = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)))
RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)
ES, CS, SS, DS, FS, GS, LDTR, TR, GDTR, IDTR = range(10)
SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr", "gdtr", "idtr")

FLAG_TF, FLAG_IF, FLAG_DF = 1 << 8, 1 << 9, 1 << 10
FLAG_NT, FLAG_RF, FLAG_VM, FLAG_AC = 1 << 14, 1 << 16, 1 << 17, 1 << 18
FLAG_ID, FLAGS_IOPL = 1 << 21, 3 << 12
FLAGS_ARITHMETIC = 0x8D5
CC_OP_EFLAGS = 1
HF_CPL, HF_INHIBIT_IRQ, HF_CS32, HF_SS32, HF_ADDSEG, HF_PE = 3, 1 << 3, 1 << 4, 1 << 5, 1 << 6, 1 << 7
HF_MP_EM_TS_SHIFT, HF_LMA, HF_CS64 = 8, 1 << 14, 1 << 15
HF_SVME, HF_GUEST, HF_OSFXSR, HF_SMAP, HF_IOBPT = 1 << 20, 1 << 21, 1 << 22, 1 << 23, 1 << 24
CR0_MP_EM_TS = 0xE
DESCRIPTOR_L, DESCRIPTOR_DB = 1 << 21, 1 << 22
DR6_BS = 1 << 14


class Segment(NamedTuple):
    """A segment register; `flags` are bits 23:8 of its descriptor's second half (type, DPL, P, L, D, G)."""

    selector: int
    base: int
    limit: int
    flags: int

    @property
    def dpl(self) -> int:
        return self.flags >> 13 & 3


class SvmRegisters:
    """The registers of a processor whose state Unicorn has at address `state`: plain memory, without checks.

    Attributes:
        layout: Where each field lies in that state.
        library: Unicorn's own functions.
        state: Address of the state.
        bytes: The state as bytes; `q` as u64 words, `d` as u32 words.
        q: The state as u64 words: the first 16 are the general registers.
        d: The state as u32 words.
        running: Code runs, so that the flags of arithmetic are kept apart.
        long_mode: The guest is in long mode; outside of it `efer` has LMA too, for far transfers.
    """

    def __init__(self, layout: Layout, library: Any, state: int) -> None:
        self.layout = layout
        self.library = library
        self.state = state
        size = (max(layout.exception_intercepts, layout.nested_cr3) + 0x47) & ~7
        self.bytes = memoryview((ctypes.c_ubyte * size).from_address(state)).cast("B")
        self.q = self.bytes.cast("Q")
        self.d = self.bytes.cast("I")
        self._find_fields()
        self.running = False
        self.long_mode = False

    def _find_fields(self) -> None:
        layout = self.layout
        self.rip_word = layout.rip >> 3
        self.eflags_word = layout.eflags >> 3
        self.hflags_word = layout.hflags >> 2
        self.error_word = layout.error_code >> 2
        self.cr_word = layout.cr >> 3
        self._segment_offsets = (
            *(layout.segments + 24 * n for n in range(6)),
            layout.ldtr,
            layout.tr,
            layout.gdtr,
            layout.idtr,
        )

    @property
    def rip(self) -> int:
        return self.q[self.rip_word]

    @rip.setter
    def rip(self, value: int) -> None:
        self.q[self.rip_word] = value

    @property
    def cpl(self) -> int:
        return self.d[self.hflags_word] & HF_CPL

    @property
    def is_64bit(self) -> bool:
        """Whether the code that runs is of 64-bit mode."""
        return bool(self.d[self.hflags_word] & HF_CS64)

    @property
    def stack_is_32bit(self) -> bool:
        return bool(self.d[self.hflags_word] & HF_SS32)

    @property
    def address_bits(self) -> int:
        """Of a linear address in long mode."""
        return 57 if self.q[self.cr_word + 4] & CR4_LA57 else 48

    @property
    def rflags(self) -> int:
        """All flags. Those of arithmetic are kept apart while it runs, between runs with the others."""
        arithmetic: int = self.library.arithmetic_flags(self.state, self.d[self.layout.cc_op >> 2])
        down = FLAG_DF if self.d[self.layout.df >> 2] != 1 else 0
        return (
            self.q[self.eflags_word] & ~(FLAGS_ARITHMETIC | FLAG_DF)
            | arithmetic & FLAGS_ARITHMETIC
            | down
            | 2
        )

    @rflags.setter
    def rflags(self, value: int) -> None:
        self.q[self.layout.cc_src >> 3] = value & FLAGS_ARITHMETIC
        self.d[self.layout.cc_op >> 2] = CC_OP_EFLAGS
        self.d[self.layout.df >> 2] = 0xFFFFFFFF if value & FLAG_DF else 1
        self.q[self.eflags_word] = value & ~(FLAGS_ARITHMETIC | FLAG_DF if self.running else 0) | 2

    def take_interim_flags(self) -> None:
        """Take the flags that RCL and RCR have computed before the load that faulted: the processor forgets
        that it keeps them in another form from there on.
        """
        self.rflags = self.rflags & ~FLAGS_ARITHMETIC | self.q[self.layout.cc_src >> 3] & FLAGS_ARITHMETIC

    @property
    def system_flags(self) -> int:
        """RFLAGS without what arithmetic sets: cheaper."""
        return self.q[self.eflags_word]

    @system_flags.setter
    def system_flags(self, value: int) -> None:
        self.q[self.eflags_word] = value

    def cr(self, number: int) -> int:
        """Return a control register as the processor has it, not as the guest sees it."""
        return self.q[self.cr_word + number]

    def set_cr(self, number: int, value: int) -> None:
        """Set a control register without any effect but the value."""
        self.q[self.cr_word + number] = value & MASK64

    @property
    def efer(self) -> int:
        return self.q[self.layout.efer >> 3]

    @efer.setter
    def efer(self, value: int) -> None:
        self.q[self.layout.efer >> 3] = value

    @property
    def nested_cr3(self) -> int:
        return self.q[self.layout.nested_cr3 >> 3]

    @nested_cr3.setter
    def nested_cr3(self, value: int) -> None:
        self.q[self.layout.nested_cr3 >> 3] = value

    def dr(self, number: int) -> int:
        return self.q[(self.layout.dr >> 3) + number]

    def set_dr(self, number: int, value: int) -> None:
        self.q[(self.layout.dr >> 3) + number] = value

    def field(self, name: str) -> int:
        """Return a 64-bit field of the layout."""
        offset: int = getattr(self.layout, name)
        return self.q[offset >> 3]

    def set_field(self, name: str, value: int) -> None:
        self.q[getattr(self.layout, name) >> 3] = value & MASK64

    def mmx(self, number: int) -> int:
        """Return an MMX register."""
        return self.q[(self.layout.fp >> 3) + 2 * number]

    def set_mmx(self, number: int, value: int) -> None:
        """Write an MMX register: the exponent of its x87 register is all ones then."""
        word = (self.layout.fp >> 3) + 2 * number
        self.q[word], self.q[word + 1] = value, 0xFFFF

    def xmm(self, number: int) -> int:
        """Return the 128 bits of an XMM register."""
        start = self.layout.xmm + self.layout.xmm_size * number
        return int.from_bytes(self.bytes[start : start + 16], "little")

    def set_xmm(self, number: int, value: int) -> None:
        start = self.layout.xmm + self.layout.xmm_size * number
        self.bytes[start : start + 16] = value.to_bytes(16, "little")

    def segment_base(self, number: int) -> int:
        return self.q[self._segment_offsets[number] + 8 >> 3]

    def set_segment_base(self, number: int, base: int) -> None:
        self.q[self._segment_offsets[number] + 8 >> 3] = base

    def selector(self, number: int) -> int:
        return self.d[self._segment_offsets[number] >> 2] & 0xFFFF

    def segment(self, number: int) -> Segment:
        offset = self._segment_offsets[number]
        d = self.d
        return Segment(
            d[offset >> 2] & 0xFFFF, self.q[offset + 8 >> 3], d[offset + 16 >> 2], d[offset + 20 >> 2]
        )

    def table(self, number: int) -> tuple[int, int]:
        """Return base and limit of a table register: cheaper than all of it."""
        offset = self._segment_offsets[number]
        return self.q[offset + 8 >> 3], self.d[offset + 16 >> 2]

    def set_segment(self, number: int, segment: Segment) -> None:
        """Load a segment register; update_modes() must follow."""
        offset = self._segment_offsets[number]
        self.d[offset >> 2] = segment.selector
        self.q[offset + 8 >> 3] = segment.base
        self.d[offset + 16 >> 2] = segment.limit
        self.d[offset + 20 >> 2] = segment.flags

    def update_modes(self, cpl: int | None = None) -> None:
        """Compute what the processor derives from CR0, CR4, EFER, RFLAGS.VM and the segments (its hflags).

        The CPL stays, or is the one given.
        """
        d, q = self.d, self.q
        cr0, cr4 = q[self.cr_word], q[self.cr_word + 4]
        old = d[self.hflags_word]
        flags = HF_SVME | HF_GUEST | HF_IOBPT | (old & HF_CPL if cpl is None else cpl)
        flags |= (cr0 & CR0_MP_EM_TS) << HF_MP_EM_TS_SHIFT
        if cr4 & CR4_OSFXSR:
            flags |= HF_OSFXSR
        if cr4 & CR4_SMAP:
            flags |= HF_SMAP
        if cr0 & CR0_PE:
            flags |= HF_PE
        code = d[self._segment_offsets[CS] + 20 >> 2]
        if self.long_mode:
            flags |= HF_LMA
        if self.long_mode and code & DESCRIPTOR_L:
            flags |= HF_CS32 | HF_SS32 | HF_CS64
        else:
            flags |= HF_CS32 if code & DESCRIPTOR_DB else 0
            flags |= HF_SS32 if d[self._segment_offsets[SS] + 20 >> 2] & DESCRIPTOR_DB else 0
            if (
                not cr0 & CR0_PE
                or q[self.eflags_word] & FLAG_VM
                or not code & DESCRIPTOR_DB
                or any(self.segment_base(segment) for segment in (DS, ES, SS))
            ):
                flags |= HF_ADDSEG
        d[self.hflags_word] = flags
