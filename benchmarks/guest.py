"""Speed of machine code on the model: exits, shadow faults, what a guest does between them.

    python benchmarks/guest.py [--json]

Needs the compiled modules and the extra `shadowmmu[guest]`. Processor time, best of three; shadow paging and,
where it matters, nested paging with the TDP MMU.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable

import shadowmmu
from shadowmmu.guest.svm import EmulatorError
from shadowmmu.guest.svm.machine import SvmMachine
from shadowmmu.x86.bits import NX, A, D, P, W

CODE, DATA, TABLES = 0x200000, 0x400000, 0x10000000
MEMORY = 512 << 20
REPEATS = 3

LOOP = b"\xff\xcf\x75"  # dec edi; jnz
HLT = b"\xf4"


def loop(body: bytes) -> bytes:
    """`body`, EDI times, then HLT."""
    return body + LOOP + (-(len(body) + 4) & 0xFF).to_bytes(1, "little") + HLT


INVLPG = b"\x0f\x01\x3c\x25\x00\x00\x40\x00"  # invlpg [0x400000]
LOAD = b"\x48\x8b\x04\x25\x00\x00\x40\x00"  # mov rax, [0x400000]
STORE = b"\x48\x89\x1c\x25\x00\x00\x40\x00"  # mov [0x400000], rbx
NEXT_PAGE = b"\x48\x81\xc6\x00\x10\x00\x00"  # add rsi, 4096
WORKLOADS: dict[str, tuple[bytes, int]] = {
    "CPUID": (loop(b"\x31\xc0\x0f\xa2"), 200_000),
    "OUT": (loop(b"\xe6\x80"), 300_000),
    "first accesses, in order": (loop(b"\x48\x8b\x06" + NEXT_PAGE), 60_000),
    "INVLPG, access": (loop(INVLPG + LOAD), 100_000),
    "MOV to CR3": (loop(b"\x0f\x22\xd8"), 50_000),
    "exception, IRET": (loop(b"\x0f\x0b"), 50_000),
    "write to a page directory": (loop(b"\x48\x89\x1e"), 50_000),
    "loads that hit": (loop(LOAD * 8), 2_000_000),
    "stores that hit, page NX": (loop(STORE * 8), 1_000_000),
    "stores that hit, page executable": (loop(STORE * 8), 100_000),
}
PER_ITERATION = {"loads that hit": 8, "stores that hit, page NX": 8, "stores that hit, page executable": 8}
NESTED = ("CPUID", "first accesses, in order", "exception, IRET")


def prepare(name: str, *, npt: bool) -> SvmMachine:
    """A 64-bit guest at the begin of its loop; memory from 0 is mapped one to one in 4 KiB pages."""
    machine = SvmMachine(MEMORY, npt=npt)
    code, count = WORKLOADS[name]
    pages = DATA // 4096 + WORKLOADS["first accesses, in order"][1] + 1
    leaf_tables = (pages + 511) // 512
    root, upper, directory, leaves = (TABLES + 0x1000 * i for i in range(4))
    rights = P | W | A | D
    bad = NX if name.endswith("NX") else 0
    data_rights = P | W | bad  # without Accessed, which would let KVM map neighbours with a fault
    entries = b"".join(
        (page << 12 | (data_rights if page << 12 >= DATA else rights)).to_bytes(8, "little")
        for page in range(pages)
    )
    machine.write(leaves, entries)
    machine.write(
        directory, b"".join((leaves + 0x1000 * i | rights).to_bytes(8, "little") for i in range(leaf_tables))
    )
    machine.write(upper, (directory | rights).to_bytes(8, "little"))
    machine.write(root, (upper | rights).to_bytes(8, "little"))
    machine.write(leaves + 8 * (DATA // 4096 + 7), (directory | rights).to_bytes(8, "little"))
    machine.write(CODE, code)
    machine.start_long(CODE, root, rsp=0x8000)
    machine.set("rdi", count)
    machine.set("rsi", DATA)
    machine.set("rax", root)
    if name == "write to a page directory":
        machine.set("rsi", DATA + 7 * 4096 + 0xF00)
    if name == "exception, IRET":
        handle_exceptions(machine)
    return machine


def handle_exceptions(machine: SvmMachine) -> None:
    """A handler that steps over two bytes and returns."""
    from shadowmmu.guest.svm.registers import Segment

    handler, idt, gdt = 0x5000, 0x6000, 0x7000
    machine.write(handler, b"\x48\x83\x04\x24\x02\x48\xcf")  # add qword ptr [rsp], 2; iretq
    gate = handler & 0xFFFF | 8 << 16 | 0x8E00 << 32
    machine.write(idt + 6 * 16, gate.to_bytes(16, "little"))
    machine.write(gdt + 8, (0x00AF9B000000FFFF).to_bytes(8, "little"))
    machine.write(gdt + 16, (0x00CF93000000FFFF).to_bytes(8, "little"))
    machine.set_segment("idtr", Segment(0, idt, 0xFFF, 0))
    machine.set_segment("gdtr", Segment(0, gdt, 0x17, 0))


def seconds(action: Callable[[], object]) -> float:
    start = time.process_time()
    action()
    return time.process_time() - start


def rate(name: str, *, npt: bool) -> float:
    """Operations a second, best of REPEATS."""
    best = float("inf")
    for _ in range(REPEATS):
        machine = prepare(name, npt=npt)
        outcome: list[object] = []
        best = min(best, seconds(lambda: outcome.append(machine.run(seconds=120))))  # noqa: B023  # at once
        if getattr(outcome[0], "reason", None) != "hlt":
            sys.exit(f"{name}: {outcome[0]}")
    return WORKLOADS[name][1] * PER_ITERATION.get(name, 1) / best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    if not shadowmmu.native:
        sys.exit("benchmarks: needs the compiled modules (make build)")
    figures = {}
    try:
        for name in WORKLOADS:
            figures[name] = {"per second": rate(name, npt=False)}
            if name in NESTED:
                figures[name]["nested paging"] = rate(name, npt=True)
    except EmulatorError as error:
        sys.exit(f"benchmarks: {error}")
    if arguments.json:
        print(json.dumps(figures, indent=2))
        return
    for name, values in figures.items():
        print(f"{name:34} " + "   ".join(f"{value:13,.0f} {unit}" for unit, value in values.items()))


if __name__ == "__main__":
    main()
