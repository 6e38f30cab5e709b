"""The public face for programs: a virtual machine with page tables, accesses, events and statistics.

vm = Vm(memory="64M", paging="4-level")
vm.map(0x400000, 0x800000, pages=4)
vcpu = vm.vcpus[0]
with vm.trace() as events:
    vcpu.write(0x400000, 42)
for event in events: print(event)
vm.stats.pf_fixed
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType

from .guest.play.accesses import run_accesses
from .guest.play.cpu import Delivered, GuestCpu
from .guest.play.machine import Machine
from .guest.play.stubs import Step
from .host.mapping import Kind
from .kvm.bits import MEM_LOG_DIRTY_PAGES
from .kvm.design.design import design_of
from .kvm.design.switches import DEFAULT_KERNEL
from .kvm.exits.emulate import MmioAccess
from .kvm.exits.page_fault_exit import complete_page_fault
from .kvm.exits.run import DirtyRingFull, TripleFault
from .kvm.guest_access.dirty_ring import ENTRY_BYTES, dirty_ring_of
from .kvm.memory.capabilities import (
    KVM_CAP_DIRTY_LOG_RING,
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
    kvm_vm_ioctl_enable_cap,
)
from .kvm.memory.dirty_log import cpu_dirty_log_size
from .kvm.memory.dirty_log_ioctl import (
    INITIALLY_SET,
    MANUAL_PROTECT,
    kvm_vm_ioctl_clear_dirty_log,
    kvm_vm_ioctl_get_dirty_log,
    kvm_vm_ioctl_reset_dirty_pages,
)
from .kvm.registers.regs import set_sregs
from .kvm.state.tracepoints import Tracer
from .kvm.state.vcpu import Vcpu as KvmVcpu
from .kvm.state.vm import Parameters
from .trace.events import Event, EventLog
from .x86.bits import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_PSE,
    EFER_LMA,
    EFER_LME,
    EFER_NX,
    NESTED_FAULT,
    NX,
    PF_VECTOR,
    PS,
    WRITE,
    A,
    D,
    P,
    U,
    W,
)
from .x86.insn import Insn, Op
from .x86.paging import FIVE_LEVEL, FOUR_LEVEL, NO_PAGING, PAE, TWO_LEVEL, PagingFormat

__all__ = ["DirtyRingFull", "GuestFault", "Stats", "Trace", "Vcpu", "Vm"]

_FORMATS = {"none": NO_PAGING, "32": TWO_LEVEL, "pae": PAE, "4-level": FOUR_LEVEL, "5-level": FIVE_LEVEL}
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class GuestFault(Exception):
    """The guest got an exception; for a #PF (vector 14) `address` is CR2."""

    def __init__(self, vector: int, error_code: int | None, address: int) -> None:
        code = "" if error_code is None else f", error code {error_code:#x}"
        super().__init__(f"exception {vector} at {address:#x}{code}")
        self.vector = vector
        self.error_code = error_code
        self.address = address


def _bytes(size: int | str) -> int:
    """A size in bytes: a number, or text such as 64M. Raises ValueError."""
    if isinstance(size, int):
        return size
    match = re.fullmatch(r"(\d+)([KMGT]?)", size)
    if not match:
        raise ValueError(f"size {size!r} is not a number with K, M, G or T behind it")
    return int(match[1]) * _UNITS[match[2]]


def _physical_bits(name: str, bits: int) -> int:
    """Bits of a physical address. Raises ValueError."""
    if not 32 <= bits <= 52:
        raise ValueError(f"{name}={bits} must be 32 to 52")
    return bits


