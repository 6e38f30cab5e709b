"""The operations of the scenario language: the lines after `start`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

from ...x86.bits import MASK64
from .language import WORDS
from .line import GPA_LIMIT, U32, Line, suggestion
from .modes import MODES, TRAMP_SLOT, Mode, trampolines_of
from .ops import (
    GUEST_OPS,
    Access,
    Age,
    ChangeVmcb,
    ClearDirty,
    DeleteSlot,
    EnableCap,
    Exec,
    GetDirty,
    HarvestRing,
    HostRead,
    HostSregs,
    HostTouch,
    HostWrite,
    Invlpg,
    Invlpga,
    L2Exit,
    LruAge,
    Madvise,
    Meanwhile,
    ModParam,
    MoveSlot,
    Mprotect,
    Nop,
    Op,
    Prefault,
    Remap,
    ResetRings,
    SetAc,
    SetDump,
    SetGpte,
    SetMmuPages,
    SetNestedCr3,
    SetSlot,
    SetSlotFlag,
    Sleep,
    Sysfs,
    Translate,
    WatchPage,
    WriteCr,
    WriteMsr,
)
from .setup import (
    KVM_MEM_LOG_DIRTY_PAGES,
    KVM_MEM_READONLY,
    NESTED_SLOT,
    PAGE,
    PDPT_MASK,
    Pt,
    SlotSetup,
)
from .slot import NSLOTS, slot_setup

__all__ = ["MAX_COUNT", "OpParser"]

MAX_COUNT = 1 << 20
_MSR_EFER = 0xC0000080
_MADV_DONTNEED = 4

_Common = dict[str, Any]
_ON_OFF = ("on", "off")
_SIZES64 = {"read": (1, 2, 4, 8), "write": (1, 2, 4, 8), "xchg": (4, 8), "add": (4, 8), "cmpxchg": (4, 8)}
_SIZES32 = {"read": (1, 2, 4), "write": (1, 2, 4), "xchg": (4,), "add": (4,), "cmpxchg": (4, 8)}


class OpParser:
    """Parses the lines after `start`; keeps track of which slots there are.

    `modes` are those of the vCPUs, or one for all; `mode` is that of the vCPU whose line it is.
    """

    def __init__(self) -> None:
        self.mode = MODES["long4"]
        self.modes = [self.mode]
        self.code_slots = {TRAMP_SLOT}
        self.nested = False
        self.nvcpus = 1
        self.slots: dict[int, tuple[int, int]] = {}
        self._ops: dict[str, Callable[[Line, list[str], _Common], Op]] = {
            "invlpg": self._invlpg,
            "cr0": self._cr,
            "cr3": self._cr,
            "cr4": self._cr,
            "efer": self._efer,
            "wrmsr": self._wrmsr,
            "ac": self._ac,
            "dump": self._dump,
            "watch": self._watch,
            "slot": self._slot,
            "delslot": self._delslot,
            "movslot": self._movslot,
            "dirtylog": self._slot_flag,
            "roflag": self._slot_flag,
            "getdirty": self._getdirty,
            "cleardirty": self._cleardirty,
            "cap": self._cap,
            "nrmmu": self._nrmmu,
            "madvise_dontneed": self._madvise_dontneed,
            "madvise": self._madvise,
            "mprotect": self._mprotect,
            "remap": self._remap,
            "hosttouch": self._hosttouch,
            "age": self._age,
            "lru_age": self._lru_age,
            "harvestring": self._harvestring,
            "resetrings": self._resetrings,
            "hostread": self._hostread,
            "hostwrite": self._hostwrite,
            "pt": self._pt,
            "modparam": self._modparam,
            "sysfs": self._sysfs,
            "sleep_ms": self._sleep,
            "hostsregs": self._hostsregs,
            "translate": self._translate,
            "prefault": self._prefault,
            "meanwhile": self._meanwhile,
        }
        for user, prefix in ((False, ""), (True, "u")):
            self._ops[f"{prefix}nop"] = partial(self._nop, user=user)
            self._ops[f"{prefix}exec"] = partial(self._exec, user=user)
            for kind in (*_SIZES64, "stos"):
                self._ops[prefix + kind] = partial(self._access, user=user)

    def allow_nested(self) -> None:
        """Accept operations of L2, and those of L1 that concern it, from here on."""
        self.nested = True
        self._ops["l2nop"] = partial(self._nop, user=False, l2=True)
        self._ops["l2exec"] = partial(self._exec, user=False, l2=True)
        for kind in (*_SIZES32, "stos"):
            self._ops[f"l2{kind}"] = partial(self._access, user=False, l2=True)
        self._ops |= {
            "l2exit": self._l2exit,
            "ncr3": self._ncr3,
            "vmcb": self._vmcb,
            "l1invlpga": self._invlpga,
        }

    def set_modes(self, modes: Sequence[Mode]) -> None:
        """Set the modes of the vCPUs from here on, one for each or one for all."""
        self.modes = list(modes)
        self.code_slots = {tramp.slot for tramp in trampolines_of([mode.name for mode in modes]).values()}
        self.mode = self.modes[0]

    def about(self, vcpu: int) -> None:
        """Set the vCPU that what follows is about."""
        self.mode = self.modes[vcpu if len(self.modes) > 1 else 0]

    def knows(self, word: str) -> bool:
        """Return whether there is an operation of this name."""
        return word in self._ops

    def op(self, line: Line, tokens: list[str]) -> Op:
        """Parse one line; `tokens` are its words."""
        vcpu, word = 0, tokens[0]
        if word.startswith("@"):
            digits = word[1:]
            if not re.fullmatch("[0-9]{1,4}", digits) or len(tokens) == 1:
                line.fail(f"`{line.text.strip()}` selects no vCPU", "write `@N OP`, for example `@1 nop`")
            vcpu, tokens = int(digits), tokens[1:]
            word = tokens[0]
            if vcpu >= self.nvcpus:
                line.fail(f"there is no vCPU {vcpu}", f"use 0 to {self.nvcpus - 1} or more `vcpus`")
            if word == "dump":
                line.fail("`dump` belongs to no vCPU", "leave the `@N` out")
        self.about(vcpu)
        parse = self._ops.get(word)
        if parse is None:
            self._refuse(line, word)
        line.word = word if word in WORDS else word.removeprefix("l2" if word.startswith("l2") else "u")
        return parse(line, tokens[1:], {"line": line.number, "text": line.text, "vcpu": vcpu})

    def _refuse(self, line: Line, word: str) -> NoReturn:
        if not self.nested and (word.startswith("l2") or word in ("ncr3", "vmcb", "l1invlpga")):
            line.fail(f"`{word}` needs a guest that is a hypervisor", "put `nested` before `start`")
        if word in WORDS:
            line.fail(f"`{word}` is not an operation", "put it before `start`")
        line.fail(f"unknown word `{word}`", suggestion(word, [*self._ops, "end"]))

    # -- helpers

    def _gva(self, line: Line, index: int) -> int:
        return self._address(line, index, l2=False)

    def _address(self, line: Line, index: int, *, l2: bool) -> int:
        return line.num(index, "address", MASK64 if self.mode.is64 and not l2 else U32)

    def _slot_id(self, line: Line, index: int) -> int:
        slot = line.num(index, "slot", NSLOTS - 1)
        if slot not in self.slots:
            have = ", ".join(map(str, sorted(self.slots))) or "none"
            line.fail(f"there is no slot {slot} at this point", f"use one of: {have}")
        return slot

    def _own_slot(self, line: Line, slot: int) -> int:
        if slot in self.code_slots:
            line.fail(f"slot {slot} holds the guest's own code", f"use 0 to {min(self.code_slots) - 1}")
        if slot == NESTED_SLOT and self.nested:
            line.fail(f"slot {NESTED_SLOT} holds what the guest has as a hypervisor", "use 0 to 61")
        return slot

    def inside(self, line: Line, gpa: int, length: int) -> None:
        """Fail unless one slot has all of `length` bytes at `gpa`."""
        for start, size in self.slots.values():
            if start <= gpa < start + size:
                if gpa + length > start + size:
                    line.fail(f"{gpa:#x} + {length:#x} is beyond the slot", f"it ends at {start + size:#x}")
                return
        line.fail(f"no slot has guest address {gpa:#x} at this point", "add a `slot` line that covers it")

    def _range(self, line: Line) -> tuple[int, int]:
        gpa = line.page_number(0, "address")
        length = line.page_number(1, "length", GPA_LIMIT, PAGE)
        self.inside(line, gpa, length)
        return gpa, length

    def slot_spec(self, line: Line, rest: list[str], *, extra: Sequence[str] = ()) -> SlotSetup:
        """Parse the arguments of `slot`, in the setup and as an op; `line.flags` has its bare options
        afterwards.
        """
        return slot_setup(line, rest, lambda slot: self._own_slot(line, slot), extra)

    def gpte(self, line: Line, rest: list[str]) -> Pt:
        """Parse the arguments of `pt`, in the setup and as an op."""
        line.split(rest, least=3)
        entry_size = self.mode.entry_size
        table = line.num(0, "table", GPA_LIMIT - 1) & PDPT_MASK
        index = line.num(1, "index", PAGE // entry_size - 1)
        value = line.num(2, "entry", (1 << 8 * entry_size) - 1)
        gpa = table + index * entry_size
        self.inside(line, gpa, entry_size)
        return Pt(gpa, entry_size, value)

    # -- guest ops

    def _access(self, line: Line, rest: list[str], common: _Common, *, user: bool, l2: bool = False) -> Op:
        kind = line.word
        is64 = self.mode.is64 and not l2
        if kind == "stos":
            line.split(rest, least=1, most=2, keys=["n"])
            size = 4
        else:
            needed = 3 if kind == "cmpxchg" else 1
            line.split(rest, least=needed, most=max(needed, 2), keys=["size"])
            sizes = (_SIZES64 if is64 else _SIZES32)[kind]
            size = line.key("size", 8 if is64 else 4)
            if size not in sizes:
                where = "L2" if l2 else f"mode {self.mode.name}"
                line.fail(f"`{kind}` has no {size}-byte form in {where}",
                          f"use size={'|'.join(map(str, sizes))}")  # fmt: skip
        mask = (1 << 8 * size) - 1
        return Access(
            **common,
            kind=kind,
            user=user,
            gva=self._address(line, 0, l2=l2),
            size=size,
            value=line.num(1, "value") & mask if len(line.args) > 1 else 0,
            expected=line.num(2, "value") & mask if len(line.args) > 2 else 0,
            count=line.key("n", 1, MAX_COUNT),
            l2=l2,
        )

    def _nop(self, line: Line, rest: list[str], common: _Common, *, user: bool, l2: bool = False) -> Op:
        line.split(rest, least=0)
        return Nop(**common, user=user, l2=l2)

    def _exec(self, line: Line, rest: list[str], common: _Common, *, user: bool, l2: bool = False) -> Op:
        line.split(rest, least=1)
        return Exec(**common, user=user, gva=self._address(line, 0, l2=l2), l2=l2)

    def _l2exit(self, line: Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=0)
        return L2Exit(**common)

    def _ncr3(self, line: Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=1)
        return SetNestedCr3(**common, value=line.num(0, "value"))

    def _vmcb(self, line: Line, rest: list[str], common: _Common) -> Op:
        tops = {"ncr3": MASK64, "asid": U32, "tlb": 0xFF}
        line.split(rest, least=0, keys=tops)
        ncr3, asid, tlb = (
            line.key(name, 0, top) if name in line.keys else None for name, top in tops.items()
        )
        return ChangeVmcb(**common, ncr3=ncr3, asid=asid, tlb=tlb)

    def _invlpga(self, line: Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=1, most=2)
        asid = line.num(1, "ASID", U32) if len(line.args) > 1 else 0
        return Invlpga(**common, address=self._gva(line, 0), asid=asid)

    def _invlpg(self, line: Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=1)
        return Invlpg(**common, gva=self._gva(line, 0))

    def _cr(self, line: Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=1)
        value = line.num(0, "value", MASK64 if self.mode.is64 else U32)
        return WriteCr(**common, cr=int(line.word[2:]), value=value)

    def _efer(self, line: Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=1)
        return WriteMsr(**common, index=_MSR_EFER, value=line.num(0, "value"))

    def _wrmsr(self, line: Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=2)
        return WriteMsr(**common, index=line.num(0, "MSR", U32), value=line.num(1, "value"))

    def _ac(self, line: Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=1)
        return SetAc(**common, on=line.choice(0, _ON_OFF) == "on")

    # -- host ops

    def _dump(self, line: Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=1)
        return SetDump(**common, on=line.choice(0, _ON_OFF) == "on")

    def _watch(self, line: Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=1)
        gpa = line.num(0, "address", GPA_LIMIT - 1)
        self.inside(line, gpa, 1)
        return WatchPage(**common, gpa=gpa)

    def _slot(self, line: Line, rest: list[str], common: _Common) -> Op:
        slot = self.slot_spec(line, rest, extra=["keep"])
        self.slots[slot.id] = slot.gpa, slot.size
        return SetSlot(**common, slot=slot, keep="keep" in line.flags)

    def _delslot(self, line: Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=1)
        slot = self._own_slot(line, line.num(0, "slot", NSLOTS - 1))
        self.slots.pop(slot, None)
        return DeleteSlot(**common, slot=slot)

    def _movslot(self, line: Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=2)
        slot = self._own_slot(line, self._slot_id(line, 0))
        gpa = line.page_number(1, "address")
        self.slots[slot] = gpa, self.slots[slot][1]
        return MoveSlot(**common, slot=slot, gpa=gpa)

    def _slot_flag(self, line: Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=2)
        on = line.choice(0, _ON_OFF) == "on"
        flag = KVM_MEM_READONLY if line.word == "roflag" else KVM_MEM_LOG_DIRTY_PAGES
        return SetSlotFlag(**common, slot=self._slot_id(line, 1), flag=flag, on=on)

    def _getdirty(self, line: Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=1)
        return GetDirty(**common, slot=self._slot_id(line, 0))

    def _cleardirty(self, line: Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=3)
        first, pages = line.num(1, "page", U32), line.num(2, "number of pages", U32)
        return ClearDirty(**common, slot=self._slot_id(line, 0), first=first, pages=pages)

    def _cap(self, line: Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=2)
        return EnableCap(**common, cap=line.num(0, "capability", U32), arg=line.num(1, "argument"))

    def _nrmmu(self, line: Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=1)
        return SetMmuPages(**common, pages=line.num(0, "number of pages", U32))

    def _madvise_dontneed(self, line: Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=2)
        gpa, length = self._range(line)
        return Madvise(**common, gpa=gpa, length=length, advice=_MADV_DONTNEED)

    def _madvise(self, line: Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=3)
        gpa, length = self._range(line)
        return Madvise(**common, gpa=gpa, length=length, advice=line.num(2, "advice", 1 << 16))

    def _mprotect(self, line: Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=3)
        gpa, length = self._range(line)
        protection = line.choice(2, ("ro", "rw", "none"))
        return Mprotect(**common, gpa=gpa, length=length, protection=protection)

    def _remap(self, line: Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=2)
        gpa, length = self._range(line)
        return Remap(**common, gpa=gpa, length=length)

    def _hosttouch(self, line: Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=2)
        gpa, length = self._range(line)
        return HostTouch(**common, gpa=gpa, length=length)

    def _age(self, line: Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=2, flags=["flush"])
        gpa, length = self._range(line)
        return Age(**common, gpa=gpa, length=length, flush="flush" in line.flags)

    def _harvestring(self, line: Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=0)
        return HarvestRing(**common)

    def _resetrings(self, line: Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=0)
        return ResetRings(**common)

    def _host_access(self, line: Line) -> tuple[int, int]:
        gpa = line.num(0, "address", GPA_LIMIT - 1)
        size = line.key("size", self.mode.entry_size)
        if size not in (4, 8):
            line.fail(f"`{line.word}` has no {size}-byte form", "use size=4|8")
        self.inside(line, gpa, size)
        return gpa, size

    def _hostread(self, line: Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=1, keys=["size"])
        gpa, size = self._host_access(line)
        return HostRead(**common, gpa=gpa, size=size)

    def _hostwrite(self, line: Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=2, keys=["size"])
        gpa, size = self._host_access(line)
        return HostWrite(**common, gpa=gpa, size=size, value=line.num(1, "value", (1 << 8 * size) - 1))

    def _pt(self, line: Line, rest: list[str], common: _Common) -> Op:
        entry = self.gpte(line, rest)
        return SetGpte(**common, gpa=entry.gpa, size=entry.size, value=entry.value)

    def _modparam(self, line: Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=3)
        module = line.choice(0, ("kvm", "kvm_amd", "kvm_intel"))
        return ModParam(**common, module=module, name=line.args[1], value=line.args[2])

    def _sysfs(self, line: Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=2)
        return Sysfs(**common, path=line.args[0], value=line.args[1])

    def _sleep(self, line: Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=1)
        return Sleep(**common, milliseconds=line.num(0, "time", 600_000))

    def _lru_age(self, line: Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=0)
        return LruAge(**common)

    def _meanwhile(self, line: Line, rest: list[str], common: _Common) -> Op:
        line.split(rest[:1], least=1)
        drop = line.num(0, "number", U32, least=1)
        if len(rest) < 2:
            line.fail("`meanwhile` lacks an operation", line.usage())
        inner = Line(line.path, line.number, " ".join(rest[1:]))
        op = self.op(inner, rest[1:])
        if not isinstance(op, GUEST_OPS):
            line.fail(f"`{op.text}` is not what a guest does", "put it on a line of its own")
        return Meanwhile(**common, drop=drop, op=op)

    def _hostsregs(self, line: Line, rest: list[str], common: _Common) -> Op:
        names = ("cr0", "cr3", "cr4", "efer")
        line.split(rest, least=0, keys=names)
        cr0, cr3, cr4, efer = (line.key(name, 0) if name in line.keys else None for name in names)
        return HostSregs(**common, cr0=cr0, cr3=cr3, cr4=cr4, efer=efer)

    def _translate(self, line: Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=1)
        return Translate(**common, gva=line.num(0, "address"))

    def _prefault(self, line: Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=2)
        gpa = line.page_number(0, "address")
        return Prefault(**common, gpa=gpa, length=line.page_number(1, "length", GPA_LIMIT, PAGE))
