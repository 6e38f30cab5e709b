"""The guest's own code in a scenario: short routines in two pages, and what the processor does around them.

Page S (supervisor) holds descriptor tables, stack, the routines and the exception gates; page U the routines
that run at CPL 3. An op is one routine; it ends with `out` to a port that says how.
"""

from dataclasses import dataclass, replace

from ...x86.insn import Insn, Op

S_CODE, U_PAGE = 0x400, 0x1000
GDT, TSS, IDT, STACK_TOP, IRET_FRAME = 0x000, 0x080, 0x100, 0xF80, 0xFC0
PORT_DONE, PORT_VMEXIT, PORT_L2_DONE, PORT_EXCEPTION = 0xE0, 0xE1, 0xE2, 0x40
SOFT_INTERRUPT = 0x20

_MOV_SI_AX32, _MOV_SI_AX64 = Insn(Op.NOP, b"\x89\xf0"), Insn(Op.NOP, b"\x48\x89\xf0")
HLT = b"\xf4"
_CLD = Insn(Op.NOP, b"\xfc")
_OUT_DONE = Insn(Op.OUT, b"\xe6\xe0", value=PORT_DONE)
_INT = Insn(Op.INT, b"\xcd\x20", value=SOFT_INTERRUPT)

_ACCESSES: dict[tuple[str, int], tuple[Insn, ...]] = {
    ("read", 1): (Insn(Op.LOAD, b"\x8a\x07"),),
    ("read", 2): (Insn(Op.LOAD, b"\x66\x8b\x07"),),
    ("read", 4): (Insn(Op.LOAD, b"\x8b\x07"),),
    ("write", 1): (_MOV_SI_AX32, Insn(Op.STORE, b"\x88\x07")),
    ("write", 2): (Insn(Op.STORE, b"\x66\x89\x37"),),
    ("write", 4): (Insn(Op.STORE, b"\x89\x37"),),
    ("xchg", 4): (_MOV_SI_AX32, Insn(Op.XCHG, b"\x87\x07")),
    ("add", 4): (Insn(Op.ADD, b"\x01\x37"),),
    ("cmpxchg", 4): (Insn(Op.CMPXCHG, b"\xf0\x0f\xb1\x37"),),
    ("stos", 4): (_CLD, Insn(Op.STOS, b"\xf3\xab")),
}
_ACCESSES_64: dict[tuple[str, int], tuple[Insn, ...]] = {
    ("read", 8): (Insn(Op.LOAD, b"\x48\x8b\x07"),),
    ("write", 8): (Insn(Op.STORE, b"\x48\x89\x37"),),
    ("xchg", 8): (_MOV_SI_AX64, Insn(Op.XCHG, b"\x48\x87\x07")),
    ("add", 8): (Insn(Op.ADD, b"\x48\x01\x37"),),
    ("cmpxchg", 8): (Insn(Op.CMPXCHG, b"\xf0\x48\x0f\xb1\x37"),),
}
_ACCESSES_32: dict[tuple[str, int], tuple[Insn, ...]] = {
    ("cmpxchg", 8): (Insn(Op.CMPXCHG8B, b"\xf0\x0f\xc7\x0f"),),
}
_CONTROL: dict[tuple[str, int], tuple[Insn, ...]] = {
    ("invlpg", 0): (Insn(Op.INVLPG, b"\x0f\x01\x3f"),),
    ("cr0", 0): (Insn(Op.MOV_CR0, b"\x0f\x22\xc7"),),
    ("cr3", 0): (Insn(Op.MOV_CR3, b"\x0f\x22\xdf"),),
    ("cr4", 0): (Insn(Op.MOV_CR4, b"\x0f\x22\xe7"),),
    ("wrmsr", 0): (Insn(Op.WRMSR, b"\x0f\x30"),),
    ("nop", 0): (Insn(Op.NOP, b"\x90"),),
}
_VMRUN = Insn(Op.VMRUN, b"\x0f\x01\xd8")
_INVLPGA = Insn(Op.INVLPGA, b"\x0f\x01\xdf")
_OUT_VMEXIT = Insn(Op.OUT, b"\xe6\xe1", value=PORT_VMEXIT)
_OUT_L2_DONE = Insn(Op.OUT, b"\xe6\xe2", value=PORT_L2_DONE)
_L2_CONTROL: dict[tuple[str, int], tuple[Insn, ...]] = {
    ("nop", 0): (Insn(Op.NOP, b"\x90"),),
    ("exit", 0): (Insn(Op.VMMCALL, b"\x0f\x01\xd9"),),
}
_USER_NOP: dict[tuple[str, int], tuple[Insn, ...]] = {("nop", 0): ()}


