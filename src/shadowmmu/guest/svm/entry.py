"""From the end of an exit to the guest's next instruction."""

from collections.abc import Callable

from ...kvm.exits.run import vcpu_enter_guest
from ...kvm.state.vcpu import QueuedException
from .events import Events
from .interrupts import AccessFault, EventFault
from .single_step import SingleStep
from .world_switch import WorldSwitch


class Entry:
    """Entries of one vCPU; `callback` is called before each, when KVM is done with the exit."""

    def __init__(self, events: Events, switch: WorldSwitch, step: SingleStep) -> None:
        self.vcpu = events.vcpu
        self.processor = events.processor
        self.events = events
        self.switch = switch
        self.step = step
        self.callback: Callable[[], None] | None = None

    def resume(self) -> None:
        """Do everything from an exit's end to the guest's next instruction: requests, events, registers."""
        vcpu, events = self.vcpu, self.events
        while True:
            vcpu_enter_guest(vcpu)
            try:
                if vcpu.exception is not None:
                    events.deliver_exception(vcpu.exception)
                elif events.soft is not None:
                    events.deliver_soft(*events.soft)
                elif events.nmi and events.nmi_ready():
                    events.deliver_nmi()
                elif events.pending and events.interruptible():
                    events.deliver_interrupt()
                else:
                    break
            except AccessFault:
                events.delivery_faulted()
            except EventFault as fault:
                events.raise_exception(QueuedException(fault.vector, fault.error_code, None))
            self.switch.note_registers()
        if events.nmi:
            events.step_to_nmi()
        self.switch.load()
        if events.pending is not self.processor.window:
            self.processor.set_window(wanted=events.pending and self.step.current is None)
        if self.callback is not None:
            self.callback()
