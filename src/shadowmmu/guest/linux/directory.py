"""Directories of the host that are held open."""

import errno
import os
import stat

STEP = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
"""How a component of a path is opened."""


class Directory:
    """A directory of the host that is open as long as somebody refers to it.

    It takes over `fd`; `status` is known or asked for. Raises OSError if that is not a directory.
    """

    __slots__ = ("fd", "identity")

    def __init__(self, fd: int, status: os.stat_result | None = None) -> None:
        self.fd = fd
        if status is None:
            status = os.fstat(fd)
        self.identity = status.st_dev, status.st_ino
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, "no directory")

    def __del__(self) -> None:
        os.close(self.fd)

    def above(self) -> "Directory":
        """Return the directory that this one is in now."""
        return Directory(os.open("..", STEP | os.O_DIRECTORY, dir_fd=self.fd))

    @property
    def path(self) -> str:
        """Return where it is now. Raises OSError if it was removed."""
        if not os.fstat(self.fd).st_nlink:
            raise OSError(errno.ENOENT, "removed")
        return os.readlink(host_name(self.fd))


def reopened(fd: int, mode: int) -> int:
    """Return another open file description of the same file: locks of the first are not kept by it."""
    try:
        return os.open(host_name(fd), mode | os.O_CLOEXEC)
    except OSError:
        return os.dup(fd)


def host_name(fd: int) -> str:
    """Return the name that the host's /proc has for a descriptor of this process."""
    return f"/proc/self/fd/{fd}"
