"""Machine code: decoded once by iced-x86, then executed as KVM's emulator does where memory is concerned.

What KVM's emulator has not (emulate.c, opcode_table, twobyte_table, 6.12.111) is not executed; `decode` still
gives length and operands, and whoever asked finds another way.
"""

from typing import Any

from ...x86.bits import MASK64
from ...x86.insn import Op
from . import arithmetic, moves, stack, strings
from .layout import decoder_module
from .operands import Code, Executor, Operand
from .registers import CS, DS, ES, FS, GS, SS

LONGEST = 15
CACHED = 8192
_EXECUTE: dict[str, Executor] = {**arithmetic.EXECUTE, **moves.EXECUTE, **stack.EXECUTE, **strings.EXECUTE}
_OPS = {
    "mov": Op.STORE,
    "xchg": Op.XCHG,
    "cmpxchg": Op.CMPXCHG,
    "cmpxchg8b": Op.CMPXCHG8B,
    "or": Op.XCHG,
    "and": Op.XCHG,
    "bts": Op.XCHG,
    "btr": Op.ADD,
    "invlpg": Op.INVLPG,
}
"""What KVM knows as an instruction that writes page tables is STORE, XCHG or CMPXCHG; strings and what has
two operands in memory are STOS, for which the address of a nested fault is not a hint; the others are ADD."""
_TWO_OPERANDS = ("stos", "movs", "lods", "cmps", "scas", "ins", "outs", "push", "pop", "call", "ret", "leave")
_WORDS = {
    **dict.fromkeys(("pusha", "pushad", "popa", "popad"), 8),
    **dict.fromkeys(("pushf", "pushfd", "pushfq", "popf", "popfd", "popfq"), 1),
    **dict.fromkeys(("call", "retf"), 2),
}
"""Words that instructions push or pop which do not name them; CALL only if it is far."""
_IMPLICIT = ("stos", "movs", "lods", "cmps", "scas", "ins", "outs", "xlat")
"""Instructions whose memory operand is not among the decoded ones."""