class Stats:
    """KVM's statistics of a VM by name: its own, and those of the vCPUs summed up."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def as_dict(self) -> dict[str, int]:
        """All of them."""
        totals = self._machine.kvm.vm_stats()
        for vcpu in self._machine.kvm.vcpus:
            for name, value in vcpu.stat.as_dict().items():
                totals[name] = totals.get(name, 0) + value
        return totals

    def __getattr__(self, name: str) -> int:
        try:
            return self.as_dict()[name]
        except KeyError:
            raise AttributeError(f"KVM has no statistic {name!r}") from None


class Trace:
    """The events of a VM from its creation on: iterate over what happened so far, or use it with `with`."""

    def __init__(self, vm: Vm) -> None:
        self._vm = vm
        self._log = EventLog()
        self._events: list[Event] = []
        self.start()

    def start(self) -> None:
        """Listen. One trace listens at a time."""
        self._vm.machine.kvm.attach(self._log)
        self._vm.machine.kvm.tracing = True

    def stop(self) -> None:
        """Stop listening; without a listener events cost nothing."""
        kvm = self._vm.machine.kvm
        if kvm.tracer is self._log:
            kvm.tracing = False
            kvm.tracer = Tracer()

    def __enter__(self) -> Trace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.stop()

    def __iter__(self) -> Iterator[Event]:
        self._events.extend(self._log.take())
        return iter(self._events)


class Vcpu:
    """A vCPU of a Vm. Its accesses raise GuestFault where the guest would get an exception, and DirtyRingFull
    where its dirty ring must be harvested and reset before it may go on.
    """

    def __init__(self, state: KvmVcpu, mmio: Callable[[MmioAccess], int]) -> None:
        self.state = state
        self._cpu = GuestCpu(state, mmio)

    def _execute(self, insn: Insn, *, user: bool = False) -> Insn:
        try:
            delivered = self._cpu.execute(Step(self.state.rip + 1, user, insn))
        except TripleFault:
            raise GuestFault(8, 0, self.state.cr2) from None
        finally:
            self._cpu.leave()
        if delivered is not None:
            self._raise(delivered)
        return insn

    def _raise(self, delivered: Delivered) -> None:
        address = self.state.cr2 if delivered.vector == PF_VECTOR else self.state.cpu.fault_gva
        raise GuestFault(delivered.vector, delivered.error_code, address)

    def read(self, gva: int, size: int = 8, *, user: bool = False) -> int:
        """Load `size` (1, 2, 4, 8) bytes; `user`: at CPL 3."""
        return self._execute(Insn(Op.LOAD, address=gva, size=size), user=user).result

    def write(self, gva: int, value: int, size: int = 8, *, user: bool = False) -> None:
        """Store the low `size` bytes of value."""
        self._execute(Insn(Op.STORE, address=gva, size=size, value=value), user=user)

    def xchg(self, gva: int, value: int, size: int = 8, *, user: bool = False) -> int:
        """Exchange atomically; the old value."""
        return self._execute(Insn(Op.XCHG, address=gva, size=size, value=value), user=user).result

    def execute(self, gva: int, *, user: bool = False) -> None:
        """Fetch an instruction at gva; what it is does not matter."""
        self.run([gva], [2 | (4 if user else 0)])

    def invlpg(self, gva: int) -> None:
        """INVLPG."""
        self._execute(Insn(Op.INVLPG, address=gva))

    @property
    def cr3(self) -> int:
        """The guest's CR3; setting it is a MOV to CR3."""
        return self.state.cr3

    @cr3.setter
    def cr3(self, value: int) -> None:
        self._execute(Insn(Op.MOV_CR3, value=value))

    @property
    def cr0(self) -> int:
        """The guest's CR0; setting it is a MOV to CR0."""
        return self.state.cr0

    @cr0.setter
    def cr0(self, value: int) -> None:
        self._execute(Insn(Op.MOV_CR0, value=value))

    @property
    def cr4(self) -> int:
        """The guest's CR4; setting it is a MOV to CR4."""
        return self.state.cr4

    @cr4.setter
    def cr4(self, value: int) -> None:
        self._execute(Insn(Op.MOV_CR4, value=value))

    def run(self, gvas: Sequence[int], kinds: Sequence[int]) -> None:
        """A stream of accesses at full speed: kinds are 0 read, 1 write, 2 fetch, plus 4 for CPL 3.

        Arrays (format 'Q' and 'B') are used as they are. No data is moved: a write that KVM must emulate,
        because it goes to a shadowed page table, leaves the table as it is.
        """
        from array import array

        addresses = gvas if isinstance(gvas, memoryview) else memoryview(array("Q", gvas))
        modes = kinds if isinstance(kinds, memoryview) else memoryview(array("B", kinds))
        if len(addresses) != len(modes):
            raise ValueError(f"{len(addresses)} addresses but {len(modes)} kinds")
        try:
            done = run_accesses(self.state, addresses, modes, 0)
            while done < len(addresses):
                self._finish(addresses[done], modes[done])
                done = run_accesses(self.state, addresses, modes, done + 1)
        finally:
            self._cpu.leave()

    def _finish(self, gva: int, kind: int) -> None:
        """Complete an access that needs more than the MMU."""
        state = self.state
        nested = state.kvm.parameters.tdp_enabled
        exiting = NESTED_FAULT if nested else PF_VECTOR
        if state.cpu.fault_vector == exiting and state.exception is None:
            op = Op.STORE if kind & 3 == WRITE else Op.LOAD
            insn = Insn(op, address=gva & ~7, size=8)
            if op is Op.STORE:
                insn.value = self._cpu.emulator.peek(insn.address, 8)
            state.cpl = 3 if kind & 4 else 0
            address = state.cpu.fault_gpa if nested else gva
            complete_page_fault(state, self._cpu.emulator, insn, address)
        if state.exception is not None:
            exception, state.exception = state.exception, None
            address = exception.cr2 if exception.cr2 is not None else gva
            raise GuestFault(exception.vector, exception.error_code, address)
        if state.cpu.fault_vector != exiting:
            error_code = state.cpu.fault_error_code if state.cpu.fault_vector == PF_VECTOR else 0
            raise GuestFault(state.cpu.fault_vector, error_code, gva)


