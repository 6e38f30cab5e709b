"""The emulated processor: Unicorn in SVM guest mode, its state in the open, its exits as callbacks.

After one VMRUN it stays in the guest: an exit is a callback between two instructions, and returning from it
resumes the guest with whatever state and intercepts it was given. Guest-physical and shadow tables are frames
of the model's arena, mapped in place: what its page walker reads and writes are the model's own SPTEs.
"""

import ctypes
import mmap
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from ...host.memory import Arena
from ...x86.bits import (
    CR0_PE,
    CR4_LA57,
    CR4_OSFXSR,
    CR4_SMAP,
    MASK64,
)
from ...x86.svm import SVM_EXIT_INVLPG, SVM_EXIT_IRET
from .exit_codes import CR_ACCESSES, FIRST_INTERCEPT, INTERCEPTED, msr_permission_map
from .layout import (
    HOST_BASE,
    HOST_SIZE,
    MSRPM,
    VMCB,
    Layout,
    calibrated,
    cpu_address,
    first_exit,
    library,
    new_emulator,
    prepare_vmrun,
    unicorn_module,
)

GPRS = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)))
RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)
ES, CS, SS, DS, FS, GS, LDTR, TR, GDTR, IDTR = range(10)
SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr", "gdtr", "idtr")

LOOK = 0.005
"""Seconds after which a request to exit is made again: the guest may just have dropped it."""
REQUEST_INTERRUPT, REQUEST_TICK = 0x02, 0x40
"""QEMU's requests for an external interrupt, and for an SMI, which nothing else here is."""
EXIT_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)

FLAG_TF, FLAG_IF, FLAG_DF = 1 << 8, 1 << 9, 1 << 10
FLAG_NT, FLAG_RF, FLAG_VM, FLAG_AC = 1 << 14, 1 << 16, 1 << 17, 1 << 18
FLAG_ID, FLAGS_IOPL = 1 << 21, 3 << 12
FLAGS_ARITHMETIC = 0x8D5
CC_OP_EFLAGS = 1
HF_CPL, HF_INHIBIT_IRQ, HF_CS32, HF_SS32, HF_ADDSEG, HF_PE = 3, 1 << 3, 1 << 4, 1 << 5, 1 << 6, 1 << 7
HF_MP_EM_TS_SHIFT, HF_LMA, HF_CS64 = 8, 1 << 14, 1 << 15
HF_SVME, HF_GUEST, HF_OSFXSR, HF_SMAP, HF_IOBPT = 1 << 20, 1 << 21, 1 << 22, 1 << 23, 1 << 24
DR7_G0, DR7_IO0, DR7_0 = 1 << 1, 2 << 16, 0xF0003
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


