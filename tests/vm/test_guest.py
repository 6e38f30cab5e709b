"""What a guest does on a Vm, in every mode and on every kind of MMU."""

import pytest

from shadowmmu import Access, Backing, ConfigurationError, EndlessFaults, GuestFault, Vm, VmExit

MODES = ["32", "pae", "long4", "long5"]
MMUS = [
    ("amd", {}),
    ("amd", {"kvm_amd.npt": 1}),
    ("amd", {"kvm_amd.npt": 1, "kvm.tdp_mmu": 0}),
    ("intel", {}),
    ("intel", {"kvm_intel.ept": 1}),
]


@pytest.mark.parametrize(("vendor", "params"), MMUS)
@pytest.mark.parametrize("paging", MODES)
def test_what_is_mapped_can_be_written_and_read(paging, vendor, params):
    vm = Vm("64M", paging, vendor=vendor, params=params, checked=True)
    for gva in (0x400000, 0x40400000, 0xC0400000):
        vm.map(gva, 0x800000, "16K")
        vm.vcpus[0].write(gva + 8, 42)
        assert vm.vcpus[0].read(gva + 8) == 42
        assert vm.translate(gva + 8) == 0x800008
        assert vm.host_read(0x800008, 4) == 42
        walk = vm.walk(gva + 8)
        assert (walk.gpa, walk.hpa) == (0x800008, vm.machine.slots[0].mapping.base_pfn << 12 | 0x800008)
    assert vm.check()


def test_without_paging_addresses_are_physical():
    vm = Vm("64M", "nopaging")
    vm.vcpus[0].write(0x400000, 42)
    assert vm.vcpus[0].read(0x400000) == 42
    assert vm.translate(0x400000) == 0x400000


@pytest.mark.parametrize("paging", MODES)
def test_what_is_unmapped_faults_after_a_flush(paging):
    vm = Vm(paging=paging, params={"kvm_amd.npt": 1})
    vm.map(0x400000, 0x800000, "8K")
    vm.vcpus[0].read(0x400000)
    assert vm.unmap(0x400000) == 0x1000
    assert vm.translate(0x400000) is None
    vm.vcpus[0].read(0x400000)
    vm.vcpus[0].invlpg(0x400000)
    with pytest.raises(GuestFault, match="#PF at 0x400000: supervisor read, nothing is mapped") as fault:
        vm.vcpus[0].read(0x400000)
    assert (fault.value.vector, fault.value.error_code, fault.value.address) == (14, 0, 0x400000)


def test_kvm_does_not_see_what_is_unmapped_from_outside():
    vm = Vm()
    vm.map(0x400000, 0x800000)
    vm.vcpus[0].write(0x400000, 42)
    vm.unmap(0x400000)
    vm.vcpus[0].invlpg(0x400000)
    assert vm.vcpus[0].read(0x400000) == 42, "its shadow is in sync as far as KVM knows"
    vm.zap_all()
    with pytest.raises(GuestFault):
        vm.vcpus[0].read(0x400000)


def test_rights():
    vm = Vm()
    vm.map(0x400000, 0x800000, writable=False, user=False, executable=False)
    vcpu = vm.vcpus[0]
    with pytest.raises(
        GuestFault, match=r"supervisor write, the page's rights forbid it \(error code 0x3: P\|W\)"
    ):
        vcpu.write(0x400000, 1)
    with pytest.raises(GuestFault, match="user read"):
        vcpu.read(0x400000, user=True)
    with pytest.raises(GuestFault, match="supervisor fetch"):
        vcpu.execute(0x400000)
    with pytest.raises(GuestFault, match="#GP at 0x800000000000"):
        vcpu.read(0x800000000000)
    assert vcpu.read(0x400000) == 0, "and goes on"


def test_atomic_accesses():
    vm = Vm()
    vm.map(0x400000, 0x800000)
    vcpu = vm.vcpus[0]
    vcpu.write(0x400000, 5)
    assert vcpu.xchg(0x400000, 6) == 5
    assert vcpu.cmpxchg(0x400000, 5, 7) == 6
    assert vcpu.cmpxchg(0x400000, 6, 7) == 6
    vcpu.add(0x400000, 3)
    assert vcpu.read(0x400000) == 10


