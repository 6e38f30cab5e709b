"""A vCPU of a Vm: what its guest does, one access at a time or as a stream."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from ..guest.play.accesses import run_accesses
from ..guest.scenario import ops
from ..kvm.exits.page_fault_exit import complete_page_fault
from ..kvm.exits.run import TripleFault
from ..kvm.state.vcpu import Vcpu as KvmVcpu
from ..x86.bits import MASK64, NESTED_FAULT, PF_VECTOR, WRITE
from ..x86.insn import Insn, Op
from .answer import answer
from .config import ConfigurationError, check_word
from .faults import Access, GuestFault
from .nested import L2
from .stats import Stats

if TYPE_CHECKING:
    from .operations import Operations

__all__ = ["Vcpu"]

_KINDS = frozenset(Access)
_EFER = 0xC0000080


class Vcpu:
    """A vCPU. Its accesses raise GuestFault where the guest would get an exception.

    They raise DirtyRingFull where the dirty ring must be harvested and reset before the vCPU may continue,
    KvmRunError where KVM_RUN fails, and EndlessFaults where the guest makes no progress. `state` is
    struct kvm_vcpu.
    """

    def __init__(self, vm: Operations, id: int) -> None:
        self._vm = vm
        self.id = id
        self.stats = Stats(lambda: self.state.stat.as_dict())

    @property
    def state(self) -> KvmVcpu:
        """struct kvm_vcpu."""
        return self._vm.player.cpus[self.id].vcpu

    @property
    def l2(self) -> L2:
        """The guest's guest on this vCPU. Raises ConfigurationError without Vm(nested=True)."""
        if not self._vm.player.vmcbs:
            raise ConfigurationError("L2 needs a guest hypervisor: make the Vm with nested=True")
        return L2(self._vm, self.id)

    # -- accesses ------------------------------------------------------------------------------------------

    def read(self, gva: int, size: int | None = None, *, user: bool = False) -> int:
        """Load `size` bytes, by default a word of the guest (8 in long mode, else 4); `user`: at CPL 3."""
        return self._access("read", gva, size, user=user)

    def write(self, gva: int, value: int, size: int | None = None, *, user: bool = False) -> None:
        """Store `value`, which must fit in `size` bytes, by default a word of the guest."""
        self._access("write", gva, size, value, user=user)

    def xchg(self, gva: int, value: int, size: int | None = None, *, user: bool = False) -> int:
        """Exchange atomically (4 bytes, in long mode also 8); return the old value."""
        return self._access("xchg", gva, size, value, user=user)

    def cmpxchg(
        self, gva: int, expected: int, value: int, size: int | None = None, *, user: bool = False
    ) -> int:
        """Store `value` if memory holds `expected`, atomically (4 or 8 bytes); return what it held."""
        return self._access("cmpxchg", gva, size, value, expected=expected, user=user)

    def add(self, gva: int, value: int, size: int | None = None, *, user: bool = False) -> None:
        """Add to memory, with one instruction that reads and writes (4 bytes, in long mode also 8)."""
        self._access("add", gva, size, value, user=user)

    def execute(self, gva: int, *, user: bool = False) -> None:
        """Fetch an instruction at gva; what it is does not matter."""
        self.run([gva], Access.USER_FETCH if user else Access.FETCH)

    def _access(
        self, kind: str, gva: int, size: int | None, value: int = 0, *, expected: int = 0, user: bool
    ) -> int:
        is64 = self._vm.player.modes[0].is64
        size = (8 if is64 else 4) if size is None else size
        wide = (4, 8) if is64 or kind == "cmpxchg" else (4,)
        sizes = wide if kind in ("xchg", "cmpxchg", "add") else (1, 2, *wide)
        if size not in sizes:
            known, mode = ", ".join(map(str, sizes)), self._vm.player.modes[0].name
            raise ConfigurationError(f"size={size!r} must be one of {known} for {kind} in mode {mode}")
        check_word("gva", gva, 8 if is64 else 4)
        check_word("value", value, size)
        check_word("expected", expected, size)
        numbers = [gva, value, expected][: {"read": 1, "cmpxchg": 3}.get(kind, 2)]
        words = [f"{'u' if user else ''}{kind}", *map(hex, numbers), f"size={size}"]
        text = " ".join(words)
        return self._play(
            ops.Access(
                line=0, text=text, vcpu=self.id, kind=kind, user=user, gva=gva, size=size,
                value=value, expected=expected,
            )
        )  # fmt: skip

    # -- instructions --------------------------------------------------------------------------------------

    def invlpg(self, gva: int) -> None:
        """Execute INVLPG."""
        check_word("gva", gva, 8)
        self._play(ops.Invlpg(line=0, text=f"invlpg {gva:#x}", vcpu=self.id, gva=gva))

    @property
    def cr0(self) -> int:
        """CR0 of the guest; setting it is a MOV to CR0."""
        return self.state.cr0

    @cr0.setter
    def cr0(self, value: int) -> None:
        self._set_cr(0, value)

    @property
    def cr3(self) -> int:
        """CR3 of the guest; setting it is a MOV to CR3."""
        return self.state.cr3

    @cr3.setter
    def cr3(self, value: int) -> None:
        self._set_cr(3, value)

    @property
    def cr4(self) -> int:
        """CR4 of the guest; setting it is a MOV to CR4."""
        return self.state.cr4

    @cr4.setter
    def cr4(self, value: int) -> None:
        self._set_cr(4, value)

    def _set_cr(self, number: int, value: int) -> None:
        check_word(f"cr{number}", value, 8)
        text = f"cr{number} {value:#x}"
        self._play(ops.WriteCr(line=0, text=text, vcpu=self.id, cr=number, value=value))

    @property
    def efer(self) -> int:
        """EFER of the guest; setting it is a WRMSR."""
        return self.state.efer

    @efer.setter
    def efer(self, value: int) -> None:
        self.wrmsr(_EFER, value)

    def wrmsr(self, index: int, value: int) -> None:
        """Execute WRMSR."""
        check_word("index", index, 4)
        check_word("value", value, 8)
        text = f"wrmsr {index:#x} {value:#x}"
        self._play(ops.WriteMsr(line=0, text=text, vcpu=self.id, index=index, value=value))

    def _play(self, op: ops.Op) -> int:
        return answer(self.state, self._vm.play_op(op), self._vm.player.refused)

    # -- streams -------------------------------------------------------------------------------------------

    def run(self, gvas: Sequence[int], kinds: Access | Sequence[int]) -> None:
        """Make a stream of accesses at full speed, all of one kind or each of its own.

        Buffers of format 'Q' and 'B' (array, numpy) are used as they are. No data is moved: a write that KVM
        must emulate, because it hits a shadowed page table, leaves the table as it is.
        """
        addresses = _buffer("gvas", gvas, "Q")
        count = len(addresses)
        one_each = bytes([kinds]) * count if isinstance(kinds, Access) else kinds
        modes = _buffer("kinds", one_each, "B")
        if count != len(modes):
            raise ConfigurationError(f"kinds has {len(modes)} elements, but gvas has {count}")
        wrong = set(bytes(modes)) - _KINDS
        if wrong:
            known = ", ".join(f"Access.{kind.name}" for kind in Access)
            raise ConfigurationError(f"kinds has {min(wrong)}; each must be one of {known}")
        self._vm.host_call(f"# {count} accesses of vCPU {self.id}", lambda: self._run(addresses, modes))

    def _run(self, addresses: memoryview, modes: memoryview) -> None:
        done = 0
        try:
            done = run_accesses(self.state, addresses, modes, 0)
            while done < len(addresses):
                self._finish(addresses[done], modes[done])
                done = run_accesses(self.state, addresses, modes, done + 1)
        except TripleFault:
            raise GuestFault(8, 0, self.state.cr2, shutdown=True) from None
        finally:
            self._vm.player.cpus[self.id].leave()

    def _finish(self, gva: int, kind: int) -> None:
        """Complete an access that needs more than the MMU."""
        state, emulator = self.state, self._vm.player.cpus[self.id].emulator
        nested = state.kvm.parameters.tdp_enabled
        exiting = NESTED_FAULT if nested else PF_VECTOR
        if state.cpu.fault_vector == exiting and state.exception is None:
            op = Op.STORE if kind & 3 == WRITE else Op.LOAD
            insn = Insn(op, address=gva & ~7, size=8)
            if op is Op.STORE:
                insn.value = emulator.peek(insn.address, 8)
            state.cpl = 3 if kind & 4 else 0
            complete_page_fault(state, emulator, insn, state.cpu.fault_gpa if nested else gva)
        if state.exception is not None:
            exception, state.exception = state.exception, None
            address = exception.cr2 if exception.cr2 is not None else gva
            raise GuestFault(exception.vector, exception.error_code, address)
        if state.cpu.fault_vector != exiting:
            error_code = state.cpu.fault_error_code if state.cpu.fault_vector == PF_VECTOR else 0
            raise GuestFault(state.cpu.fault_vector, error_code, gva)

    def __repr__(self) -> str:
        state = self.state
        where = " in L2" if state.guest_mode else ""
        return (
            f"<Vcpu {self.id}{where}: cr0 {state.cr0:#x}, cr3 {state.cr3:#x}, cr4 {state.cr4:#x}, "
            f"efer {state.efer:#x}>"
        )


def _buffer(name: str, values: Sequence[int], code: Literal["Q", "B"]) -> memoryview:
    """Return values as a flat buffer. Raises ConfigurationError if one does not fit."""
    try:
        view = memoryview(values)  # type: ignore[arg-type]
    except TypeError:
        try:
            return memoryview(array(code, values))
        except (OverflowError, TypeError):
            top = MASK64 if code == "Q" else 0xFF
            raise ConfigurationError(f"{name} must be numbers from 0 to {top:#x}") from None
    size = 8 if code == "Q" else 1
    if view.itemsize == size and view.ndim == 1 and view.contiguous and view.format in (code, "L"):
        whole = bytearray(view.cast("B")) if view.readonly else view.cast("B")
        return memoryview(whole).cast(code)
    raise ConfigurationError(f"{name} must be a flat buffer of format {code!r}, not {view.format!r}")
