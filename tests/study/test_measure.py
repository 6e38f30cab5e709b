"""Measurements: exact counters, the same in each run and in both modes."""

import pytest

from shadowmmu.study.catalogue import WORKLOADS
from shadowmmu.study.configuration import Configuration
from shadowmmu.study.costs import default_costs
from shadowmmu.study.counters import COUNTERS
from shadowmmu.study.measure import Measurement, measure
from shadowmmu.study.workload import WorkloadError
from shadowmmu.vm.config import ConfigurationError

NESTED = Configuration(memory="64M", nested=True, params={"kvm_amd.npt": 1, "kvm.tdp_mmu": "Y"})
SMALL = {
    "pages": 256, "reads": 300, "forks": 2, "touched": 8, "rounds": 2, "jobs": 2, "text": 16, "heap": 24,
    "processes": 3, "tables": 4, "taken": 16,
}  # fmt: skip

FEW = {
    "nested-split": {"pages": 2}, "nested-log-on": {"pages": 2}, "nested-log-writes": {"pages": 1},
    "huge-log-writes": {"pages": 2}, "many-tables": {"pages": 4}, "mmio-device": {"pages": 3},
    "mmio-slots": {"registers": 2}, "huge-memory": {"step": 64, "reads": 0},
}  # fmt: skip
"""Pages of 2 MiB, and tables, are larger than pages."""


def small(name: str, configuration: Configuration, seed: int = 0) -> Measurement:
    parameters = {one: SMALL[one] for one in WORKLOADS[name].parameters if one in SMALL} | FEW.get(name, {})
    return measure(name, configuration, default_costs(), parameters=parameters, seed=seed)


@pytest.mark.parametrize("npt", [0, 1])
@pytest.mark.parametrize("name", sorted(name for name, one in WORKLOADS.items() if not one.nested))
def test_every_workload_runs_cleanly(name: str, npt: int) -> None:
    if name.startswith("trace:"):
        pytest.importorskip("polars")
    measured = small(name, Configuration(memory="64M", params={"kvm_amd.npt": npt}))
    assert measured.clean
    assert set(measured.counters) == set(COUNTERS)
    assert measured["instructions"] > 0
    assert measured.estimate.low <= measured.estimate.seconds <= measured.estimate.high


@pytest.mark.parametrize("name", sorted(name for name, one in WORKLOADS.items() if one.nested))
def test_every_workload_of_a_hypervisor_runs_cleanly(name: str) -> None:
    measured = small(name, NESTED)
    assert measured.clean
    assert measured["instructions"] > 0


@pytest.mark.parametrize("paging", ["long5", "pae", "32"])
@pytest.mark.parametrize("name", ["mmio-device", "shared-tables", "many-tables"])
def test_workloads_of_the_kernel_run_in_every_paging_mode(paging: str, name: str) -> None:
    assert small(name, Configuration(paging=paging, memory="64M")).clean


@pytest.mark.parametrize("paging", ["long5", "pae", "32"])
def test_guests_of_every_paging_mode(paging: str) -> None:
    assert small("build", Configuration(paging=paging, memory="64M")).clean


def test_the_same_seed_gives_the_same_counters() -> None:
    first, second = (small("build", Configuration(memory="64M"), seed=7) for _ in range(2))
    assert first.counters == second.counters
    assert small("build", Configuration(memory="64M"), seed=8).counters != first.counters


def test_random_reads_map_four_times_what_they_use() -> None:
    measured = measure("random", Configuration(memory="256M"), default_costs())
    assert measured["sptes_made"] == 14_064
    assert measured["sptes_made"] - measured["unused"] == 3_556
    assert measured["faults"] == measured["fixed"] == 1_758


@pytest.mark.parametrize(
    ("window", "faults"), [("off", 512), ("8_aligned", 64), ("16_aligned", 32), ("16_from_fault", 512)]
)
def test_a_window_that_starts_at_the_fault_gains_nothing_backwards(window: str, faults: int) -> None:
    configuration = Configuration(memory="64M").with_design(prefetch_window=window)
    assert measure("backward", configuration, default_costs(), parameters={"pages": 512})["faults"] == faults


