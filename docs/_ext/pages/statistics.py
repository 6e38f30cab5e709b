"""KVM's statistics: what each counts."""

from __future__ import annotations

from attributes import attributes
from marked import code, definitions, sentence
from shadowmmu.kvm.state.stats import VCPU_STATS, VM_STATS, VcpuStat, VmStat


def page() -> str:
    """Return the statistics of a VM, then those of a vCPU."""
    parts = []
    for title, names, kind in (("Of a VM", VM_STATS, VmStat), ("Of a vCPU", VCPU_STATS, VcpuStat)):
        said = attributes(kind)
        parts += [f"## {title}", definitions((code(name), sentence(said[name])) for name in names)]
    return "\n\n".join(parts)
