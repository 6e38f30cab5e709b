"""The fuzzer: state machines over all that can happen, storms, shrinking, and that the checks bite."""

import time
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from kvm.nested_world import DATA, NPT, nested_text

import shadowmmu
from shadowmmu.check.audit.audit import Level
from shadowmmu.check.checker import Violation, play_checked
from shadowmmu.check.checks import checks_of
from shadowmmu.check.coherence import Coherence
from shadowmmu.check.random import fuzz as module
from shadowmmu.check.random.fuzz import (
    Failure,
    Report,
    check_lines,
    episode,
    explain,
    fuzz,
    grounds,
    player_of,
)
from shadowmmu.check.random.ground import Ground
from shadowmmu.check.random.ground_setup import MMUS, MODES, PROFILES, GroundError
from shadowmmu.check.random.shrink import shrink, simpler_lines
from shadowmmu.check.random.storm import Storm
from shadowmmu.guest.scenario.parser import parse_scenario
from shadowmmu.guest.scenario.setup import ScenarioError
from shadowmmu.kvm.guest_access.dirty_ring import dirty_ring_of
from shadowmmu.kvm.memory import memory_region
from shadowmmu.kvm.state.oops import KernelOops

KINDS = [(mode, mmu) for mode in MODES for mmu in MMUS if (mode, mmu) != ("nopaging", "nested")]
OPS = 20000 if shadowmmu.native else 1200


class Guest(RuleBasedStateMachine):
    """A random guest whose ops Hypothesis chooses: which kind, which address, which entry, which vCPU."""

    kinds: Sequence[tuple[str, str]] = KINDS

    @initialize(data=st.data(), profile=st.sampled_from(PROFILES), seed=st.integers(0, 1 << 16))
    def start(self, data: st.DataObject, profile: str, seed: int) -> None:
        mode, mmu = data.draw(st.sampled_from(self.kinds))
        self.ground = Ground(mode, mmu, profile, seed)
        self.lines = list(self.ground.setup)
        self.player, _ = player_of(self.lines)
        self.checkers = checks_of(self.player, Level.OP)

    def do(self, *lines: str) -> None:
        """Play lines with all checks on."""
        for line in lines:
            try:
                op = parse_scenario("\n".join([*self.lines, line]) + "\n").ops[-1]
            except ScenarioError:
                continue
            if line.split()[0] in ("slot", "delslot", "movslot"):
                self.lines.append(line)
            for _, _, found in play_checked(self.player, [op], self.checkers):
                assert not found, found[0].text()

    def at(self, cpu: int, lines: Sequence[str]) -> list[str]:
        return [f"@{cpu} {line}" if cpu else line for line in lines]

    @rule(cpu=st.integers(0, 1), count=st.integers(1, 4))
    def access(self, cpu: int, count: int) -> None:
        self.do(*self.at(cpu, [self.ground.access() for _ in range(count)]))

    @rule(cpu=st.integers(0, 1), flush=st.booleans())
    def edit(self, cpu: int, flush: bool) -> None:
        ground = self.ground
        if ground.mode == "nopaging":
            return
        writes = [f"write {edit.gva:#x} {edit.value:#x} size={edit.size}" for edit in ground.edit()]
        self.do(*self.at(cpu, ["l2exit"] if ground.nested else []), *self.at(cpu, writes))
        if flush and not ground.nested:
            self.do(*self.at(cpu, [f"invlpg {ground.address():#x}"]))

    @rule(cpu=st.integers(0, 1))
    def control(self, cpu: int) -> None:
        exits = ["l2exit"] if self.ground.nested else []
        self.do(*self.at(cpu, [*exits, *self.ground.control(cpu)]))

    @rule()
    def host(self) -> None:
        self.do(*self.ground.host())

    def teardown(self) -> None:
        if hasattr(self, "checkers"):
            left = [violation for checker in self.checkers for violation in checker.finish()]
            assert not left, left[0].text()


