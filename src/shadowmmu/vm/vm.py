"""The class `Vm`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ..guest.play.player import Player
from ..guest.scenario import ops
from ..guest.scenario.line import split_words
from ..guest.scenario.modes import MODES, Mode
from ..guest.scenario.op_parser import OpParser
from ..guest.scenario.parser import load_scenario, parse_scenario
from ..guest.scenario.scenario import Scenario
from ..guest.scenario.setup import ScenarioError, Setup, resolve
from ..host.address_space import AddressSpace
from ..kvm.bits import INVALID_PAGE
from ..kvm.design.design import Design
from ..kvm.design.switches import DEFAULT_KERNEL
from ..kvm.exits.emulate import MmioAccess
from ..kvm.guest_access.dirty_ring import dirty_ring_of
from ..kvm.memory.capabilities import INITIALLY_SET, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, MANUAL_PROTECT
from ..kvm.memory.reset_dirty_rings import kvm_vm_ioctl_reset_dirty_pages
from ..kvm.pages.zap import kvm_mmu_zap_all_fast
from ..show.html.table import table
from ..x86.implementation import MANUAL
from .answer import answer
from .config import (
    PAGE,
    ConfigurationError,
    Paging,
    Vendor,
    aligned,
    bytes_of,
    check_word,
    setup_of,
    whole_pages,
)
from .nested import Nested
from .operations import Operations
from .saving import scenario_text, slot_words
from .slots import Backing, Slot, slot_setup
from .sptes import ShadowPage, Spte, pages_of, sptes_of_rmap
from .tables import GuestTables, TablePages
from .walk import Walk, walk

__all__ = ["Vm"]

Answer = TypeVar("Answer")
_ALL_ONES = (1 << 64) - 1


class Vm(Operations):
    """A virtual machine on KVM's MMU.

        vm = Vm("64M", "long4")
        vm.map(0x400000, 0x800000, "16K")
        with vm.trace("kvm_mmu_*") as events:
            vm.vcpus[0].write(0x400000, 42)
        print(events)
        print(vm.walk(0x400000))

    memory    bytes of guest memory from address 0 (slot 0), a number or text such as "64M"
    paging    the guest's tables: "nopaging", "32", "pae", "long4", "long5"
    vcpus     number of vCPUs, 1 to 8; all start with the same page tables
    backing   what the host gives for the memory: Backing.ANON (4 KiB pages), THP, HUGE2M, HUGE1G, MEMFD
    kernel    whose KVM: "6.12.111", "6.1.176"
    vendor    whose processor: "amd" (SVM and NPT), "intel" (VMX and EPT)
    params    parameters of KVM's modules, {"kvm_amd.npt": 1} for nested paging by the TDP MMU
    design    switches that are not as that kernel has them, {"invlpg_zaps": "yes"}; `shadowmmu designs`
              lists them
    nested    the guest is a hypervisor with a guest of its own, `vcpu.l2`; needs "amd", implies kvm_amd.npt=1
    dirty_ring
              entries of each vCPU's dirty ring, a power of two from 256 on; 0: a bitmap logs
    hostbits, physbits
              bits of a physical address, 32 to 52: the host's (MAXPHYADDR), and those that the guest is
              shown; by default the host's
    l1tf      bits of a physical address that the host's L1 cache uses if its processor is vulnerable to L1TF,
              hostbits to 46, "intel" only; 0: it is not
    tlb       False: every access walks the tables
    mmio      answers accesses to addresses without memory; by default reads give all ones
    checked   every operation is checked, see `check`

    The guest has no code in memory: an access is that access and no fetch besides. Its page tables are at the
    top of its memory, made by `map` as they are needed. Raises ConfigurationError for what cannot be.
    """

    def __init__(
        self,
        memory: int | str = "64M",
        paging: Paging = "long4",
        *,
        vcpus: int = 1,
        backing: Backing = Backing.ANON,
        kernel: str = DEFAULT_KERNEL,
        vendor: Vendor = "amd",
        params: Mapping[str, object] | None = None,
        design: Mapping[str, str] | None = None,
        nested: bool = False,
        dirty_ring: int = 0,
        hostbits: int = 46,
        physbits: int | None = None,
        l1tf: int = 0,
        tlb: bool = True,
        mmio: Callable[[MmioAccess], int] | None = None,
        checked: bool = False,
    ) -> None:
        whole_pages("memory", memory)
        setup, tables = setup_of(
            slot_setup(0, 0, memory, backing=backing),
            paging,
            vcpus=vcpus,
            kernel=kernel,
            vendor=vendor,
            params=params or {},
            design=design or {},
            nested=nested,
            dirty_ring=dirty_ring,
            hostbits=hostbits,
            physbits=physbits,
            l1tf=l1tf,
        )
        try:
            self._take(
                Player(
                    setup,
                    None,
                    lambda machine: {},
                    tlb=tlb,
                    code=False,
                    mmio=mmio or (lambda access: _ALL_ONES),
                    implementation=MANUAL,
                ),
                checked=checked,
            )
        except ScenarioError as error:
            raise ConfigurationError(str(error).partition(": ")[2].partition("; change")[0]) from None
        self._ops = _parser(self.player.setup, nested=nested)
        self._tables = None
        pages = TablePages(tables.next_table)
        if paging != "nopaging":
            self._tables = GuestTables(self.machine, self.mode, tables.cr3, pages, self.history.append)
        self._nested = None
        if nested and self._tables is not None:
            self._nested = Nested(
                self, GuestTables(self.machine, self.mode, tables.ncr3, pages, self.history.append)
            )

    # -- scenarios -----------------------------------------------------------------------------------------

    @classmethod
    def from_scenario(
        cls, scenario: str | Path, *, play: bool = True, tlb: bool = False, checked: bool = False
    ) -> Vm:
        """Return the machine of a scenario, a path or its text; play: with its operations carried out.

        Its guest has code in memory, as the scenario's on real KVM. Raises ScenarioError for what is not
        understood.
        """
        read = _scenario(scenario)
        vm = cls.__new__(cls)
        vm._take(Player(resolve(read), None, lambda machine: {}, tlb=tlb), checked=checked)
        vm._tables = vm._nested = None
        vm._ops = _parser(vm.player.setup, nested=bool(read.vmcbs))
        if play:
            for op in read.ops:
                vm.play_op(op)
        return vm

    def save(self, path: str | Path) -> None:
        """Write the machine and all operations on it as a scenario, for `shadowmmu run` and the KVM lab.

        Raises ConfigurationError for what a scenario cannot say: streams (`run`, `execute`), nested guests.
        """
        Path(path).write_text(scenario_text(self.player.setup, self.mode, self._root(), self.history))

    def _root(self) -> int:
        return 0 if self._tables is None else self._tables.root

    def run_scenario(self, lines: str) -> list[dict[str, Any]]:
        """Carry out operations written in the scenario language, one a line; return what each came to.

        `vm.run_scenario("write 0x400000 42 8")` gives `[{"outcome": "ok"}]`. Raises ScenarioError.
        """
        parser = self._ops
        parser.slots = {id: (slot.gpa, slot.size) for id, slot in self.player.machine.slots.items()}
        parser.nvcpus = len(self.vcpus)
        parsed = []
        for number, raw in enumerate(lines.split("\n"), 1):
            line, tokens = split_words("run_scenario", number, raw.partition("#")[0])
            if tokens:
                parsed.append(parser.op(line, tokens))
        return [self.play_op(op) for op in parsed]

    # -- what it is made of --------------------------------------------------------------------------------

    @property
    def host(self) -> AddressSpace:
        """The address space of the process that owns the VM."""
        return self.player.machine.host

    @property
    def design(self) -> Design:
        """How its KVM behaves."""
        return self.kvm.design

    @property
    def mode(self) -> Mode:
        """The paging mode that the vCPUs started in."""
        return self.player.modes[0]

    @property
    def cr3(self) -> int:
        """Guest-physical address of the root of the tables that `map` writes."""
        return self._need_tables().root

    @property
    def nested(self) -> Nested:
        """L1's nested tables, for L2. Raises ConfigurationError without nested=True."""
        if self._nested is None:
            raise ConfigurationError("there are no nested tables: make the Vm with nested=True")
        return self._nested

    def _need_tables(self) -> GuestTables:
        if self._tables is None:
            why = (
                "with paging='nopaging' addresses are physical"
                if self.mode.name == "nopaging"
                else ("a scenario's guest has tables of its own: write them with run_scenario('pt ...')")
            )
            raise ConfigurationError(f"there are no tables to edit: {why}")
        return self._tables

    # -- the guest's tables --------------------------------------------------------------------------------

    def map(
        self,
        gva: int,
        gpa: int,
        size: int | str = PAGE,
        *,
        page_size: int | str = PAGE,
        writable: bool = True,
        user: bool = True,
        executable: bool = True,
        accessed: bool = True,
        dirty: bool = True,
        mmio: bool = False,
    ) -> None:
        """Map [gva, gva + size) to guest memory at gpa, in pages of `page_size`.

        The tables are written from outside, as a boot loader does: KVM does not see it, and what it already
        shadows of an entry stays until it is zapped. A change that KVM sees is a write of the guest: map the
        table (`gpte_address`) and write to it. mmio: gpa need not be in a slot. Raises ConfigurationError.
        """
        tables = self._need_tables()
        level, _, pages = tables.check_range(gva, gpa, size, page_size, mmio=mmio)
        flags = tables.flags(
            level, writable=writable, user=user, executable=executable, accessed=accessed, dirty=dirty
        )
        self.edit(lambda: tables.map(gva, gpa, level, pages, flags))

    def unmap(self, gva: int, size: int | str = PAGE) -> int:
        """Clear the leaves of [gva, gva + size), unseen by KVM as in `map`; return the bytes they mapped."""
        tables = self._need_tables()
        return self.edit(lambda: tables.unmap(gva, size))

    def gpte_address(self, gva: int, level: int = 1) -> int:
        """Return the guest-physical address of the entry of `level` for gva. Raises LookupError."""
        return self._need_tables().address(gva, level)

    def walk(self, gva: int, *, vcpu: int = 0) -> Walk:
        """Return what gva meets in the guest's tables and in KVM's, side by side. Changes nothing."""
        return walk(self.machine, self.vcpus[vcpu].state, gva)

    def translate(self, gva: int, *, vcpu: int = 0) -> int | None:
        """Return the gpa that the guest's tables have for gva, None if they map nothing. Changes nothing."""
        return self.walk(gva, vcpu=vcpu).gpa

    # -- KVM's MMU -----------------------------------------------------------------------------------------

    @property
    def shadow_pages(self) -> list[ShadowPage]:
        """Views of all shadow pages: active ones, newest first, those of the TDP MMU, then other roots."""
        return pages_of(self.kvm)

    @property
    def roots(self) -> list[ShadowPage]:
        """Those shadow pages that a vCPU uses as a root, now or before."""
        return [page for page in self.shadow_pages if page.root_count]

    def rmap(self, gfn: int) -> list[Spte]:
        """Return the SPTEs that map a guest frame, from its reverse maps of all levels."""
        return sptes_of_rmap(self.kvm, gfn)

    def zap_all(self) -> None:
        """Make all shadow pages obsolete (kvm_mmu_zap_all_fast): by generation, freed as they are met."""
        self.host_call("# zap all", lambda: kvm_mmu_zap_all_fast(self.kvm))

    def limit_pages(self, pages: int) -> None:
        """Allow so many shadow pages (KVM_SET_NR_MMU_PAGES)."""
        self.host_op(ops.SetMmuPages(line=0, text=f"nrmmu {pages}", vcpu=0, pages=pages))

    # -- slots ---------------------------------------------------------------------------------------------

    def add_slot(
        self,
        gpa: int,
        size: int | str,
        *,
        id: int | None = None,
        backing: Backing = Backing.ANON,
        readonly: bool = False,
        dirty_log: bool = False,
        populated: bool = True,
    ) -> Slot:
        """Add guest memory at [gpa, gpa + size) and return its slot.

        populated=False: the host faults pages in as they are touched. Raises ConfigurationError, and OSError
        if KVM refuses the slot.
        """
        id = self.slots.free_id() if id is None else id
        if id in self.slots:
            raise ConfigurationError(f"id={id} must be a free number: {self.slots[id]!r} has it")
        slot = slot_setup(
            id, gpa, size, backing=backing, readonly=readonly, dirty_log=dirty_log, populated=populated
        )
        for other in self.slots.values():
            if slot.gpa < other.gpa + other.size and other.gpa < slot.gpa + slot.size:
                raise ConfigurationError(f"[{gpa:#x}, {gpa + slot.size:#x}) must not overlap {other!r}")
        text = slot_words(slot)
        self.host_op(ops.SetSlot(line=0, text=text, vcpu=0, slot=slot, keep=False))
        return self.slots[id]

    # -- dirty logging -------------------------------------------------------------------------------------

    def manual_dirty_log(self, *, initially_set: bool = False) -> None:
        """Let reading a log change nothing and clearing it protect pages (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2).

        initially_set: every page of a slot counts as dirty when its logging starts, and none is protected.
        """
        flags = MANUAL_PROTECT | (INITIALLY_SET if initially_set else 0)
        cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2
        self.host_op(ops.EnableCap(line=0, text=f"cap {cap} {flags}", vcpu=0, cap=cap, arg=flags))

    def harvest_dirty_rings(self) -> list[int]:
        """Take what is in the vCPUs' dirty rings: page numbers within their slots, in order of the writes.

        The entries stay used until reset_dirty_rings.
        """
        rings = (dirty_ring_of(vcpu.state) for vcpu in self.vcpus)
        return [page for ring in rings for _, page in ring.harvest()]

    def reset_dirty_rings(self) -> int:
        """Empty harvested entries and protect their pages again (KVM_RESET_DIRTY_RINGS).
        Return their number.
        """
        return self.host_call("resetrings", partial(kvm_vm_ioctl_reset_dirty_pages, self.kvm))

    # -- the host's memory: what reaches KVM as MMU notifiers ----------------------------------------------

    def _range(self, gpa: int, size: int | str) -> tuple[int, int]:
        aligned("gpa", gpa, PAGE)
        length = bytes_of("size", size)
        if length <= 0 or length % PAGE:
            raise ConfigurationError(f"size={size!r} must be a positive multiple of {PAGE:#x}")
        slot = self._slot_at(gpa)
        if gpa + length > slot.gpa + slot.size:
            raise ConfigurationError(f"[{gpa:#x}, {gpa + length:#x}) must be within {slot!r}")
        return gpa, length

    def _slot_at(self, gpa: int) -> Slot:
        try:
            return self.slots.at(gpa)
        except LookupError as error:
            raise ConfigurationError(str(error.args[0])) from None

    def madvise(self, gpa: int, size: int | str, advice: int) -> None:
        """Call madvise() on the host memory of [gpa, gpa + size); `advice` as in mman.h
        (4: MADV_DONTNEED).
        """
        gpa, length = self._range(gpa, size)
        text = f"madvise {gpa:#x} {length:#x} {advice}"
        self.host_op(ops.Madvise(line=0, text=text, vcpu=0, gpa=gpa, length=length, advice=advice))

    def mprotect(self, gpa: int, size: int | str, protection: str) -> None:
        """Call mprotect() on the host memory of [gpa, gpa + size): "none", "ro" or "rw"."""
        gpa, length = self._range(gpa, size)
        if protection not in ("none", "ro", "rw"):
            raise ConfigurationError(f"protection={protection!r} must be one of 'none', 'ro', 'rw'")
        text = f"mprotect {gpa:#x} {length:#x} {protection}"
        self.host_op(ops.Mprotect(line=0, text=text, vcpu=0, gpa=gpa, length=length, protection=protection))

    def remap(self, gpa: int, size: int | str) -> None:
        """Put fresh anonymous host memory in place of that of [gpa, gpa + size) (mmap with MAP_FIXED)."""
        gpa, length = self._range(gpa, size)
        self.host_op(ops.Remap(line=0, text=f"remap {gpa:#x} {length:#x}", vcpu=0, gpa=gpa, length=length))

    def age(self, gpa: int, size: int | str = PAGE, *, flush: bool = False) -> bool:
        """Return whether [gpa, gpa + size) was accessed since the last question, and forget it.

        `flush`: TLBs are flushed besides (clear_flush_young instead of clear_young).
        """
        gpa, length = self._range(gpa, size)
        text = f"age {gpa:#x} {length:#x}{' flush' if flush else ''}"
        result = self.play_op(ops.Age(line=0, text=text, vcpu=0, gpa=gpa, length=length, flush=flush))
        answer(self.kvm.vcpus[0], result, self.player.refused)
        return bool(result["young"])

    def host_read(self, gpa: int, size: int = 8) -> int:
        """Read 4 or 8 bytes of guest memory from user space. Raises OSError, ConfigurationError."""
        self._check_word(gpa, size)
        return self.machine.host_read(gpa, size)

    def host_write(self, gpa: int, value: int, size: int = 8) -> None:
        """Write 4 or 8 bytes of guest memory from user space, unseen by KVM."""
        self._check_word(gpa, size)
        check_word("value", value, size)
        text = f"hostwrite {gpa:#x} {value:#x} size={size}"
        self.host_op(ops.HostWrite(line=0, text=text, vcpu=0, gpa=gpa, size=size, value=value))

    def _check_word(self, gpa: int, size: int) -> None:
        if size not in (4, 8):
            raise ConfigurationError(f"size={size!r} must be 4 or 8")
        aligned("gpa", gpa, size)
        self._slot_at(gpa)

    @property
    def _vendor(self) -> str:
        return "intel" if self.kvm.parameters.vmx else "amd"

    @property
    def _kind(self) -> str:
        parameters = self.kvm.parameters
        if not parameters.tdp_enabled:
            return "shadow paging"
        name = "EPT" if parameters.vmx else "NPT"
        return f"{name} by the TDP MMU" if self.kvm.tdp_mmu_enabled() else f"{name} by shadow pages"

    def __repr__(self) -> str:
        memory = sum(slot.size for slot in self.slots.values())
        rooted = sum(vcpu.state.mmu.root_hpa not in (0, INVALID_PAGE) for vcpu in self.vcpus)
        return (
            f"<Vm {self.player.setup.params['kernel'].split()[0]} {self._vendor}, "
            f"{self._kind}, {self.mode.name} guest, {memory:#x} bytes in {len(self.slots)} slots, "
            f"{len(self.vcpus)} vCPUs ({rooted} with a root), {self.kvm.n_used_mmu_pages} shadow pages>"
        )

    def _repr_html_(self) -> str:
        """Return the table that a notebook shows: the machine, and what its MMU holds."""
        pages = self.shadow_pages
        levels = [page.level for page in pages]
        of_levels = ", ".join(f"{levels.count(n)} of level {n}" for n in sorted({*levels}, reverse=True))
        stat = self.kvm.stat
        rows = [
            ("kernel", f"{self.player.setup.params['kernel'].split()[0]}, {self._vendor}, {self._kind}"),
            ("guest", f"{self.mode.name}, {len(self.vcpus)} vCPUs"),
            *((f"slot {number}", repr(slot).strip("<>")) for number, slot in self.slots.items()),
            ("shadow pages", f"{len(pages)}{': ' if pages else ''}{of_levels}"),
            ("out of sync", str(stat.mmu_unsync)),
            ("mapped pages", f"{stat.pages_4k} of 4 KiB, {stat.pages_2m} of 2 MiB, {stat.pages_1g} of 1 GiB"),
            ("flush requests", str(stat.remote_tlb_flush_requests)),
        ]
        return table("Vm", (), rows)


def _scenario(scenario: str | Path) -> Scenario:
    """Return a scenario from its file, or from text of more than one line."""
    if isinstance(scenario, str) and "\n" in scenario:
        return parse_scenario(scenario)
    return load_scenario(scenario)


def _parser(setup: Setup, *, nested: bool) -> OpParser:
    parser = OpParser()
    parser.set_modes([MODES[name] for name in setup.modes])
    if nested:
        parser.allow_nested()
    return parser
