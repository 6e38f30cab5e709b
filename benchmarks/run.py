"""Speed of the model: `python benchmarks/run.py`, figures in the table of the README.

Each workload is timed on one core with events off; where valgrind is installed, callgrind counts the
instructions of one operation, which does not depend on what else the machine does. Memory is measured as
the growth of the resident set.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from array import array
from collections.abc import Callable
from pathlib import Path

import shadowmmu
from shadowmmu.guest.play.accesses import run_accesses
from shadowmmu.guest.play.machine import Machine
from shadowmmu.host.backing import Backing
from shadowmmu.kvm.bits import MEM_LOG_DIRTY_PAGES
from shadowmmu.kvm.memory.dirty_bitmap import kvm_vm_ioctl_clear_dirty_log, kvm_vm_ioctl_get_dirty_log
from shadowmmu.kvm.memory.memory_region import kvm_set_nr_mmu_pages
from shadowmmu.kvm.pages.zap import kvm_mmu_zap_all_fast
from shadowmmu.kvm.registers.regs import set_sregs
from shadowmmu.kvm.state.vcpu import Vcpu
from shadowmmu.kvm.state.vm import Parameters
from shadowmmu.x86.bits import READ, WRITE

GIB = 1 << 30
TABLES = 4 * GIB
PAGE = 4096
CR0, CR4, EFER = 0x80010033, 0x20, 0xD00
TIMED_PAGES, COUNTED_PAGES = 1 << 20, 1 << 15
REPEAT = 5


def resident() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def guest(pages: int) -> tuple[Machine, Vcpu]:
    """A 4-level guest that maps gva i to gpa i for `pages` pages; A and D of its leaves are clear."""
    machine = Machine()
    machine.set_slot(0, 0, TABLES + (16 << 20))
    kvm_set_nr_mmu_pages(machine.kvm, 1 << 20)
    return machine, identity(machine, machine.slots[0].mapping.base_pfn << 12, pages, 7)


def tdp_guest(
    pages: int, kind: Backing = Backing.ANON, *, eager_page_split: bool = True
) -> tuple[Machine, Vcpu]:
    """The same on nested page tables, with A and D set; memory (slot 0) and tables are separate slots."""
    parameters = Parameters()
    parameters.tdp_enabled = parameters.tdp_mmu = True
    parameters.eager_page_split = eager_page_split
    machine = Machine(parameters)
    machine.set_slot(0, 0, pages * PAGE, kind=kind)
    machine.set_slot(1, TABLES, 16 << 20)
    return machine, identity(machine, (machine.slots[1].mapping.base_pfn << 12) - TABLES, pages, 0x67)


def identity(machine: Machine, base: int, pages: int, flags: int) -> Vcpu:
    """A vCPU with page tables from guest address TABLES on, which is at host address base + TABLES."""
    words = machine.arena.view()
    root, pdpt, directories = TABLES, TABLES + PAGE, TABLES + 2 * PAGE
    leaves = directories + 4 * PAGE

    def store(gpa: int, values: array[int]) -> None:
        words[(base + gpa) >> 3 : ((base + gpa) >> 3) + len(values)] = memoryview(values)

    store(root, array("Q", [pdpt | 0x27]))
    store(pdpt, array("Q", [(directories + PAGE * i) | 0x27 for i in range(4)]))
    store(directories, array("Q", [(leaves + PAGE * i) | 0x27 for i in range(2048)]))
    for first in range(0, pages, 1 << 16):
        last = min(first + (1 << 16), pages)
        store(leaves + 8 * first, array("Q", range(first * PAGE | flags, last * PAGE | flags, PAGE)))
    vcpu = machine.add_vcpu(machine.kvm.parameters.host_maxphyaddr)
    set_sregs(vcpu, CR0, root, CR4, EFER)
    return vcpu


def stream(addresses: array[int], kind: int = READ) -> tuple[memoryview, memoryview]:
    """Reads (or writes) of these addresses, as run_accesses takes them."""
    return memoryview(addresses), memoryview(array("B", [kind]) * len(addresses))


def in_order(pages: int) -> array[int]:
    return array("Q", range(0, pages * PAGE, PAGE))


def run(vcpu: Vcpu, accesses: tuple[memoryview, memoryview]) -> None:
    """Make the accesses; all must succeed."""
    if run_accesses(vcpu, *accesses, 0) != len(accesses[0]):
        raise RuntimeError("an access did not succeed")


def workload(name: str, pages: int) -> tuple[Machine, Callable[[], None], int]:
    """(machine, what to measure, operations in it) of a workload."""
    if name == "TDP cold faults":
        machine, vcpu = tdp_guest(pages)
        everything = stream(in_order(pages))
        return machine, lambda: run(vcpu, everything), pages
    machine, vcpu = guest(pages)
    everything = stream(in_order(pages))
    if name == "cold faults":
        return machine, lambda: run(vcpu, everything), pages
    run(vcpu, everything)
    if name == "TLB hits":
        few = stream(array("Q", [page % 32 * PAGE for page in range(pages)]))
        run(vcpu, few)
        return machine, lambda: run(vcpu, few), pages
    if name == "random accesses":
        rng = random.Random(1)
        scattered = stream(array("Q", [rng.randrange(pages) * PAGE for _ in range(pages)]))
        return machine, lambda: run(vcpu, scattered), pages
    if name == "zap-all":
        return machine, lambda: kvm_mmu_zap_all_fast(machine.kvm), pages
    kvm_mmu_zap_all_fast(machine.kvm)
    return machine, lambda: run(vcpu, everything), pages


WORKLOADS = ("TLB hits", "random accesses", "cold faults", "zap-all", "refill", "TDP cold faults")


def rate(name: str) -> float:
    """Million operations a second, the best of a few runs."""
    best = 0.0
    for _ in range(REPEAT):
        _, measured, operations = workload(name, TIMED_PAGES)
        start = time.perf_counter()
        measured()
        best = max(best, operations / (time.perf_counter() - start) / 1e6)
    return best


def collected(name: str, times: int) -> int:
    """Instructions inside the measured function of a workload that is prepared and run `times` times."""
    function = "kvm_mmu_zap_all_fast" if name == "zap-all" else "run_accesses"
    command = [
        "valgrind",
        "--tool=callgrind",
        "--callgrind-out-file=/dev/null",
        f"--toggle-collect=__pyx_f_*{function}",
    ]
    command += [sys.executable, __file__, "--count", name, "--times", str(times)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    line = next(line for line in output.splitlines() if "Collected" in line)
    return int(line.rpartition(":")[2])


def instructions(name: str) -> float | None:
    """Instructions of one operation, by callgrind; None without valgrind.

    What the preparation collects is taken off: a second run costs the operations alone, and a refill is
    prepared by as many cold faults.
    """
    if shutil.which("valgrind") is None:
        return None
    if name in ("cold faults", "zap-all", "TDP cold faults"):
        total = collected(name, 1)
    elif name == "refill":
        total = collected(name, 1) - collected("cold faults", 1)
    else:
        total = collected(name, 2) - collected(name, 1)
    return total / COUNTED_PAGES


def seconds_of(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def dirty_logging() -> dict[str, dict[str, float | None]]:
    """What logging costs on 4 GiB in 2 MiB pages under nested paging: once, without repetition."""
    figures: dict[str, dict[str, float | None]] = {}
    for eager in (False, True):
        machine, vcpu = tdp_guest(TIMED_PAGES, Backing.HUGE2M, eager_page_split=eager)
        run(vcpu, stream(array("Q", range(0, TIMED_PAGES * PAGE, 512 * PAGE)), WRITE))
        machine.slots[0].flags = MEM_LOG_DIRTY_PAGES
        enabled = seconds_of(lambda: machine.set_region(0))  # noqa: B023  # called at once
        figures[f"log on, {'eager' if eager else 'no'} split"] = {"ms": enabled * 1e3}
    kvm, writes = machine.kvm, stream(in_order(TIMED_PAGES), WRITE)

    def per_second(action: Callable[[], object]) -> dict[str, float | None]:
        return {"M/s": TIMED_PAGES / seconds_of(action) / 1e6}

    figures["write faults while logging"] = per_second(lambda: run(vcpu, writes))
    figures["GET, all dirty"] = per_second(lambda: kvm_vm_ioctl_get_dirty_log(kvm, 0))
    figures["GET, clean"] = per_second(lambda: kvm_vm_ioctl_get_dirty_log(kvm, 0))
    run(vcpu, writes)
    figures["CLEAR, all dirty"] = per_second(lambda: kvm_vm_ioctl_clear_dirty_log(kvm, 0, 0, TIMED_PAGES))
    figures["CLEAR, clean"] = per_second(lambda: kvm_vm_ioctl_clear_dirty_log(kvm, 0, 0, TIMED_PAGES))
    return figures


def memory_per_page() -> tuple[float, float]:
    """(bytes per mapped 4 KiB page, all included; KiB per shadow page, without the pages' rmap heads)."""
    machine, measured, pages = workload("cold faults", TIMED_PAGES)
    before = resident()
    measured()
    grown = resident() - before
    return grown / pages, (grown - 8 * pages) / machine.kvm.n_used_mmu_pages / 1024


def start_of_large_guest() -> tuple[float, float]:
    """(seconds, MiB) to make a guest of 1 TiB."""
    before, start = resident(), time.perf_counter()
    machine = Machine()
    machine.set_slot(0, 0, 1 << 40)
    return time.perf_counter() - start, (resident() - before) / (1 << 20)


def count(name: str, times: int) -> None:
    """What callgrind watches: prepare a workload and run it."""
    _, measured, _ = workload(name, COUNTED_PAGES)
    for _ in range(times):
        measured()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--count", choices=WORKLOADS, help=argparse.SUPPRESS)
    parser.add_argument("--times", type=int, default=1, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.count:
        count(arguments.count, arguments.times)
        return
    if not shadowmmu.native:
        sys.exit("benchmarks: needs the compiled modules (make build)")
    per_page, per_shadow_page = memory_per_page()
    seconds, mebibytes = start_of_large_guest()
    figures: dict[str, dict[str, float | None]] = {
        name: {"M/s": rate(name), "instructions": instructions(name)} for name in WORKLOADS
    }
    figures |= dirty_logging()
    figures["memory"] = {"bytes per page": per_page, "KiB per shadow page": per_shadow_page}
    figures["1 TiB guest"] = {"seconds": seconds, "MiB": mebibytes}
    if arguments.json:
        print(json.dumps(figures, indent=2))
        return
    for name, values in figures.items():
        cells = (f"{value:,.4g} {unit}" for unit, value in values.items() if value is not None)
        print(f"{name:28} " + "   ".join(cells))


if __name__ == "__main__":
    main()
