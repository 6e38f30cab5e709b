"""Programs run on the emulated processor only with the extra `shadowmmu[guest]`."""

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest

from shadowmmu.guest.pc.pc import Pc


@pytest.fixture
def pc() -> Callable[..., tuple[Pc, list[bytes]]]:
    """Makes a PC of 32 MiB with a program loaded, and the list that its output goes to."""
    missing = [name for name in ("unicorn", "iced_x86") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)} (pip install 'shadowmmu[guest]')")
    from shadowmmu.guest.pc.image import read_image
    from shadowmmu.guest.pc.pc import memory_slots
    from shadowmmu.guest.svm.machine import SvmMachine
    from shadowmmu.host.backing import Backing

    def make(
        data: bytes, line: str = "program", memory: int = 32 << 20, modules: Any = (), **options: Any
    ) -> Any:
        machine = SvmMachine(memory_slots(memory), backing=Backing.THP, **options)
        output: list[bytes] = []
        computer = Pc(machine, memory, output.append)
        computer.load(read_image(data), line, modules)
        return computer, output

    return make
