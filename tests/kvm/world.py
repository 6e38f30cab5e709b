"""A virtual machine in the words of the scenario language, with its MMU open to tests."""

from collections.abc import Mapping
from dataclasses import replace

from kvm.invariants import expect_nothing

from shadowmmu.check.audit.audit import Audit
from shadowmmu.guest.play.player import OpResult, Player
from shadowmmu.guest.scenario.ops import Op
from shadowmmu.guest.scenario.parser import begin_scenario
from shadowmmu.guest.scenario.setup import resolve
from shadowmmu.kvm.bits import ROLE_DIRECT, ROLE_LEVEL, SPTE_MMU_PRESENT
from shadowmmu.kvm.design.switches import DEFAULT_KERNEL, value_of
from shadowmmu.kvm.fault.fast_fault import last_sptep_lockless
from shadowmmu.kvm.state.shadow_page import ShadowPage
from shadowmmu.kvm.state.vcpu import Vcpu
from shadowmmu.kvm.tracepoints.event import Event
from shadowmmu.kvm.tracepoints.exits import Exit
from shadowmmu.kvm.tracepoints.tracer import EventLog
from shadowmmu.x86.bits import ADDR
from shadowmmu.x86.implementation import Implementation
from shadowmmu.x86.svm import SVM_EXIT_IOIO

SWEEP_EVERY = 10
"""Ops of a whole scenario between two looks at everything."""


