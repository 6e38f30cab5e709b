"""The program that comes with shadowmmu passes everywhere, and drives the mechanisms that it names."""

import re
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import pytest

import shadowmmu
from shadowmmu.check import program as checks_of_program
from shadowmmu.guest.pc.pc import Limits
from shadowmmu.kvm.registers import invlpg

TOUR = (files("shadowmmu.guest.pc") / "programs" / "tour.elf").read_bytes()
PHASES = ("32-bit paging, 2 levels", "PAE, 3 levels", "64-bit, 4 levels", "64-bit, 5 levels")
Make = Callable[..., Any]


def play(pc: Make, **options: Any) -> tuple[Any, str]:
    computer, output = pc(TOUR, **options)
    ending = computer.run(Limits(seconds=120))
    text = b"".join(output).decode()
    assert "FAIL" not in text
    assert (ending.reason, ending.status) == ("power off", 0), text[-500:]
    return computer, text


def counters(text: str, phase: str, test: str) -> dict[str, int]:
    """What the program printed for a test of a phase."""
    part = text.split(f"{phase}\n")[1]
    line = next(line for line in part.splitlines() if line.startswith(f"  ok    {test}:"))
    return {name: int(count) for name, count in re.findall(r"(\w+) (\d+)", line.partition(":")[2])}


def test_shadow_paging(pc: Make) -> None:
    _, text = play(pc)
    for phase in PHASES:
        assert counters(text, phase, "unsync page tables")["mmu_unsync"] >= 1
        assert counters(text, phase, "unsync page tables")["invlpg"] >= 200
        assert counters(text, phase, "MMIO")["mmio_exits"] >= 6
        assert counters(text, phase, "write protection, WP=0")["pf_guest"] == 3
        assert counters(text, phase, "huge pages")["mmu_pte_write"] >= 3
    assert sum(counters(text, phase, "huge pages").get("mmu_flooded", 0) for phase in PHASES) > 0
    assert re.search(r"^\d+ checks, all as they should be$", text, re.M)


@pytest.mark.parametrize("tdp_mmu", [True, False])
def test_nested_paging(pc: Make, tdp_mmu: bool) -> None:
    computer, text = play(pc, npt=True, tdp_mmu=tdp_mmu)
    assert all(f"{phase}\n" in text for phase in PHASES)
    assert computer.machine.vcpu.stat.pf_guest == 0
    assert bool(computer.machine.kvm.tdp_mmu_pages) == tdp_mmu


def test_older_kernel_and_nx_huge_pages(pc: Make) -> None:
    play(pc, kernel="6.1.176", nx_huge_pages=True)


def test_without_five_levels(pc: Make) -> None:
    _, text = play(pc, npt=True, la57=False)
    assert "no five-level paging" in text


@pytest.mark.parametrize("npt", [False, True])
def test_checks_find_nothing(pc: Make, npt: bool) -> None:
    computer, _ = pc(TOUR, npt=npt)
    checks = checks_of_program.ProgramChecks(computer.machine, every=200 if shadowmmu.native else 3000)
    ending = computer.run(Limits(seconds=600))
    checks.finish()
    assert [violation.text() for violation in checks.violations] == []
    assert ending.status == 0
    assert checks.checks > 1000


@pytest.mark.skipif(shadowmmu.native, reason="compiled code cannot be spoiled")
def test_checks_find_an_invlpg_that_does_nothing(pc: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from shadowmmu.kvm.exits import emulate

    assert emulate.kvm_mmu_invlpg is invlpg.kvm_mmu_invlpg
    monkeypatch.setattr(emulate, "kvm_mmu_invlpg", lambda vcpu, gva: vcpu.cpu.flush_gva(gva))
    computer, _ = pc(TOUR)
    checks = checks_of_program.ProgramChecks(computer.machine, every=20)
    computer.run(Limits(seconds=120))
    assert any(violation.check == "coherence" for violation in checks.violations)
