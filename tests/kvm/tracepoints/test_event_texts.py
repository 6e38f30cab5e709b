"""Declarations of the tracepoints: each has its text as the kernel prints it, and can be read from it."""

import re
from pathlib import Path

import pytest

from shadowmmu.guest.play.machine import Machine
from shadowmmu.kvm.bits import ROLE_ACCESS_SHIFT, ROLE_INVALID
from shadowmmu.kvm.design.design import design_of
from shadowmmu.kvm.state.shadow_page import ShadowPage
from shadowmmu.kvm.tracepoints.event import Event
from shadowmmu.kvm.tracepoints.exits import Exit
from shadowmmu.kvm.tracepoints.host import DirtyRingPush
from shadowmmu.kvm.tracepoints.mmu import (
    PageEvent,
    PagingElement,
    SetAccessedBit,
    SetDirtyBit,
    SetSpte,
    SyncPage,
)
from shadowmmu.kvm.tracepoints.tracer import TRACEPOINTS, EventLog
from shadowmmu.x86.bits import ACC_U, ACC_W, EPT_X

TRACE = Path(__file__).with_name("trace-6.12.111.txt")
"""Lines of the kernel's trace file, some of each tracepoint."""
LINE = re.compile(r".*?: (\w+): ?(.*)")


class Page:
    gfn, role, mmu_valid_gen, root_count, unsync = 0x12, 0x3701, 1, 2, 0


PAGE = "sp gen 1 gfn 12 l1 8-byte q0 wux nxe ad root 2 sync"


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("kvm_mmu_pagetable_walk", (0x401000, 3), "addr 401000 pferr 3 P|W"),
        ("kvm_mmu_pagetable_walk", (0, 0), "addr 0 pferr 0 "),
        ("kvm_mmu_paging_element", (0x2027, 4), "pte 2027 level 4"),
        ("kvm_mmu_set_accessed_bit", (0x4008,), "gpa 4008"),
        ("kvm_mmu_set_dirty_bit", (0x4008,), "gpa 4008"),
        ("kvm_mmu_walker_error", (0x1D,), "pferr 1d P|U|RSVD|F"),
        ("kvm_mmu_get_page", (Page, 1), f"{PAGE} new"),
        ("kvm_mmu_get_page", (Page, 0), f"{PAGE} existing"),
        ("kvm_mmu_sync_page", (Page,), PAGE),
        ("kvm_mmu_unsync_page", (Page,), PAGE),
        ("kvm_mmu_prepare_zap_page", (Page,), PAGE),
        ("mark_mmio_spte", (0x1018, 0xD0000, 7, 4), "sptep:ffff888000001018 gfn d0000 access 7 gen 4"),
        ("handle_mmio_page_fault", (0x401000, 0xD0000, 6), "addr:401000 gfn d0000 access 6"),
        ("check_mmio_spte", (0x80000D0000027, 6, 4), "spte 80000d0000027 kvm_gen 6 spte-gen 4 valid 0"),
        ("kvm_mmu_zap_all_fast", (0, 17), "kvm-mmu-valid-gen 0 used_pages 11"),
        (
            "fast_page_fault",
            (1, 0x1000, 3, 0x5008, 0, 0xE67, False, True),
            "vcpu 1 gva 1000 error_code P|W sptep ffff888000005008 old 0x0 new e67 spurious 0 fixed 1",
        ),
        (
            "fast_page_fault",
            (0, 0, 0x1_0000_0002, 0, 0xE65, 0, 0, 0),
            "vcpu 0 gva 0 error_code W|0x100000000 sptep 0000000000000000 old 0xe65 new 0 spurious 0 fixed 0",
        ),
        ("kvm_mmu_set_spte", (0x801, 0x801E67, 0x7008, 1), "gfn 801 spte 801e67 (rwxu) level 1 at 7008"),
        (
            "kvm_mmu_set_spte",
            (0x801, 1 << 63 | 0x801E61, 0x7008, 2),
            "gfn 801 spte 8000000000801e61 (r---) level 2 at 7008",
        ),
        ("kvm_mmu_spte_requested", (0x801, 1 << 63, 1, 7), "gfn 801 pfn 8000000000000000 level 1"),
        (
            "kvm_page_fault",
            (0, 0xFFFFFFFF8000043B, 0x401000, 2),
            "vcpu 0 rip 0xffffffff8000043b address 0x0000000000401000 error_code 0x2",
        ),
        (
            "kvm_exit",
            (1, 0x4E, 0x10, 2, 0x401000),
            "vcpu 1 reason PF excp rip 0x10 info1 0x0000000000000002 info2 0x0000000000401000"
            " intr_info 0x00000000 error_code 0x00000000",
        ),
        ("kvm_mmio", (0, 8, 0xD0000000, 0), "mmio unsatisfied-read len 8 gpa 0xd0000000 val 0x0"),
        ("kvm_mmio", (2, 4, 0xD0000000, 9), "mmio write len 4 gpa 0xd0000000 val 0x9"),
        ("vcpu_match_mmio", (0x400000, 0xD0000000, 0, 0), "gva 0x400000 gpa 0xd0000000 Read GVA"),
        ("vcpu_match_mmio", (0, 0xD0000000, 1, 1), "gva 0x0 gpa 0xd0000000 Write GPA"),
        ("kvm_emulate_insn", (0x1F, 0, b"\x0f\x01\x3f", "prot64", 0), "0:1f:0f 01 3f (prot64)"),
        ("kvm_emulate_insn", (0x1F, 0, b"\xcc", "prot32", 1), "0:1f:cc (prot32) failed"),
        ("kvm_inj_exception", (14, 1, 2, 0), "#PF (0x2)"),
        ("kvm_inj_exception", (6, 0, 0, 1), "#UD [reinjected]"),
        ("kvm_inj_exception", (32, 0, 0, 0), "0x20"),
        ("kvm_inj_virq", (0x21, 1, 1), "Soft/INTn 0x21 [reinjected]"),
        ("kvm_inj_virq", (0x30, 0, 0), "IRQ 0x30"),
        ("kvm_msr", (1, 0xC0000080, 0x500, 0), "msr_write c0000080 = 0x500"),
        ("kvm_msr", (0, 0x10, 0, 1), "msr_read 10 = 0x0 (#GP)"),
        (
            "kvm_unmap_hva_range",
            (0x7F0000000000, 0),
            "mmu notifier unmap range: 0x007f0000000000 -- 0x00000000000000",
        ),
    ],
)
def test_text(name: str, arguments: tuple, text: str) -> None:
    event = TRACEPOINTS[name].make(*arguments)
    assert event.name == name
    assert event.text() == text
    assert str(event) == f"{name}: {text}"
    assert type(event).from_text(text).text() == text


