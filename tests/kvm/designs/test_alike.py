"""No guest can tell the designs of mail 002 apart, nor whether leaf tables get out of sync."""

import pytest
from kvm.designs.alike import PAGING, assert_alike
from kvm.random_scenarios import MODES, random_scenario

import shadowmmu
from shadowmmu.kvm.switches import PROFILES, SWITCHES

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
    "unsync": ("never",),
}
ALL = {name: values[0] for name, values in OTHERS.items()}
SEEDS = range(6 if shadowmmu.native else 1)
COUNT = 80


def test_every_switch_of_the_mail_is_here() -> None:
    mail = {switch.name for switch in SWITCHES if switch.mail.startswith("002") and not switch.unsafe}
    assert mail | {"unsync"} == OTHERS.keys()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "value"), [(name, value) for name in OTHERS for value in OTHERS[name]])
def test_one_switch(mode: str, name: str, value: str) -> None:
    for seed in SEEDS:
        for parameters in PAGING.values():
            text = "\n".join((*parameters, random_scenario(mode, 300 + seed, COUNT)))
            assert_alike(text, {}, {name: value})


@pytest.mark.parametrize("kernel", [profile.kernel for profile in PROFILES])
@pytest.mark.parametrize("way", PAGING)
@pytest.mark.parametrize("mode", MODES)
def test_all_at_once(mode: str, way: str, kernel: str) -> None:
    for seed in SEEDS:
        text = "\n".join((*PAGING[way], random_scenario(mode, 400 + seed, COUNT)))
        assert_alike(text, {}, ALL, kernel=kernel)