class Vm:
    """A virtual machine on KVM's shadow MMU.

    memory    bytes of guest memory from address 0, a number or text such as "64M"
    paging    the guest's tables: "none", "32", "pae", "4-level", "5-level"
    vcpus     number of vCPUs; all start with the same page tables
    backing   what the host gives: Kind.ANON (4 KiB pages), THP, HUGE2M, HUGE1G, MEMFD
    kernel    whose KVM: "6.12.111", "6.1.176"
    design    switches that are not as that kernel has them, {"invlpg_zaps": "yes"}; `shadowmmu designs` has
              them all
    vendor    whose processor: "amd", "intel"
    tlb       False: every access walks the tables
    nested_paging
              the guest's tables are used as they are, and guest-physical memory is mapped by nested tables:
              by the TDP MMU, or with tdp_mmu=False by shadow pages
    eptad, pml
              on Intel with nested_paging: EPT has Accessed and Dirty; with those the processor logs the
              pages that become dirty
    eager_page_split
              logging splits huge pages before they are written to (TDP MMU only)
    dirty_ring
              entries of each vCPU's dirty ring, a power of two from 256 on; 0: a bitmap logs
    hostbits, physbits
              bits of a physical address, 32 to 52: those of the host's processor (MAXPHYADDR), and those that
              the guest is shown; by default the host's
    mmio      answers accesses to addresses without memory; by default reads give all ones

    The guest's page tables are at the top of its memory, made by `map` as they are needed.
    """

    def __init__(
        self,
        memory: int | str = "64M",
        paging: str = "4-level",
        *,
        vcpus: int = 1,
        backing: Kind = Kind.ANON,
        kernel: str = DEFAULT_KERNEL,
        design: Mapping[str, str] | None = None,
        vendor: str = "amd",
        tlb: bool = True,
        nx_huge_pages: bool = False,
        nested_paging: bool = False,
        tdp_mmu: bool = True,
        eptad: bool = True,
        pml: bool = True,
        eager_page_split: bool = True,
        dirty_ring: int = 0,
        hostbits: int = 46,
        physbits: int | None = None,
        mmio: Callable[[MmioAccess], int] | None = None,
    ) -> None:
        if paging not in _FORMATS:
            raise ValueError(f"paging {paging!r} is none of {', '.join(_FORMATS)}")
        if vendor not in ("amd", "intel"):
            raise ValueError(f"vendor {vendor!r} is neither amd nor intel")
        size = _bytes(memory)
        if size <= 0 or size % 4096:
            raise ValueError(f"memory of {size} bytes is not a positive number of 4 KiB pages")
        parameters = Parameters()
        parameters.nx_huge_pages = nx_huge_pages
        parameters.tdp_enabled, parameters.tdp_mmu = nested_paging, tdp_mmu
        parameters.vmx, parameters.ept_ad_bits = vendor == "intel", eptad
        parameters.cpu_dirty_log_size = cpu_dirty_log_size(
            vmx=parameters.vmx, ept=nested_paging, ept_ad_bits=eptad, pml=pml
        )
        parameters.eager_page_split = eager_page_split
        self.format: PagingFormat = _FORMATS[paging]
        parameters.host_maxphyaddr = _physical_bits("hostbits", hostbits)
        self.physbits = hostbits if physbits is None else _physical_bits("physbits", physbits)
        self.machine = Machine(parameters, design=design_of(kernel, design), tlb=tlb)
        if dirty_ring:
            kvm_vm_ioctl_enable_cap(self.machine.kvm, KVM_CAP_DIRTY_LOG_RING, dirty_ring * ENTRY_BYTES)
        self.machine.set_slot(0, 0, size, kind=backing)
        self.stats = Stats(self.machine)
        self._next_table = size
        self.cr3 = self._new_table()
        if self.format is PAE:  # a processor reads the four PDPTEs when CR3 is written, and not again
            for index in range(4):
                self.machine.host_write(self.cr3 + 8 * index, 8, self._new_table() | P)
        self.vcpus = [self._new_vcpu(mmio or (lambda access: (1 << 64) - 1)) for _ in range(vcpus)]

    def _new_vcpu(self, mmio: Callable[[MmioAccess], int]) -> Vcpu:
        levels = self.format.levels
        cr0 = CR0_PE | CR0_WP | (CR0_PG if levels else 0)
        cr4 = (CR4_PAE if levels > 2 else CR4_PSE) | (CR4_LA57 if levels == 5 else 0)
        efer = (EFER_NX if levels > 2 else 0) | (EFER_LME | EFER_LMA if levels > 3 else 0)
        state = self.machine.add_vcpu(self.physbits)
        state.compatibility_mode = levels < 4
        set_sregs(state, cr0, self.cr3, cr4, efer)
        return Vcpu(state, mmio)

    def _new_table(self) -> int:
        self._next_table -= 4096
        if self._next_table < 0:
            raise MemoryError("no guest memory left for page tables")
        return self._next_table

    def _entry_address(self, table: int, gva: int, level: int) -> int:
        index = self.format.index(gva, level)
        return table + (index & 3 if self.format is PAE and level == 3 else index) * self.format.entry_bytes

    def gpte_address(self, gva: int, level: int = 1) -> int:
        """Guest-physical address of the entry that translates gva at `level`. Raises LookupError."""
        table = self.cr3
        for upper in range(self.format.levels, level, -1):
            entry = self.machine.host_read(self._entry_address(table, gva, upper), self.format.entry_bytes)
            if not entry & P:
                raise LookupError(f"{gva:#x} has no table at level {upper - 1}")
            table = entry & 0x000F_FFFF_FFFF_F000
        return self._entry_address(table, gva, level)

    def map(
        self,
        gva: int,
        gpa: int,
        *,
        pages: int = 1,
        level: int = 1,
        writable: bool = True,
        user: bool = True,
        executable: bool = True,
        accessed: bool = True,
        dirty: bool = True,
    ) -> None:
        """Map `pages` consecutive pages of `level` in the guest's tables.

        The tables are written from outside, as a boot loader does: KVM does not see it. Entries that were
        present and are cached need an INVLPG of the guest, as on any processor.
        """
        flags = P | (W if writable else 0) | (U if user else 0) | (A if accessed else 0) | (D if dirty else 0)
        flags |= 0 if executable or self.format.entry_bytes == 4 else NX
        flags |= PS if level > 1 else 0
        step = 1 << self.format.level_shift(level)
        for page in range(pages):
            self._map_one(gva + page * step, (gpa + page * step) | flags, level)

    def _map_one(self, gva: int, leaf: int, level: int) -> None:
        size, table = self.format.entry_bytes, self.cr3
        for upper in range(self.format.levels, level, -1):
            address = self._entry_address(table, gva, upper)
            entry = self.machine.host_read(address, size)
            if not entry & P:
                entry = self._new_table() | P | W | U | A
                self.machine.host_write(address, size, entry)
            table = entry & 0x000F_FFFF_FFFF_F000
        self.machine.host_write(self._entry_address(table, gva, level), size, leaf)

    # -- dirty logging ------------------------------------------------------------------------------------

    def log_dirty(
        self, *, on: bool = True, manual_protect: bool = False, initially_set: bool = False
    ) -> None:
        """Switch dirty logging on or off.

        manual_protect: reading the log changes nothing, clear_dirty_log protects pages again;
        initially_set (with manual_protect): every page counts as dirty at first, and none is protected.
        """
        if on:
            flags = (MANUAL_PROTECT if manual_protect else 0) | (INITIALLY_SET if initially_set else 0)
            kvm_vm_ioctl_enable_cap(self.machine.kvm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, flags)
        self.machine.slots[0].flags = MEM_LOG_DIRTY_PAGES if on else 0
        self.machine.set_region(0)

    def dirty_pages(self) -> list[int]:
        """KVM_GET_DIRTY_LOG: numbers of the 4 KiB pages written to. Raises OSError."""
        return kvm_vm_ioctl_get_dirty_log(self.machine.kvm, 0)

    def clear_dirty_log(self, pages: Sequence[int] | None = None) -> None:
        """KVM_CLEAR_DIRTY_LOG of these pages, by default all: their next write is seen. Raises OSError."""
        count = self.machine.slots[0].size >> 12
        kvm_vm_ioctl_clear_dirty_log(self.machine.kvm, 0, 0, count, pages)

    def harvest_dirty_rings(self) -> list[int]:
        """Take what is in the vCPUs' dirty rings: page numbers, in the order each vCPU wrote to them.

        The entries stay used until reset_dirty_rings.
        """
        rings = (dirty_ring_of(vcpu.state) for vcpu in self.vcpus)
        return [page for ring in rings for _, page in ring.harvest()]

    def reset_dirty_rings(self) -> int:
        """KVM_RESET_DIRTY_RINGS: empty harvested entries, protect their pages again; how many there were."""
        return kvm_vm_ioctl_reset_dirty_pages(self.machine.kvm)

    def trace(self) -> Trace:
        """Start listening to the tracepoints; iterate over the result for what happened since."""
        return Trace(self)
