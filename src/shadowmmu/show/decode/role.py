"""Roles of shadow pages and of MMUs: union kvm_mmu_page_role and kvm_cpu_role (kvm_host.h, 6.12.111 and
7.3.4).
"""

from __future__ import annotations

from shadowmmu.kvm.bits import (
    EXT_CR4_LA57,
    EXT_CR4_PKE,
    EXT_CR4_PSE,
    EXT_CR4_SMAP,
    EXT_CR4_SMEP,
    EXT_EFER_LMA,
    EXT_EXECONLY,
    EXT_VALID,
    ROLE_4BYTE_GPTE,
    ROLE_ACCESS,
    ROLE_ACCESS_SHIFT,
    ROLE_AD_DISABLED,
    ROLE_CR0_WP,
    ROLE_DIRECT,
    ROLE_EFER_NX,
    ROLE_GUEST_MODE,
    ROLE_INVALID,
    ROLE_LEVEL,
    ROLE_PASSTHROUGH,
    ROLE_QUADRANT,
    ROLE_SMAP_ANDNOT_WP,
    ROLE_SMEP,
)
from shadowmmu.kvm.tracepoints.mmu import GetPage, GetPage4
from shadowmmu.kvm.tracepoints.role_layout import EXT4_HAS_PFERR_FETCH, THREE_ACCESS_BITS, RoleLayout
from shadowmmu.x86.bits import ACC_U, ACC_W, ACC_X

from .record import Decoded, Field, field, flag, rest

__all__ = ["decode_cpu_role", "decode_role", "role_text"]

_SMM = 0xFF << 24
_TABLES = {1: "page table", 2: "page directory", 3: "page-directory-pointer table", 4: "PML4", 5: "PML5"}
_MODES = {0: "no paging", 2: "32-bit paging", 3: "PAE paging", 4: "4-level paging", 5: "5-level paging"}
_UNUSED = "no meaning in this kernel: not a role, or one of another kernel"


def role_text(role: int, layout: RoleLayout = THREE_ACCESS_BITS) -> str:
    """Return a role of a kernel as its kvm_mmu_get_page prints it: `l1 8-byte q0 wux nxe ad`."""
    event = GetPage if layout is GetPage.layout else GetPage4
    text = event(0, 0, role, 0, 0, 0).text()
    return text.partition(" gfn 0 ")[2].partition(" root ")[0]


def decode_role(word: int, layout: RoleLayout = THREE_ACCESS_BITS) -> Decoded:
    """Return what the role of a shadow page, 32 bits as a kernel lays them out, says of it."""
    fields = _page_fields(word, layout)
    fields += rest(word, fields, _UNUSED, 32)
    role = layout.model_role(word)
    return Decoded(
        "role", word, _role_title(role), tuple(sorted(fields, key=lambda f: f.low)), role_text(word, layout),
        tuple(_role_implies(role, smep=layout.smep)),
    )  # fmt: skip


def _smep_bit(word: int, layout: RoleLayout) -> Field:
    name, mask = layout.smep, layout.bits(ROLE_SMEP)
    if name == "cr4_smep":
        return flag(word, mask, name, "CR4.SMEP: the kernel must not execute user pages", "CR4.SMEP clear")
    return flag(word, mask, name, "CR4.SMEP with CR0.WP clear", "not so")


def _page_fields(shown: int, layout: RoleLayout) -> list[Field]:
    word = layout.model_role(shown)
    level = word & ROLE_LEVEL
    access = (word & ROLE_ACCESS) >> ROLE_ACCESS_SHIFT
    direct = bool(word & ROLE_DIRECT)
    quadrant = (word & ROLE_QUADRANT) >> 5
    at = layout.bits
    return [
        field(shown, at(ROLE_LEVEL), "level", _TABLES.get(level, "no level of a table")),
        flag(shown, at(ROLE_4BYTE_GPTE), "has_4_byte_gpte", "the guest's entries have 4 bytes, 1024 a table",
             "the guest's entries have 8 bytes"),
        field(shown, at(ROLE_QUADRANT), "quadrant", _quadrant(word, quadrant)),
        flag(shown, at(ROLE_DIRECT), "direct", "maps guest frames in order, shadows no table",
             "shadows a table of the guest"),
        field(shown, at(ROLE_ACCESS), "access", _granted(access, layout.letters(shown), direct=direct)),
        flag(shown, at(ROLE_INVALID), "invalid", "zapped, in use only as a root", "not zapped"),
        flag(shown, at(ROLE_EFER_NX), "efer_nx", "bit 63 of entries is NX", "bit 63 of entries is reserved"),
        flag(shown, at(ROLE_CR0_WP), "cr0_wp", "CR0.WP: the kernel obeys read-only entries",
             "CR0.WP clear: the kernel may write through read-only entries"),
        _smep_bit(shown, layout),
        flag(shown, at(ROLE_SMAP_ANDNOT_WP), "smap_andnot_wp", "CR4.SMAP with CR0.WP clear", "not so"),
        flag(shown, at(ROLE_AD_DISABLED), "ad_disabled", "no Accessed and Dirty bits in its SPTEs",
             "its SPTEs have Accessed and Dirty bits"),
        flag(shown, at(ROLE_GUEST_MODE), "guest_mode", "for a nested guest, L2", "for the guest itself, L1"),
        flag(shown, at(ROLE_PASSTHROUGH), "passthrough", "a level that the guest's tables do not have",
             "no extra level"),
        field(shown, _SMM, "smm", "for system management mode" if word & _SMM else "not for SMM"),
    ]  # fmt: skip


