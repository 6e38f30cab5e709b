"""Signal frames: how a handler is called and how it returns (struct rt_sigframe of x86-64)."""

import errno
import struct
from dataclasses import dataclass

from ...x86.bits import MASK64
from .calls import int32
from .memory import AddressSpace
from .tasks import RFLAGS, RIP, RSP, SIGCHLD, SIGCONT, Action, Process, SignalInfo, Task

SA_NOCLDSTOP, SA_NOCLDWAIT, SA_SIGINFO = 1, 2, 4
SA_ONSTACK, SA_RESTART, SA_NODEFER, SA_RESETHAND = 0x08000000, 0x10000000, 0x40000000, 0x80000000
RED_ZONE = 128
FPU_SIZE = 512
FPU_ALIGN = 512
"""Not the 64 of Linux: the area has to be in one page."""
_CONTEXT = struct.Struct("<QQQIxxxxQ 18Q 4H QQQQQ 64x Q")
_INFO = struct.Struct("<iiixxxxQ104x")
_INFO_SENDER = struct.Struct("<iiixxxxiIq96x")
_INFO_SENT = struct.Struct("<8xixxxxiIq96x")
_SIGNALFD = struct.Struct("<IiiII20xiiQ72x")
_ORDER = (8, 9, 10, 11, 12, 13, 14, 15, 7, 6, 5, 3, 2, 0, 1, RSP, RIP, RFLAGS)
"""Registers as sigcontext has them, by our numbers."""
USER_FLAGS = 0x40CD5 | 0x100 | 0x400
"""RFLAGS that user mode may set: arithmetic, TF, DF, AC."""
MXCSR_OFFSET, MXCSR_MASK = 24, 0xFFBF
FAULTS = (4, 5, 7, 8, 11)
SIGINFO_SIZE = SIGNALFD_SIZE = 128
CLD_EXITED, CLD_KILLED, CLD_STOPPED, CLD_CONTINUED = 1, 2, 5, 6
CONTINUED = 0xFFFF
"""What wait() reports of a process that was continued."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame that was written: where the handler starts with which RSP, RSI and RDX, and the FPU's place."""

    stack: int
    info: int
    context: int
    fpu: int


def push_frame(task: Task, signal: int, info: SignalInfo, action: Action, mask: int) -> Frame:
    """Write a frame below the task's stack, all but the FPU's state. Raises OSError."""
    mm = task.process.mm
    registers = task.registers
    pointer = registers[RSP]
    base, size = task.stack
    if action.flags & SA_ONSTACK and size and not base < pointer <= base + size:
        pointer = base + size
    else:
        pointer -= RED_ZONE
    fpu = pointer - FPU_SIZE & -FPU_ALIGN
    frame = (fpu - 8 - _CONTEXT.size - _INFO.size & -16) - 8
    if frame < 0:
        raise OSError(errno.EFAULT, "no stack")
    context = frame + 8
    on_stack = 0 if size else 2
    data = _CONTEXT.pack(
        0,
        0,
        base,
        on_stack,
        size,
        *(registers[number] for number in _ORDER),
        0x33,
        0,
        0,
        0x2B,
        task.fault_code,
        task.fault_vector,
        mask,
        task.fault_address,
        fpu,
        mask,
    )
    mm.write(fpu, bytes(FPU_SIZE))
    mm.write(frame, action.restorer.to_bytes(8, "little") + data + pack_info(signal, info))
    return Frame(frame, context + len(data), context, fpu)


def pack_info(signal: int, info: SignalInfo) -> bytes:
    """Return a siginfo_t."""
    if signal in FAULTS and info.code > 0:
        return _INFO.pack(signal, 0, info.code, info.address)
    return _INFO_SENDER.pack(signal, 0, info.code, info.pid, info.uid, info.status)


def read_info(data: bytes) -> SignalInfo:
    """Return what is in a siginfo_t that a program made."""
    code, pid, uid, value = _INFO_SENT.unpack(data)
    return SignalInfo(code, 0, pid, uid, value)


def signalfd_info(signal: int, info: SignalInfo) -> bytes:
    """Return a struct signalfd_siginfo."""
    status, value = (info.status, 0) if signal == SIGCHLD else (0, info.status)
    return _SIGNALFD.pack(signal, 0, info.code, info.pid, info.uid, status, int32(value), value & MASK64)


def stopped_by(signal: int) -> int:
    """Return what wait() reports of a process that a signal stopped."""
    return signal << 8 | 0x7F


def about_child(child: Process, status: int) -> SignalInfo:
    """Return what the parent learns of a status as wait() reports it."""
    if status == CONTINUED:
        return SignalInfo(CLD_CONTINUED, 0, child.pid, 0, SIGCONT)
    if status & 0xFF == 0x7F:
        return SignalInfo(CLD_STOPPED, 0, child.pid, 0, status >> 8)
    if killed := status & 0x7F:
        return SignalInfo(CLD_KILLED, 0, child.pid, 0, killed)
    return SignalInfo(CLD_EXITED, 0, child.pid, 0, status >> 8)


def pop_frame(task: Task, context: int) -> tuple[list[int], int, int]:
    """Return what a frame holds: registers, mask, where the FPU's state is (0: none). Raises OSError."""
    mm: AddressSpace = task.process.mm
    values = _CONTEXT.unpack(mm.read(context, _CONTEXT.size))
    registers = [0] * 18
    for number, value in zip(_ORDER, values[5:23], strict=True):
        registers[number] = value
    registers[RFLAGS] = task.registers[RFLAGS] & ~USER_FLAGS | registers[RFLAGS] & USER_FLAGS
    return registers, values[-1], values[-2]


def clean_fpu(data: bytes) -> bytes:
    """Return the FPU's state without reserved bits of MXCSR, on which FXRSTOR faults."""
    mxcsr = int.from_bytes(data[MXCSR_OFFSET : MXCSR_OFFSET + 4], "little") & MXCSR_MASK
    return data[:MXCSR_OFFSET] + mxcsr.to_bytes(4, "little") + data[MXCSR_OFFSET + 4 :]