class Decoder:
    """Decodes, and remembers what it decoded."""

    def __init__(self) -> None:
        self.iced: Any = decoder_module()
        self.known: dict[tuple[int, bytes], Code | None] = {}
        register = self.iced.Register
        self.names = {
            value: name.lower() for name, value in vars(self.iced.Mnemonic).items() if isinstance(value, int)
        }
        self.numbers = {getattr(register, f"R{n}"): n for n in range(8, 16)}
        for number, name in enumerate(("RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI")):
            self.numbers[getattr(register, name)] = number
        self.high = {getattr(register, name): n for n, name in enumerate(("AH", "CH", "DH", "BH"))}
        self.xmm = {getattr(register, f"XMM{n}"): n for n in range(16)}
        self.mmx = {getattr(register, f"MM{n}"): n for n in range(8)}
        self.segments = {
            register.ES: ES,
            register.CS: CS,
            register.SS: SS,
            register.DS: DS,
            register.FS: FS,
            register.GS: GS,
        }

    def decode(self, data: bytes, bits: int) -> Code | None:
        """Return the instruction that `data` begins with; None if it is none, or is not complete."""
        key = (bits, data)
        if key in self.known:
            return self.known[key]
        if len(self.known) >= CACHED:
            self.known.clear()
        code = self.known[key] = self._decode(data, bits)
        return code

    def _decode(self, data: bytes, bits: int) -> Code | None:
        decoder = self.iced.Decoder(bits, data, ip=0)
        insn = decoder.decode()
        if insn.is_invalid:
            return None
        name = self.names[insn.mnemonic]
        if name in ("movsd", "cmpsd") and insn.op_count and self._is_xmm(insn):
            name = f"{name} xmm"
        operands = [self._operand(insn, i) for i in range(insn.op_count)]
        execute = _EXECUTE.get(name)
        for prefix, conditional in moves.CONDITIONAL.items():
            if name.startswith(prefix):
                execute = conditional
        known = [operand for operand in operands if operand is not None]
        is_far = insn.is_jmp_far or insn.is_call_far or insn.is_jmp_far_indirect or insn.is_call_far_indirect
        if len(known) != len(operands) and not name.startswith(_IMPLICIT) and not is_far:
            execute = None
        if not self._is_executed(insn, name, known):
            execute = None
        code = Code(name, bytes(data[: insn.len]), known, _OPS.get(name, Op.ADD), execute)
        if name.startswith(_TWO_OPERANDS):
            code.op = Op.STOS
        code.is_far = is_far
        self._memory(insn, code, bits)
        if insn.is_jmp_far or insn.is_call_far:
            wide = insn.op_kind(0) == self.iced.OpKind.FAR_BRANCH32
            code.target = insn.far_branch_selector, insn.far_branch32 if wide else insn.far_branch16
        code.repeat = insn.has_rep_prefix or insn.has_repne_prefix
        if name.startswith(("cmps", "scas")):
            code.repeat_while_equal = not insn.has_repne_prefix if code.repeat else None
        return code

    @staticmethod
    def _is_executed(insn: Any, name: str, operands: list[Operand]) -> bool:
        """Return whether this form is executed: MOVQ of MMX, no nested ENTER."""
        if name == "movq":
            return any(operand.kind == "y" for operand in operands)
        return not (name == "enter" and operands[1].value & 0x1F)

    def _is_xmm(self, insn: Any) -> bool:
        return any(insn.op_register(i) in self.xmm for i in range(insn.op_count) if insn.op_kind(i) == 0)

    def _operand(self, insn: Any, i: int) -> Operand | None:
        kinds = self.iced.OpKind
        kind = insn.op_kind(i)
        if kind == kinds.REGISTER:
            register = insn.op_register(i)
            if register in self.high:
                return Operand("h", 1, self.high[register])
            if register in self.mmx:
                return Operand("y", 8, self.mmx[register])
            if register in self.xmm:
                return Operand("x", 16, self.xmm[register])
            info = self.iced.RegisterInfo(register)
            if info.full_register in self.numbers:
                return Operand("r", info.size, self.numbers[info.full_register])
            if register in self.segments:
                return Operand("s", 2, self.segments[register])
            return None
        if kind == kinds.MEMORY:
            return Operand("m", self.iced.MemorySizeInfo(insn.memory_size).size)
        if kind in (kinds.NEAR_BRANCH16, kinds.NEAR_BRANCH32, kinds.NEAR_BRANCH64):
            size = {kinds.NEAR_BRANCH16: 2, kinds.NEAR_BRANCH32: 4}.get(kind, 8)
            return Operand("b", size, value=insn.near_branch_target)
        try:
            return Operand("i", 8, value=insn.immediate(i) & MASK64)
        except ValueError:
            return None

    def _memory(self, insn: Any, code: Code, bits: int) -> None:
        kinds = self.iced.OpKind
        code.address_size = bits // 8
        code.size = self.iced.MemorySizeInfo(insn.memory_size).size
        if code.name in ("push", "pop", "call") and not code.is_far:
            code.size = abs(insn.stack_pointer_increment)
        elif code.name == "ret":
            code.size = insn.stack_pointer_increment - (code.operands[0].value if code.operands else 0)
        elif code.name in _WORDS:
            dropped = code.operands[0].value if code.name == "retf" and code.operands else 0
            code.word = (abs(insn.stack_pointer_increment) - dropped) // _WORDS[code.name]
        elif code.name in ("enter", "leave"):
            codes = self.iced.Code
            sizes = {codes.ENTERW_IMM16_IMM8: 2, codes.LEAVEW: 2, codes.ENTERD_IMM16_IMM8: 4, codes.LEAVED: 4}
            code.size = sizes.get(insn.code, 8)
        for i in range(insn.op_count):
            kind = insn.op_kind(i)
            if kind == kinds.MEMORY:
                code.has_memory = True
                code.base = self._number(insn.memory_base)
                code.index = self._number(insn.memory_index)
                code.scale = insn.memory_index_scale
                code.displacement = insn.memory_displacement
                code.rip_relative = insn.is_ip_rel_memory_operand
                code.segment = self.segments[insn.memory_segment]
                if code.base >= 0 and not code.rip_relative:
                    code.address_size = self.iced.RegisterInfo(insn.memory_base).size
                elif code.index >= 0:
                    code.address_size = self.iced.RegisterInfo(insn.memory_index).size
            elif kind in (kinds.MEMORY_SEG_SI, kinds.MEMORY_ESDI):
                code.address_size = 2
            elif kind in (kinds.MEMORY_SEG_ESI, kinds.MEMORY_ESEDI):
                code.address_size = 4
            if kind in (kinds.MEMORY_SEG_SI, kinds.MEMORY_SEG_ESI, kinds.MEMORY_SEG_RSI):
                code.segment = self.segments[insn.memory_segment]

    def _number(self, register: int) -> int:
        if register in (self.iced.Register.NONE, self.iced.Register.RIP, self.iced.Register.EIP):
            return -1
        return self.numbers[self.iced.RegisterInfo(register).full_register]
