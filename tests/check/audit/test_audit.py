"""The audit of sound machines finds nothing; what it knows is true; when it looks and what it says."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from kvm import random_nested, random_scenarios
from kvm.tdp_world import TDP
from kvm.world import World

import shadowmmu
from shadowmmu.check.audit import audit as module
from shadowmmu.check.audit.audit import Audit, Level
from shadowmmu.check.audit.tables import Tables
from shadowmmu.check.checker import Violation, play_checked
from shadowmmu.check.checks import checks_of
from shadowmmu.check.random.fuzz import check_lines
from shadowmmu.guest.play import cpu
from shadowmmu.guest.play.player import Player
from shadowmmu.guest.scenario.parser import load_scenario, parse_scenario
from shadowmmu.guest.scenario.scenario import Scenario
from shadowmmu.guest.scenario.setup import resolve
from shadowmmu.kvm.bits import SPTE_MMU_WRITABLE
from shadowmmu.kvm.design.switches import PROFILES
from shadowmmu.kvm.fault.fast_fault import last_sptep_lockless
from shadowmmu.kvm.tracepoints.event import Event
from shadowmmu.kvm.tracepoints.exits import PageFault
from shadowmmu.kvm.tracepoints.tracer import EventLog
from shadowmmu.trace.names import Names
from shadowmmu.trace.snapshot import snapshot
from shadowmmu.x86.bits import U, W

SCENARIOS = sorted((Path(__file__).parents[2] / "conformance" / "scenarios").glob("*.txt"))
EPT = ("vendor intel", "param kvm_intel ept=1")
NO_AD = (*EPT, "param kvm_intel eptad=0", "param kvm tdp_mmu=0")
DIRECT = ("param kvm_amd npt=1", "param kvm tdp_mmu=0")
SEEDS = range(6 if shadowmmu.native else 1)
OPS = 100
GUESTS = {
    **{f"shadow {mode}": ((), mode) for mode in random_scenarios.MODES},
    **{f"TDP MMU {mode}": (TDP, mode) for mode in random_scenarios.MODES},
    **{f"direct {mode}": (DIRECT, mode) for mode in random_scenarios.MODES},
    **{f"EPT {mode}": (EPT, mode) for mode in ("long4", "pae")},
    **{f"EPT without A/D {mode}": (NO_AD, mode) for mode in ("long5", "32")},
    **{f"nested {mode}": (None, mode) for mode in random_nested.MODES},
}


def random_guest(kind: str, seed: int) -> str:
    parameters, mode = GUESTS[kind]
    if parameters is None:
        return random_nested.random_nested(mode, seed, OPS)
    return "\n".join((*parameters, random_scenarios.random_scenario(mode, seed, OPS)))


def player_of(scenario: Scenario) -> Player:
    player = Player(resolve(scenario), EventLog(), lambda machine: {}, tlb=True)
    player.start()
    return player


def audited(scenario: Scenario, level: Level) -> Iterator[tuple[Player, Audit, list[Violation]]]:
    """The machine, its audit and what was found, after each op and at the end."""
    player = player_of(scenario)
    audit = Audit(player, level=level)
    for _, _, found in play_checked(player, scenario.ops, [audit]):
        yield player, audit, found
    yield player, audit, audit.finish()


def texts(found: list[Violation]) -> list[str]:
    return [violation.text() for violation in found]


# -- sound machines --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SCENARIOS[:: 1 if shadowmmu.native else 3], ids=lambda path: path.stem)
def test_recorded_scenarios(path: Path) -> None:
    for _, _, found in audited(load_scenario(path), Level.STEP):
        assert not found, texts(found)


@pytest.mark.parametrize("kernel", [profile.kernel for profile in PROFILES])
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", GUESTS)
def test_random_guests(kind: str, seed: int, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every step; and what the audit has found out by looking for changes is what there is."""
    monkeypatch.setattr(cpu, "ENDLESS", random_scenarios.ENDLESS)
    scenario = parse_scenario(random_guest(kind, seed)).with_kernel(kernel)
    scenario = scenario.with_design({"lpage_info_below_slot": "checked"})
    for number, (player, audit, found) in enumerate(audited(scenario, Level.STEP)):
        assert not found, texts(found)
        if number % 5 == 0:
            assert_same(audit.tables, player)


