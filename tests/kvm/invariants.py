"""The audit as tests use it: whatever it finds is a failure."""

from collections.abc import Iterable

from shadowmmu.check.audit.audit import Audit
from shadowmmu.check.checker import Violation
from shadowmmu.x86.bits import FAULT, FETCH, READ, WRITE


def expect_nothing(found: Iterable[Violation]) -> None:
    """Fail with the text of the violations, if there are any."""
    text = "\n".join(violation.text() for violation in found)
    assert not text, text


def check_tlb(audit: Audit, gvas: Iterable[int]) -> int:
    """Fill the TLBs with translations of the addresses, and audit them and what else changed since the last
    look; how many translations there are.

    Whoever calls this after each operation sweeps in the end (`World.check`); `World.of` does now and then.
    """
    translations = 0
    for vcpu in audit.tables.kvm.vcpus:
        for gva in gvas:
            translations += sum(vcpu.cpu.access(gva, kind) != FAULT for kind in (READ, WRITE, FETCH))
    expect_nothing(audit.look())
    return translations
