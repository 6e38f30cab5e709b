"""The emulated processor: Unicorn in SVM guest mode, its state in the open, its exits as callbacks.

After one VMRUN it stays in the guest: an exit is a callback between two instructions, and returning from it
resumes the guest with whatever state and intercepts it was given. Guest-physical and shadow tables are frames
of the model's arena, mapped in place: what its page walker reads and writes are the model's own SPTEs.
"""

import ctypes
import mmap
import threading
from collections.abc import Callable
from typing import Any

from ...host.memory import Arena
from ...x86.svm import SVM_EXIT_INVLPG, SVM_EXIT_IRET
from .clock import Clock
from .code_counter import CodeCounter
from .exit_codes import CR_ACCESSES, FIRST_INTERCEPT, INTERCEPTED, msr_permission_map
from .layout import (
    HOST_BASE,
    HOST_SIZE,
    MSRPM,
    VMCB,
    calibrated,
    cpu_address,
    first_exit,
    library,
    new_emulator,
    prepare_vmrun,
    unicorn_module,
)
from .registers import SvmRegisters

LONGEST_TICK = 1e6
"""Seconds of a virtual clock, at most, to the next tick."""
LOOK = 0.005
"""Seconds after which a request to exit is made again: the guest may just have dropped it."""
REQUEST_INTERRUPT, REQUEST_TICK = 0x02, 0x40
"""QEMU's requests for an external interrupt, and for an SMI, which nothing else here is."""
EXIT_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)

DR7_G0, DR7_IO0, DR7_0 = 1 << 1, 2 << 16, 0xF0003


class SvmProcessor(SvmRegisters):
    """An emulated processor on the frames of `arena`, in guest mode; with `npt` on nested tables.

    `on_exit(number)` is called for exits (EXIT + exit code); `on_in(port, size)`,
    `on_out(port, size, value)`, `on_syscall()` and `on_sysenter()` for instructions that do not exit.
    `nmi_handled` is whether an NMI's handler runs, as far as its IRET matters.
    `clock` is who says when ticks are due; a virtual one follows the code executed.
    Raises EmulatorError.
    """

    def __init__(self, arena: Arena, clock: Clock, *, npt: bool) -> None:
        layout, functions = calibrated(), library()
        unicorn = unicorn_module()
        self.error_type: type[Exception] = unicorn.UcError
        self.npt = npt
        self.clock = clock
        self.uc: Any = new_emulator(functions)
        self._map(arena)
        self.handle = self.uc._uch
        self.cpu = cpu_address(functions, self.uc)
        super().__init__(layout, functions, self.cpu + layout.state)
        self._requests = ctypes.c_uint32.from_address(self.cpu + layout.requests)
        self._counter = ctypes.c_uint64.from_address(self.handle.value + layout.counter)
        self._counting, self._counted = False, 0
        self._leave = ctypes.c_uint16.from_address(self.cpu + layout.leave)
        self.code: CodeCounter | None = None
        self.window = False
        self.nmi_handled = False
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
        if clock.virtual:
            self._count_code()

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

    def _count_code(self) -> None:
        """Let ticks come after so much code, not at a time of the host."""
        import unicorn

        requests, leave = (self.cpu + offset for offset in (self.layout.requests, self.layout.leave))
        self.code = CodeCounter(requests, leave)
        self._block_hook = ctypes.c_size_t()
        hook = ctypes.byref(self._block_hook)
        callback, data = self.code.callback, self.code.data
        self.library.hook_add(self.handle, hook, unicorn.UC_HOOK_BLOCK, callback, data, 1, 0)

    def break_at(self, address: int, callback: Callable[[], None]) -> None:
        """Call back whenever the instruction at a linear address is about to be executed; before run()."""
        import unicorn

        def reached(uc: object, at: int, size: int, data: object) -> None:
            try:
                callback()
            except BaseException as error:
                self.error = error
                self.stop()

        self.uc.hook_add(unicorn.UC_HOOK_CODE, reached, None, address, address)

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

        SVM_EXIT_SMI comes at `tick_at` (of the clock), and again until set_tick() says when the next is.
        """
        if bool(instructions) is not self._counting:
            self._counting = bool(instructions)
            self.uc.ctl_flush_tb()
        self._requests.value = REQUEST_INTERRUPT if self.window else 0
        self._wake.clear()
        self._set_tick(tick_at)
        self.running = True
        ticker = None if self.code else threading.Thread(target=self._tick, daemon=True)
        if ticker is not None:
            ticker.start()
        try:
            self.uc.emu_start(self.q[self.rip_word], 0, count=instructions)
        finally:
            self.running = False
            self._wake.set()
            if ticker is not None:
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
            delay = self.tick_at - self.clock.now()
            if delay <= 0:
                self.request_tick()
                delay = LOOK
            self._wake.wait(delay)
            self._wake.clear()

    def set_tick(self, tick_at: float) -> None:
        """Handle the tick that has come; the next one is to come at `tick_at`."""
        self._acknowledge(REQUEST_TICK)
        self._set_tick(tick_at)
        self._wake.set()

    def _set_tick(self, tick_at: float) -> None:
        self.tick_at = tick_at
        if self.code is not None:
            self.code.tick_after(int(min(tick_at - self.clock.now(), LONGEST_TICK) * 1e9))

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

    # -- intercepts --------------------------------------------------------------------------------------

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

    def x87(self, register: str) -> int:
        """Return "FPCW" or "FPSW", the control or status word of the x87 unit."""
        from unicorn import x86_const

        value: int = self.uc.reg_read(getattr(x86_const, f"UC_X86_REG_{register}"))
        return value
