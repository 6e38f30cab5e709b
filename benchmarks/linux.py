"""Linux programs on the model against the same emulator with its own MMU: `python benchmarks/linux.py`.

All run the same guest kernel on the same emulated instructions. The yardstick walks the guest's page tables
itself; with npt=0 the model shadows them, with npt=1 it has nested tables. Times are of one run each, best of
a few; they include what the guest kernel does in Python.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from shadowmmu.guest.linux.computer import Computer
from shadowmmu.guest.linux.kernel import Kernel
from shadowmmu.guest.svm.machine import Outcome, SvmMachine
from shadowmmu.guest.svm.processor import SvmProcessor
from shadowmmu.guest.svm.registers import HF_GUEST, HF_SVME
from shadowmmu.host.backing import Backing
from shadowmmu.host.memory import Arena

MEMORY = 512 << 20
SORT = r"""
#include <stdio.h>
#include <stdlib.h>
static int compare(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;
    return x < y ? -1 : x > y;
}
int main(void)
{
    unsigned n = 1000000, seed = 1;
    unsigned long sum = 0;
    int *numbers = malloc(n * sizeof *numbers);
    for (unsigned i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        numbers[i] = seed >> 1;
    }
    qsort(numbers, n, sizeof *numbers, compare);
    for (unsigned i = 0; i < n; i++)
        sum = sum * 31 + numbers[i];
    printf("%lu\n", sum);
    return 0;
}
"""
TOOLS = {
    "sort of 100,000 lines": "seq 1 100000 | sort -r | tail -1",
    "gzip of 4 MB": "seq 1 600000 | gzip -c | wc -c",
    "sha256sum of 14 MB": "seq 1 2000000 | sha256sum",
    "awk, 300,000 turns": "awk 'BEGIN { for (i = 0; i < 300000; i++) s += i * i; print s }'",
    "200 forks": "i=0; while [ $i -lt 200 ]; do (:); i=$((i+1)); done",
    "100 times fork, exec, pipe": "i=0; while [ $i -lt 100 ]; do echo $i | cat >/dev/null; i=$((i+1)); done",
}
EXCEPTIONS_WITH_ERROR = (8, 10, 11, 12, 13, 14, 17)
UNDEFINED = 6
HOUR = 3600.0


class PlainProcessor(SvmProcessor):
    """The emulator as it is, without SVM: guest-physical addresses are those of the arena."""

    def _enter(self) -> None:
        pass

    def request_tick(self) -> None:
        """There is no exit that it could come as; the programs here take turns by waiting."""

    def update_modes(self, cpl: int | None = None) -> None:
        super().update_modes(cpl)
        self.d[self.hflags_word] &= ~(HF_SVME | HF_GUEST)


class PlainComputer:
    """A machine for the guest kernel whose MMU is the emulator's own."""

    def __init__(self, memory: int) -> None:
        self.size = memory
        arena = Arena(memory)
        self.bytes = arena.view().cast("B")
        self.processor = PlainProcessor(arena, npt=False)
        self.processor.on_exit = self._on_exception
        self.processor.on_syscall = self._on_syscall
        self.outcome: Outcome | None = None

    def read(self, gpa: int, size: int) -> bytes:
        return bytes(self.bytes[gpa : gpa + size])

    def write(self, gpa: int, data: bytes) -> None:
        self.bytes[gpa : gpa + len(data)] = data
        self.processor.invalidate_code(gpa, len(data))

    def start_long(self, rip: int, cr3: int, *, rsp: int = 0, user: bool = False, cr4: int = 0) -> None:
        processor = self.processor
        for number, value in ((0, 0x80010031), (3, cr3), (4, cr4)):
            processor.set_cr(number, value)
        processor.efer, processor.long_mode = 0xD01, True
        processor.rip = rip

    def on_syscall(self, callback: Callable[[], None]) -> None:
        self.syscall = callback

    def on_vmmcall(self, callback: Callable[[], None]) -> None:
        self.vmmcall = callback

    def on_exception(self, callback: Callable[[int, int | None, int], bool]) -> None:
        self.exception = callback

    def on_idle(self, callback: Callable[[], None]) -> None:
        pass

    def stop(self, reason: str = "stopped", detail: object = None) -> None:
        self.outcome = Outcome(reason, detail)
        self.processor.stop()

    def _on_syscall(self) -> None:
        processor = self.processor
        processor.q[1], processor.q[11] = processor.rip + 2, processor.rflags
        processor.rip += 2
        self.syscall()
        processor.rip -= 2

    def _on_exception(self, vector: int) -> None:
        """Also forget the exception in flight (`old_exception`, before `vm_vmcb`), or the next is a #DF."""
        processor = self.processor
        processor.d[processor.layout.vmcb - 8 >> 2] = 0xFFFFFFFF
        if vector == UNDEFINED and processor.cpl == 0:
            processor.rip += 3
            self.vmmcall()
            return
        error = processor.exit_info1 if vector in EXCEPTIONS_WITH_ERROR else None
        self.exception(vector, error, processor.cr(2))

    def run(self) -> Outcome:
        self.processor.flush()
        while self.outcome is None:
            self.processor.run(time.monotonic() + HOUR)
        return self.outcome


