"""The scenarios of mail 002: what the commands in their comments show."""

import re
from pathlib import Path

import pytest
from kvm.world import World, names

from shadowmmu.guest.scenario.parser import parse_scenario
from shadowmmu.kvm.spte.rmap import pte_list

FOLDER = Path(__file__).parents[3] / "scenarios" / "mails"
SHOWN = {
    "002-parent-ptes": {"": {"first parent": 0}, "multimapped=yes": {"first parent": 5}},
    "002-write-flooding": {
        "": {"mmu_flooded": 1, "mmu_pte_write": 3},
        "write_flooding=off": {"mmu_flooded": 0, "mmu_pte_write": 6},
    },
    "002-mmio-fast-path": {
        "": {"pf_emulate": 2, "pf_mmio_spte_created": 2, "handle_mmio_page_fault": 2, "vcpu_match_mmio": 6},
        "mmio_caching=no": {"pf_emulate": 6, "pf_mmio_spte_created": 0, "handle_mmio_page_fault": 0},
        "vcpu_mmio_cache=no": {"pf_emulate": 2, "handle_mmio_page_fault": 4, "vcpu_match_mmio": 0},
    },
    "002-mmio-invalidation": {
        "": {"check_mmio_spte": 2, "mmu_shadow_zapped": 0},
        "mmio_invalidation=walk": {"check_mmio_spte": 0, "mmu_shadow_zapped": 2},
    },
    "002-mmio-generation-wrap": {
        "": {"kvm_mmu_zap_all_fast": 0},
        "mmio_generation_bits=3": {"kvm_mmu_zap_all_fast": 1},
    },
    "002-fast-page-fault": {
        "": {"pf_fast": 3, "fast_page_fault": 3},
        "fast_page_fault=no": {"pf_fast": 0, "fast_page_fault": 0},
    },
    "002-zap-all": {
        "": {"kvm_mmu_zap_all_fast": 1, "mmu_shadow_zapped": 8},
        "zap_all=walk": {"kvm_mmu_zap_all_fast": 0, "mmu_shadow_zapped": 8},
    },
    "002-unsync": {
        "": {"kvm_mmu_unsync_page": 1, "mmu_pte_write": 0},
        "unsync=never": {"kvm_mmu_unsync_page": 0, "mmu_pte_write": 1},
    },
}
"""Statistics and numbers of events at the end, by scenario and its --design."""


@pytest.mark.parametrize("name", SHOWN)
def test_what_a_scenario_shows(name: str) -> None:
    text = (FOLDER / f"{name}.txt").read_text()
    commands = re.findall(r"^#   shadowmmu run (.*?) ?scenarios/mails/(\S+)\.txt", text, re.MULTILINE)
    designs = {"".join(re.findall(r"--design (\S+)", options)) for options, _ in commands}
    assert designs == SHOWN[name].keys()
    assert {path for _, path in commands} == {name}
    for design, shown in SHOWN[name].items():
        seen = played(text, dict([design.split("=")]) if design else {})
        assert {key: seen.get(key, 0) for key in shown} == shown, design


def played(text: str, design: dict[str, str]) -> dict[str, int]:
    """Statistics, numbers of events, and which entry is the first parent of a page that has several."""
    world = World.of(text, design=design)
    seen: dict[str, int] = {}
    for op in parse_scenario(text).ops:
        result = world.play(op)
        assert result.result["outcome"] == "ok", op.text
        for name in names(result.events):
            seen[name] = seen.get(name, 0) + 1
    lists = [pte_list(world.kvm, sp.parents()) for sp in world.pages()]
    several = [parents for parents in lists if len(parents) > 1]
    if several:
        seen["first parent"] = (several[0][0] & 0xFFF) >> 3
    return {**seen, **world.stats}


def test_every_scenario_is_here() -> None:
    assert {path.stem for path in FOLDER.glob("002-*.txt")} == SHOWN.keys()
