"""What the kernel runs on."""

from collections.abc import Callable
from typing import Protocol

from ..svm.clock import Clock
from ..svm.registers import Segment
from .entry import Memory


class ProcessorState(Protocol):
    """What the kernel needs of the processor's registers (guest/svm/processor.py)."""

    q: memoryview
    rip: int
    rflags: int

    @property
    def cpl(self) -> int: ...
    def segment_base(self, number: int) -> int: ...
    def set_segment(self, number: int, segment: Segment) -> None: ...
    def update_modes(self, cpl: int | None = None) -> None: ...


class Computer(Memory, Protocol):
    """What the kernel runs on (guest/svm/machine.py)."""

    clock: Clock

    @property
    def processor(self) -> ProcessorState: ...
    def start_long(self, rip: int, cr3: int, *, rsp: int = 0, user: bool = False, cr4: int = 0) -> None: ...
    def on_syscall(self, callback: Callable[[], None]) -> None: ...
    def on_vmmcall(self, callback: Callable[[], None]) -> None: ...
    def on_exception(self, callback: Callable[[int, int | None, int], bool]) -> object: ...
    def on_idle(self, callback: Callable[[], None]) -> None: ...
    def stop(self, reason: str = "stopped", detail: object = None) -> None: ...