def machines() -> dict[str, Callable[[], Computer]]:
    return {
        "own MMU": lambda: PlainComputer(MEMORY),
        "npt=0": lambda: SvmMachine(MEMORY, npt=False, backing=Backing.THP),
        "npt=1": lambda: SvmMachine(MEMORY, npt=True, backing=Backing.THP),
    }


def seconds(make: Callable[[], Computer], path: Path, arguments: Sequence[str]) -> tuple[float, int]:
    """How long a program runs on a machine, and its status; what it prints is thrown away."""
    machine = make()
    kernel = Kernel(machine, warn=lambda text: print(text, file=sys.stderr))
    sys.stdout.flush()
    kept, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    try:
        kernel.start(path, arguments)
        started = time.perf_counter()
        outcome = machine.run()  # type: ignore[attr-defined]
        taken = time.perf_counter() - started
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(null)
        kernel.close()
    if outcome.reason != "exit":
        raise RuntimeError(f"{arguments}: {outcome}")
    return taken, kernel.status or 0


def native(path: Path, arguments: Sequence[str]) -> float:
    started = time.perf_counter()
    subprocess.run([path, *arguments[1:]], stdout=subprocess.DEVNULL, check=False)
    return time.perf_counter() - started


def workloads(folder: Path) -> dict[str, tuple[Path, list[str]]]:
    found: dict[str, tuple[Path, list[str]]] = {}
    if shutil.which("gcc"):
        source, program = folder / "sort.c", folder / "sort"
        source.write_text(SORT)
        subprocess.run(["gcc", "-O2", "-static", "-o", program, source], check=True)
        found["qsort of 1 M integers"] = (program, ["sort"])
    busybox = shutil.which("busybox")
    if busybox:
        for name, script in TOOLS.items():
            found[name] = (Path(busybox), ["busybox", "sh", "-c", script])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3, help="runs of each, the best counts")
    parser.add_argument("--only", default="", help="workloads whose name contains this")
    options = parser.parse_args()
    print(f"{'':28}{'native':>10}{'own MMU':>10}{'npt=0':>10}{'':>7}{'npt=1':>10}{'':>7}")
    with tempfile.TemporaryDirectory() as folder:
        for name, (path, arguments) in workloads(Path(folder)).items():
            if options.only not in name:
                continue
            times = {"native": min(native(path, arguments) for _ in range(options.repeat))}
            for kind, make in machines().items():
                times[kind] = min(seconds(make, path, arguments)[0] for _ in range(options.repeat))
            own = times["own MMU"]
            print(
                f"{name:28}{times['native']:9.3f}s{own:9.3f}s"
                + "".join(f"{times[k]:9.3f}s{times[k] / own:6.2f}x" for k in ("npt=0", "npt=1")),
                flush=True,
            )


if __name__ == "__main__":
    main()
