"""Dirty logging of a Vm: bitmaps and rings."""

import pytest

from shadowmmu import Access, DirtyRingFull, Vm

NPT = {"kvm_amd.npt": 1}


@pytest.mark.parametrize("params", [{}, NPT])
def test_the_bitmap(params):
    vm = Vm("64M", params=params)
    vm.map(0x400000, 0x800000, "64K")
    vcpu, slot = vm.vcpus[0], vm.slots[0]
    vcpu.write(0x400000, 1)
    vm.manual_dirty_log()
    slot.dirty_log = True
    assert slot.dirty_log
    vcpu.write(0x401000, 1)
    assert 0x801 in slot.dirty_pages()
    assert 0x800 not in slot.dirty_pages()
    slot.clear_dirty_log([0x801])
    assert 0x801 not in slot.dirty_pages()
    vcpu.run([0x401000], Access.WRITE)
    assert 0x801 in slot.dirty_pages()
    slot.clear_dirty_log()
    assert slot.dirty_pages() == []
    slot.dirty_log = False
    with pytest.raises(OSError, match="does not log"):
        slot.dirty_pages()


def test_initially_everything_is_dirty():
    vm = Vm("1M", params=NPT)
    vm.manual_dirty_log(initially_set=True)
    vm.slots[0].dirty_log = True
    assert vm.slots[0].dirty_pages() == list(range(256))


def test_rings():
    vm = Vm("64M", params=NPT, dirty_ring=256)
    vm.map(0x400000, 0x800000, 300 << 12)
    vcpu = vm.vcpus[0]
    vcpu.read(0x400000)
    vm.slots[0].dirty_log = True
    with pytest.raises(DirtyRingFull):
        vcpu.run([0x400000 + 0x1000 * n for n in range(300)], Access.WRITE)
    with pytest.raises(DirtyRingFull, match="harvest_dirty_rings"):
        vcpu.write(0x400000, 1)
    pages = vm.harvest_dirty_rings()
    assert len(pages) == vm.reset_dirty_rings() == 192
    assert 0x800 in pages
    vcpu.write(0x400000, 1)
    assert 0x800 in vm.harvest_dirty_rings()
