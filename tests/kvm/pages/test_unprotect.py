"""Giving up the shadow of a table, and not for ever (specification 5.4b, 11.7)."""

import pytest
from kvm.world import World

from shadowmmu.kvm.bits import EMULTYPE_ALLOW_RETRY_PF, RET_PF_EMULATE
from shadowmmu.kvm.fault.page_fault import kvm_mmu_page_fault
from shadowmmu.kvm.pages.unprotect import kvm_mmu_unprotect_gfn_and_retry
from shadowmmu.x86.bits import PFERR_P, PFERR_W

WINDOW = 0x7F0000000000


@pytest.fixture
def world() -> World:
    world = World("long4", "map 0x1000 0x400000 0x800000 0x67", f"map 0x1000 {WINDOW:#x} 0x3000 0x67 n=2")
    world.ok("read 0x400000", f"read {WINDOW:#x}")
    world.vcpu.rip = 0x1234
    return world


def test_every_page_of_the_table_is_zapped(world: World) -> None:
    directory = world.page(3, 2)
    assert kvm_mmu_unprotect_gfn_and_retry(world.vcpu, WINDOW + 8)
    assert directory not in world.pages()
    assert (world.vcpu.last_retry_rip, world.vcpu.last_retry_addr) == (0x1234, WINDOW + 8)


@pytest.mark.parametrize(("always", "remembered"), [(False, 0), (True, 0x1234)])
def test_nothing_to_zap(world: World, always: bool, remembered: int) -> None:
    assert not kvm_mmu_unprotect_gfn_and_retry(world.vcpu, 0x400000, always_retry=always)
    assert world.vcpu.last_retry_rip == remembered


def test_an_address_the_guest_cannot_write(world: World) -> None:
    count = len(world.pages())
    assert not kvm_mmu_unprotect_gfn_and_retry(world.vcpu, 0x600000)
    world.vcpu.cpl = 3
    world.ok("hostwrite 0x4000 0x800063 size=8")
    assert not kvm_mmu_unprotect_gfn_and_retry(world.vcpu, 0x400000)
    assert len(world.pages()) == count
    world.vcpu.cpl = 0


def test_without_shadowed_tables_there_is_no_walk() -> None:
    world = World("nopaging")
    world.ok("nop")
    assert not kvm_mmu_unprotect_gfn_and_retry(world.vcpu, 0x800000)


def test_a_write_to_a_table_may_be_retried_once(world: World) -> None:
    """The second time at the same instruction and address it is emulated, come what may."""
    vcpu = world.vcpu
    assert kvm_mmu_page_fault(vcpu, WINDOW, PFERR_P | PFERR_W) == RET_PF_EMULATE
    assert vcpu.emulation_type & EMULTYPE_ALLOW_RETRY_PF
    vcpu.last_retry_rip, vcpu.last_retry_addr = 0x1234, WINDOW
    assert kvm_mmu_page_fault(vcpu, WINDOW, PFERR_P | PFERR_W) == RET_PF_EMULATE
    assert not vcpu.emulation_type & EMULTYPE_ALLOW_RETRY_PF
    assert vcpu.last_retry_rip == 0x1234
    vcpu.rip = 0x1238
    assert kvm_mmu_page_fault(vcpu, WINDOW, PFERR_P | PFERR_W) == RET_PF_EMULATE
    assert vcpu.emulation_type & EMULTYPE_ALLOW_RETRY_PF
    assert vcpu.last_retry_rip == 0


@pytest.mark.parametrize("retry_without_zapping", ["no", "yes"])
@pytest.mark.parametrize("write_protected_is_emulate", ["no", "yes"])
@pytest.mark.parametrize("special_roots", ["preallocated", "one_off"])
def test_a_store_to_the_table_that_maps_the_instruction_ends(
    special_roots: str, write_protected_is_emulate: str, retry_without_zapping: str
) -> None:
    """Zapping that table unmaps the code, which then shadows the table again: one retry is all there is."""
    design = {
        "special_roots": special_roots,
        "write_protected_is_emulate": write_protected_is_emulate,
        "retry_without_zapping": retry_without_zapping,
    }
    world = World.of(
        "mode 32\nslot 0 0x0 16M\nalloc 0x2000\ntramp 0x44000\nmap 0x44000 0xe0004000 0x44000 0x67\n"
        "start cr3=0x44000\n",
        design=design,
    )
    world.ok("stos 0xe0004000 0x0 n=4")
