"""The small guest kernel: whatever it did, its tables say what it thinks, and KVM's MMU is sound."""

from array import array
from itertools import product
from random import Random
from types import SimpleNamespace

import pytest

from shadowmmu.guest.workload.kernel import Area, GuestKernel, Kind, Process
from shadowmmu.guest.workload.stream import MOV_CR3, STORE8
from shadowmmu.study.configuration import Configuration, Guest, build
from shadowmmu.study.costs import default_costs
from shadowmmu.x86.bits import PS, D, W

READ, WRITE = 4, 5
HEAP, FILE, FAR = 0x400, 0x20000, 0x70000
PAGING = ("long4", "long5", "pae", "32")


def guest(paging: str = "long4", *, npt: int = 0, vcpus: int = 1, **design: str) -> Guest:
    configuration = Configuration(
        paging=paging, memory="64M", vcpus=vcpus, params={"kvm_amd.npt": npt}, design=design
    )
    return build(configuration, default_costs(), 0)


def addresses(*pages: int) -> array:
    return array("Q", [page << 12 for page in pages])


def heap(pages: int, kind: Kind = Kind.PRIVATE, *, huge: bool = False) -> Area:
    return Area(HEAP, HEAP + pages, kind, huge=huge)


def in_memory(machine: Guest, process: Process, page: int) -> int | None:
    """The leaf gpte that the guest's tables have for a page of a process."""
    mode, table = machine.vm.mode, process.root
    top = 2 if mode.name == "32" else mode.levels
    for level in range(top, 0, -1):
        entry = machine.vm.machine.host_read(
            table + mode.index(page << 12, level) * mode.entry_size, mode.entry_size
        )
        if not entry & 1:
            return None
        if level == 1 or entry & PS:
            return entry
        table = entry & ~0xFFF & (1 << 52) - 1
    return None


def check_tables(machine: Guest) -> None:
    """All tables hold what the kernel believes, but for Accessed and Dirty, which the processor sets."""
    for process in machine.kernel.processes.values():
        for page, pte in process.pages.items():
            found = in_memory(machine, process, page)
            assert found is not None
            assert (found ^ pte) & ~0x60 == 0, (process.pid, hex(page), hex(found), hex(pte))
        for area in process.areas:
            for page in range(area.first, min(area.end, area.first + 64)):
                mapped = page in process.pages or area.huge
                assert mapped or in_memory(machine, process, page) is None
    verdict = machine.vm.check()
    assert verdict, verdict


def step(machine: Guest, rng: Random, cpu: int) -> None:
    """Something that processes do."""
    kernel: GuestKernel = machine.kernel
    process = rng.choice(list(kernel.processes.values()))
    match rng.randrange(7):
        case 0 | 1:
            area = rng.choice(process.areas)
            pages = [rng.randrange(area.first, area.end) for _ in range(8)]
            kernel.run_user(process, READ if area.kind is Kind.FILE else WRITE, addresses(*pages), cpu)
        case 2 if len(kernel.processes) < 6:
            kernel.switch(process, cpu)
            kernel.fork(process, cpu)
        case 3 if len(kernel.processes) > 1:
            kernel.exit(process, cpu)
        case 4:
            kernel.exec(process, [heap(40), Area(FILE, FILE + 8, Kind.FILE, "sh")], cpu)
        case 5:
            first = FAR + 100 * rng.randrange(50)
            if process.area(first) is None:
                kernel.mmap(process, Area(first, first + 60, rng.choice([Kind.PRIVATE, Kind.SHARED])))
        case _:
            areas = [area for area in process.areas if area.first >= FAR]
            if areas:
                kernel.switch(process, cpu)
                kernel.munmap(process, rng.choice(areas), cpu)


@pytest.mark.parametrize(("paging", "npt"), list(product(PAGING, (0, 1))))
def test_tables_say_what_the_kernel_thinks(paging: str, npt: int) -> None:
    machine, rng = guest(paging, npt=npt), Random(f"{paging} {npt}")
    machine.kernel.spawn([heap(40), Area(FILE, FILE + 8, Kind.FILE, "sh")])
    for number in range(120):
        step(machine, rng, 0)
        if number % 20 == 19:
            check_tables(machine)


