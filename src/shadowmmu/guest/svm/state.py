"""The guest's memory and registers as user space sees them."""

from collections.abc import Sequence

from ...host.backing import Backing
from ...kvm.registers.regs import kvm_set_cr0, kvm_set_cr3, kvm_set_cr4, set_efer, set_sregs
from ...x86.bits import (
    CR0_ET,
    CR0_NE,
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_OSFXSR,
    CR4_PAE,
    EFER_LMA,
    EFER_LME,
    EFER_NX,
    EFER_SCE,
    MASK64,
)
from ..play.machine import Machine
from .clock import Clock
from .control_registers import TaskPriority
from .layout import PHYSICAL_BITS
from .processor import SvmProcessor
from .registers import CS, DS, ES, FS, GDTR, GPRS, GS, IDTR, LDTR, SEGMENTS, SS, TR, Segment
from .world_switch import WorldSwitch

FLAT_CODE32 = Segment(0x08, 0, 0xFFFFFFFF, 0xCF9B00 & 0xF0FF00)
FLAT_DATA32 = Segment(0x10, 0, 0xFFFFFFFF, 0xCF9300 & 0xF0FF00)
NULL_LDT = Segment(0, 0, 0xFFFF, 0x008200)
BUSY_TSS = Segment(0, 0, 0xFFFF, 0x008B00)


