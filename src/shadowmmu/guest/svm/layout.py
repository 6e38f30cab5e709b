"""Where Unicorn keeps the processor's state: found by experiment at start-up, not trusted.

Unicorn's interface reads and writes registers one at a time and flushes, stops or jumps in the middle of a
callback when it is not meant to. So the state (`struct CPUX86State` of QEMU 5.0, which Unicorn 2.1 contains)
is used where it is, in this process's memory. All offsets are in bytes from its begin; those of 8-byte
fields are multiples of 8.
"""

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

from . import EXTRA, UNICORN_VERSION, EmulatorError

LONGEST_STATE = 1 << 16
PHYSICAL_BITS = 40
"""Of the emulated processor, EPYC."""
HOST_SIZE = 0x10000
HOST_BASE = (1 << PHYSICAL_BITS) - HOST_SIZE
"""Physical address of the hypervisor's own pages; no frame of an arena is in use there."""
VMCB, HSAVE, MSRPM, CODE, STUB, TABLES = (
    HOST_BASE + offset for offset in (0, 0x1000, 0x2000, 0x4000, 0x5000, 0x6000)
)
VMRUN = b"\x0f\x01\xd8"
HOST_EFER = 0x1D01
EXIT_GP = 0x14D
"""What a callback gets for an exit is 0x100 + the exit code; 0x4D: exception 13."""
EXIT_NESTED_FAULT = 0x500
EXIT_REQUESTED, SMI_REQUEST = 0x162, 0x40
SELECTOR = 0xBEE8


@dataclass(frozen=True, slots=True)
class Layout:
    """Offsets in the processor's state; `cc_src` to `hflags2` follow on each other as in the structure.

    The intercepts of debug registers follow on those of control registers.
    `fp` is the first of eight x87 registers, 16 bytes each, whose mantissas are the MMX registers.
    `state`, `requests` (of interrupts) and `leave` (not 0: the code that runs is to be left) are from the
    begin of QEMU's CPUState, `counter` (of instructions) from that of uc_struct.
    """

    state: int
    requests: int
    leave: int
    counter: int
    rip: int
    eflags: int
    cc_src: int
    cc_op: int
    df: int
    hflags: int
    hflags2: int
    segments: int
    ldtr: int
    tr: int
    gdtr: int
    idtr: int
    cr: int
    efer: int
    fp: int
    xmm: int
    xmm_size: int
    sysenter_cs: int
    sysenter_esp: int
    sysenter_eip: int
    star: int
    lstar: int
    cstar: int
    fmask: int
    kernel_gs_base: int
    error_code: int
    dr: int
    vmcb: int
    nested_cr3: int
    intercepts: int
    cr_intercepts: int
    exception_intercepts: int


def _import(name: str) -> ModuleType:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise EmulatorError(EXTRA) from error


def unicorn_module() -> ModuleType:
    """Return the package `unicorn`. Raises EmulatorError if it is not installed."""
    return _import("unicorn")


def decoder_module() -> ModuleType:
    """Return the package `iced_x86`. Raises EmulatorError if it is not installed."""
    return _import("iced_x86")


def _mismatch(what: str) -> EmulatorError:
    found = getattr(unicorn_module(), "__version__", "of unknown version")
    return EmulatorError(
        f"unicorn {found} is not the emulator that is known here ({UNICORN_VERSION}): {what}; "
        f"pip install unicorn=={UNICORN_VERSION}"
    )