@pytest.mark.parametrize("npt", [0, 1])
def test_vcpus_share_processes(npt: int) -> None:
    machine, rng = guest(npt=npt, vcpus=3), Random(npt)
    machine.kernel.spawn([heap(40), Area(FILE, FILE + 8, Kind.FILE, "sh")])
    for number in range(150):
        step(machine, rng, rng.randrange(3))
        if number % 30 == 29:
            check_tables(machine)


def test_all_memory_comes_back() -> None:
    machine = guest()
    kernel = machine.kernel
    before = kernel.frames.used
    parent = kernel.spawn([heap(1000)])
    kernel.run_user(parent, WRITE, addresses(*range(HEAP, HEAP + 1000)))
    child = kernel.fork(parent)
    kernel.run_user(child, WRITE, addresses(*range(HEAP, HEAP + 500)))
    kernel.exit(parent)
    kernel.exit(child)
    assert kernel.frames.used == before
    assert not kernel.processes


def test_fork_shares_until_one_writes() -> None:
    machine = guest()
    kernel = machine.kernel
    parent = kernel.spawn([heap(4), Area(FAR, FAR + 1, Kind.SHARED)])
    kernel.run_user(parent, WRITE, addresses(HEAP, HEAP + 1, FAR))
    frame = parent.pages[HEAP] & ~0xFFF
    child = kernel.fork(parent)
    assert [one.pages[HEAP] & (W | D | ~0xFFF) for one in (parent, child)] == [frame | D, frame]
    assert parent.pages[FAR] == child.pages[FAR]
    assert child.pages[FAR] & W
    kernel.run_user(child, WRITE, addresses(HEAP))
    assert child.pages[HEAP] & ~0xFFF != frame
    kernel.run_user(parent, WRITE, addresses(HEAP))
    assert parent.pages[HEAP] & ~0xFFF == frame, "nobody else has it any more"
    assert parent.pages[HEAP] & W
    check_tables(machine)


@pytest.mark.parametrize("paging", PAGING)
def test_populate_maps_what_faults_would(paging: str) -> None:
    machine = guest(paging)
    area = heap(1500)
    process = machine.kernel.spawn([area])
    machine.kernel.populate(process, area)
    check_tables(machine)
    machine.kernel.run_user(process, WRITE, addresses(*range(HEAP, HEAP + 1500)))
    assert machine.cpus[0].counts.page_faults == 0


@pytest.mark.parametrize("paging", ["long4", "pae", "32"])
def test_huge_pages(paging: str) -> None:
    machine = guest(paging)
    area = Area(0x800, 0x1800, Kind.PRIVATE, huge=True)
    parent = machine.kernel.spawn([area])
    machine.kernel.run_user(parent, WRITE, addresses(0x801, 0xC07))
    assert all(pte & PS for pte in parent.pages.values())
    child = machine.kernel.fork(parent)
    machine.kernel.run_user(child, WRITE, addresses(0x802))
    check_tables(machine)
    machine.kernel.exit(parent)
    machine.kernel.run_user(child, WRITE, addresses(0xC08))
    check_tables(machine)


def test_a_stale_translation_of_another_vcpu_is_flushed() -> None:
    machine = guest(vcpus=2)
    kernel = machine.kernel
    process = kernel.spawn([heap(1)])
    for cpu in (0, 1):
        kernel.run_user(process, WRITE, addresses(HEAP), cpu)
    child = kernel.fork(process, 0)
    before = machine.cpus[1].counts.page_faults
    kernel.run_user(process, WRITE, addresses(HEAP), 1)
    assert machine.cpus[1].counts.page_faults == before + 1, "the page is read-only since the fork"
    assert child.pages[HEAP] & ~0xFFF != process.pages[HEAP] & ~0xFFF


@pytest.mark.parametrize("npt", [0, 1])
def test_other_vcpus_flush_after_the_tables_have_changed(npt: int) -> None:
    machine = guest(npt=npt, vcpus=2)
    kernel = machine.kernel
    process = kernel.spawn([heap(4)])
    for cpu in (0, 1):
        kernel.run_user(process, WRITE, addresses(HEAP), cpu)
    order = []
    for number, cpu in enumerate(machine.cpus):
        run = cpu.run

        def noted(stream, start=0, *, number=number, run=run):
            order.append((number, STORE8 in bytes(stream.kinds), MOV_CR3 in bytes(stream.kinds)))
            return run(stream, start)

        machine.kernel.cpus[number] = SimpleNamespace(run=noted)
    kernel.fork(process, 0)
    assert order == [(0, True, True), (1, False, True)]