@dataclass(slots=True)
class Step:
    """One instruction of a routine: where it is, at which CPL it runs.

    `jump`: the scenario chose the address, so that other code may be there than `insn`.
    """

    rip: int
    user: bool
    insn: Insn
    jump: bool = False


class Stubs:
    """The routines of one mode, placed: S page at `tramp_gva`, U page right after it."""

    def __init__(self, tramp_gva: int, *, is64: bool) -> None:
        self.tramp_gva = tramp_gva
        self.is64 = is64
        accesses = _ACCESSES | (_ACCESSES_64 if is64 else _ACCESSES_32)
        self.image: dict[int, bytes] = {}
        self._kernel = self._place(accesses | _CONTROL, S_CODE, _OUT_DONE)
        self._user = self._place(accesses | _USER_NOP, U_PAGE, _INT)
        iret = Insn(Op.IRET, b"\x48\xcf" if is64 else b"\xcf")
        self._iret = self._next
        self._put(self._iret, iret.code)
        self._iret_insn = iret
        self._gates = self._iret + len(iret.code)
        for vector in range(33):
            port = PORT_DONE if vector == SOFT_INTERRUPT else PORT_EXCEPTION + vector
            self._put(self._gates + 4 * vector, bytes([0xE6, port, 0xF4, 0x90]))
        self._vmrun = self._gates + 4 * 33
        self._put(self._vmrun, _VMRUN.code + _OUT_VMEXIT.code + HLT)
        self._invlpga = self._vmrun + len(_VMRUN.code + _OUT_VMEXIT.code + HLT)
        self._put(self._invlpga, _INVLPGA.code + _OUT_DONE.code + HLT)

    def _put(self, offset: int, code: bytes) -> None:
        self.image[offset] = code

    def _place(
        self, routines: dict[tuple[str, int], tuple[Insn, ...]], offset: int, end: Insn
    ) -> dict[tuple[str, int], tuple[int, tuple[Insn, ...]]]:
        placed = {}
        for key, body in routines.items():
            placed[key] = (offset, (*body, end))
            for insn in (*body, end):
                self._put(offset, insn.code)
                offset += len(insn.code)
            if end.op is Op.OUT:
                self._put(offset, HLT)
                offset += 1
        if offset < U_PAGE:
            self._next = offset
        return placed

    def routine(self, name: str, size: int, operands: Insn, *, user: bool) -> list[Step]:
        """Return the instructions of a routine with these operands. Raises KeyError if there is none."""
        offset, body = (self._user if user else self._kernel)[name, size]
        steps = self._to_user() if user else []
        rip = self.tramp_gva + offset
        for insn in body:
            if insn.op in (Op.NOP, Op.OUT, Op.INT):
                steps.append(Step(rip, user, insn))
            else:
                steps.append(Step(rip, user, replace(operands, op=insn.op, code=insn.code)))
            rip += len(insn.code)
        return steps

    def vmrun(self, vmcb: int) -> Step:
        """Return the step in which L1 starts its guest."""
        return Step(self.tramp_gva + self._vmrun, False, replace(_VMRUN, value=vmcb))

    def after_vmexit(self) -> Step:
        """Return what L1 does after its VMRUN."""
        return Step(self.tramp_gva + self._vmrun + len(_VMRUN.code), False, _OUT_VMEXIT)

    def invlpga(self, address: int, asid: int) -> list[Step]:
        """Return the steps in which L1 flushes an address of an ASID."""
        first = self.tramp_gva + self._invlpga
        insn = replace(_INVLPGA, value=address, count=asid)
        return [Step(first, False, insn), Step(first + len(insn.code), False, _OUT_DONE)]

    def jump(self, gva: int, *, user: bool) -> list[Step]:
        """Return the steps to gva, where the scenario put an `int $0x20`."""
        return [*(self._to_user() if user else []), Step(gva, user, _INT, jump=True)]

    def _to_user(self) -> list[Step]:
        return [Step(self.tramp_gva + self._iret, False, self._iret_insn)]

    def gate(self, vector: int) -> Step:
        """Return the handler of an exception or of the soft interrupt."""
        port = PORT_DONE if vector == SOFT_INTERRUPT else PORT_EXCEPTION + vector
        rip = self.tramp_gva + self._gates + 4 * vector
        return Step(rip, False, Insn(Op.OUT, bytes([0xE6, port]), value=port))

    # -- what the processor itself reads and writes ----------------------------------------------------------

    def idt_entry(self, vector: int) -> int:
        """Return the address of an entry of the interrupt descriptor table."""
        return self.tramp_gva + IDT + (16 if self.is64 else 8) * vector

    def gdt_entry(self, selector: int) -> int:
        return self.tramp_gva + GDT + selector

    def stack_pointer_in_tss(self) -> int:
        return self.tramp_gva + TSS + 4

    def iret_frame(self) -> int:
        return self.tramp_gva + IRET_FRAME

    def stack_top(self) -> int:
        return self.tramp_gva + STACK_TOP


