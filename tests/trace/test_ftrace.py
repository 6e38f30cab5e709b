"""The trace file reads like the kernel's."""

import io
import re
from pathlib import Path

from shadowmmu.trace.ftrace import FtraceWriter
from shadowmmu.trace.recording import Recording

CONFORMANCE = Path(__file__).parents[1] / "conformance"
LINE = re.compile(r"^\s*(.+)-(\d+)\s+\[(\d+)\]\s+(\S{5})\s+(\d+\.\d{6}): (\w+): (.*)$")


def test_lines(fixture_path, machine_of):
    file = io.StringIO()
    writer = FtraceWriter(file)
    played = list(machine_of(Recording.read(fixture_path)).played())
    for op in played:
        writer.write(op)
    lines = file.getvalue().splitlines()
    header = [line for line in lines if line.startswith("#")]
    assert header[0] == "# tracer: nop"
    assert lines[: len(header)] == header
    matches = [LINE.match(line) for line in lines[len(header) :]]
    assert all(matches)
    expected = []
    for op in played:
        expected.append(("tracing_mark_write", f"op {op.op}: {op.text}"))
        expected += [(event.name, event.text()) for event in op.events]
    assert [match.group(6, 7) for match in matches] == expected
    times = [float(match[5]) for match in matches]
    assert times == sorted(set(times))


def test_a_kernel_thread_is_a_task_of_its_own(machine_of):
    file = io.StringIO()
    writer = FtraceWriter(file)
    for op in machine_of(Recording.read(CONFORMANCE / "recordings" / "x-nx-recovery.jsonl")).played():
        writer.write(op)
    matches = [LINE.match(line) for line in file.getvalue().splitlines() if "prepare_zap_page" in line]
    assert [match[1].strip() for match in matches] == ["kvm-nx-lpage-re"] * 3
