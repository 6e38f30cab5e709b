"""Who is who: identities, users, groups."""

import errno
import os
import struct

from .calls import Calls, int32
from .tasks import (
    Process,
    Task,
)

MOST_GROUPS = 65536


class IdentityCalls(Calls):
    """System calls about who a process is."""

    def sys_getpid(self, task: Task) -> int:
        return task.process.pid

    def sys_gettid(self, task: Task) -> int:
        return task.tid

    def sys_getppid(self, task: Task) -> int:
        parent = task.process.parent
        return 1 if parent is None else parent.pid

    def sys_getuid(self, task: Task) -> int:
        return os.getuid()

    def sys_geteuid(self, task: Task) -> int:
        return os.geteuid()

    def sys_getgid(self, task: Task) -> int:
        return os.getgid()

    def sys_getegid(self, task: Task) -> int:
        return os.getegid()

    def _ids(self, task: Task, addresses: tuple[int, ...], value: int) -> int:
        for address in addresses:
            task.process.mm.write(address, value.to_bytes(4, "little"))
        return 0

    def sys_getresuid(self, task: Task, real: int, effective: int, saved: int) -> int:
        return self._ids(task, (real, effective, saved), os.getuid())

    def sys_getresgid(self, task: Task, real: int, effective: int, saved: int) -> int:
        return self._ids(task, (real, effective, saved), os.getgid())

    def _same(self, wanted: int, own: int) -> int:
        if int32(wanted) not in (-1, own):
            raise OSError(errno.EPERM, "not permitted")
        return 0

    def sys_setuid(self, task: Task, user: int) -> int:
        return self._same(user, os.getuid())

    def sys_setgid(self, task: Task, group: int) -> int:
        return self._same(group, os.getgid())

    def sys_setresuid(self, task: Task, user: int) -> int:
        return self._same(user, os.getuid())

    def sys_setresgid(self, task: Task, group: int) -> int:
        return self._same(group, os.getgid())

    def sys_setreuid(self, task: Task, real: int, effective: int) -> int:
        return self._same(real, os.getuid()) or self._same(effective, os.getuid())

    def sys_setregid(self, task: Task, real: int, effective: int) -> int:
        return self._same(real, os.getgid()) or self._same(effective, os.getgid())

    def sys_setfsuid(self, task: Task) -> int:
        return os.getuid()

    def sys_setfsgid(self, task: Task) -> int:
        return os.getgid()

    def sys_setgroups(self, task: Task, count: int, address: int) -> int:
        """Change nothing, as for users: whoever runs the program remains who it is."""
        if not 0 <= int32(count) <= MOST_GROUPS:
            raise OSError(errno.EINVAL, "too many groups")
        wanted = {number for (number,) in struct.iter_unpack("<I", task.process.mm.read(address, 4 * count))}
        if not wanted <= {os.getgid(), *os.getgroups()}:
            raise OSError(errno.EPERM, "not permitted")
        return 0

    def sys_getgroups(self, task: Task, count: int, address: int) -> int:
        groups = os.getgroups()
        if count:
            if count < len(groups):
                raise OSError(errno.EINVAL, "too small")
            task.process.mm.write(address, struct.pack(f"<{len(groups)}I", *groups))
        return len(groups)

    def _process(self, task: Task, pid: int) -> Process:
        process = self.kernel.processes.get(pid) if pid else task.process
        if process is None:
            raise OSError(errno.ESRCH, "no such process")
        return process

    def sys_getpgrp(self, task: Task) -> int:
        return task.process.group

    def sys_getpgid(self, task: Task, pid: int) -> int:
        return self._process(task, int32(pid)).group

    def sys_setpgid(self, task: Task, pid: int, group: int) -> int:
        process = self._process(task, int32(pid))
        wanted = int32(group) or process.pid
        if wanted < 0:
            raise OSError(errno.EINVAL, "no group")
        if process is not task.process and process.parent is not task.process:
            raise OSError(errno.ESRCH, "no child")
        known = any(
            one.group == wanted and one.session == process.session for one in self.kernel.processes.values()
        )
        foreign = process.session != task.process.session or process.session == process.pid
        if foreign or wanted != process.pid and not known:
            raise OSError(errno.EPERM, "not in this session")
        process.group = wanted
        return 0

    def sys_getsid(self, task: Task, pid: int) -> int:
        return self._process(task, int32(pid)).session

    def sys_setsid(self, task: Task) -> int:
        process = task.process
        if any(one.group == process.pid for one in self.kernel.processes.values()):
            raise OSError(errno.EPERM, "a leader already")
        process.group = process.session = process.pid
        return process.pid

    def sys_prctl(self, task: Task, option: int, value: int) -> int:
        if option == 15:
            task.process.name = os.fsdecode(task.process.mm.string(value)[:15])
        elif option == 16:
            task.process.mm.write(value, os.fsencode(task.process.name)[:15] + b"\0")
        return 0

    def sys_umask(self, task: Task, mask: int) -> int:
        old, task.process.umask = task.process.umask, mask & 0o777
        return old