def assert_same(known: Tables, player: Player) -> None:
    fresh = Tables(player.machine)
    fresh.look()
    player.machine.host.notifiers.pop()
    for name in ("pointing", "mapping", "named", "shadowing"):
        one, two = getattr(known, name), getattr(fresh, name)
        assert {k: v for k, v in one.items() if v} == {k: v for k, v in two.items() if v}, name
    for name in ("regions", "roots", "leaves"):
        assert +getattr(known, name) == +getattr(fresh, name), name
    assert known.unsync_pages == fresh.unsync_pages
    assert known.pages.keys() == fresh.pages.keys()
    for hpa, page in known.pages.items():
        other = fresh.pages[hpa]
        for name in ("role", "level", "valid", "image", "translations_image", "frames", "marked", "meta"):
            assert getattr(page, name) == getattr(other, name), (page.sp, name)
        assert page.guest == other.guest or not page.valid


def test_without_it_nothing_is_installed() -> None:
    player = player_of(load_scenario(SCENARIOS[0]))
    tracer = player.kvm.tracer
    assert not any(isinstance(check, Audit) for check in checks_of(player, Level.OFF))
    assert tracer.listeners == (player.log,)
    assert any(isinstance(check, Audit) for check in checks_of(player, Level.STEP))
    assert len(tracer.listeners) == 2


# -- when it looks ---------------------------------------------------------------------------------------

TEXT = """mode long4
slot 0 0x0 16M
alloc 0x2000
tramp 0x1000
map 0x1000 0x400000 0x800000 0x67 n=16
start cr3=0x1000
write 0x400000 1
read 0x401000
write 0x400000 2
"""


def break_writable_chain(player: Player) -> None:
    """Take W's reason away from the SPTE of 0x400000."""
    sptep = last_sptep_lockless(player.kvm.vcpus[0], 0x400000)
    spte = player.kvm.read_spte(sptep)
    assert spte & W
    player.machine.arena.store(sptep, 8, spte & ~SPTE_MMU_WRITABLE)


def test_it_names_the_op_and_shows_the_way_to_the_entry() -> None:
    found: list[Violation] = []
    for player, audit, now in audited(parse_scenario(TEXT), Level.OP):
        found += now
        if player.op_number == 1 and audit.checks == 1:
            break_writable_chain(player)
    (violation,) = found
    assert (violation.predicate, violation.op, violation.do) == ("writable-chain", 1, "read 0x401000")
    entry = violation.says.split()[0]
    way, of, guest = violation.shows
    assert way.startswith("root S1 -> S1[0] = ")
    assert way.endswith(f" -> {entry} = gpa:800000|a67")
    assert of == f"{entry} is for gfn 800"
    assert guest.startswith("guest entry at gpa 0x4000: 0x800067")


@pytest.mark.parametrize(("level", "step"), [(Level.OP, ""), (Level.STEP, "before exit 2")])
def test_within_an_op_the_step_is_told(level: Level, step: str) -> None:
    """The break happens while KVM handles the op's first exit, a page fault."""
    scenario = parse_scenario(TEXT + "read 0x409000\n")
    player = player_of(scenario)
    audit = Audit(player, level=level)

    def faulted(event: Event) -> None:
        if isinstance(event, PageFault) and event.fault_address == 0x409000:
            break_writable_chain(player)

    player.kvm.tracer.add(faulted, "kvm_page_fault")
    found = [violation for _, _, now in play_checked(player, scenario.ops, [audit]) for violation in now]
    assert [violation.predicate for violation in found] == ["writable-chain"]
    assert found[0].op == 3
    assert found[0].step.startswith(step)
    assert bool(found[0].step) == bool(step)


