"""What a Vm shows: walks, shadow pages, traces, statistics, verdicts; text that reads well."""

import builtins
import sys
import textwrap

import pytest

import shadowmmu
from shadowmmu import Backing, Vm


@pytest.fixture
def vm():
    vm = Vm("64M", "long4")
    vm.map(0x400000, 0x800000, "16K")
    return vm


def test_a_walk_shows_both_tables_side_by_side(vm):
    vm.vcpus[0].write(0x400000, 42)
    walk = vm.walk(0x400000)
    assert [entry.level for entry in walk.guest] == [spte.level for spte in walk.shadow] == [4, 3, 2, 1]
    lines = str(walk).splitlines()
    assert lines[0] == "gva 0x400000"
    assert lines[1].split() == ["level", "guest", "shadow"]
    assert lines[5].startswith("1") and " 0x800067 P W U A D " in lines[5] and " -> page " in lines[5]
    assert lines[6].split()[:2] == ["gpa", "0x800000"]


def test_a_walk_changes_nothing(vm):
    vm.map(0x500000, 0x800000, accessed=False)
    with vm.trace() as events:
        assert vm.walk(0x500000).hpa is None
        assert vm.translate(0x500000) == 0x800000
    assert len(events) == 0
    assert vm.stats.diff({}) == {}


def test_shadow_pages_are_decoded_copies(vm):
    vcpu = vm.vcpus[0]
    vcpu.write(0x400000, 42)
    leaf = next(page for page in vm.shadow_pages if page.level == 1)
    assert (leaf.gfn, leaf.role.access, leaf.unsync, len(leaf)) == (
        vm.gpte_address(0x400000) >> 12,
        "wux",
        False,
        4,
    )
    assert [spte.gfn for spte in leaf] == [0x800, 0x801, 0x802, 0x803]
    (parent,) = leaf.parents
    assert any(
        spte.address == parent and spte.target == leaf.address for page in vm.shadow_pages for spte in page
    )
    vm.map(0x700000, vm.gpte_address(0x400000) & ~0xFFF)
    vcpu.write(0x700000, 0x805067)
    assert not leaf.unsync, "a copy"
    assert "unsync" in repr(next(page for page in vm.shadow_pages if page.gfn == leaf.gfn))
    (root,) = vm.roots
    assert (root.level, root.unsync_children, root.generation) == (4, 1, 0)
    vm.zap_all()
    assert all(page.obsolete for page in vm.shadow_pages)


def test_a_role_is_in_words(vm):
    vm.vcpus[0].read(0x400000)
    (root,) = vm.roots
    assert repr(root.role) == f"<Role {root.role.word:#x}: level 4, wux, efer_nx, cr0_wp>"
    small = Vm(paging="32")
    small.map(0x400000, 0x800000)
    small.vcpus[0].read(0x400000)
    roles = [repr(page.role) for page in small.shadow_pages]
    assert any("4-byte gptes" in role and "quadrant 0" in role for role in roles)


def test_reverse_maps(vm):
    vm.map(0x900000, 0x800000)
    for gva in (0x400000, 0x900000):
        vm.vcpus[0].read(gva)
    assert [spte.level for spte in vm.rmap(0x800)] == [1, 1]
    assert all(spte.kind == "page" and "rwxu" in str(spte) for spte in vm.rmap(0x800))
    assert vm.rmap(0x900) == vm.rmap(1 << 30) == []


def test_two_traces_hear_the_same(vm):
    with vm.trace() as everything, vm.trace("kvm_mmu_set_*", "kvm_exit") as some:
        vm.vcpus[0].write(0x400000, 42)
    vm.vcpus[0].write(0x401000, 42)
    assert some.counts() == {"kvm_mmu_set_spte": 4, "kvm_exit": 1}
    assert len(some) == 5 < len(everything)
    assert list(everything.filter("kvm_mmu_set_*", "kvm_exit")) == list(some)
    assert some[0].name == "kvm_exit"
    assert [event.name for event in some[-2:]] == ["kvm_mmu_set_spte"] * 2
    assert repr(some) == "<Trace of 5 events: kvm_mmu_set_spte 4, kvm_exit 1>"
    assert str(some).count("\n") == 4
    assert not vm.kvm.tracing


def test_a_trace_hears_streams_and_the_host(vm):
    vm.vcpus[0].write(0x400000, 42)
    with vm.trace() as events:
        vm.vcpus[0].run([0x402000], shadowmmu.Access.WRITE)
        vm.madvise(0x800000, "4K", 4)
    assert "kvm_unmap_hva_range" in events.counts()


