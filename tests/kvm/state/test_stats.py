"""Statistics stand once, as fields; what else names them uses their names."""

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
    (lines,) = re.findall(rf"cdef class {kind.__name__}:\n((?:    .*\n)+)", (STATE / "stats.pxd").read_text())
    found = re.findall(r"(\w+)(?:,|$)", lines.replace("cdef public i64", ""), re.MULTILINE)
    assert sorted(found) == sorted(names)
    assert kind().as_dict() == dict.fromkeys(names, 0)


def test_the_counters_of_the_device_are_kvms() -> None:
    assert set(Counters.NAMES) - {"exits"} <= {*VM_STATS, *VCPU_STATS}