def test_sweeps_come_now_and_then() -> None:
    """What changes no SPTE is found by the next sweep."""
    lines = "nop\n" * 20
    scenario = parse_scenario(TEXT + lines)
    player = player_of(scenario)
    audit = Audit(player, sweep_every=10)
    found = []
    for op, _, now in play_checked(player, scenario.ops, [audit]):
        found += [(op, violation) for violation in now]
        if player.op_number == 5:
            player.kvm.page_hash[:] = [None] * len(player.kvm.page_hash)
    assert {violation.predicate for _, violation in found} == {"page-hashed"}
    assert {violation.op for _, violation in found} == {9}


def test_the_end_is_a_sweep() -> None:
    found: list[Violation] = []
    for player, _, now in audited(parse_scenario(TEXT), Level.OP):
        found += now
        player.kvm.page_hash[:] = [None] * len(player.kvm.page_hash)
    assert {violation.predicate for violation in found} == {"page-hashed"}
    assert {violation.step for violation in found} == {"or by one before it, from op 0 on"}


def test_what_the_mmu_stumbles_over_ends_the_machine() -> None:
    scenario = parse_scenario(TEXT + "madvise_dontneed 0x800000 0x1000\nnop\n")
    player = player_of(scenario)
    rows = []
    for row in play_checked(player, scenario.ops, [Audit(player, sweep_every=100)]):
        rows.append(row)
        player.kvm.memslots[0].set_rmap_head(0x800, 1, 1 << 60)
    assert len(rows) == 4
    assert rows[-1][1] is None
    assert [violation.predicate for violation in rows[-1][2]] == ["no-bug"]


# -- what KVM does not see -------------------------------------------------------------------------------


def test_a_table_that_the_host_writes_need_not_agree_until_it_is_shadowed_anew() -> None:
    world = World("long4", "map 0x1000 0x400000 0x800000 0x67")
    world.ok("read 0x400000")
    table = world.kvm.sptep_to_sp(world.sptep(0x400000)).gfn
    world.do(f"hostwrite {table << 12:#x} 0 size=8")
    assert world.audit.tables.unseen == {table}
    world.ok("read 0x400000")
    world.do("slot 1 0x80000000 4M")
    world.do("delslot 1")
    world.do("nop")
    assert not world.audit.tables.unseen


def test_a_guest_s_write_is_seen() -> None:
    """If KVM does not act on it, that is a finding."""
    world = World("long4", "map 0x1000 0x400000 0x800000 0x67")
    world.ok("read 0x400000")
    table = world.kvm.sptep_to_sp(world.sptep(0x400000)).gfn
    world.machine.host_write(table << 12, 8, 0)
    assert [violation.predicate for violation in world.audit.look()] == ["shadow-of-present"]


def test_what_the_processor_logged_is_not_lost() -> None:
    """With PML the bitmap learns of a write at the next exit; the audit of steps looks before."""
    text = TEXT.replace("mode long4", "vendor intel\nparam kvm_intel ept=1\nmode long4").replace(
        "slot 0", "slot 1 0x10000000 1M dirty\nslot 0"
    )
    text = text.replace("start", "map 0x1000 0x600000 0x10000000 0x67 n=4\nstart")
    scenario = parse_scenario(text + "write 0x600000 1\ngetdirty 1\nwrite 0x600000 2\nwrite 0x601000 1\n")
    player = player_of(scenario)
    for op, _, found in play_checked(player, scenario.ops, [Audit(player, level=Level.STEP)]):
        assert not found, (op.text, texts(found))
    assert player.kvm.parameters.cpu_dirty_log_size
    (slot,) = (slot for slot in player.kvm.memslots if slot.id == 1)
    assert slot.log_words()[0] == 3


