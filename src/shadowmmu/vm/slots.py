"""Memory slots of a Vm: backing, flags, dirty log."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

from ..guest.play.machine import UserSlot
from ..guest.play.player import Player
from ..guest.scenario import ops
from ..guest.scenario.setup import KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, SlotSetup
from ..host.backing import Backing
from ..kvm.memory.dirty_bitmap import kvm_vm_ioctl_clear_dirty_log, kvm_vm_ioctl_get_dirty_log
from .config import PAGE, ConfigurationError, aligned, member, whole_pages, within

__all__ = ["Backing", "Host", "Slot", "Slots", "slot_setup"]

MOST_SLOTS = 64
Answer = TypeVar("Answer")
_PAGES = {Backing.HUGE2M: 1 << 21, Backing.HUGE1G: 1 << 30}


class Host(Protocol):
    """What a slot needs of its Vm: operations of the host, checked and traced."""

    @property
    def player(self) -> Player: ...

    def host_op(self, op: ops.Op) -> None: ...

    def host_call(self, text: str, call: Callable[[], Answer]) -> Answer: ...


def slot_setup(
    id: int,
    gpa: int,
    size: int | str,
    *,
    backing: Backing = Backing.ANON,
    readonly: bool = False,
    dirty_log: bool = False,
    populated: bool = True,
) -> SlotSetup:
    """Return a checked slot. Raises ConfigurationError."""
    within("id", id, 0, MOST_SLOTS - 1)
    page = _PAGES.get(member("backing", backing, Backing), PAGE)
    aligned("gpa", gpa, page)
    flags = (KVM_MEM_LOG_DIRTY_PAGES if dirty_log else 0) | (KVM_MEM_READONLY if readonly else 0)
    return SlotSetup(
        id,
        gpa,
        whole_pages("size", size, page),
        flags,
        lazy=not populated,
        thp=backing is Backing.THP,
        huge2m=backing is Backing.HUGE2M,
        huge1g=backing is Backing.HUGE1G,
        memfd=backing is Backing.MEMFD,
    )


class Slot:
    """A memory slot (KVM_SET_USER_MEMORY_REGION): guest-physical [gpa, gpa + size)."""

    def __init__(self, host: Host, id: int) -> None:
        self._host = host
        self.id = id

    @property
    def _slot(self) -> UserSlot:
        return self._host.player.machine.slots[self.id]

    @property
    def gpa(self) -> int:
        """Guest-physical address of the first byte."""
        return self._slot.gpa

    @property
    def size(self) -> int:
        """Bytes."""
        return self._slot.size

    @property
    def backing(self) -> Backing:
        """What the host gives."""
        return self._slot.mapping.kind

    @property
    def readonly(self) -> bool:
        """KVM_MEM_READONLY: writes of the guest are MMIO. Setting it is an ioctl."""
        return self._slot.flags & KVM_MEM_READONLY != 0

    @readonly.setter
    def readonly(self, on: bool) -> None:
        self._set_flag("roflag", KVM_MEM_READONLY, on=on)

    @property
    def dirty_log(self) -> bool:
        """KVM_MEM_LOG_DIRTY_PAGES: writes of the guest are logged. Setting it is an ioctl."""
        return self._slot.flags & KVM_MEM_LOG_DIRTY_PAGES != 0

    @dirty_log.setter
    def dirty_log(self, on: bool) -> None:
        self._set_flag("dirtylog", KVM_MEM_LOG_DIRTY_PAGES, on=on)

    def _set_flag(self, word: str, flag: int, *, on: bool) -> None:
        text = f"{word} {self.id} {'on' if on else 'off'}"
        self._host.host_op(ops.SetSlotFlag(line=0, text=text, vcpu=0, slot=self.id, flag=flag, on=on))

    def dirty_pages(self) -> list[int]:
        """Return the numbers, within the slot, of the 4 KiB pages written to (KVM_GET_DIRTY_LOG).

        Raises OSError if the slot does not log.
        """
        kvm = self._host.player.kvm
        return self._host.host_call(f"getdirty {self.id}", lambda: kvm_vm_ioctl_get_dirty_log(kvm, self.id))

    def clear_dirty_log(self, pages: Sequence[int] | None = None) -> None:
        """Clear these pages in the dirty log, by default all: their next write is logged
        again (KVM_CLEAR_DIRTY_LOG).

        Raises OSError if the slot does not log, or the VM is not in manual-protect mode.
        """
        kvm, count = self._host.player.kvm, self.size >> 12
        self._host.host_call(
            f"cleardirty {self.id} 0 {count}",
            lambda: kvm_vm_ioctl_clear_dirty_log(kvm, self.id, 0, count, pages),
        )

    def move(self, gpa: int) -> None:
        """Move the slot to another guest-physical address. Raises OSError if KVM refuses."""
        aligned("gpa", gpa, PAGE)
        text = f"movslot {self.id} {gpa:#x}"
        self._host.host_op(ops.MoveSlot(line=0, text=text, vcpu=0, slot=self.id, gpa=gpa))

    def delete(self) -> None:
        """Delete the slot; its host memory stays. Everything that maps it is zapped. Raises OSError."""
        self._host.host_op(ops.DeleteSlot(line=0, text=f"delslot {self.id}", vcpu=0, slot=self.id))

    def __repr__(self) -> str:
        flags = "".join([", read-only" if self.readonly else "", ", dirty log" if self.dirty_log else ""])
        where = f"[{self.gpa:#x}, {self.gpa + self.size:#x})"
        return f"<Slot {self.id}: gpa {where}, {self.backing.name}{flags}>"


class Slots(Mapping[int, Slot]):
    """The slots of a Vm, by number."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def __getitem__(self, id: int) -> Slot:
        held = self._host.player.machine.slots.get(id)
        if held is None or not held.used:
            have = ", ".join(map(str, self)) or "none"
            raise KeyError(f"slot {id} must be added first, with add_slot(); there are {have}")
        return Slot(self._host, id)

    def __iter__(self) -> Iterator[int]:
        return iter([id for id, slot in self._host.player.machine.slots.items() if slot.used])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def at(self, gpa: int) -> Slot:
        """Return the slot that holds a guest-physical address. Raises LookupError."""
        for slot in self.values():
            if slot.gpa <= gpa < slot.gpa + slot.size:
                return slot
        raise LookupError(f"gpa {gpa:#x} is in no slot; there are {self!r}")

    def free_id(self) -> int:
        """Return the lowest number that no slot has. Raises ConfigurationError if there is none."""
        held = self._host.player.machine.slots
        free = next((id for id in range(MOST_SLOTS - 3) if id not in held or not held[id].used), None)
        if free is None:
            raise ConfigurationError(f"a Vm has at most {MOST_SLOTS - 3} slots of its own; delete one first")
        return free

    def __repr__(self) -> str:
        return f"<Slots {', '.join(map(repr, self.values()))}>"