class SvmProcessor:
    """An emulated processor on the frames of `arena`, in guest mode; with `npt` on nested tables.

    `on_exit(number)` is called for exits (EXIT + exit code); `on_in(port, size)`,
    `on_out(port, size, value)`, `on_syscall()` and `on_sysenter()` for instructions that do not exit.
    `long_mode` is whether the guest is in long mode; outside of it `efer` has LMA too, for far transfers.
    `nmi_handled` is whether an NMI's handler runs, as far as its IRET matters.
    Raises EmulatorError.
    """

    def __init__(self, arena: Arena, *, npt: bool) -> None:
        self.layout: Layout = calibrated()
        self.library = library()
        unicorn = unicorn_module()
        self.error_type: type[Exception] = unicorn.UcError
        self.npt = npt
        self.uc: Any = new_emulator(self.library)
        self._map(arena)
        self.handle = self.uc._uch
        self.cpu = cpu_address(self.library, self.uc)
        self.state = self.cpu + self.layout.state
        size = (max(self.layout.exception_intercepts, self.layout.nested_cr3) + 0x47) & ~7
        state = memoryview((ctypes.c_ubyte * size).from_address(self.state)).cast("B")
        self._requests = ctypes.c_uint32.from_address(self.cpu + self.layout.requests)
        self._counter = ctypes.c_uint64.from_address(self.handle.value + self.layout.counter)
        self._counting, self._counted = False, 0
        self._leave = ctypes.c_uint16.from_address(self.cpu + self.layout.leave)
        self.bytes = state
        self.q = state.cast("Q")
        self.d = state.cast("I")
        self._find_fields()
        self.running = False
        self.window = False
        self.long_mode = self.nmi_handled = False
        self._debug_registers: tuple[int, int, int] | None = None
        self.tick_at = 0.0
        self._wake = threading.Event()
        self.error: BaseException | None = None
        self.on_exit: Callable[[int], None] = lambda number: None
        self.on_in: Callable[[int, int], int] = lambda port, size: (1 << 8 * size) - 1
        self.on_out: Callable[[int, int, int], None] = lambda port, size, value: None
        self.on_syscall: Callable[[], None] = lambda: None
        self.on_sysenter: Callable[[], None] = lambda: None
        self._enter()
        self._hook()

    def _map(self, arena: Arena) -> None:
        """Let it see the arena and the hypervisor's own pages, which no guest address leads to."""
        import unicorn

        self._arena = (ctypes.c_char * arena.size).from_buffer(arena.view())
        self._host = mmap.mmap(-1, HOST_SIZE)
        host = (ctypes.c_char * HOST_SIZE).from_buffer(self._host)
        self.host = memoryview(self._host).cast("Q")
        size = min(arena.size, HOST_BASE)
        self.uc.mem_map_ptr(0, size, unicorn.UC_PROT_ALL, ctypes.addressof(self._arena))
        self.uc.mem_map_ptr(HOST_BASE, HOST_SIZE, unicorn.UC_PROT_ALL, ctypes.addressof(host))

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

    def _enter(self) -> None:
        """Execute VMRUN, with an exit at once."""
        self.uc.mem_write(MSRPM, msr_permission_map())
        reads = CR_ACCESSES & ~(1 << 3) if self.npt else CR_ACCESSES
        codes = INTERCEPTED if self.npt else (*INTERCEPTED, SVM_EXIT_INVLPG)
        prepare_vmrun(
            self.uc,
            code=b"\xf4",
            nested_cr3=HOST_BASE + 0xF000 if self.npt else 0,
            intercepts=sum(1 << code - FIRST_INTERCEPT for code in codes),
            cr=reads | CR_ACCESSES << 16,
            exceptions=0xFFFFFFFF,
        )
        first_exit(self.uc)

    def _hook(self) -> None:
        import unicorn
        from unicorn.x86_const import UC_X86_INS_IN, UC_X86_INS_OUT, UC_X86_INS_SYSCALL, UC_X86_INS_SYSENTER

        add = self.uc.hook_add
        self._callback = EXIT_CALLBACK(self._exited)
        handle = ctypes.c_size_t()
        callback = ctypes.cast(self._callback, ctypes.c_void_p)
        self.library.hook_add(self.handle, ctypes.byref(handle), unicorn.UC_HOOK_INTR, callback, None, 1, 0)
        add(unicorn.UC_HOOK_INSN_INVALID, lambda uc, data: False)
        add(unicorn.UC_HOOK_INSN, lambda uc, data: self.on_syscall(), None, 1, 0, UC_X86_INS_SYSCALL)
        add(
            unicorn.UC_HOOK_INSN,
            lambda uc, port, size, data: self.on_in(port, size),
            None,
            1,
            0,
            UC_X86_INS_IN,
        )
        add(
            unicorn.UC_HOOK_INSN,
            lambda uc, port, size, value, data: self.on_out(port, size, value),
            None,
            1,
            0,
            UC_X86_INS_OUT,
        )
        add(unicorn.UC_HOOK_INSN, lambda uc, data: self.on_sysenter(), None, 1, 0, UC_X86_INS_SYSENTER)

    def _exited(self, uc: object, number: int, data: object) -> None:
        if self.error is not None:
            self.stop()
            return
        try:
            self.on_exit(number)
        except BaseException as error:  # Ctrl-C too: it is raised again where run() was called
            self.error = error
            self.stop()

    # -- running -----------------------------------------------------------------------------------------

    def run(self, tick_at: float, instructions: int = 0) -> None:
        """Go on at RIP until stop(), or until so many instructions were counted (slower) and a block ended.

        SVM_EXIT_SMI comes at `tick_at` (time.monotonic()), and again until set_tick() says when the next is.
        """
        if bool(instructions) is not self._counting:
            self._counting = bool(instructions)
            self.uc.ctl_flush_tb()
        self._requests.value = REQUEST_INTERRUPT if self.window else 0
        self._wake.clear()
        self.tick_at = tick_at
        self.running = True
        ticker = threading.Thread(target=self._tick, daemon=True)
        ticker.start()
        try:
            self.uc.emu_start(self.q[self.rip_word], 0, count=instructions)
        finally:
            self.running = False
            self._wake.set()
            ticker.join()
            if instructions:
                self._counted += self._counter.value
                self._counter.value = 0
        if self.error is not None:
            error, self.error = self.error, None
            raise error

    @property
    def instructions(self) -> int:
        """Those that were executed while they were counted."""
        return self._counted + (self._counter.value if self._counting else 0)

    def _tick(self) -> None:
        """Ask for an exit whenever it is time."""
        while self.running:
            delay = self.tick_at - time.monotonic()
            if delay <= 0:
                self.request_tick()
                delay = LOOK
            self._wake.wait(delay)
            self._wake.clear()

    def set_tick(self, tick_at: float) -> None:
        """Handle the tick that has come; the next one is to come at `tick_at`."""
        self._acknowledge(REQUEST_TICK)
        self.tick_at = tick_at
        self._wake.set()

    def request_tick(self) -> None:
        """Let SVM_EXIT_SMI come between two blocks of code, soon: from any thread, at any time.

        Unlike uc_emu_stop, which loses what hooked instructions that follow do, and may leave RIP too low.
        """
        self._requests.value |= REQUEST_TICK
        self._leave.value = 0xFFFF

    def set_window(self, *, wanted: bool) -> None:
        """Let SVM_EXIT_INTR come before the first instruction that an external interrupt can interrupt."""
        self.window = wanted
        if wanted:
            self._requests.value |= REQUEST_INTERRUPT
            self._leave.value = 0xFFFF
        else:
            self._acknowledge(REQUEST_INTERRUPT)

    def _acknowledge(self, request: int) -> None:
        self._requests.value &= ~request

    def stop(self) -> None:
        """Let run() end, from the callback of an exit."""
        self._acknowledge(REQUEST_TICK | REQUEST_INTERRUPT)
        self.library.stop(self.handle)

    def flush(self) -> None:
        """Forget all translations."""
        self.library.flush_tlb(self.cpu)

    def flush_page(self, gva: int) -> None:
        """Forget the translations of one address."""
        self.library.flush_page(self.cpu, gva)

    def invalidate_code(self, hpa: int, size: int) -> None:
        """Forget what was translated from memory that somebody else wrote."""
        self.library.invalidate_code(self.handle, hpa, hpa + size)

    # -- exits -------------------------------------------------------------------------------------------

    @property
    def exit_info1(self) -> int:
        """Of an exit: an exception's error code; 1 for WRMSR."""
        return self.d[self.error_word]

    @property
    def exit_info2(self) -> int:
        """Of an exit for a page fault: the address."""
        return self.host[VMCB - HOST_BASE + 0x80 >> 3]

    # -- registers ---------------------------------------------------------------------------------------

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

    def intercept(self, *codes: int, wanted: bool) -> None:
        """Let these instructions exit, or not."""
        bits = sum(1 << code - FIRST_INTERCEPT for code in codes)
        word = self.layout.intercepts >> 3
        self.q[word] = self.q[word] | bits if wanted else self.q[word] & ~bits

    def intercept_iret(self) -> None:
        """Let IRET exit outside of long mode, where it may switch tasks, and in the handler of an NMI."""
        self.intercept(SVM_EXIT_IRET, wanted=self.nmi_handled or not self.long_mode)

    def intercept_debug_registers(self, reads: int, writes: int) -> None:
        """Let reads and writes of DRn exit whose bits n are set."""
        self.d[self.layout.cr_intercepts + 4 >> 2] = reads | writes << 16

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

    def break_behind_io(self, port: int) -> None:
        """Let #DB come after an OUT, from its callback, before the next instruction."""
        self._debug_registers = self.dr(0), self.dr(6), self.dr(7)
        self.set_dr(0, port)
        self.set_dr(7, self.dr(7) & ~DR7_0 | DR7_G0 | DR7_IO0)

    def is_behind_io(self) -> bool:
        """Return whether a #DB is that of break_behind_io; then the debug registers are the guest's again."""
        if self._debug_registers is None:
            return False
        for number, value in zip((0, 6, 7), self._debug_registers, strict=True):
            self.set_dr(number, value)
        self._debug_registers = None
        return True

    def field(self, name: str) -> int:
        """Return a 64-bit field of the layout."""
        offset: int = getattr(self.layout, name)
        return self.q[offset >> 3]

    def set_field(self, name: str, value: int) -> None:
        self.q[getattr(self.layout, name) >> 3] = value & MASK64

    def x87(self, register: str) -> int:
        """Return "FPCW" or "FPSW", the control or status word of the x87 unit."""
        from unicorn import x86_const

        value: int = self.uc.reg_read(getattr(x86_const, f"UC_X86_REG_{register}"))
        return value

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