def _quadrant(word: int, quadrant: int) -> str:
    if not word & ROLE_4BYTE_GPTE or word & ROLE_DIRECT:
        return "one shadow page a table"
    parts = {1: 2, 2: 4}.get(word & ROLE_LEVEL)
    return f"part {quadrant} of {parts} of its guest table" if parts else "one shadow page a table"


def _granted(access: int, letters: str, *, direct: bool) -> str:
    rights = [name for bit, name in ((ACC_W, "write"), (ACC_U, "user"), (ACC_X, "execute")) if access & bit]
    by = "allowed through it" if direct else "granted by the guest's tables above it"
    return f"{letters}: {', '.join(rights) or 'reads of the kernel only'} {by}"


def _role_title(word: int) -> str:
    level = word & ROLE_LEVEL
    if not word & ~(ROLE_INVALID | ROLE_LEVEL | _SMM) and not level:
        return "root role of an MMU that was never used, or whose CPUID changed"
    if _is_pae_root_of_32_bit(word):
        return "root role of a 32-bit guest: four page directories under a PAE root"
    kind = "direct" if word & ROLE_DIRECT else "passthrough" if word & ROLE_PASSTHROUGH else "indirect"
    whose = " of a nested guest" if word & ROLE_GUEST_MODE else ""
    zapped = "zapped " if word & ROLE_INVALID else ""
    return f"{zapped}{kind} shadow page of level {level}{whose}"


def _role_implies(word: int, *, smep: str) -> list[str]:
    level = word & ROLE_LEVEL
    if not level:
        return ["No page has it: level 0 stands for an MMU without tables."]
    if _is_pae_root_of_32_bit(word):
        return [
            "No shadow page has it: the guest's directory of 1024 entries is shadowed by four pages of level "
            "2, quadrants 0 to 3, and the MMU's pae_root points to them."
        ]
    said = []
    if word & ROLE_PASSTHROUGH:
        said.append("It stands above the root of the guest's tables and holds one link to it, in SPTE 0.")
    elif word & ROLE_DIRECT:
        said.append(
            f"Its 512 SPTEs map {_size(level)} each, guest frames in order: it shadows no guest table, so "
            "it is never unsync and no write to it is trapped."
        )
    else:
        said.append(f"It shadows a guest {_guest_table(word)}; its SPTEs are made from the entries there.")
        if level == 1:
            said.append("The guest may write that table freely once it is unsync (kvm_unsync_page).")
        else:
            said.append("The table is write-protected: guest writes to it exit and are emulated.")
    if word & ROLE_4BYTE_GPTE and not word & ROLE_DIRECT and level <= 2:
        parts = 2 if level == 1 else 4
        said.append(
            f"A 32-bit table has 1024 entries of {'4 KiB' if level == 1 else '4 MiB'} and a shadow page 512 "
            f"SPTEs of {_size(level)}: {parts} shadow pages for one table, distinguished by the quadrant."
        )
    if not word & (ROLE_ACCESS & ACC_W << ROLE_ACCESS_SHIFT):
        said.append("Nothing below it is writable by the guest's own tables.")
    of_wp = ROLE_SMAP_ANDNOT_WP | (ROLE_SMEP if smep == "smep_andnot_wp" else 0)
    if word & ROLE_SMEP & ~of_wp:
        said.append("A guest that changes CR4.SMEP gets other shadow pages, at every level.")
    if word & of_wp or not word & ROLE_CR0_WP:
        said.append(
            "CR0.WP is part of the role because its SPTEs differ: a kernel write through a read-only user "
            "entry makes a kernel-only writable SPTE."
        )
    if word & ROLE_INVALID:
        said.append("kvm_mmu_get_page does not find it any more; the last root that uses it frees it.")
    return said


def _is_pae_root_of_32_bit(word: int) -> bool:
    return word & (ROLE_LEVEL | ROLE_4BYTE_GPTE | ROLE_DIRECT | ROLE_GUEST_MODE) == 3 | ROLE_4BYTE_GPTE


def _guest_table(word: int) -> str:
    four = " of 4-byte entries" if word & ROLE_4BYTE_GPTE else ""
    return f"{_TABLES.get(word & ROLE_LEVEL, 'table')}{four}"