def test_nothing_is_used_that_only_prefetching_made() -> None:
    measured = measure(
        "strided", Configuration(memory="64M"), default_costs(), parameters={"pages": 256, "stride": 256}
    )
    assert measured["unused"] == 0
    assert measured["sptes_made"] == 256


def test_by_walk_the_lock_is_held_for_all_pages() -> None:
    def hold(kind: str) -> float:
        configuration = Configuration(memory="64M").with_design(zap_all=kind)
        return measure("zap-all", configuration, default_costs(), parameters={"pages": 8192})["longest_hold"]

    at_most = {"shadow_pages_zapped": 10, "sptes_zapped": 10 * 512}
    everything = {"shadow_pages_zapped": 16, "sptes_zapped": 8192}
    assert hold("generation") <= default_costs().estimate(at_most).seconds
    assert hold("walk") >= default_costs().estimate(everything).seconds


def test_each_mmio_access_is_an_exit_and_no_walk_once_it_is_known() -> None:
    def per_access(counter: str, **design: str) -> float:
        configuration = Configuration(memory="64M").with_design(**design)
        measured = measure(
            "mmio-device", configuration, default_costs(), parameters={"pages": 2, "rounds": 8}
        )
        return measured[counter] / measured["mmio"]

    assert per_access("exits") == per_access("exits", mmio_caching="no") == 1
    assert per_access("guest_walks") < 0.2
    assert per_access("guest_walks", mmio_caching="no", vcpu_mmio_cache="no") == 2


def test_a_nested_split_flushes_for_each_huge_page_or_once() -> None:
    def flushes(rule: str, **parameters: int) -> float:
        configuration = NESTED.with_design(split_flush=rule)
        measured = measure(
            "nested-split",
            configuration,
            default_costs(),
            parameters={"pages": 4, **parameters},
            audited=False,
        )
        return measured["remote_flushes"]

    assert flushes("stable") == flushes("always", aliased=50) == 5
    assert flushes("if_not_identical") == flushes("never") == 1
    assert flushes("if_not_identical", giant=1, aliased=50) == 2


def test_write_protected_nested_tables_cost_an_emulation_a_gpte() -> None:
    def emulated(unsync: str) -> float:
        return small("nested-tables", NESTED.with_design(unsync=unsync))["emulated_stores"]

    assert emulated("leaf") == 0
    assert emulated("not_nested") == emulated("never") > 0


def test_a_measurement_that_the_audit_did_not_see_is_not_called_clean() -> None:
    unseen = measure("huge-memory", Configuration(memory="64M"), default_costs(), audited=False)
    assert unseen.clean is None


def test_a_nested_page_fault_reads_more_entries() -> None:
    loads = [
        measure(
            "pointer-chase",
            Configuration(memory="64M", params={"kvm_amd.npt": npt}),
            default_costs(),
            parameters={"pages": 1600, "rounds": 1},
        )["walk_loads"]
        for npt in (0, 1)
    ]
    assert loads[1] > 2 * loads[0]


def test_what_cannot_be() -> None:
    with pytest.raises(WorkloadError, match="no workload 'nonsense'; there are: backward, balloon"):
        measure("nonsense", Configuration(), default_costs())
    with pytest.raises(WorkloadError, match="random has no parameter 'size'; there are: pages, reads"):
        measure("random", Configuration(), default_costs(), parameters={"size": 1})
    with pytest.raises(WorkloadError, match="pages=many must be a number"):
        measure("random", Configuration(), default_costs(), parameters={"pages": "many"})
    with pytest.raises(ConfigurationError, match="a workload needs a guest with page tables"):
        measure("random", Configuration(paging="nopaging"), default_costs())
    with pytest.raises(MemoryError, match="the guest has used all of its"):
        measure("random", Configuration(memory="64M"), default_costs(), parameters={"pages": 100_000})
