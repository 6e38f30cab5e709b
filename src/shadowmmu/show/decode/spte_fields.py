"""The bits of a present SPTE by name, in the two formats: of shadow paging and NPT, and of EPT."""

from __future__ import annotations

from shadowmmu.kvm.bits import (
    SPTE_HOST_WRITABLE,
    SPTE_MMU_PRESENT,
    SPTE_MMU_WRITABLE,
)
from shadowmmu.kvm.state.spte_masks import EptSoftwareBits, SpteMasks
from shadowmmu.x86.bits import (
    ADDR,
    EPT_A,
    EPT_D,
    EPT_IPAT,
    EPT_R,
    EPT_TYPE,
    EPT_W,
    EPT_X,
    EPT_XU,
    NX,
    PS,
    A,
    D,
    P,
    U,
    W,
)

from .record import Field, field, flag

__all__ = ["ept_fields", "legacy_fields"]

_TYPES = {0: "uncacheable", 1: "write-combining", 4: "write-through", 5: "write-protected", 6: "write-back"}
_HOST_WRITABLE = "host-writable", "the host lets KVM write the page", "the host maps the page read-only"
_MMU_WRITABLE = "MMU-writable", "KVM may make it writable", "KVM must not make it writable as it is"


def legacy_fields(word: int, *, leaf: bool, target: str) -> list[Field]:
    """Return the bits of an SPTE of shadow paging or NPT; `target` names what it points to, if known."""
    fields = [
        flag(word, P, "P", "present to the processor", "not present to the processor"),
        flag(word, W, "W", "writable", "read-only"),
        flag(word, U, "U", "user code may use it", "kernel only"),
        flag(word, A, "A", "accessed", "not accessed since it was made or aged"),
    ]
    if leaf:
        fields += [
            flag(word, D, "D", "written, or made ready to be", "not written since it was made or cleaned"),
            flag(word, PS, "PS", "maps a huge page", "no huge page"),
            flag(word, SPTE_HOST_WRITABLE, *_HOST_WRITABLE),
            flag(word, SPTE_MMU_WRITABLE, *_MMU_WRITABLE),
        ]
    return [
        *fields,
        _mmu_present(word),
        _frame(word, target, leaf=leaf),
        flag(word, NX, "NX", "not executable", "executable"),
    ]


def ept_fields(
    word: int, masks: SpteMasks, software: EptSoftwareBits, *, leaf: bool, target: str, suppress_ve: int
) -> list[Field]:
    """Return the bits of an SPTE of EPT; `suppress_ve` is the bit against #VE, 0 where there is none."""
    by_whom = "" if masks.ad_enabled else " (a software bit)"
    fields = [
        flag(word, EPT_R, "R", "readable", "not readable"),
        flag(word, EPT_W, "W", "writable", "not writable"),
        flag(word, EPT_X, "X", "executable", "not executable"),
    ]
    if masks.x & EPT_XU:
        fields.append(flag(word, EPT_XU, "XU", "executable at user addresses", "not executable there"))
    if leaf:
        fields += [
            field(
                word, EPT_TYPE, "memory type", _TYPES.get((word & EPT_TYPE) >> 3, "reserved: misconfigured")
            ),
            flag(word, EPT_IPAT, "ignore PAT", "the guest's PAT does not count", "the guest's PAT counts"),
            flag(word, PS, "PS", "maps a huge page", "no huge page"),
        ]
    if masks.ad_enabled or (masks.accessed and leaf):
        unused = f"not accessed since it was made or aged{by_whom}"
        fields.append(flag(word, EPT_A, "A", f"accessed{by_whom}", unused))
    if masks.dirty and leaf:
        unused = f"not written since it was made or cleaned{by_whom}"
        fields.append(flag(word, EPT_D, "D", f"written{by_whom}", unused))
    fields += [
        _mmu_present(word),
        _frame(word, target, leaf=leaf),
        _ad_type(word, software.ad_type_shift),
    ]
    if leaf:
        if not masks.ad_enabled:
            fields += [
                flag(
                    word,
                    right << software.saved_shift,
                    f"saved {name}",
                    f"{name} comes back with the next access",
                    "nothing saved",
                )
                for name, right in (("R", EPT_R), ("X", EPT_X), ("XU", EPT_XU))
                if software.saved & right
            ]
        fields += [
            flag(word, software.host_writable, *_HOST_WRITABLE),
            flag(word, software.mmu_writable, *_MMU_WRITABLE),
        ]
    if suppress_ve:
        fields.append(
            flag(word, suppress_ve, "suppress #VE", "violations exit", "a violation may be #VE in the guest")
        )
    return fields


def _ad_type(word: int, shift: int) -> Field:
    kinds = {
        0: "Accessed and Dirty are the processor's",
        1: "Accessed and Dirty are not used",
        2: "Dirty is not used: write protection finds writes",
    }
    return field(word, 3 << shift, "A/D type", kinds.get(word >> shift & 3, "no type"))


def _mmu_present(word: int) -> Field:
    return flag(word, SPTE_MMU_PRESENT, "MMU-present", "KVM takes it for present", "not present to KVM")


def _frame(word: int, target: str, *, leaf: bool) -> Field:
    if target:
        meaning = target
    elif word & ADDR:
        meaning = f"{'page' if leaf else 'table'} at host address {word & ADDR:#x}"
    else:
        meaning = "not given"
    return field(word, ADDR, "frame", meaning)
