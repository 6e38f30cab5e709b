"""Paths of system calls, and the files of descriptors."""

import errno
import os

from .calls import AT_FDCWD, Calls, int32
from .directory import Directory
from .files import OpenFile
from .paths import Place, ReadOnlyError
from .tasks import Task


class PathCalls(Calls):
    """What calls about files have in common."""

    @staticmethod
    def _file(task: Task, fd: int) -> OpenFile:
        return task.process.files.get(int32(fd))

    def _start(self, task: Task, directory: int, path: str) -> Directory:
        """Return where a path begins. Raises OSError."""
        if int32(directory) == AT_FDCWD or path.startswith("/"):
            return task.process.directory
        return Directory(os.dup(self._file(task, directory).fd))

    @staticmethod
    def _name(task: Task, address: int) -> str:
        path = os.fsdecode(task.process.mm.string(address))
        if not path:
            raise OSError(errno.ENOENT, "no name")
        return path

    def _find(self, task: Task, path: str, directory: int = AT_FDCWD, *, follow: bool = True) -> Place:
        """Return what a path means to a process. Raises OSError."""
        start = self._start(task, directory, path)
        return self.kernel.tree.find(path, start, task.process, self.kernel.processes, follow=follow)

    def _place(self, task: Task, address: int, directory: int = AT_FDCWD, *, follow: bool = True) -> Place:
        """Return what the path at an address means. Raises OSError."""
        return self._find(task, self._name(task, address), directory, follow=follow)

    def _entry(self, task: Task, address: int, directory: int = AT_FDCWD) -> Place:
        """Return the name of something that is to be made, removed or renamed. Raises OSError."""
        path = self._name(task, address)
        start = self._start(task, directory, path)
        place = self.kernel.tree.entry(path, start, task.process, self.kernel.processes)
        if not place.inside:
            raise ReadOnlyError
        return place

    def _new(self, task: Task, address: int, directory: int = AT_FDCWD) -> Place:
        """Return the name of something that is to be made: EEXIST comes before EROFS. Raises OSError."""
        try:
            return self._entry(task, address, directory)
        except ReadOnlyError:
            if self._place(task, address, directory, follow=False).exists():
                raise OSError(errno.EEXIST, "there already") from None
            raise

    def _changeable(
        self, task: Task, address: int, directory: int = AT_FDCWD, *, follow: bool = True
    ) -> Place:
        """Return what is there and may be changed by the guest. Raises OSError."""
        return self._allowed(self._place(task, address, directory, follow=follow))

    def _allowed(self, place: Place) -> Place:
        """Return the place if the guest may change what is there. Raises OSError."""
        if not self.kernel.tree.may_change(place):
            place.status()
            raise ReadOnlyError
        return place

    def _changeable_file(self, task: Task, fd: int) -> OpenFile:
        file = self._file(task, fd)
        if not file.inside:
            raise ReadOnlyError
        return file