def test_streams_take_one_kind_or_one_for_each():
    vm = Vm()
    vm.map(0x400000, 0x800000, "2M")
    vcpu = vm.vcpus[0]
    vcpu.run(range(0x400000, 0x600000, 0x1000), Access.WRITE)
    vcpu.run([0x400000, 0x401000], [Access.USER_READ, Access.FETCH])
    assert vm.stats.pages_4k == 512
    with pytest.raises(GuestFault):
        vcpu.run([0x400000, 0x900000], Access.READ)


def test_an_access_that_faults_forever_ends(monkeypatch):
    from shadowmmu.guest.play import accesses, cpu

    vm = Vm()
    vm.map(0x400000, 0x800000)
    vm.kvm.mmu_invalidate_in_progress, vm.kvm.mmu_invalidate_end = 1, 1 << 40
    for module in (accesses, cpu):
        monkeypatch.setattr(module, "ENDLESS", 50)
    with pytest.raises(EndlessFaults):
        vm.vcpus[0].read(0x400000)
    with pytest.raises(EndlessFaults):
        vm.vcpus[0].run([0x400000], Access.READ)


def test_mmio_is_answered_by_user_space():
    seen = []
    vm = Vm("64M", mmio=lambda access: seen.append(access) or 0x1234)
    vm.map(0x400000, 0x10000000, mmio=True)
    assert vm.vcpus[0].read(0x400010, 4) == 0x1234
    vm.vcpus[0].write(0x400010, 7, 4)
    assert [(access.gpa, access.write, access.data) for access in seen] == [
        (0x10000010, False, 0),
        (0x10000010, True, 7),
    ]
    assert vm.walk(0x400010).shadow[-1].kind == "mmio"


def test_vcpus_share_memory_and_tables():
    vm = Vm(vcpus=2)
    vm.map(0x400000, 0x800000)
    vm.vcpus[0].write(0x400000, 42)
    assert vm.vcpus[1].read(0x400000) == 42
    assert [vcpu.stats.pf_fixed for vcpu in vm.vcpus] == [1, 0]


def test_a_nested_guest():
    vm = Vm("64M", nested=True, checked=True)
    vm.nested.map(0x10000, 0x800000, "64K")
    l2 = vm.vcpus[0].l2
    l2.write(0x10000, 7)
    assert l2.running
    assert l2.read(0x10000) == 7
    assert vm.host_read(0x800000, 4) == 7
    with pytest.raises(VmExit, match=r"npf \(0x400\).* info2 0x90000") as left:
        l2.read(0x90000)
    assert (left.value.code, left.value.info2) == (0x400, 0x90000)
    assert not l2.running
    vm.nested.unmap(0x10000)
    l2.write(0x11000, 8)
    l2.exit()
    assert not l2.running
    assert vm.check()


def test_huge_pages_of_the_host():
    vm = Vm("64M", backing=Backing.HUGE2M, params={"kvm_amd.npt": 1})
    vm.map(0x400000, 0x800000)
    vm.vcpus[0].write(0x400000, 42)
    assert vm.stats.pages_2m == 2, "the page and the tables"
    assert vm.slots[0].backing is Backing.HUGE2M


def test_a_guest_that_cannot_take_its_exception_shuts_down():
    vm = Vm(design={"invisible_root_is_triple_fault": "yes"})
    with pytest.raises(GuestFault, match="triple fault") as fault:
        vm.vcpus[0].cr3 = 1 << 40
        vm.vcpus[0].read(0x400000)
    assert fault.value.shutdown


def test_a_scenarios_tables_are_its_own():
    vm = Vm.from_scenario(
        "mode long4\nslot 0 0 16M\nalloc 0x2000\nmap 0x1000 0x400000 0x800000 7\n"
        "tramp 0x1000\nstart cr3=0x1000\n"
    )
    assert vm.vcpus[0].read(0x400000) == 0
    with pytest.raises(ConfigurationError, match="tables of its own"):
        vm.map(0x500000, 0x800000)
