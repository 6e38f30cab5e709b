"""Events as the text of the kernel's trace file, for the tools that read it.

The model has no clock: every line takes one microsecond. Each op begins with a marker that shows its text.
"""

from __future__ import annotations

from typing import Protocol

from shadowmmu.kvm.tracepoints.event import Event
from shadowmmu.trace.recorder import PlayedOp

__all__ = ["FtraceWriter"]

_HEADER = """\
# tracer: nop
#
#                                _-----=> irqs-off/BH-disabled
#                               / _----=> need-resched
#                              | / _---=> hardirq/softirq
#                              || / _--=> preempt-depth
#                              ||| / _-=> migrate-disable
#                              |||| /     delay
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
#              | |         |   |||||     |         |
"""
_FIRST_PID = 1000
_KERNEL_PID = 900


class _Written(Protocol):
    """What a trace is written to."""

    def write(self, text: str, /) -> object: ...


def _task_of(vcpu: int) -> tuple[str, int]:
    return f"CPU {vcpu}/KVM", _FIRST_PID + vcpu


class FtraceWriter:
    """Writes a trace file; each vCPU is a task on a CPU of its own, beside KVM's kernel threads."""

    def __init__(self, file: _Written) -> None:
        self._file = file
        self._microseconds = 0
        file.write(_HEADER)

    def write(self, played: PlayedOp) -> None:
        """Append the events of one op."""
        self._line(_task_of(played.vcpu), played.vcpu, "tracing_mark_write", f"op {played.op}: {played.text}")
        for event in played.events:
            self.event(event, played.vcpu)

    def event(self, event: Event, vcpu: int = 0) -> None:
        """Append one event; as a listener it writes them as they come."""
        task = (event.task, _KERNEL_PID) if event.task else _task_of(vcpu)
        self._line(task, vcpu, event.name, event.text())

    def _line(self, task: tuple[str, int], cpu: int, name: str, text: str) -> None:
        self._microseconds += 1
        seconds, fraction = divmod(self._microseconds, 1_000_000)
        where = f"{task[0]:>16}-{task[1]:<7d} [{cpu:03d}]"
        self._file.write(f"{where} ..... {seconds:5d}.{fraction:06d}: {name}: {text}\n")
