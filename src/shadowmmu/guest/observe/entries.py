"""What is called before a guest continues: several may ask."""

from collections.abc import Callable

from ..svm.machine import SvmMachine

__all__ = ["after_exits"]


def after_exits(machine: SvmMachine, callback: Callable[[], object]) -> None:
    """Call back before the guest continues after an exit, too: after those who are called already."""
    before = machine.entry.callback

    def both() -> None:
        if before is not None:
            before()
        callback()

    machine.on_entry(both)
