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
    """Fill the TLBs with translations of the addresses, and audit all that is in them; how many there are."""
    translations = 0
    for vcpu in audit.tables.kvm.vcpus:
        for gva in gvas:
            translations += sum(vcpu.cpu.access(gva, kind) != FAULT for kind in (READ, WRITE, FETCH))
    expect_nothing(audit.sweep())
    return translations
