"""No guest can tell the designs of mail 002 apart."""

import pytest
from kvm.designs.side_by_side import PAGING, assert_as_by_default
from kvm.random_scenarios import MODES, random_scenario
from kvm.tlb_audit import play_with_tlb

import shadowmmu
from shadowmmu.kvm.design.switches import PROFILES, SWITCHES

OTHERS = {
    "multimapped": ("yes",),
    "write_flooding": ("off", "1", "7"),
    "mmio_caching": ("no",),
    "vcpu_mmio_cache": ("no",),
    "mmio_invalidation": ("walk",),
    "mmio_generation_bits": ("3",),
    "fast_page_fault": ("no",),
    "zap_all": ("walk",),
    "host_word": ("32",),
    "unsync": ("never", "not_nested"),
}
ALL = {name: values[0] for name, values in OTHERS.items()}
CASES = [(name, value) for name in OTHERS for value in OTHERS[name]]
COUNT = 80


def test_every_switch_of_the_mail_is_here() -> None:
    mail = {switch.name for switch in SWITCHES if switch.mail.startswith("002") and not switch.unsafe}
    assert mail == OTHERS.keys()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: "=".join(case))
def test_one_switch(mode: str, case: tuple[str, str]) -> None:
    """Compiled in all three ways to map memory and several seeds, interpreted in one each."""
    turn = CASES.index(case) + MODES.index(mode)
    ways = list(PAGING.values())
    for n in range(turn, turn + (9 if shadowmmu.native else 1)):
        text = "\n".join((*ways[n % 3], random_scenario(mode, 300 + n, COUNT)))
        assert_as_by_default(text, dict([case]))


@pytest.mark.parametrize("kernel", [profile.kernel for profile in PROFILES])
@pytest.mark.parametrize("way", PAGING)
@pytest.mark.parametrize("mode", MODES)
def test_all_at_once(mode: str, way: str, kernel: str) -> None:
    for seed in range(6 if shadowmmu.native else 1):
        text = "\n".join((*PAGING[way], random_scenario(mode, 400 + seed, COUNT)))
        assert_as_by_default(text, ALL, kernel=kernel)


@pytest.mark.parametrize("mode", MODES)
def test_a_tlb_holds_nothing_stale(mode: str) -> None:
    """What a processor may have cached is still what the tables say, with all switches at the other value."""
    for seed in range(4 if shadowmmu.native else 1):
        play_with_tlb(random_scenario(mode, 500 + seed, COUNT), design=ALL)
