"""Events as the text of the kernel's trace file, for the tools that read it.

The model has no clock: every line takes one microsecond. Each op begins with a marker that shows its text.
"""

from __future__ import annotations

from typing import TextIO

from shadowmmu.trace.recording import PlayedOp

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


class FtraceWriter:
    """Writes a trace file; each vCPU is a task on a CPU of its own."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._microseconds = 0
        file.write(_HEADER)

    def write(self, played: PlayedOp) -> None:
        """Append the events of one op."""
        self._line(played.vcpu, "tracing_mark_write", f"op {played.op}: {played.text}")
        for event in played.events:
            self._line(played.vcpu, event.name, event.text())

    def _line(self, vcpu: int, name: str, text: str) -> None:
        self._microseconds += 1
        seconds, fraction = divmod(self._microseconds, 1_000_000)
        task = f"{f'CPU {vcpu}/KVM':>16}-{_FIRST_PID + vcpu:<7d} [{vcpu:03d}]"
        self._file.write(f"{task} ..... {seconds:5d}.{fraction:06d}: {name}: {text}\n")