def _size(level: int) -> str:
    return {1: "4 KiB", 2: "2 MiB", 3: "1 GiB", 4: "512 GiB", 5: "256 TiB"}.get(level, "nothing")


# -- CPU roles ---------------------------------------------------------------------------------------------


def decode_cpu_role(word: int, layout: RoleLayout = THREE_ACCESS_BITS) -> Decoded:
    """Return what a CPU role, 64 bits, says of the guest's paging; the extended word is the upper half.

    0 is that of a vCPU that never ran.
    """
    base, extended = layout.model_role(word & 0xFFFFFFFF), word >> 32
    at = layout.bits
    fields = [
        field(word, at(ROLE_LEVEL), "level", _MODES.get(base & ROLE_LEVEL, "no paging mode")),
        flag(word, at(ROLE_4BYTE_GPTE), "has_4_byte_gpte", "CR4.PAE clear: entries of 4 bytes",
             "entries of 8 bytes, or no paging"),
        flag(word, at(ROLE_DIRECT), "direct", "CR0.PG clear: no paging", "CR0.PG set"),
        field(word, at(ROLE_ACCESS), "access", "all; of no meaning here"),
        flag(word, at(ROLE_INVALID), "invalid", "must be computed anew", "valid"),
        flag(word, at(ROLE_EFER_NX), "efer_nx", "EFER.NX", "EFER.NX clear, or no paging"),
        flag(word, at(ROLE_CR0_WP), "cr0_wp", "CR0.WP", "CR0.WP clear, or no paging"),
        _smep_bit(word, layout),
        flag(word, at(ROLE_SMAP_ANDNOT_WP), "smap_andnot_wp", "CR4.SMAP with CR0.WP clear", "not so"),
        flag(word, at(ROLE_GUEST_MODE), "guest_mode", "the vCPU runs L2", "the vCPU runs L1"),
        field(word, _SMM, "smm", "in system management mode" if base & _SMM else "not in SMM"),
        *_extended_fields(word, layout),
    ]  # fmt: skip
    fields += rest(word, fields, _UNUSED)
    valid = bool(extended & EXT_VALID)
    mode = _MODES.get(base & ROLE_LEVEL, f"level {base & ROLE_LEVEL}, no paging mode")
    title = f"CPU role: {mode}" if valid else "CPU role of an MMU that was never used"
    return Decoded("cpu-role", word, title, tuple(sorted(fields, key=lambda f: f.low)), "",
                   tuple(_cpu_role_implies(base, extended)))  # fmt: skip


def _extended_fields(word: int, layout: RoleLayout) -> list[Field]:
    def bit(mask: int, name: str, if_set: str, if_clear: str) -> Field:
        return flag(word, mask << 32, name, if_set, if_clear)

    at = layout.extended_bits
    if at(EXT_CR4_SMEP):
        smep = bit(at(EXT_CR4_SMEP), "cr4_smep", "CR4.SMEP", "CR4.SMEP clear, or no paging")
    else:
        smep = bit(
            EXT4_HAS_PFERR_FETCH, "has_pferr_fetch", "EFER.NX or CR4.SMEP: fetches set F in error codes",
            "error codes have no F",
        )  # fmt: skip
    return [
        bit(at(EXT_VALID), "valid", "computed", "never computed"),
        bit(at(EXT_EXECONLY), "execonly", "L1's EPT may be execute-only", "not so"),
        bit(at(EXT_CR4_PSE), "cr4_pse", "CR4.PSE", "CR4.PSE clear, or no paging"),
        bit(at(EXT_CR4_PKE), "cr4_pke", "CR4.PKE in long mode", "not so"),
        bit(at(EXT_CR4_SMAP), "cr4_smap", "CR4.SMAP", "CR4.SMAP clear, or no paging"),
        smep,
        bit(at(EXT_CR4_LA57), "cr4_la57", "CR4.LA57 in long mode", "not so"),
        bit(at(EXT_EFER_LMA), "efer_lma", "EFER.LMA: long mode", "not in long mode"),
    ]


def _cpu_role_implies(base: int, extended: int) -> list[str]:
    if not extended & EXT_VALID:
        return ["The MMU is initialised before its first use (kvm_init_mmu)."]
    said = []
    if not base & ROLE_LEVEL:
        said.append("Guest addresses are physical: its shadow pages, if any, are direct.")
    else:
        said.append(
            f"The guest walks {base & ROLE_LEVEL} levels; with shadow paging its root has the role "
            "of this word with at least level 3 and with efer_nx."
        )
    if base & ROLE_LEVEL and not base & ROLE_CR0_WP:
        said.append("The guest's kernel may write through read-only entries.")
    said.append("While this word and the root role stay the same, kvm_init_mmu leaves the MMU as it is.")
    return said
