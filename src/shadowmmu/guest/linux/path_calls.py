"""Paths of system calls, and the files of descriptors."""

import errno
import os
from typing import TYPE_CHECKING

from .calls import AT_FDCWD, Calls, int32
from .files import OpenFile
from .tasks import Task

if TYPE_CHECKING:
    pass


class PathCalls(Calls):
    """What calls about files have in common."""

    def absolute(self, task: Task, path: str, directory: int = AT_FDCWD) -> str:
        """A path from the process' directory on, or from an open one's. Raises OSError."""
        if not path:
            raise OSError(errno.ENOENT, "no name")
        process = task.process
        if path.startswith("/"):
            self.kernel.tree.program = process.program
            return path
        base = process.directory
        if directory != AT_FDCWD:
            base = process.files.get(directory).path
            if not base:
                raise OSError(errno.ENOTDIR, "no directory")
        return os.path.join(base, path)

    def _path(self, task: Task, address: int, directory: int = AT_FDCWD) -> str:
        return self.absolute(task, os.fsdecode(task.process.mm.string(address)), int32(directory))

    def _file(self, task: Task, fd: int) -> OpenFile:
        return task.process.files.get(int32(fd))