class NoCode(Stubs):
    """The routines of a guest that has no code in memory: each is the instruction that matters, at a new RIP.

    Nothing is fetched, and neither descriptor tables nor a stack are touched.
    """

    def __init__(self, *, is64: bool) -> None:
        super().__init__(0, is64=is64)
        self.image = {}
        self._steps = 0

    def _alone(self, insn: Insn, *, user: bool = False) -> Step:
        """Return the instruction at an address where none was before: KVM remembers where it last retried."""
        self._steps += 1
        return Step(self._steps & 0x7FFFFFFF, user, insn)

    def routine(self, name: str, size: int, operands: Insn, *, user: bool) -> list[Step]:
        _, body = self._kernel[name, size]
        insn = next((insn for insn in body if insn.op not in (Op.NOP, Op.OUT)), Insn(Op.NOP))
        return [self._alone(replace(operands, op=insn.op, code=insn.code), user=user)]

    def vmrun(self, vmcb: int) -> Step:
        return self._alone(replace(_VMRUN, value=vmcb))

    def after_vmexit(self) -> Step:
        return self._alone(Insn(Op.NOP))

    def invlpga(self, address: int, asid: int) -> list[Step]:
        return [self._alone(replace(_INVLPGA, value=address, count=asid))]

    def jump(self, gva: int, *, user: bool) -> list[Step]:
        raise NotImplementedError("a guest without code of its own cannot jump to some")

    def gate(self, vector: int) -> Step:
        return self._alone(Insn(Op.NOP))


class L2Stubs:
    """The routines of L2, 32-bit code without paging, in one page at `base`."""

    def __init__(self, base: int) -> None:
        self.base = base
        self.image: dict[int, bytes] = {}
        self._placed: dict[tuple[str, int], tuple[int, tuple[Insn, ...]]] = {}
        offset = 0
        for key, body in (_ACCESSES | _ACCESSES_32 | _L2_CONTROL).items():
            self._placed[key] = (offset, (*body, _OUT_L2_DONE))
            code = b"".join(insn.code for insn in (*body, _OUT_L2_DONE)) + HLT
            self.image[offset] = code
            offset += len(code)

    def routine(self, name: str, size: int, operands: Insn) -> list[Step]:
        """Return the instructions of a routine with these operands. Raises KeyError if there is none."""
        offset, body = self._placed[name, size]
        steps = []
        for insn in body:
            own = insn.op in (Op.NOP, Op.OUT, Op.VMMCALL)
            insn_with = insn if own else replace(operands, op=insn.op, code=insn.code)
            steps.append(Step(self.base + offset, False, insn_with))
            offset += len(insn.code)
        return steps

    def jump(self, address: int) -> list[Step]:
        """Return the steps to `address`, where the scenario put what ends an op."""
        return [Step(address, False, _OUT_L2_DONE, jump=True)]
