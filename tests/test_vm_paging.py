"""`Vm` in every paging mode: what is mapped can be used."""

import pytest

from shadowmmu import Vm


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("paging", ["32", "pae", "4-level", "5-level"])
def test_what_is_mapped_can_be_written_and_read(paging, nested):
    vm = Vm(memory="64M", paging=paging, nested_paging=nested)
    for gva in (0x400000, 0x40400000, 0xC0400000):
        vm.map(gva, 0x800000, pages=4)
        vm.vcpus[0].write(gva + 8, 42, 4)
        assert vm.vcpus[0].read(gva + 8, 4) == 42


def test_without_paging_addresses_are_physical():
    vm = Vm(memory="64M", paging="none")
    vm.vcpus[0].write(0x400000, 42, 4)
    assert vm.vcpus[0].read(0x400000, 4) == 42