@pytest.mark.parametrize(
    ("role", "text"),
    [
        (0x3704, "l4 8-byte q0 wux nxe ad"),
        (0x1701 | 1 << 4 | 3 << 5, "l1 4-byte q3 wux nxe ad"),
        (0x1000 | 2 | 1 << 7 | 1 << 11, "l2 8-byte q0 direct --- invalid nxe ad"),
        (0x10001 | 4 << 8, "l1 8-byte q0 -u- !nxe !ad"),
    ],
)
def test_role_in_text(role: int, text: str) -> None:
    event = SyncPage(0, 5, role, 0, 1)
    assert event.text() == f"sp gen 0 gfn 5 {text} root 0 unsync"
    assert SyncPage.from_text(event.text()).text() == event.text()


def kernel_lines() -> list[str]:
    return TRACE.read_text().splitlines()


@pytest.mark.parametrize("line", kernel_lines())
def test_a_line_of_the_kernel_is_read_and_printed_again(line: str) -> None:
    match = LINE.fullmatch(line)
    assert match, line
    name, text = match.groups()
    assert TRACEPOINTS[name].event.from_text(text).text().rstrip() == text


def test_the_kernel_lines_show_most_tracepoints() -> None:
    shown = {match[1] for line in kernel_lines() if (match := LINE.fullmatch(line))}
    assert len(shown) > 30


def test_what_is_no_text_of_the_tracepoint_is_refused() -> None:
    with pytest.raises(ValueError, match="'gfn 1' is not a text of kvm_mmu_set_accessed_bit"):
        SetAccessedBit.from_text("gfn 1")


@pytest.mark.parametrize("name", TRACEPOINTS)
def test_every_field_and_event_is_explained(name: str) -> None:
    tracepoint = TRACEPOINTS[name]
    assert tracepoint.meaning.endswith((".", ")."))
    assert list(tracepoint.lines()) == list(tracepoint.event.fields)
    assert all(tracepoint.lines().values())