class World:
    """Plays operations one by one and audits the MMU after each.

    Without slots in `setup` guest memory is 16 MiB at 0; page tables come from 0x2000 on, the root is 0x1000.
    """

    def __init__(
        self,
        mode: str,
        *setup: str,
        start: str = "start cr3=0x1000",
        tlb: bool = False,
        kernel: str = DEFAULT_KERNEL,
        design: Mapping[str, str] | None = None,
    ) -> None:
        parameters = [line for line in setup if line.startswith(("param ", "vendor "))]
        first = [
            line
            for line in setup
            if line.split()[0] in ("vcpus", "physbits", "hostbits", "host", "cap", "slot")
        ]
        if not any(line.startswith("slot 0 ") for line in first):
            first.append("slot 0 0x0 16M")
        others = [line for line in setup if line not in first and line not in parameters]
        lines = [
            *parameters,
            f"mode {mode}",
            *sorted(first, key=lambda line: line.startswith(("slot", "cap"))),
        ]
        lines += ["alloc 0x2000", "tramp 0x1000", *others]
        self._build("\n".join([*lines, start]) + "\n", 1, tlb=tlb, kernel=kernel, design=design)

    @classmethod
    def of(
        cls,
        text: str,
        *,
        tlb: bool = False,
        kernel: str = DEFAULT_KERNEL,
        design: Mapping[str, str] | None = None,
        host_la57: bool = False,
        implementation: Implementation | None = None,
    ) -> "World":
        """The world of a whole scenario, before its first operation; host_la57: the host has five levels.

        `implementation` is the processor's, by default that of the vendor's recordings.
        """
        world = cls.__new__(cls)
        world._build(
            text,
            SWEEP_EVERY,
            tlb=tlb,
            kernel=kernel,
            design=design,
            host_la57=host_la57,
            implementation=implementation,
        )
        return world

    def _build(
        self,
        text: str,
        sweep_every: int,
        *,
        tlb: bool,
        kernel: str,
        design: Mapping[str, str] | None,
        host_la57: bool = False,
        implementation: Implementation | None = None,
    ) -> None:
        self.text = text
        scenario, self._parse = begin_scenario(text)
        scenario = scenario.with_kernel(kernel).with_design(design or {})
        if host_la57:
            scenario = replace(scenario, host=replace(scenario.host, la57=True))
        self.player = Player(
            resolve(scenario), EventLog(), lambda machine: {}, tlb=tlb, implementation=implementation
        )
        self.machine = self.player.machine
        self.kvm = self.machine.kvm
        self.audit = Audit(self.player, sweep_every=sweep_every)

    def switch(self, name: str, value: str) -> None:
        """Set a switch of the design, before the first operation."""
        setattr(self.kvm.design, name, value_of(name, value))

    # -- operations --------------------------------------------------------------------------------------

    def do(self, line: str) -> OpResult:
        """Play one line."""
        return self.play(self._parse(line))

    def quick(self, line: str) -> OpResult:
        """The same without checks, for the many operations before the one that matters."""
        op = self._parse(line)
        self.audit.before_op(op)
        (played,) = self.player.play([op])
        return played

    def do_quietly(self, line: str) -> None:
        """An operation that may be refused, without checks; slots come and go."""
        self.quick(line)

    def play(self, op: Op) -> OpResult:
        self.audit.before_op(op)
        played = next(self.player.play([op]), None)
        expect_nothing(self.audit.after_op(op, played))
        return played or OpResult(-1, op.text, op.vcpu, {}, {}, [], [], None)

    def check(self) -> None:
        """Look at everything."""
        expect_nothing(self.audit.sweep())

    def ok(self, *lines: str) -> list[Event]:
        """Play lines that must succeed; the events of the last one."""
        events: list[Event] = []
        for line in lines:
            played = self.do(line)
            assert played.result.get("outcome", "ok") == "ok", f"{line}: {played.result}"
            events = played.events
        return events

    # -- what there is -----------------------------------------------------------------------------------

    @property
    def vcpu(self) -> Vcpu:
        return self.kvm.vcpus[0]

    @property
    def stats(self) -> dict[str, int]:
        """KVM's statistics, those of the vCPUs summed up."""
        stats = self.kvm.vm_stats()
        for vcpu in self.kvm.vcpus:
            for name, value in vcpu.stat.as_dict().items():
                stats[name] = stats.get(name, 0) + value
        return stats

    def pages(self, gfn: int | None = None, level: int | None = None) -> list[ShadowPage]:
        """Active pages, newest first, of a gfn and a level if given."""
        return [
            sp
            for sp in self.kvm.active_mmu_pages.pages()
            if gfn in (None, sp.gfn) and level in (None, sp.role & ROLE_LEVEL)
        ]

    def page(self, gfn: int, level: int, *, direct: bool = False) -> ShadowPage:
        """The only active page of that gfn and level."""
        (sp,) = (sp for sp in self.pages(gfn, level) if bool(sp.role & ROLE_DIRECT) == direct)
        return sp

    def sptep(self, gva: int, vcpu: int = 0) -> int:
        """Address of the last SPTE on the walk for gva; 0 if there is none."""
        return last_sptep_lockless(self.kvm.vcpus[vcpu], gva)

    def spte(self, gva: int, vcpu: int = 0) -> int:
        """The last SPTE on the walk for gva."""
        return self.kvm.read_spte(self.sptep(gva, vcpu))

    def level(self, gva: int) -> int:
        """The level at which gva is mapped; 0 if it is not."""
        sptep = self.sptep(gva)
        return self.kvm.sptep_to_sp(sptep).role & ROLE_LEVEL if self.is_mapped(gva) else 0

    def is_mapped(self, gva: int) -> bool:
        return bool(self.spte(gva) & SPTE_MMU_PRESENT)

    def hpa(self, gpa: int) -> int:
        """Where the page at gpa is in host memory."""
        slot = self.kvm.memslot_of(gpa >> 12)
        return slot.mapping.page(slot.page_index(gpa >> 12)) & ADDR

    def gpte(self, table: int, index: int) -> int:
        """An 8-byte guest entry."""
        return self.machine.host_read(table + 8 * index, 8)


def names(events: list[Event]) -> list[str]:
    """Recorded events by name, without the exit by which the guest's code ends an operation."""
    return [
        event.name
        for event in events
        if event.recorded and not (isinstance(event, Exit) and event.exit_reason == SVM_EXIT_IOIO)
    ]