class Library:
    """Functions of Unicorn's shared library that its Python package does not have."""

    def __init__(self) -> None:
        binding = _import("unicorn.unicorn_py3.unicorn")
        library = ctypes.CDLL(binding.uclib._name)
        pointer, u64, u32 = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32
        self.get_cpu = self._function(library, "qemu_get_cpu_x86_64", pointer, pointer, ctypes.c_int)
        self.flush_tlb = self._function(library, "tlb_flush_x86_64", None, pointer)
        self.flush_page = self._function(library, "tlb_flush_page_x86_64", None, pointer, u64)
        self.invalidate_code = self._function(
            library, "tb_invalidate_phys_range_x86_64", None, pointer, u64, u64
        )
        self.arithmetic_flags = self._function(
            library, "cpu_cc_compute_all_x86_64", u32, pointer, ctypes.c_int
        )
        self.cpuid = self._function(library, "cpu_x86_cpuid_x86_64", None, pointer, u32, u32, *[pointer] * 4)
        self.hook_add = self._function(
            library,
            "uc_hook_add",
            ctypes.c_int,
            pointer,
            ctypes.POINTER(ctypes.c_size_t),
            ctypes.c_int,
            pointer,
            pointer,
            u64,
            u64,
        )
        self.stop = self._function(library, "uc_emu_stop", ctypes.c_int, pointer)
        self.cpu_exit = self._function(library, "cpu_exit", None, pointer)

        self._no_check = self._no_check_offset(library)

    def _no_check_offset(self, library: ctypes.CDLL) -> int:
        """Return where uc_struct says that no check for requests is wanted after each access to memory.

        It is in the code that would generate the check: mov uc, %rsi; cmpb $0, OFFSET(%rsi).
        """
        function = self._function(library, "check_exit_request_x86_64", None, ctypes.c_void_p)
        code = ctypes.string_at(ctypes.cast(function, ctypes.c_void_p).value or 0, 14)
        if code[:3] != b"\x48\x8b\xb7" or code[7:9] != b"\x80\xbe" or code[13:] != b"\0":
            raise _mismatch("its checks for requests are not known")
        return int.from_bytes(code[9:13], "little")

    def exit_between_blocks(self, uc: Any, *, only: bool) -> None:
        """Let requests end a block of code only at its begin, for code that is translated from now on.

        Otherwise also after each access to memory: in the middle of instructions, which are then executed
        anew, although they may have written.
        """
        ctypes.c_ubyte.from_address(uc._uch.value + self._no_check).value = only

    @staticmethod
    def _function(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Any:
        try:
            function = library[name]
        except AttributeError:
            raise _mismatch(f"its library has no {name}") from None
        function.restype, function.argtypes = result, list(arguments)
        return function


@cache
def library() -> Library:
    """Return the library's functions. Raises EmulatorError if one is missing."""
    return Library()


def new_emulator(library: Library) -> Any:
    """Return an emulated processor with SVM, no memory yet, that runs until it is stopped."""
    unicorn = unicorn_module()
    uc: Any = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    x86 = _import("unicorn.x86_const")
    uc.ctl_set_cpu_model(x86.UC_CPU_X86_EPYC)
    uc.ctl_set_tlb_mode(_import("unicorn.unicorn_const").UC_TLB_CPU)
    uc.ctl_exits_enabled(True)
    uc.ctl_set_exits([])
    library.exit_between_blocks(uc, only=True)
    return uc


def cpu_address(library: Library, uc: Any) -> int:
    """Return the address of QEMU's CPUState."""
    for index in (-1, 0):
        address = library.get_cpu(uc._uch, index)
        if address:
            return int(address)
    raise _mismatch("it has no processor")


def prepare_vmrun(
    uc: Any, *, code: bytes, nested_cr3: int = 0, intercepts: int, cr: int, exceptions: int
) -> None:
    """Write a VMCB with a 64-bit guest that runs `code` in the hypervisor's own pages, and a VMRUN for it.

    With nested_cr3 it runs on those nested tables, without paging of its own.
    """
    x86 = _import("unicorn.x86_const")
    uc.mem_write(STUB, VMRUN)
    uc.mem_write(CODE, code)

    def put(offset: int, size: int, value: int) -> None:
        uc.mem_write(VMCB + offset, value.to_bytes(size, "little"))

    put(0x00, 4, cr)
    put(0x08, 4, exceptions)
    put(0x0C, 8, intercepts)
    put(0x48, 8, MSRPM)
    put(0x58, 4, 1)
    if nested_cr3:
        put(0x90, 8, 1)
        put(0xB0, 8, nested_cr3)
    for level in range(3):
        uc.mem_write(TABLES + 0x1000 * level, (TABLES + 0x1000 * (level + 1) | 7).to_bytes(8, "little"))
    uc.mem_write(TABLES + 0x3000, (CODE | 7).to_bytes(8, "little"))
    put(0x410, 2, 0x08)
    put(0x412, 2, 0xA9B)
    put(0x414, 4, 0xFFFFFFFF)
    for segment in (0, 2, 3):
        put(0x400 + 16 * segment, 2, 0x10)
        put(0x402 + 16 * segment, 2, 0xC93)
        put(0x404 + 16 * segment, 4, 0xFFFFFFFF)
    put(0x4D0, 8, 0x1800 if nested_cr3 else HOST_EFER)
    put(0x548, 8, 0x620)
    put(0x550, 8, TABLES)
    put(0x558, 8, 0x11 if nested_cr3 else 0x80010011)
    put(0x570, 8, 2)
    uc.msr_write(0xC0000080, HOST_EFER)
    uc.msr_write(0xC0010117, HSAVE)
    uc.reg_write(x86.UC_X86_REG_CR4, 0x620)
    uc.reg_write(x86.UC_X86_REG_RAX, VMCB)


def first_exit(uc: Any, start: int = STUB, then: Callable[[], None] = lambda: None, count: int = 0) -> int:
    """Run the VMRUN until the guest leaves; what the callback gets. Raises EmulatorError if it stays.

    With `start` the guest is entered already, and continues there. `then` is called at the exit. With `count`
    instructions are counted, and it ends after that many.
    """
    unicorn = unicorn_module()
    seen: list[int] = []

    def left(uc: Any, number: int, data: object) -> None:
        seen.append(number)
        then()
        uc.emu_stop()

    hook = uc.hook_add(unicorn.UC_HOOK_INTR, left)
    try:
        uc.emu_start(start, 0, timeout=1_000_000, count=count)
    except unicorn.UcError as error:
        raise _mismatch(f"VMRUN fails ({error})") from error
    finally:
        uc.hook_del(hook)
    if not seen or seen[0] < 0x100:
        raise _mismatch("VMRUN does not end in an exit")
    return seen[0]


class _Search:
    """The bytes of a CPUState, searched for values that were put there through Unicorn's own interface."""

    def __init__(self, address: int) -> None:
        size = _allocated(address)
        self.memory = (ctypes.c_ubyte * size).from_address(address)
        self.base = 0

    def _places(self, pattern: bytes, align: int) -> Iterator[int]:
        data = bytes(self.memory)
        place = data.find(pattern, self.base)
        while place >= 0:
            if (place - self.base) % align == 0:
                yield place - self.base
            place = data.find(pattern, place + 1)

    def find(self, what: str, value: int, size: int = 8, *, after: int = 0) -> int:
        """Return the only offset that holds the value. Raises EmulatorError if there is
        none or more than one.
        """
        found = [
            place for place in self._places(value.to_bytes(size, "little"), min(size, 8)) if place >= after
        ]
        if len(found) != 1:
            raise _mismatch(f"{what} is not where it can be found ({len(found)} places)")
        return found[0]

    def value(self, offset: int, size: int = 8) -> int:
        start = self.base + offset
        return int.from_bytes(bytes(self.memory[start : start + size]), "little")

    def expect(self, what: str, offset: int, value: int, size: int = 8) -> int:
        """Return `offset`, if the value is there."""
        if self.value(offset, size) != value:
            raise _mismatch(f"{what} is not where it should be")
        return offset


def _allocated(address: int) -> int:
    """Return the bytes that may be read from an address of the C library's heap on."""
    try:
        usable = ctypes.CDLL(None).malloc_usable_size
    except AttributeError:
        raise EmulatorError("the emulated processor needs the GNU C library") from None
    usable.restype, usable.argtypes = ctypes.c_size_t, [ctypes.c_void_p]
    return min(int(usable(address)), LONGEST_STATE)


@cache
def calibrated() -> Layout:
    """Return the layout of the installed Unicorn. Raises EmulatorError if it is not as expected."""
    functions = library()
    uc = new_emulator(functions)
    uc.mem_map(HOST_BASE, HOST_SIZE)
    search = _Search(cpu_address(functions, uc))
    x86 = _import("unicorn.x86_const")
    values = _give_values(uc, x86)
    search.base = search.find("RAX", values["RAX"])
    for number, name in enumerate(("RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI")):
        search.expect(name, 8 * number, values[name])
    for number in range(8, 16):
        search.expect(f"R{number}", 8 * number, values[f"R{number}"])
    rip = search.find("RIP", values["RIP"])
    search.expect("the flags", rip + 24, 0x8D5)
    search.expect("the flags", rip + 40, 1, 4)
    search.expect("the direction flag", rip + 44, 0xFFFFFFFF, 4)
    segments = search.find("FS", values["FS_BASE"]) - 4 * 24 - 8
    search.expect("GS", segments + 5 * 24 + 8, values["GS_BASE"])
    xmm = search.find("XMM0", values["XMM0"])
    dr = search.find("DR0", values["DR0"])
    cr = search.find("CR2", values["CR2"]) - 16
    star = search.find("STAR", values["STAR"])
    sysenter = search.find("SYSENTER_ESP", values["SYSENTER_ESP"])
    places = {
        "state": search.base,
        "rip": rip,
        "eflags": rip + 8,
        "cc_src": rip + 24,
        "cc_op": rip + 40,
        "df": rip + 44,
        "hflags": rip + 48,
        "hflags2": rip + 52,
        "segments": segments,
        "ldtr": search.find("LDTR", values["LDTR"]) - 8,
        "tr": search.find("TR", values["TR"]) - 8,
        "gdtr": search.find("GDTR", values["GDTR"]) - 8,
        "idtr": search.find("IDTR", values["IDTR"]) - 8,
        "cr": cr,
        "fp": search.find("FP0", values["FP0"]),
        "xmm": xmm,
        "xmm_size": search.find("XMM1", values["XMM1"]) - xmm,
        "sysenter_cs": search.expect("SYSENTER_CS", sysenter - 8, values["SYSENTER_CS"], 4),
        "sysenter_esp": sysenter,
        "sysenter_eip": search.find("SYSENTER_EIP", values["SYSENTER_EIP"]),
        "star": star,
        "lstar": search.find("LSTAR", values["LSTAR"]),
        "cstar": search.find("CSTAR", values["CSTAR"]),
        "fmask": search.find("FMASK", values["FMASK"]),
        "kernel_gs_base": search.find("KERNEL_GS_BASE", values["KERNEL_GS_BASE"]),
        "dr": dr,
    }
    return _calibrate_svm(uc, search, places)


MSRS = {
    "STAR": 0xC0000081,
    "LSTAR": 0xC0000082,
    "CSTAR": 0xC0000083,
    "FMASK": 0xC0000084,
    "KERNEL_GS_BASE": 0xC0000102,
    "SYSENTER_CS": 0x174,
    "SYSENTER_ESP": 0x175,
    "SYSENTER_EIP": 0x176,
}


def _give_values(uc: Any, x86: ModuleType) -> dict[str, int]:
    """Give each register a value of its own; what they are."""
    names = ("RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", *(f"R{n}" for n in range(8, 16)))
    names += ("RIP", "FS_BASE", "GS_BASE", "CR2", "DR0", "XMM0", "XMM1")
    values = {name: 0x5A00_1234_0000 + 0x1_0101 * number for number, name in enumerate(names, 1)}
    for name in names:
        uc.reg_write(getattr(x86, f"UC_X86_REG_{name}"), values[name])
    for number, name in enumerate(("GDTR", "IDTR", "LDTR", "TR")):
        values[name] = 0x6600_0000 + 0x10_1000 * number
        uc.reg_write(getattr(x86, f"UC_X86_REG_{name}"), (0x28, values[name], 0xABC, 0))
    for number, (name, index) in enumerate(MSRS.items()):
        values[name] = 0x7700 + number if name == "SYSENTER_CS" else 0x7700_1000 + 0x11_1000 * number
        uc.msr_write(index, values[name])
    values["FP0"] = 0x5A00_8765_4321
    uc.reg_write(x86.UC_X86_REG_FP0, (values["FP0"], 0x3FFF))
    uc.reg_write(x86.UC_X86_REG_EFLAGS, 0x40ED7)
    return values


def _calibrate_svm(uc: Any, search: _Search, places: dict[str, int]) -> Layout:
    """Enter a guest that loads a bad selector, and look where VMRUN and the exit left their values."""
    cr, exceptions, intercepts = 0xEF12ABCC, 0x98766432 | 1 << 13, 0x1234 << 48 | 1 << 32 | 1 << 24
    code = b"\xb8" + SELECTOR.to_bytes(4, "little") + b"\x8e\xd8\xf4"  # mov eax, SELECTOR; mov ds, eax; hlt
    prepare_vmrun(uc, code=code, intercepts=intercepts, cr=cr, exceptions=exceptions)
    places["efer"] = search.find("EFER", HOST_EFER)
    number = first_exit(uc)
    if number != EXIT_GP:
        raise _mismatch(f"a bad selector ends in exit {number:#x}")
    places["vmcb"] = search.find("the VMCB's address", VMCB)
    places["intercepts"] = search.find("the intercepts", intercepts)
    places["cr_intercepts"] = search.find("the intercepts of control registers", cr, 4)
    places["exception_intercepts"] = search.find("the intercepts of exceptions", exceptions, 4)
    places["error_code"] = search.find("the error code", SELECTOR, 4, after=8)
    search.expect("RIP at an exit", places["rip"], 5)
    search.expect("the control registers", places["cr"] + 24, TABLES)
    search.expect("the control registers", places["cr"], 0x80010011)
    if places["exception_intercepts"] != places["cr_intercepts"] + 8:
        raise _mismatch("the intercepts of debug registers are not where they should be")
    if not search.value(places["hflags"], 4) & 1 << 21:
        raise _mismatch("the guest is not known as one")
    places["nested_cr3"] = _calibrate_nested_paging()
    places["requests"], places["leave"] = _calibrate_requests()
    places["counter"] = _calibrate_counter()
    return Layout(**places)


def _calibrate_nested_paging() -> int:
    """Enter a guest on nested tables that map nothing; where the processor has their address."""
    functions = library()
    uc = new_emulator(functions)
    uc.mem_map(HOST_BASE, HOST_SIZE)
    search = _Search(cpu_address(functions, uc))
    uc.reg_write(_import("unicorn.x86_const").UC_X86_REG_RSP, 0x5A5A_0000_1234)
    search.base = search.find("RSP", 0x5A5A_0000_1234) - 32
    empty = HOST_BASE + 0xF000
    prepare_vmrun(uc, code=b"\xf4", nested_cr3=empty, intercepts=1 << 32, cr=0, exceptions=0)
    number = first_exit(uc)
    if number != EXIT_NESTED_FAULT:
        raise _mismatch(f"nested tables that map nothing end in exit {number:#x}")
    return search.find("the nested CR3", empty)


def _calibrate_requests() -> tuple[int, int]:
    """Return where a processor is asked for an interrupt, and to leave the code that it
    runs: cpu_exit does that.
    """
    functions = library()
    uc = new_emulator(functions)
    uc.mem_map(HOST_BASE, HOST_SIZE)
    prepare_vmrun(uc, code=b"\xf4", intercepts=1 << 24 | 1 << 2, cr=0, exceptions=0)
    first_exit(uc)
    address = cpu_address(functions, uc)
    search = _Search(address)
    before = bytes(search.memory)
    functions.cpu_exit(address)
    after = bytes(search.memory)
    changed = [place for place, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]]
    for place in changed:
        search.memory[place] = before[place]
    leave = after.find(b"\xff\xff", changed[-2] if len(changed) > 1 else 0)
    if not changed or changed[0] > 0x40 or changed[-2:] != [leave, leave + 1]:
        raise _mismatch("it cannot be asked to exit")
    requests = (changed[0] & ~3) + 8
    search.expect("the flags of the next code", requests - 4, 0xFFFFFFFF, 4)
    search.expect("requests of interrupts", requests, 0, 4)
    search.memory[requests] = SMI_REQUEST
    number = first_exit(uc, start=0, then=lambda: search.memory.__setitem__(requests, 0))
    if number != EXIT_REQUESTED:
        raise _mismatch(f"a request for an exit ends in exit {number:#x}")
    return requests, leave


def _calibrate_counter() -> int:
    """Let a guest execute a known number of instructions, the HLT with its exit included."""
    functions = library()
    uc = new_emulator(functions)
    uc.mem_map(HOST_BASE, HOST_SIZE)
    rounds = 0x5A31
    code = b"\xb9" + rounds.to_bytes(4, "little") + b"\xff\xc9\x75\xfc\xf4"  # mov ecx; dec ecx; jnz; hlt
    prepare_vmrun(uc, code=b"\xf4" + code, intercepts=1 << 24, cr=0, exceptions=0)
    first_exit(uc)
    first_exit(uc, start=1, count=1 << 62)
    return _Search(uc._uch.value).find("the counter of instructions", 2 * rounds + 2)