@pytest.mark.parametrize(
    ("kernel", "page", "requested"),
    [
        ("6.12.111", "sp gen 1 gfn 12 l1 8-byte q0 wu- invalid !nxe ad root 2 sync", "gfn 5 pfn 6 level 1"),
        ("7.3.4", "sp gen 1 gfn 12 l1 8-byte q0 rwu- invalid !nxe ad root 2 sync",
         "gfn 5 pfn 6 level 1 access 7"),
    ],
)  # fmt: skip
def test_a_kernel_shows_access_as_it_has_it(kernel: str, page: str, requested: str) -> None:
    sp = ShadowPage(0x12, 1 | (ACC_W | ACC_U) << ROLE_ACCESS_SHIFT | ROLE_INVALID, 0, 0)
    sp.mmu_valid_gen, sp.root_count = 1, 2
    log = EventLog()
    kvm = Machine(design=design_of(kernel)).kvm
    with kvm.tracer.listening(log):
        kvm.tracer.kvm_mmu_sync_page(sp)
        kvm.tracer.kvm_mmu_spte_requested(5, 6, 1, ACC_W | ACC_U)
    first, second = log.take()
    assert (first.text(), second.text()) == (page, requested)
    assert type(first).from_text(page) == first
    assert f"role={first.role:#x} (level 1 {first.access} invalid)" in repr(first)


def test_the_table_says_what_an_event_has() -> None:
    tracepoint = TRACEPOINTS["kvm_mmu_spte_requested"]
    assert tracepoint.lines()["pfn"] == "exact 4 KiB host frame, 1 << 63 without a slot"
    assert tracepoint.event.ftrace == "gfn {gfn:x} pfn {pfn:x} level {level}"
    assert tracepoint.event.fields == {"gfn": "Gfn", "pfn": "Pfn", "level": "int"}
    assert TRACEPOINTS["kvm_set_spte_hva"].kernels == ["6.1.176"]


def test_fields_of_a_base_come_first() -> None:
    lines = TRACEPOINTS["kvm_mmu_get_page"].lines()
    assert list(lines) == [*PageEvent.fields, "created"]
    assert lines["created"] == "1 if it was made"


# -- records -----------------------------------------------------------------------------------------------


def test_repr_reads_as_a_call_with_what_the_words_mean() -> None:
    assert repr(PagingElement(0x2027, 4)) == "kvm_mmu_paging_element(pte=0x2027, level=4)"
    assert repr(TRACEPOINTS["kvm_mmu_get_page"].make(Page, True)) == (
        "kvm_mmu_get_page(mmu_valid_gen=1, gfn=0x12, role=0x3701 (level 1 wux), root_count=2, unsync=0,"
        " created=1)"
    )
    assert repr(SetSpte(0x801, 0x801E67, 0x7008, 1)) == (
        "kvm_mmu_set_spte(gfn=0x801, spte=0x801e67 (pfn 0x801 w), sptep=0x7008, level=1, x_mask=0x0)"
    )
    changed = TRACEPOINTS["kvm_tdp_mmu_spte_changed"].make(0, 1, 1, 1 << 63, 1 << 63 | 0x5A0)
    assert "old_spte=0x8000000000000000 (empty), new_spte=0x80000000000005a0 (frozen)" in repr(changed)


def test_events_are_equal_if_kind_fields_and_task_are() -> None:
    assert SetAccessedBit(1) == SetAccessedBit(gpa=1)
    assert hash(SetAccessedBit(1)) == hash(SetAccessedBit(1))
    assert SetAccessedBit(1) != SetAccessedBit(2)
    assert SetAccessedBit(1) != SetDirtyBit(1)
    assert SetAccessedBit(1) != SetAccessedBit(1).by("kworker")
    assert SetAccessedBit(1) != 1


def test_events_cannot_be_changed() -> None:
    event: Event = SetAccessedBit(1)
    with pytest.raises(AttributeError, match="SetAccessedBit is immutable"):
        event.gpa = 2  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        event.other = 2  # type: ignore[attr-defined]


def test_fields_may_have_defaults_and_must_be_complete() -> None:
    assert Exit(0, 0x4E, 0, 0, 0).isa == 2
    with pytest.raises(TypeError, match="offset"):
        DirtyRingPush(0, 0, 0, 0)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        SetAccessedBit(0)(1)  # type: ignore[operator]


def test_the_permissions_of_ept_are_read_too() -> None:
    event = SetSpte(0x801, 0x801 << 12 | 0xE01, 0x7008, 1, x_mask=EPT_X)
    assert "(r--u)" in event.text()
    assert SetSpte.from_text(event.text()) == event
