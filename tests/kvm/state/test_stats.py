"""Statistics stand once: a field each, with its meaning; what else names them uses these names."""

import re
from pathlib import Path

import pytest

import shadowmmu
from shadowmmu.guest.pc.chipset import Counters
from shadowmmu.kvm.state.stats import VCPU_STATS, VM_STATS, VcpuStat, VmStat

STATE = Path(shadowmmu.__file__).parent / "kvm" / "state"


@pytest.mark.parametrize(
    ("kind", "names"), [(VmStat, VM_STATS), (VcpuStat, VCPU_STATS)], ids=["VmStat", "VcpuStat"]
)
def test_c_has_the_same_counters(kind: type, names: tuple[str, ...]) -> None:
    (lines,) = re.findall(
        rf"cdef class {kind.__name__}:\n((?:    .*\n)+)", (STATE / "stats.pxd").read_text() + "\n"
    )
    assert sorted(re.findall(r"(\w+)(?:,|$)", re.sub(r"cdef public i64", "", lines), re.MULTILINE)) == sorted(names)
    assert kind().as_dict() == dict.fromkeys(names, 0)


def test_every_counter_says_what_it_counts() -> None:
    text = (STATE / "stats.py").read_text()
    for name in (*VM_STATS, *VCPU_STATS):
        assert re.search(rf'\n    {name}: int = 0\n    """[A-Z0-9]', text), name


def test_the_counters_of_the_device_are_kvms() -> None:
    assert set(Counters.NAMES) - {"exits"} <= {*VM_STATS, *VCPU_STATS}
