"""Devices of user space: ports, and addresses that no memory slot has."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from ...kvm.exits.emulate import MmioAccess
from ...kvm.exits.svm_exits import record_exit
from ...x86.svm import SVM_EXIT_IOIO
from .events import Events

Read = Callable[[int, int], int]
Write = Callable[[int, int, int], None]


@dataclass(slots=True)
class Device:
    """A range of ports or of addresses with its callbacks."""

    first: int
    last: int
    read: Read | None
    write: Write | None


class MmioDevices:
    """Devices by address; the newest is asked first. Without one reads are all ones."""

    def __init__(self) -> None:
        self._devices: list[Device] = []

    def add(self, gpa: int, size: int, read: Read | None, write: Write | None) -> Device:
        """Add ports first..last with their callbacks; the newest is asked first."""
        device = Device(gpa, gpa + size - 1, read, write)
        self._devices.insert(0, device)
        return device

    def access(self, access: MmioAccess) -> int:
        """Carry out an access of KVM's emulator."""
        for device in self._devices:
            if device.first <= access.gpa <= device.last:
                if access.write:
                    if device.write:
                        device.write(access.gpa, access.length, access.data)
                    return 0
                return device.read(access.gpa, access.length) if device.read else (1 << 8 * access.length) - 1
        return 0 if access.write else (1 << 8 * access.length) - 1


class Ports:
    """IN and OUT, which do not exit from the emulated processor: KVM sees OUT only in its trace."""

    def __init__(self, events: Events, exits: Counter[int]) -> None:
        self.vcpu = events.vcpu
        self.kvm = events.vcpu.kvm
        self.processor = events.processor
        self.events = events
        self.exits = exits
        self._ports: list[Device] = []
        self._port_of: dict[int, Device | None] = {}
        self.processor.on_in = self._on_in
        self.processor.on_out = self._on_out

    def add(self, first: int, last: int, read: Read | None, write: Write | None) -> None:
        """Add ports first..last with their callbacks; the newest is asked first."""
        self._ports.insert(0, Device(first, last, read, write))
        self._port_of.clear()

    def _device_at(self, port: int) -> Device | None:
        if port not in self._port_of:
            found = (device for device in self._ports if device.first <= port <= device.last)
            self._port_of[port] = next(found, None)
        return self._port_of[port]

    def _on_in(self, port: int, size: int) -> int:
        self.exits[SVM_EXIT_IOIO] += 1
        device = self._device_at(port)
        ones = (1 << 8 * size) - 1
        return device.read(port, size) & ones if device is not None and device.read is not None else ones

    def _on_out(self, port: int, size: int, value: int) -> None:
        self.exits[SVM_EXIT_IOIO] += 1
        if self.kvm.tracing:
            record_exit(self.vcpu, SVM_EXIT_IOIO, port << 16 | size << 4, self.vcpu.rip)
        device = self._device_at(port)
        if device is not None and device.write is not None:
            device.write(port, size, value & (1 << 8 * size) - 1)
            if self.events.pending and self.events.interruptible():
                self.processor.break_behind_io(port)
