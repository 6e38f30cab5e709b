"""Texts of the tracepoints, and the log that collects them."""

import inspect

import pytest

from shadowmmu.kvm.state.tracepoints import Tracer
from shadowmmu.trace import events
from shadowmmu.trace.events import EventLog


class Page:
    gfn, role, mmu_valid_gen, root_count, unsync = 0x12, 0x3701, 1, 2, 0


PAGE = "sp gen 1 gfn 12 l1 8-byte q0 wux nxe ad root 2 sync"


@pytest.mark.parametrize(
    ("method", "arguments", "text"),
    [
        ("kvm_mmu_pagetable_walk", (0x401000, 0x1_0000_0003), "addr 401000 pferr 3 P|W"),
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
def test_text(method, arguments, text):
    log = EventLog()
    getattr(log, method)(*arguments)
    (event,) = log.take()
    assert event.name == method
    assert event.text() == text
    assert log.take() == []
    hash(event)


@pytest.mark.parametrize(
    ("role", "text"),
    [
        (0x3704, "l4 8-byte q0 wux nxe ad"),
        (0x1701 | 1 << 4 | 3 << 5, "l1 4-byte q3 wux nxe ad"),
        (0x1000 | 2 | 1 << 7 | 1 << 11, "l2 8-byte q0 direct --- invalid nxe ad"),
        (0x10001 | 4 << 8, "l1 8-byte q0 -u- !nxe !ad"),
    ],
)
def test_role_in_text(role, text):
    event = events.SyncPage(0, 5, role, 0, 1)
    assert event.text() == f"sp gen 0 gfn 5 {text} root 0 unsync"


def test_every_hook_is_logged():
    hooks = {name for name, _ in inspect.getmembers(Tracer, inspect.isfunction)}
    logged = {name for name in vars(EventLog) if not name.startswith("_")}
    assert logged == hooks | {"take", "attribute"}


def test_events_of_a_kernel_thread():
    log = EventLog()
    log.kvm_mmu_zap_all_fast(0, 17)
    log.attribute("kworker")
    (event,) = log.take()
    assert (event.task, event.name, event.text()) == (
        "kworker",
        "kvm_mmu_zap_all_fast",
        "kvm-mmu-valid-gen 0 used_pages 11",
    )
    log.kvm_mmu_zap_all_fast(0, 17)
    assert log.take() == [events.ZapAllFast(0, 17)]


def test_values_of_a_page_are_copied():
    class Changing(Page):
        pass

    log = EventLog()
    log.kvm_mmu_get_page(Changing, 1)
    Changing.gfn = 99
    assert log.take()[0].gfn == 0x12
