"""The processor's registers: whose they are, and how a task gets them."""

from ..svm.registers import CS, DS, ES, FS, GS, SS, Segment
from .computer import Computer
from .entry import ENTRY, FRAME_GPA, Work
from .frames import Frames
from .layout import DIRECT_MAP, KERNEL_CS, KERNEL_DS, PAGE
from .memory import AddressSpace
from .signals import FPU_SIZE, clean_fpu
from .tasks import RFLAGS, RIP, Process, Task

KERNEL_CODE = Segment(KERNEL_CS, 0, 0xFFFFFFFF, 0xA09B00)
KERNEL_DATA = Segment(KERNEL_DS, 0, 0xFFFFFFFF, 0xC09300)
NO_DATA = Segment(0, 0, 0, 0)
CLEAN_FPU = b"\x7f\x03" + bytes(22) + b"\x80\x1f\0\0" + b"\xff\xff\0\0" + bytes(FPU_SIZE - 32)


class Registers:
    """The vCPU's registers and the areas in guest memory where tasks keep their FPU's state."""

    def __init__(self, machine: Computer, frames: Frames) -> None:
        self.machine = machine
        self.processor = machine.processor
        self.frames = frames
        self.work: Work = frames.work
        self.loaded: Task | None = None
        """Whose registers are in the processor."""
        self.fpu_owner: Task | None = None
        self.active_mm: AddressSpace | None = None
        self.loads: dict[tuple[Process, int], int] = {}
        """Each process that ran, and its CR3 -> how often its tables were loaded."""
        self._fpu_areas: list[int] = []

    def new_fpu(self) -> int:
        """Return an area for a clean FPU. Raises OutOfMemory."""
        if not self._fpu_areas:
            page = self.frames.page()
            self._fpu_areas = [page + offset for offset in range(0, PAGE, FPU_SIZE)]
        area = self._fpu_areas.pop()
        self.machine.write(area, CLEAN_FPU)
        return area

    def drop(self, task: Task) -> None:
        """Free the registers of a task that has ended."""
        self._fpu_areas.append(task.fpu)
        if self.fpu_owner is task:
            self.fpu_owner = None
        if self.loaded is task:
            self.loaded = None

    def save(self, task: Task) -> None:
        """Take the task's registers out of the processor."""
        if self.loaded is not task:
            return
        processor = self.processor
        registers = task.registers
        registers[:16] = processor.q[:16].tolist()
        registers[RIP] = processor.rip
        registers[RFLAGS] = processor.rflags
        task.fs, task.gs = processor.segment_base(FS), processor.segment_base(GS)
        self.loaded = None

    def copy_to(self, task: Task, child: Task | None) -> None:
        """Take the running task's registers out of the processor; a child begins with these and its FPU."""
        self.save(task)
        if child is not None:
            child.registers = list(task.registers)
            child.fs, child.gs = task.fs, task.gs
            self.work.copy_fpu = child.fpu

    def forget(self, task: Task) -> None:
        """Forget what is in the processor, which after execve is not the task's any more."""
        if self.loaded is task:
            self.loaded = None
        if self.fpu_owner is task:
            self.fpu_owner = None
        self.machine.write(task.fpu, CLEAN_FPU)

    def set_base(self, task: Task, name: str, address: int) -> None:
        """Set the FS or GS base of the running task."""
        number = FS if name == "fs" else GS
        if self.loaded is task:
            self.processor.set_segment(number, Segment(0, address, 0, 0))
        elif name == "fs":
            task.fs = address
        else:
            task.gs = address

    def get_base(self, task: Task, name: str) -> int:
        if self.loaded is task:
            return self.processor.segment_base(FS if name == "fs" else GS)
        return task.fs if name == "fs" else task.gs

    def load_fpu(self, task: Task, data: bytes) -> None:
        """Give the task another state of its FPU."""
        self.machine.write(task.fpu, clean_fpu(data))
        if self.fpu_owner is task:
            self.fpu_owner = None

    def switch_to(self, task: Task) -> None:
        """Enter the entry code, which ends in the task."""
        processor, work = self.processor, self.work
        mm = task.process.mm
        loaded = self.loaded
        self.save(task)
        if loaded is not task:
            for number, base in ((FS, task.fs), (GS, task.gs)):
                processor.set_segment(number, Segment(0, base, 0, 0))
        if not mm.active:
            if self.active_mm is not None:
                self.active_mm.active = False
            self.active_mm = mm
            mm.active = True
            work.cr3 = mm.pgd
            who = (task.process, mm.pgd)
            self.loads[who] = self.loads.get(who, 0) + 1
            work.addresses.clear()
            work.flush_all = False
        if self.fpu_owner is not task:
            if self.fpu_owner is not None:
                work.save_fpu = self.fpu_owner.fpu
            work.load_fpu = task.fpu
            self.fpu_owner = task
        registers = task.registers
        work.give_frame(tuple(registers[:16]), registers[RIP], registers[RFLAGS])
        processor.set_segment(CS, KERNEL_CODE)
        processor.set_segment(SS, KERNEL_DATA)
        for number in (DS, ES):
            processor.set_segment(number, NO_DATA)
        processor.rflags = 2
        processor.update_modes(0)
        processor.q[4] = FRAME_GPA + DIRECT_MAP
        processor.rip = ENTRY
        work.give(processor.q, mm.pgd)
        self.loaded = task
