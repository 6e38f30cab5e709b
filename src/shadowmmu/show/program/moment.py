"""The state of a program's machine as a history of one moment, for the page and the terminal's view."""

from __future__ import annotations

from collections.abc import Mapping

from shadowmmu.guest.observe.running import Running
from shadowmmu.guest.play.guest_walk import levels_of
from shadowmmu.guest.scenario.host_processor import HostProcessor
from shadowmmu.guest.scenario.module_params import yes_no
from shadowmmu.guest.svm.layout import PHYSICAL_BITS
from shadowmmu.host.backing import HostError
from shadowmmu.show.decode import GpteFormat
from shadowmmu.show.history.guest_memory import GuestMemory
from shadowmmu.show.history.registers import Registers
from shadowmmu.show.history.timeline import Moment, Timeline
from shadowmmu.trace.names import Names
from shadowmmu.trace.snapshot import snapshot
from shadowmmu.x86.bits import P
from shadowmmu.x86.paging import paging_format

__all__ = ["timeline_at"]

_PAGE = 4096
_MODES = {0: "nopaging", 2: "32", 3: "pae", 4: "long4", 5: "long5"}


def timeline_at(running: Running, name: str, kernel: str, design: Mapping[str, str], text: str) -> Timeline:
    """Return the history of one moment: the machine as it is now; `text` says where the program is."""
    machine = running.machine
    vcpu, parameters = machine.vcpu, machine.kvm.parameters
    cr3 = machine.get("cr3")
    registers = Registers(vcpu.cr0, cr3, vcpu.cr4, vcpu.efer)
    areas = {
        number: (slot.mapping.hva, slot.size, slot.gpa) for number, slot in machine.machine.slots.items()
    }
    state = Names(areas, machine.kvm.design).state(snapshot(machine.machine), ())
    moment = Moment(
        op=-1,
        text=text,
        vcpu=0,
        result={},
        stats={},
        changes=[],
        events=[],
        delta={"set": state},
        state=state,
        dumped=True,
        guest=_tables(running, registers),
        registers={0: registers},
    )
    return Timeline(
        name=name,
        title=text,
        kernel=kernel,
        params=yes_no({"kvm_amd.npt": machine.npt, "kvm.tdp_mmu": parameters.tdp_mmu}),
        design=design,
        modes=[_MODES[levels_of(vcpu)]],
        recorded=False,
        maxphyaddr=vcpu.maxphyaddr,
        host=HostProcessor(PHYSICAL_BITS),
        moments=(moment,),
    )


def _tables(running: Running, registers: Registers) -> GuestMemory:
    """Return the guest's tables from its CR3."""
    machine = running.machine.machine
    levels = registers.levels
    pages: dict[int, bytes] = {}
    if not levels:
        return GuestMemory({}, {})
    size = paging_format(levels).entry_bytes
    form = GpteFormat(levels, running.machine.vcpu.maxphyaddr, registers.nx, registers.pse, amd=True)
    waiting = [(registers.root(), levels)]
    while waiting:
        table, level = waiting.pop()
        page = table & -_PAGE
        if page in pages:
            continue
        try:
            contents = machine.peek(page)
        except HostError:
            continue
        if contents is None:
            continue
        pages[page] = contents
        if level > 1:
            for value in memoryview(contents).cast("Q" if size == 8 else "I"):
                if value & P and not form.is_leaf(value, level):
                    waiting.append((form.gfn(value, level) << 12, level - 1))
    return GuestMemory(pages, dict.fromkeys(pages, size))
