"""The public face: nested paging and dirty logging of a Vm."""

import pytest

from shadowmmu import Vm
from shadowmmu.host.mapping import Kind
from shadowmmu.vm import DirtyRingFull, GuestFault


def test_two_dimensional_paging() -> None:
    vm = Vm("64M", nested_paging=True, backing=Kind.HUGE2M)
    vm.map(0x400000, 0x800000, pages=600)
    vcpu = vm.vcpus[0]
    vcpu.write(0x400000, 42)
    assert vcpu.read(0x400000) == 42
    assert vm.stats.pages_2m == 2, "the page and the tables"
    with pytest.raises(GuestFault) as fault:
        vcpu.run([0x0], [0])
    assert (fault.value.vector, fault.value.error_code) == (14, 0)


@pytest.mark.parametrize("nested_paging", [True, False])
def test_the_bitmap(nested_paging: bool) -> None:
    vm = Vm("64M", nested_paging=nested_paging)
    vm.map(0x400000, 0x800000, pages=16)
    vcpu = vm.vcpus[0]
    vcpu.write(0x400000, 1)
    vm.log_dirty(manual_protect=True)
    vcpu.write(0x401000, 1)
    assert 0x801 in vm.dirty_pages()
    assert 0x800 not in vm.dirty_pages()
    vm.clear_dirty_log([0x801])
    assert 0x801 not in vm.dirty_pages()
    vcpu.run([0x401000], [1])
    assert 0x801 in vm.dirty_pages()
    vm.clear_dirty_log()
    assert vm.dirty_pages() == []
    vm.log_dirty(on=False)
    with pytest.raises(OSError, match="does not log"):
        vm.dirty_pages()


def test_initially_everything_is_dirty() -> None:
    vm = Vm("1M", nested_paging=True)
    vm.log_dirty(manual_protect=True, initially_set=True)
    assert vm.dirty_pages() == list(range(256))


def test_rings() -> None:
    vm = Vm("64M", nested_paging=True, dirty_ring=256)
    vm.map(0x400000, 0x800000, pages=300)
    vcpu = vm.vcpus[0]
    vcpu.read(0x400000)
    vm.log_dirty()
    with pytest.raises(DirtyRingFull):
        vcpu.run([0x400000 + 0x1000 * n for n in range(300)], [1] * 300)
    pages = vm.harvest_dirty_rings()
    assert len(pages) == vm.reset_dirty_rings() == 192
    assert 0x800 in pages
    vcpu.write(0x400000, 1)
    assert 0x800 in vm.harvest_dirty_rings()
