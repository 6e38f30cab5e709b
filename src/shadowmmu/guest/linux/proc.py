"""What /proc says about the guest's processes: a few files, and links."""

import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .directory import Directory, host_name
from .files import OpenFile
from .layout import PAGE
from .memory import PROT_EXEC, PROT_READ, PROT_WRITE, Area
from .tasks import Process

_HOST_FILES = ("mounts", "mountinfo", "cgroup")
"""Those about this process are right for the guest's."""


@dataclass(frozen=True, slots=True)
class Text:
    """What a file contains."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link; one of /proc may lead to something whatever name that has."""

    target: str
    leads_to: Directory | OpenFile | None = None


@dataclass(frozen=True, slots=True)
class About:
    """A directory of /proc about a process: its own, or one in it (`kind`: fd, task)."""

    above: "Directory | About"
    process: Process
    kind: str = ""

    def look(self, name: str) -> "Directory | About | Link | Text":
        """Return what a name is. Raises OSError."""
        if name == ".":
            raise OSError(errno.ENOENT, "a directory that cannot be opened")
        if name == "..":
            return self.above
        found = _IN[self.kind](self, name)
        if found is None:
            raise OSError(errno.ENOENT, "no such file")
        return found


def about_process(name: str, own: Process, processes: Mapping[int, Process], above: Directory) -> About:
    """Return /proc/NAME: self, thread-self, or a number. Raises OSError if no process of the guest has it."""
    process = own if name.endswith("self") else processes.get(int(name))
    if process is None:
        raise OSError(errno.ENOENT, "no such process")
    return About(above, process)


def _of_process(about: About, name: str) -> About | Link | Text | None:
    process = about.process
    if name in ("fd", "task"):
        return About(about, process, name)
    if name == "cwd":
        return Link(process.directory.path, process.directory)
    if name == "exe":
        return Link(process.program)
    if name == "root":
        return Link("/")
    if name in _HOST_FILES:
        return Text(Path(f"/proc/self/{name}").read_bytes())
    write = _FILES.get(name)
    return None if write is None else Text(write(process))


def _descriptor(about: About, name: str) -> Link | None:
    if not name.isdecimal() or int(name) not in about.process.files.open:
        return None
    file = about.process.files.get(int(name))
    return Link(os.readlink(host_name(file.fd)), file)


def _thread(about: About, name: str) -> About | None:
    known = name.isdecimal() and any(thread.tid == int(name) for thread in about.process.threads)
    return About(about, about.process) if known else None


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
_IN: Mapping[str, Callable[[About, str], About | Link | Text | None]] = {
    "": _of_process,
    "fd": _descriptor,
    "task": _thread,
}