class GuestState:
    """The memory slots and the vCPU of `machine`, on an emulated processor.

    `size` is where memory ends, `memory` all of the host's, as bytes. Raises EmulatorError.
    """

    def __init__(
        self,
        machine: Machine,
        slots: Sequence[tuple[int, int]],
        backing: Backing,
        clock: Clock,
        *,
        npt: bool,
        la57: bool,
    ) -> None:
        self.npt = npt
        self.clock = clock
        self.machine = machine
        self.kvm = machine.kvm
        for number, (gpa, size) in enumerate(slots):
            machine.set_slot(number, gpa, size, kind=backing)
        self.size = max(gpa + size for gpa, size in slots)
        self.vcpu = machine.add_vcpu(PHYSICAL_BITS, la57=la57)
        self.processor = SvmProcessor(machine.arena, clock, npt=npt)
        self.memory = machine.arena.view().cast("B")
        self.switch = WorldSwitch(self.vcpu, self.processor, npt=npt)
        self.task_priority = TaskPriority()

    # -- memory ------------------------------------------------------------------------------------------

    def write(self, gpa: int, data: bytes) -> None:
        """Write guest memory from user space. Raises HostError where no slot is."""
        machine, position = self.machine, 0
        while position < len(data):
            length = min(len(data) - position, 0x1000 - (gpa & 0xFFF))
            hpa = machine.host.touch(machine.hva(gpa), write=True) | gpa & 0xFFF
            self.memory[hpa : hpa + length] = data[position : position + length]
            self.processor.invalidate_code(hpa, length)
            gpa, position = gpa + length, position + length

    def read(self, gpa: int, size: int) -> bytes:
        """Read guest memory from user space. Raises HostError where no slot is."""
        machine, parts = self.machine, []
        while size:
            length = min(size, 0x1000 - (gpa & 0xFFF))
            hpa = machine.host.touch(machine.hva(gpa), write=False) | gpa & 0xFFF
            parts.append(bytes(self.memory[hpa : hpa + length]))
            gpa, size = gpa + length, size - length
        return b"".join(parts)

    # -- registers ---------------------------------------------------------------------------------------

    def start_protected(self, eip: int, *, esp: int = 0, eax: int = 0, ebx: int = 0) -> None:
        """Begin at eip in 32-bit protected mode without paging, with flat segments and interrupts off."""
        self._reset()
        set_sregs(self.vcpu, CR0_PE | CR0_ET, 0, 0, 0)
        self._set_segments(FLAT_CODE32, FLAT_DATA32)
        q = self.processor.q
        q[0], q[3], q[4] = eax, ebx, esp
        self.processor.rip = eip
        self.switch.load_modes(cpl=0)

    def start_long(
        self,
        rip: int,
        cr3: int,
        *,
        rsp: int = 0,
        user: bool = False,
        cr4: int = CR4_PAE | CR4_OSFXSR,
        cr0: int = CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_PG,
        efer: int = EFER_SCE | EFER_LME | EFER_LMA | EFER_NX,
    ) -> None:
        """Begin at rip in 64-bit mode with page tables at cr3, at CPL 3 with `user`; LA57 in cr4: 5 levels.

        Selectors are those of a GDT with code, data, user data, user code at 0x08, 0x10, 0x28, 0x30; the
        guest needs one only if it loads segments or takes exceptions. Raises ValueError for registers that do
        not go together.
        """
        self._reset()
        if not set_sregs(self.vcpu, cr0, cr3, cr4, efer, code_64bit=True):
            raise ValueError(
                f"CR0 {cr0:#x}, CR3 {cr3:#x}, CR4 {cr4:#x} and EFER {efer:#x} do not go together"
            )
        if user:
            self._set_segments(Segment(0x33, 0, 0xFFFFFFFF, 0xA0FB00), Segment(0x2B, 0, 0xFFFFFFFF, 0xC0F300))
        else:
            self._set_segments(Segment(0x08, 0, 0xFFFFFFFF, 0xA09B00), FLAT_DATA32)
        self.processor.q[4] = rsp
        self.processor.rip = rip
        self.switch.load_modes(cpl=3 if user else 0)

    def _reset(self) -> None:
        """Set general registers, flags and descriptor tables as after a reset."""
        processor = self.processor
        for number in range(16):
            processor.q[number] = 0
        processor.rflags = 2
        for number in (GDTR, IDTR):
            processor.set_segment(number, Segment(0, 0, 0, 0))
        processor.set_segment(LDTR, NULL_LDT)
        processor.set_segment(TR, BUSY_TSS)
        processor.set_dr(6, 0xFFFF0FF0)
        processor.set_dr(7, 0x400)

    def _set_segments(self, code: Segment, data: Segment) -> None:
        self.processor.set_segment(CS, code)
        for number in (ES, SS, DS, FS, GS):
            self.processor.set_segment(number, data)

    def get(self, name: str) -> int:
        """Return a register as the guest has it: rax..r15, rip, rflags, cr0..cr4, cr8,
        efer. Raises KeyError.
        """
        processor, vcpu = self.processor, self.vcpu
        if name in _GPR_NUMBERS:
            return processor.q[_GPR_NUMBERS[name]]
        match name:
            case "rip":
                return processor.rip
            case "rflags":
                return processor.rflags
            case "cr2":
                return processor.cr(2)
            case "cr3":
                return processor.cr(3) if self.npt and self.switch.loaded else vcpu.cr3
            case "cr0" | "cr4" | "efer":
                return int(getattr(vcpu, name))
            case "cr8":
                return self.task_priority.read()
        raise KeyError(name)

    def set(self, name: str, value: int) -> None:
        """Set a register; a control register or EFER as KVM does it for the guest's own instruction.

        Raises KeyError, or ValueError where the guest would get #GP.
        """
        processor, vcpu = self.processor, self.vcpu
        accepted = True
        if name in _GPR_NUMBERS:
            processor.q[_GPR_NUMBERS[name]] = value & MASK64
            return
        match name:
            case "rip":
                processor.rip = value
            case "rflags":
                processor.rflags = value
            case "cr2":
                processor.set_cr(2, value)
            case "cr0":
                accepted = kvm_set_cr0(vcpu, value)
            case "cr3":
                accepted = kvm_set_cr3(vcpu, value)
                if self.npt:
                    vcpu.cpu.root = vcpu.cr3
            case "cr4":
                accepted = kvm_set_cr4(vcpu, value)
            case "efer":
                accepted = set_efer(vcpu, value)
            case "cr8":
                self.task_priority.write(value)
            case _:
                raise KeyError(name)
        if not accepted:
            raise ValueError(f"{name} cannot be {value:#x}")

    def get_segment(self, name: str) -> Segment:
        """Return a segment or table register: es cs ss ds fs gs ldtr tr gdtr idtr."""
        return self.processor.segment(SEGMENTS.index(name))

    def set_segment(self, name: str, segment: Segment, *, cpl: int | None = None) -> None:
        """Load a segment or table register; the CPL becomes `cpl`, or stays."""
        self.processor.set_segment(SEGMENTS.index(name), segment)
        self.processor.update_modes(cpl)

    @property
    def cpl(self) -> int:
        """0 to 3."""
        return self.processor.cpl

    def registers(self) -> dict[str, int]:
        """Return the registers of a report, by name."""
        names = (*GPRS, "rip", "rflags", "cr0", "cr2", "cr3", "cr4", "efer")
        return {name: self.get(name) for name in names} | {"cpl": self.cpl}


_GPR_NUMBERS = {name: number for number, name in enumerate(GPRS)}
