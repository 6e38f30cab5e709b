"""A Vm refuses nonsense with a sentence that says what is allowed."""

import pytest

from shadowmmu import Access, Backing, ConfigurationError, Vm


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"paging": "4-level"}, r"paging='4-level' must be one of 'nopaging', '32', 'pae', 'long4', 'long5'"),
        ({"vendor": "via"}, "vendor='via' must be one of 'amd', 'intel'"),
        ({"backing": "thp"}, "backing='thp' must be one of Backing.ANON, Backing.THP"),
        ({"memory": "64 M"}, "memory='64 M' must be a number of bytes, or text such as '64M'"),
        ({"memory": 5000}, "memory=5000 must be a positive multiple of 0x1000"),
        ({"memory": 0}, "memory=0 must be a positive multiple"),
        ({"memory": "4K"}, "memory=0x1000 must be at least 0x10000"),
        ({"memory": True}, "memory=True must be a number of bytes"),
        ({"memory": "1M", "backing": Backing.HUGE2M}, "size='1M' must be a positive multiple of 0x200000"),
        ({"vcpus": 0}, "vcpus=0 must be a number from 1 to 8"),
        ({"kernel": "5.4"}, "there are 6.12.111, 6.1.176"),
        ({"params": {"kvm_amd.ntp": 1}}, "no parameter 'kvm_amd.ntp'; there are kvm_amd.npt"),
        ({"params": {"kvm_amd.npt": 7}}, "'7' is not a value of kvm_amd.npt; use Y or N"),
        ({"design": {"prefetch": "yes"}}, "prefetch"),
        ({"dirty_ring": 100}, "a dirty ring of 1600 bytes"),
        ({"hostbits": 31}, "hostbits=31 must be a number from 32 to 52"),
        ({"l1tf": 47, "vendor": "intel"}, "l1tf=47 must be a number from 0 to 46"),
        ({"l1tf": 45, "vendor": "intel"}, "l1tf=45 does not fit a host with 46 physical address bits"),
        ({"l1tf": 46}, "`l1tf` is about Intel's processors"),
        ({"nested": True, "vendor": "intel"}, "nested=True needs vendor='amd'"),
        ({"nested": True, "params": {"kvm_amd.npt": 0}}, "needs kvm_amd.npt"),
    ],
)
def test_arguments_that_cannot_be(arguments, says):
    with pytest.raises(ConfigurationError, match=says):
        Vm(**arguments)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((0x400001, 0x800000), "gva=0x400001 must be a multiple of the page size 0x1000"),
        ((0x400000, 0x800010), "gpa=0x800010 must be a multiple of the page size 0x1000"),
        ((0x400000, 0x4000000), r"gpa 0x4000000 must be in a slot: \[0x0, 0x4000000\); add_slot\(\) first"),
        ((0x400000, 0x3FFF000, "8K"), "gpa 0x4000000 must be in a slot"),
        ((0x400000, 0x800000, 100), "size=100 must be a positive multiple of page_size=0x1000"),
        ((0x800000000000, 0x800000), "is not canonical: it must be below 0x800000000000 or at least"),
        ((-4096, 0x800000), "must be an address from 0"),
    ],
)
def test_mappings_that_cannot_be(arguments, says):
    with pytest.raises(ConfigurationError, match=says):
        Vm().map(*arguments)


def test_sizes_of_pages_are_those_of_the_mode():
    for paging, says in (("long4", "'4K', '2M', '1G'"), ("pae", "'4K', '2M'"), ("32", "'4K', '4M'")):
        with pytest.raises(ConfigurationError, match=f"page_size='8K' must be one of {says} for {paging}"):
            Vm(paging=paging).map(0, 0, "8K", page_size="8K")


def test_a_page_is_not_mapped_into_a_larger_one():
    vm = Vm()
    vm.map(0x400000, 0x800000, "2M", page_size="2M")
    with pytest.raises(ConfigurationError, match="mapped by a larger page; unmap that first"):
        vm.map(0x401000, 0x900000)
    with pytest.raises(ConfigurationError, match="inside a page of 0x200000 bytes: unmap whole pages"):
        vm.unmap(0x401000)
    assert vm.unmap(0x400000, "2M") == 1 << 21
    vm.map(0x401000, 0x900000)
    with pytest.raises(ConfigurationError, match="mapped by smaller pages"):
        vm.map(0x400000, 0x800000, "2M", page_size="2M")


@pytest.mark.parametrize("paging", ["32", "pae"])
def test_addresses_of_32_bit_guests_end_at_4_gib(paging):
    with pytest.raises(ConfigurationError, match="gva=0x100000000 must be below 0x100000000"):
        Vm(paging=paging).map(1 << 32, 0)
    with pytest.raises(ConfigurationError, match="gva=0x100000000 must be a number from 0 to 0xffffffff"):
        Vm(paging=paging).vcpus[0].read(1 << 32)


def test_without_paging_there_is_nothing_to_map():
    with pytest.raises(ConfigurationError, match="addresses are physical"):
        Vm(paging="nopaging").map(0x400000, 0x800000)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda vcpu: vcpu.read(0x400000, 3), "size=3 must be one of 1, 2, 4, 8 for read in mode long4"),
        (lambda vcpu: vcpu.xchg(0x400000, 1, 2), "size=2 must be one of 4, 8 for xchg"),
        (lambda vcpu: vcpu.write(0x400000, 256, 1), "value=0x100 must be a number from 0 to 0xff"),
        (lambda vcpu: vcpu.write(0x400000, -1), "value=-0x1 must be a number from 0"),
        (lambda vcpu: vcpu.run([0x400000], [9]), "kinds has 9; each must be one of Access.READ"),
        (lambda vcpu: vcpu.run([0x400000], [300]), "kinds must be numbers from 0 to 0xff"),
        (lambda vcpu: vcpu.run([-1], Access.READ), "gvas must be numbers from 0"),
        (lambda vcpu: vcpu.run([0, 0], [0]), "kinds has 1 elements, but gvas has 2"),
        (lambda vcpu: vcpu.l2, "make the Vm with nested=True"),
    ],
)
def test_accesses_that_cannot_be(call, says):
    with pytest.raises(ConfigurationError, match=says):
        call(Vm().vcpus[0])


def test_slots_that_cannot_be():
    vm = Vm("64M")
    with pytest.raises(ConfigurationError, match=r"must not overlap <Slot 0: gpa \[0x0, 0x4000000\), ANON>"):
        vm.add_slot(0x3000000, "64M")
    with pytest.raises(ConfigurationError, match="id=0 must be a free number"):
        vm.add_slot(0x10000000, "64M", id=0)
    with pytest.raises(ConfigurationError, match="gpa=0x10000800 must be a multiple"):
        vm.add_slot(0x10000800, "64M")
    with pytest.raises(KeyError, match="slot 3 must be added first, with"):
        vm.slots[3]


def test_the_host_has_only_memory_that_is_there():
    vm = Vm("64M")
    with pytest.raises(ConfigurationError, match="gpa 0x8000000 is in no slot"):
        vm.madvise(0x8000000, "4K", 4)
    with pytest.raises(ConfigurationError, match="must be within <Slot 0"):
        vm.age(0x3FFF000, "8K")
    with pytest.raises(ConfigurationError, match="must be one of 'none', 'ro', 'rw'"):
        vm.mprotect(0, "4K", "r")