def test_a_trace_becomes_a_data_frame(vm, monkeypatch):
    with vm.trace("kvm_mmu_set_spte") as events:
        vm.vcpus[0].write(0x400000, 42)
    assert events.rows()[0] | {"spte": 0} == {
        "n": 0, "name": "kvm_mmu_set_spte", "gfn": 0x800, "spte": 0, "sptep": events[0].sptep, "level": 1,
        "x_mask": 0, "text": events[0].text(),
    }  # fmt: skip
    real = builtins.__import__

    def missing(name, *rest, **more):
        if name in ("polars", "pandas"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    for method in ("polars", "pandas"):
        with pytest.raises(ImportError, match=f"needs {method}: pip install {method}"):
            getattr(events, f"to_{method}")()


@pytest.mark.parametrize("library", ["polars", "pandas"])
def test_a_data_frame_has_a_row_for_each_event(vm, library):
    pytest.importorskip(library)
    with vm.trace() as events:
        vm.vcpus[0].write(0x400000, 42)
    frame = getattr(events, f"to_{library}")()
    assert len(frame) == len(events)
    assert next(iter(frame["name"])) == events[0].name


def test_statistics(vm):
    before = vm.stats.snapshot()
    vm.vcpus[0].write(0x400000, 42)
    assert vm.stats.diff(before) == {
        "mmu_cache_miss": 4,
        "pages_4k": 4,
        "pf_taken": 1,
        "pf_fixed": 1,
        "tlb_flush": 1,
    }
    assert before.pf_fixed == 0
    assert vm.stats["pf_fixed"] == vm.stats.pf_fixed == 1
    assert {"pf_fixed", "mmu_unsync", "snapshot"} <= set(dir(vm.stats))
    assert repr(vm.stats) == "<Stats mmu_cache_miss=4, pages_4k=4, pf_taken=1, pf_fixed=1, tlb_flush=1>"
    assert repr(before) == "<Stats all 0>"
    with pytest.raises(AttributeError, match="no statistic 'pf_fixd'; there are remote_tlb_flush"):
        vm.stats.pf_fixd  # noqa: B018


def test_slots(vm):
    slot = vm.add_slot(0x10000000, "4M", backing=Backing.THP, dirty_log=True)
    assert repr(slot) == "<Slot 1: gpa [0x10000000, 0x10400000), THP, dirty log>"
    assert (len(vm.slots), list(vm.slots), vm.slots.at(0x10000800).id) == (2, [0, 1], 1)
    vm.map(0x10000000, 0x10000000)
    vm.vcpus[0].write(0x10000000, 1)
    assert slot.dirty_pages() == [0]
    slot.readonly = False
    slot.move(0x20000000)
    assert vm.slots[1].gpa == 0x20000000
    slot.delete()
    assert list(vm.slots) == [0]
    with pytest.raises(OSError, match="Errno 22"):
        slot.delete()


def test_the_hosts_memory(vm):
    vcpu = vm.vcpus[0]
    vcpu.write(0x400000, 42)
    assert vm.age(0x800000)
    assert not vm.age(0x800000)
    vm.mprotect(0x800000, "4K", "none")
    with pytest.raises(shadowmmu.KvmRunError, match="host refuses"):
        vcpu.read(0x400000)
    vm.mprotect(0x800000, "4K", "rw")
    assert vcpu.read(0x400000) == 42
    vm.remap(0x800000, "4K")
    assert vcpu.read(0x400000) == 0
    vm.host_write(0x800000, 7)
    assert vcpu.read(0x400000) == 7


def test_a_verdict_finds_what_is_wrong():
    vm = Vm(checked=True, design={"child_lookup_compares_role": "no"})
    vm.map(0x400000, 0x800000)
    vm.vcpus[0].read(0x400000)
    assert str(vm.check()) == "nothing found: the structures hold, and no stale translation can be used"
    leaf = vm.walk(0x400000).shadow[-1]
    vm.machine.arena.view()[leaf.address >> 3] ^= 1 << 12
    verdict = vm.check()
    assert not verdict
    assert {violation.check for violation in verdict.violations} == {"audit", "coherence"}
    assert "wrong-frame" in str(verdict)


def test_an_unchecked_vm_is_audited(vm):
    vm.vcpus[0].read(0x400000)
    verdict = vm.check()
    assert verdict
    assert not verdict.coherent
    assert "Vm(checked=True)" in str(verdict)


def test_reprs_read_well(vm):
    assert repr(vm) == (
        "<Vm 6.12.111 amd, shadow paging, long4 guest, 0x4000000 bytes in 1 slots, "
        "1 vCPUs (0 with a root), 0 shadow pages>"
    )
    assert repr(vm.vcpus[0]).startswith("<Vcpu 0: cr0 0x80010033, cr3 0x3fff000")


def test_the_package_lists_its_names():
    assert {"Vm", "Access", "Backing", "GuestFault", "ConfigurationError"} <= set(dir(shadowmmu))
    assert all(hasattr(shadowmmu, name) for name in shadowmmu.__all__)
    assert "shadowmmu.vm" in sys.modules


def test_the_example_of_the_class_works(capsys):
    example = Vm.__doc__.split("\n\n")[1]
    exec(textwrap.dedent(example), {"Vm": Vm})
    shown = capsys.readouterr().out
    assert shown.startswith("kvm_mmu_get_page: ")
    assert "gpa 0x800000" in shown
