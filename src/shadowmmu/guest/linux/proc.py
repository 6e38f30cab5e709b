"""What /proc says about the guest's processes: a few files."""

import re
from collections.abc import Callable, Mapping

from .layout import PAGE
from .memory import PROT_EXEC, PROT_READ, PROT_WRITE, Area
from .tasks import Process

_FILE = re.compile(r"/proc/(self|thread-self|\d+)/(\w+)")


def contents(path: str, own: Process, processes: Mapping[int, Process]) -> bytes | None:
    """The contents of a file about a process; None if the path is of none that exists here."""
    match = _FILE.fullmatch(path)
    if match is None:
        return None
    process = own if match[1].endswith("self") else processes.get(int(match[1]))
    write = _FILES.get(match[2])
    return None if process is None or write is None else write(process)


def _parent(process: Process) -> int:
    return 1 if process.parent is None else process.parent.pid


def _state(process: Process) -> str:
    return "R" if process.status is None else "Z"


def _comm(process: Process) -> bytes:
    return process.name.encode() + b"\n"


def _cmdline(process: Process) -> bytes:
    return b"".join(argument + b"\0" for argument in process.arguments)


def _maps(process: Process) -> bytes:
    return "".join(_line(area, process) for area in process.mm.areas).encode()


def _line(area: Area, process: Process) -> str:
    rights = "".join(
        letter if area.prot & bit else "-"
        for letter, bit in (("r", PROT_READ), ("w", PROT_WRITE), ("x", PROT_EXEC))
    )
    name = f"[{area.name}]" if area.name else ""
    if area.start == process.mm.brk_start and area.file is None:
        name = "[heap]"
    kind = "s" if area.shared else "p"
    line = f"{area.start:08x}-{area.end:08x} {rights}{kind} {area.offset * PAGE:08x} 00:00 0"
    return f"{line:<73}{name}\n" if name else f"{line} \n"


def _stat(process: Process) -> bytes:
    fields = [_state(process), _parent(process), process.group, process.session, *[0] * 14]
    fields += [len(process.threads), 0, 0, process.mm.resident, process.mm.resident >> 12, *[0] * 28]
    return f"{process.pid} ({process.name}) {' '.join(map(str, fields))}\n".encode()


def _status(process: Process) -> bytes:
    fields = {
        "Name": process.name,
        "State": _state(process),
        "Tgid": process.pid,
        "Pid": process.pid,
        "PPid": _parent(process),
        "VmRSS": f"{process.mm.resident >> 10:8} kB",
        "Threads": len(process.threads),
    }
    return "".join(f"{name}:\t{value}\n" for name, value in fields.items()).encode()


_FILES: Mapping[str, Callable[[Process], bytes]] = {
    "cmdline": _cmdline,
    "comm": _comm,
    "maps": _maps,
    "stat": _stat,
    "status": _status,
}
