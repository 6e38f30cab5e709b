"""The bits of a present SPTE by name, in the two formats: of shadow paging and NPT, and of EPT."""

from __future__ import annotations

from shadowmmu.kvm.bits import (
    EPT_SPTE_HOST_WRITABLE,
    EPT_SPTE_MMU_WRITABLE,
    SHADOW_ACC_TRACK_SAVED_SHIFT,
    SPTE_HOST_WRITABLE,
    SPTE_MMU_PRESENT,
    SPTE_MMU_WRITABLE,
    SPTE_TDP_AD_DISABLED,
)
from shadowmmu.x86.bits import (
    ADDR,
    EPT_A,
    EPT_D,
    EPT_IPAT,
    EPT_R,
    EPT_TYPE,
    EPT_W,
    EPT_X,
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

_TRACKED_R = EPT_R << SHADOW_ACC_TRACK_SAVED_SHIFT
_TRACKED_X = EPT_X << SHADOW_ACC_TRACK_SAVED_SHIFT
_AD_TYPE = 3 << 52
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


def ept_fields(word: int, *, leaf: bool, target: str, suppress_ve: int) -> list[Field]:
    """Return the bits of an SPTE of EPT; `suppress_ve` is the bit against #VE, 0 where there is none."""
    has_ad = not word & SPTE_TDP_AD_DISABLED
    fields = [
        flag(word, EPT_R, "R", "readable", "not readable"),
        flag(word, EPT_W, "W", "writable", "not writable"),
        flag(word, EPT_X, "X", "executable", "not executable"),
    ]
    if leaf:
        fields += [
            field(
                word, EPT_TYPE, "memory type", _TYPES.get((word & EPT_TYPE) >> 3, "reserved: misconfigured")
            ),
            flag(word, EPT_IPAT, "ignore PAT", "the guest's PAT does not count", "the guest's PAT counts"),
            flag(word, PS, "PS", "maps a huge page", "no huge page"),
        ]
    if has_ad:
        fields.append(flag(word, EPT_A, "A", "accessed", "not accessed since it was made or aged"))
        if leaf:
            fields.append(flag(word, EPT_D, "D", "written", "not written since it was made or cleaned"))
    fields += [
        _mmu_present(word),
        _frame(word, target, leaf=leaf),
        field(word, _AD_TYPE, "A/D type", _ad_type(word)),
    ]
    if leaf:
        if not has_ad:
            fields += [
                flag(word, _TRACKED_R, "saved R", "R comes back with the next access", "nothing saved"),
                flag(word, _TRACKED_X, "saved X", "X comes back with the next access", "nothing saved"),
            ]
        fields += [
            flag(word, EPT_SPTE_HOST_WRITABLE, *_HOST_WRITABLE),
            flag(word, EPT_SPTE_MMU_WRITABLE, *_MMU_WRITABLE),
        ]
    if suppress_ve:
        fields.append(
            flag(word, suppress_ve, "suppress #VE", "violations exit", "a violation may be #VE in the guest")
        )
    return fields


def _ad_type(word: int) -> str:
    kinds = {
        0: "Accessed and Dirty are the processor's",
        1: "Accessed and Dirty are not used",
        2: "Dirty is not used: write protection finds writes",
    }
    return kinds.get((word & _AD_TYPE) >> 52, "no type")


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
