"""Traces that `shadowmmu run` writes: KVM's events as ftrace prints them, and as a timeline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shadowmmu.cli.outputs import output

if TYPE_CHECKING:
    from shadowmmu.kvm.state.vm import Kvm
    from shadowmmu.show.perfetto.played import ScenarioTimelines

__all__ = ["NO_TRACES", "Traces", "scenario_timelines", "traced_program"]


@dataclass(frozen=True, slots=True)
class Traces:
    """Where traces are written."""

    events: Path | None = None
    """The kernel's trace file (--events)."""
    perfetto: Path | None = None
    """The timeline (--perfetto)."""

    @property
    def by_option(self) -> Mapping[str, Path | None]:
        """Return the files by their options."""
        return {"--events": self.events, "--perfetto": self.perfetto}


NO_TRACES = Traces()


@contextmanager
def scenario_timelines(path: Path) -> Iterator[ScenarioTimelines]:
    """Open the timeline of scenarios. Raises OSError."""
    from shadowmmu.show.perfetto.played import ScenarioTimelines
    from shadowmmu.show.perfetto.trace_file import TraceFile

    with output(path) as written:
        file = TraceFile(written)
        yield ScenarioTimelines(file)
        file.close()


@contextmanager
def traced_program(kvm: Kvm, traces: Traces) -> Iterator[None]:
    """Write the traces of a VM while a program runs. Raises OSError."""
    with ExitStack() as stack:
        if traces.events is not None:
            from shadowmmu.trace.ftrace import FtraceWriter

            written = stack.enter_context(output(traces.events))
            stack.enter_context(kvm.tracer.listening(FtraceWriter(written).event))
        if traces.perfetto is not None:
            from shadowmmu.show.perfetto.played import program_timeline
            from shadowmmu.show.perfetto.trace_file import TraceFile

            file = TraceFile(stack.enter_context(output(traces.perfetto)))
            stack.callback(file.close)
            stack.enter_context(program_timeline(kvm, file, "program"))
        yield