@pytest.mark.parametrize("kernel", ["6.12.111", "7.3.4"])
@pytest.mark.parametrize("cr4", [0x20, 0x100020], ids=["no SMEP", "SMEP"])
def test_a_page_that_users_read_becomes_the_supervisor_s_without_a_flush(cr4: int, kernel: str) -> None:
    """CR0.WP=0: another vCPU may still have the user's translation, which the guest's table grants."""
    text = TEXT.replace("mode long4", "mode long4\nvcpus 2").replace(
        "start cr3=0x1000", "map 0x1000 0x600000 0x900000 0x65\nstart cr3=0x1000 cr0=0x80000033"
    )
    text += f"cr4 {cr4:#x}\n@1 cr4 {cr4:#x}\nuread 0x600000\n@1 write 0x600000 1\n"
    scenario = parse_scenario(text).with_kernel(kernel)
    player = player_of(scenario)
    for op, _, found in play_checked(player, scenario.ops, [Audit(player, level=Level.STEP)]):
        assert not found, (op.text, texts(found))
    entries = {gva: entry for gva, _, _, entry in player.kvm.vcpus[0].cpu.tlb.translations()}
    assert entries[0x600000] & U
    assert not player.kvm.read_spte(last_sptep_lockless(player.kvm.vcpus[0], 0x600000)) & U


# -- names -----------------------------------------------------------------------------------------------


AGED = """\
vendor intel
param kvm_intel ept=1 eptad=N pml=N
param kvm tdp_mmu={tdp_mmu}
mode nopaging
vcpus 2
slot 2 0x20000000 256K
start
@1 {access} 0x20004000{value}
age 0x20004000 0x1000
exec 0x20004000
@1 {access} 0x20004000{value}
"""


@pytest.mark.parametrize("tdp_mmu", [0, 1])
@pytest.mark.parametrize(("access", "value"), [("read", ""), ("write", " 1")])
def test_rights_that_ageing_took_may_stay_in_a_tlb(tdp_mmu: int, access: str, value: str) -> None:
    """Without A and D in EPT: another vCPU gets R and X back, W returns with the next write only."""
    text = AGED.format(tdp_mmu=tdp_mmu, access=access, value=value)
    violation = check_lines(text.splitlines())
    assert violation is None, violation.text()


@pytest.mark.parametrize("kind", ["shadow long4", "TDP MMU pae", "direct 32", "nested long4"])
def test_pages_are_named_as_in_recordings(kind: str) -> None:
    scenario = parse_scenario(random_guest(kind, 3))
    player = Player(resolve(scenario), EventLog(), snapshot)
    names = Names(player.areas, player.kvm.design)
    names.state(player.start().state or {}, ())
    audit = Audit(player)
    for op, played, found in play_checked(player, scenario.ops, [audit]):
        assert not found, op.text
        if played is not None and played.state is not None:
            names.state(played.state, played.events)
            for hpa in audit.tables.pages:
                assert audit.tables.page_name(hpa) == names.page(hpa)


def test_a_predicate_needs_its_own_name() -> None:
    from shadowmmu.check.audit.predicate import Scope, predicate

    with pytest.raises(ValueError, match="two predicates are named page-hashed"):
        predicate("page-hashed", Scope.PAGE, "again", "none")(lambda tables, page: iter(()))


def test_a_large_guest_is_swept_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPTES_PER_OP", 1)
    scenario = parse_scenario(TEXT + "nop\n" * 10)
    player = player_of(scenario)
    audit = Audit(player, sweep_every=2)
    list(play_checked(player, scenario.ops, [audit]))
    player.kvm.page_hash[:] = [None] * len(player.kvm.page_hash)
    assert sum(audit.tables.leaves.values()) > 5
    assert not [found for *_, now in play_checked(player, scenario.ops[-3:], [audit]) for found in now]