@pytest.mark.parametrize(("mode", "mmu"), KINDS)
def test_any_ops_in_any_order(mode: str, mmu: str) -> None:
    class OneKind(Guest):
        kinds = ((mode, mmu),)

    few = settings(
        max_examples=4 if shadowmmu.native else 1,
        stateful_step_count=12,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(OneKind, settings=few)


# -- storms ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "mmu"), KINDS)
def test_storms_find_nothing(mode: str, mmu: str) -> None:
    for profile in PROFILES:
        ops, failure = episode(Ground(mode, mmu, profile, 7), OPS // 2)
        assert failure is None, failure.violation.text()
        assert ops >= OPS // 2


def test_the_same_seed_is_the_same_storm() -> None:
    ground = [Ground("long4", "shadow", "hostile", 3) for _ in range(2)]
    assert ground[0].setup == ground[1].setup
    assert episode(ground[0], 500) == episode(ground[1], 500)


def test_there_are_no_hypervisors_without_paging() -> None:
    with pytest.raises(GroundError):
        Ground("nopaging", "nested", "ordinary", 0)


def test_guests_use_all_that_the_language_has_for_the_mmu() -> None:
    setup: set[str] = set()
    ops: set[str] = set()
    for seed in range(12):
        for mode, mmu in KINDS:
            ground = Ground(mode, mmu, PROFILES[seed % 2], seed)
            setup.update(line.rsplit(maxsplit=1)[0] for line in ground.setup if line.split()[0] != "pt")
            lines = [*ground.first_lines(), *(line for _ in range(60) for line in ground.lines())]
            ops.update(word for line in lines for word in line.split()[:4])
    for words in ("vendor", "param kvm_intel ept=1 eptad=N", "physbits", "hostbits", "mode@1", "cap 192"):
        assert any(line.startswith(words) for line in setup), words
    assert {"age", "flush", "prefault", "harvestring", "resetrings", "nrmmu", "cap"} <= ops


def test_some_hosts_with_intel_s_processors_are_vulnerable_to_l1tf() -> None:
    grounds = [Ground("long4", "shadow", "ordinary", seed, vendor="intel") for seed in range(20)]
    assert 0 < sum(any(line.startswith("host l1tf=") for line in ground.setup) for ground in grounds) < 20


@pytest.mark.parametrize("vendor", ["amd", "intel"])
def test_kvm_accepts_every_machine(vendor: str) -> None:
    for seed in range(20):
        for mmu in ("shadow", "tdp", "direct"):
            player_of(Ground("32", mmu, "ordinary", seed, vendor=vendor).setup)


def test_an_oops_ends_a_storm(monkeypatch: pytest.MonkeyPatch) -> None:
    ground = Ground("long4", "shadow", "ordinary", 0)
    monkeypatch.setattr(ground, "slow", lambda: ["dirtylog on 1"])

    def breaks(kvm: object, slot: object) -> None:
        raise KernelOops("made up")

    monkeypatch.setattr(memory_region, "kvm_mmu_slot_enable_log", breaks)
    _, failure = episode(ground, 20000)
    assert failure is not None
    assert failure.violation.predicate == "no-bug"
    assert "made up" in failure.violation.says
    assert failure.lines[-1] == "dirtylog on 1"


@pytest.mark.parametrize("defect", ["none", "ncr3_low_bits"])
def test_storms_judge_the_exits_of_l2(defect: str) -> None:
    lines = [f"design defect={defect}", *nested_text(mode="pae").splitlines()]
    player, scenario = player_of([*lines, f"ncr3 {NPT | 8:#x}", f"@1 ncr3 {NPT | 8:#x}"])
    coherence = Coherence(player)
    for _ in player.play(scenario.ops):
        pass
    storm = Storm([cpu.vcpu for cpu in player.cpus], coherence, [vmcb.gpa for vmcb in player.vmcbs])
    storm.load(1, [DATA], [], [], 1000)
    storm.refresh()
    storm.run(200, 0, 4)
    assert (storm.failure is None) == (defect == "none")
    if storm.failure is not None:
        assert storm.failure[:2] == (
            "refused",
            "L1 got #VMEXIT(NPF) for an access of L2 that its nested tables allow",
        )


RINGS = """\
mode long4
vcpus 2
cap 192 4096
slot 0 0x0 16M
slot 1 0x10000000 64K dirty
alloc 0x2000
tramp 0x1000
map 0x1000 0x400000 0x10000000 0x67 n=8
start cr3=0x1000
@1 nop
nop
"""


def test_what_a_storm_s_vcpu_writes_is_in_its_own_ring() -> None:
    """Not in that of the vCPU which entered last: a ring fills up only if its own vCPU can be kept out."""
    player, scenario = player_of(RINGS.splitlines())
    for _ in player.play(scenario.ops):
        pass
    vcpus = [cpu.vcpu for cpu in player.cpus]
    storm = Storm(vcpus, None, [])
    storm.load(1, [0x400000 + 0x1000 * page for page in range(8)], [], [], 1000)
    storm.run(200, 0, 8)
    owner: dict[int, int] = {}
    for _, vcpu, gva, _, _ in storm.history():  # what KVM maps writable, it marks dirty at once
        owner.setdefault(gva - 0x400000 >> 12, vcpu)
    assert set(owner.values()) == {0, 1}
    for vcpu in vcpus:
        pages = {(1, page) for page in owner if owner[page] == vcpu.id}
        assert dirty_ring_of(vcpu).entries() == pages


# -- that the checks bite --------------------------------------------------------------------------------


WRONG_RANGE = """\
design ranged_flush=yes split_flush=always ranged_flush_start=table
param kvm nx_huge_pages=Y
mode long4
vcpus 2
slot 0 0x0 16M
slot 1 0x10000000 4M huge2m
alloc 0x2000
tramp 0x1000
map 0x1000 0x40000000 0x10000000 0xe7 level=2 n=2
map 0x1000 0x60000000 0x3000 0x67
code 0x10201000
poke 0x10240000 0x800067
poke 0x800000 0x1111
poke 0x801000 0x2222
start cr3=0x1000
@1 write 0x40200000 1
@1 read 0x60000000
exec 0x40201000
write 0x60000400 0x10240067
read 0x50000000
@1 write 0x40240000 0x801067
invlpg 0x50000000
read 0x50000000
"""
"""A switch marked unsafe: vCPU 1 edits a table through a TLB entry that a wrong range left."""


def test_an_unsafe_switch_is_found_and_shrunk() -> None:
    lines = WRONG_RANGE.splitlines()
    violation = check_lines(lines)
    assert violation is not None
    assert check_lines(lines[1:]) is None, "without the switch all is well"
    start = next(n for n, line in enumerate(lines) if line.startswith("start")) + 1
    ground = Ground("long4", "shadow", "ordinary", 0)
    ground.setup = lines[:start]
    failure = Failure(ground, [*lines[start:], *["nop"] * 20], 28, violation)
    found = explain(failure, kernel=None, make=lambda player: checks_of(player, Level.OP), seconds=20)
    assert found.replays
    assert len(found.scenario.splitlines()) < len(lines)
    assert check_lines(found.scenario.splitlines()) is not None


def test_a_run_stops_at_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    report = Report(0)
    violation = Violation("coherence", "made-up", "", 0, "nop")
    monkeypatch.setattr(
        module, "episode", lambda ground, ops, **how: (5, Failure(ground, ["nop"], 5, violation))
    )
    fuzz(60, grounds(0), report, ops=5)
    assert (report.ops, report.episodes, len(report.found)) == (5, 1, 1)
    assert not report.found[0].replays


# -- shrinking -------------------------------------------------------------------------------------------


def test_shrinking_keeps_what_is_needed() -> None:
    items = [str(i) for i in range(100)]
    kept = shrink(items, lambda some: "13" in some and "77" in some, time.monotonic() + 10)
    assert kept == ["13", "77"]


def test_shrinking_ends_at_its_deadline() -> None:
    items = [str(i) for i in range(100)]
    assert shrink(items, lambda some: True, time.monotonic()) == items


def test_operands_become_simpler() -> None:
    lines = simpler_lines(["@1 uwrite 0x401234 0x77"], lambda some: "0x401" in some[0], time.monotonic() + 10)
    assert lines == ["write 0x401000 0x0"]


def test_a_failure_becomes_a_small_scenario(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(lines: Sequence[str], **options: object) -> Violation | None:
        try:
            parse_scenario("\n".join(lines) + "\n")
        except ScenarioError:
            return None
        wanted = [number for number, line in enumerate(lines) if line.startswith("cr3")]
        return Violation("coherence", "made-up", "", wanted[0], "cr3") if wanted else None

    monkeypatch.setattr(module, "check_lines", fails)
    ground = Ground("long4", "shadow", "ordinary", 0)
    failure = Failure(ground, ["read 0x1000", "cr3 0x5000", "nop"], 3, Violation("coherence", "x", "", 1, ""))
    found = explain(failure, kernel=None, make=lambda player: [])
    assert found.replays
    assert found.scenario == "mode long4\nvcpus 2\nstart cr3=0x48000 cr3@1=0x48000\ncr3 0x0\n"
