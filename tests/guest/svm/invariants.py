"""The MMU's invariants after a guest has run."""

from guest.svm.board import Board
from kvm.invariants import expect_nothing

from shadowmmu.check.program import audit_of

OF_GUEST_TABLES = "shadow-of-"


def check(board: Board) -> None:
    """All but what compares with guest tables: a test wrote those from outside, which KVM does not see."""
    found = audit_of(board.machine).sweep()
    expect_nothing(violation for violation in found if not violation.predicate.startswith(OF_GUEST_TABLES))
