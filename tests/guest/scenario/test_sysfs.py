"""Writing module parameters and files of sysfs: what takes effect, and the errors of the others."""

import pytest
from kvm.world import World

from shadowmmu.guest.scenario.setup import ScenarioError
from shadowmmu.guest.scenario.sysfs import thp_enabled
from shadowmmu.host.bits import THP_ALWAYS, THP_MADVISE, THP_NEVER

THP = "/sys/kernel/mm/transparent_hugepage"
LAZY = ("slot 1 0x10000000 4M thp lazy", "map 0x1000 0x40000000 0x10000000 0xe7 level=2 n=2")


def outcome(world: World, line: str) -> str:
    result = world.do(line).result
    return str(result.get("errno", result["outcome"]))


@pytest.fixture(scope="module")
def world() -> World:
    return World("long4")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("modparam kvm tdp_mmu 0", "EACCES"),
        ("modparam kvm_amd npt 1", "EACCES"),
        ("modparam kvm nonexistent 1", "ENOENT"),
        ("modparam kvm_amd nonexistent 1", "ENOENT"),
        ("modparam kvm enable_virt_at_load 1", "EACCES"),
        ("modparam kvm mmio_caching 0", "EACCES"),
        ("modparam kvm lapic_timer_advance_ns 1", "ENOENT"),
        ("modparam kvm eager_page_split maybe", "EINVAL"),
        ("modparam kvm eager_page_split oN", "ok"),
        ("modparam kvm halt_poll_ns -1", "EINVAL"),
        ("modparam kvm halt_poll_ns 0x10", "ok"),
        ("modparam kvm report_ignored_msrs x", "EINVAL"),
        ("modparam kvm nx_huge_pages never", "EBUSY"),
        ("modparam kvm nx_huge_pages_recovery_ratio 1_0", "EINVAL"),
        ("modparam kvm nx_huge_pages_recovery_period_ms 99999999999", "ERANGE"),
        ("sysfs /sys/module/kvm/parameters/tdp_mmu 1", "EACCES"),
        ("sysfs /sys/nonexistent 1", "ENOENT"),
        (f"sysfs {THP} 1", "EISDIR"),
        (f"sysfs {THP}/hpage_pmd_size 1", "EACCES"),
        (f"sysfs {THP}/nonexistent 1", "ENOENT"),
        (f"sysfs {THP}/enabled sometimes", "EINVAL"),
        (f"sysfs {THP}/use_zero_page 2", "EINVAL"),
        (f"sysfs {THP}/defrag x", "EINVAL"),
        (f"sysfs {THP}/defrag defer", "ok"),
    ],
)
def test_writes_end_as_the_kernel_s_do(world: World, line: str, expected: str) -> None:
    assert outcome(world, line) == expected


@pytest.mark.parametrize(
    "line",
    [
        "sysfs /sys/block/sda/queue/scheduler none",
        "sysfs /proc/sys/vm/drop_caches 1",
        f"sysfs {THP}/shmem_enabled always",
        f"sysfs {THP}/khugepaged/defrag 1",
    ],
)
def test_files_that_are_not_modelled_are_refused_in_one_line(world: World, line: str) -> None:
    with pytest.raises(ScenarioError, match=r":\d+: .* not modelled; leave this op out$"):
        world.do(line)


def test_parameters_that_older_kernels_lack_or_let_write() -> None:
    world = World("long4", design={"new_module_parameters": "no"})
    assert outcome(world, "modparam kvm tdp_mmu 0") == "ok"
    assert outcome(world, "modparam kvm lapic_timer_advance_ns -1") == "ok"
    assert outcome(world, "modparam kvm_amd vnmi 1") == "ENOENT"


def test_a_parameter_and_its_file_are_one(world: World) -> None:
    world.ok("sysfs /sys/module/kvm/parameters/eager_page_split N")
    assert not world.kvm.parameters.eager_page_split
    world.ok("modparam kvm eager_page_split 1")
    assert world.kvm.parameters.eager_page_split


def test_unknown_registers_can_be_ignored() -> None:
    world = World("long4")
    assert outcome(world, "wrmsr 0x12345 0") == "exception"
    world.ok("modparam kvm ignore_msrs Y", "wrmsr 0x12345 0")
    assert outcome(world, "wrmsr 0x277 0xff") == "exception", "known, but not the value"
    world.ok("modparam kvm ignore_msrs N")
    assert outcome(world, "wrmsr 0x12345 0") == "exception"


@pytest.mark.parametrize(
    ("setting", "before", "level"),
    [
        ("enabled never", (), 1),
        ("enabled madvise", (), 2),
        ("enabled always", ("remap 0x10000000 4M",), 2),
        ("enabled madvise", ("remap 0x10000000 4M",), 1),
        ("enabled always", ("madvise 0x10000000 4M 15",), 1),
    ],
)
def test_who_gets_huge_pages(setting: str, before: tuple[str, ...], level: int) -> None:
    world = World("long4", *LAZY)
    world.ok(f"sysfs {THP}/{setting}", *before, "write 0x40000000 1")
    assert world.level(0x40000000) == level


def test_reads_can_be_given_a_huge_page_of_their_own() -> None:
    world = World("long4", *LAZY)
    world.ok("read 0x40000000", f"sysfs {THP}/use_zero_page 0", "read 0x40200000")
    assert [bool(world.spte(gva) & 2) for gva in (0x40000000, 0x40200000)] == [False, True]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[always] madvise never", THP_ALWAYS),
        ("always [madvise] never", THP_MADVISE),
        ("always madvise [never]", THP_NEVER),
        ("", THP_MADVISE),
    ],
)
def test_the_setting_that_a_recording_began_with(text: str, expected: int) -> None:
    assert thp_enabled(text) == expected


def test_the_other_vendor_s_module_is_not_loaded() -> None:
    world = World("long4", "vendor intel")
    assert outcome(world, "modparam kvm_amd npt 1") == "ENOENT"
    assert outcome(world, "modparam kvm_intel ept 1") == "EACCES"
    assert outcome(World("long4"), "modparam kvm_intel ept 1") == "ENOENT"
