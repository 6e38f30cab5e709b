"""The MMU's invariants after a guest has run."""

from guest.svm.board import TABLES, Board
from kvm.invariants import check_all


def check(board: Board) -> None:
    """Guest tables that the test wrote from outside are KVM's to know nothing of."""
    check_all(board.machine.machine, range(TABLES >> 12, board.next_table >> 12))
