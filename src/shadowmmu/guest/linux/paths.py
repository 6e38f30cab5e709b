"""Paths: the host's files as the guest sees them, and which of them it may change.

A path is walked by its components; each is opened with O_PATH and O_NOFOLLOW from the directory before it,
and symbolic links are followed here. So what was judged is what is used, whoever renames or replaces names
meanwhile. The guest may change what is beneath the root, a directory that is held open: entries of the root
and of directories beneath it. The root's own name is an entry of the directory above, so it can be neither
removed nor replaced. The host's processes in /proc do not exist; the guest's are in their place (proc.py).
"""

import ctypes
import errno
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .calls import libc
from .directory import STEP, Directory, host_name
from .files import OpenFile, waits_for
from .proc import About, Link, Text, about_process
from .tasks import Process

MOST_LINKS = 40
PROC_SUPER_MAGIC = 0x9FA0
PROC_ROOT_INODE = 1
WRITABLE_DEVICES = frozenset(
    os.makedev(major, minor) for major, minor in ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0))
)
"""/dev/null, zero, full, random, urandom, tty."""


class ReadOnlyError(OSError):
    """A change outside of where the guest may write."""

    def __init__(self) -> None:
        super().__init__(errno.EROFS, "outside of the directory that may be written")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a path leads: a name in a directory, from which no symbolic link is followed.

    `inside`: the directory is the root or beneath it. `other` is what has no name on the host: an open file
    that a link of /proc leads to, a text or a symbolic link of /proc.
    """

    directory: Directory
    name: str
    inside: bool
    other: OpenFile | Text | Link | None = None

    @property
    def file(self) -> OpenFile:
        """Return the open file that is meant. Raises OSError: other files of /proc cannot be changed."""
        if not isinstance(self.other, OpenFile):
            raise OSError(errno.EACCES, "a file of /proc")
        return self.other

    def open(self, flags: int, mode: int = 0) -> int:
        """Return a descriptor of the host's file. Raises OSError."""
        if self.other is None:
            return os.open(self.name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=self.directory.fd)
        if flags & os.O_PATH and not isinstance(self.other, OpenFile):
            return os.open(self._likeness, STEP)
        return os.open(host_name(self.file.fd), flags & ~os.O_NOFOLLOW | os.O_CLOEXEC)

    @contextmanager
    def held(self) -> Iterator[int]:
        """Give a descriptor of what is there, opened with O_PATH. Raises OSError."""
        fd = self.open(os.O_PATH)
        try:
            yield fd
        finally:
            os.close(fd)

    @property
    def _likeness(self) -> str:
        """Return a file of the host that looks like what the guest's /proc has."""
        return "/proc/self/exe" if isinstance(self.other, Link) else "/proc/self/status"

    def status(self) -> os.stat_result:
        """Return what it is. Raises OSError."""
        if self.other is None:
            return os.stat(self.name, dir_fd=self.directory.fd, follow_symlinks=False)
        if isinstance(self.other, OpenFile):
            return os.fstat(self.other.fd)
        return os.lstat(self._likeness)

    def exists(self) -> bool:
        try:
            self.status()
        except OSError:
            return False
        return True


class Tree:
    """The host's files, of which the guest may change those beneath `root`. Raises ValueError."""

    def __init__(self, root: Path) -> None:
        try:
            self.root = Directory(os.open(root, STEP | os.O_DIRECTORY))
        except OSError as error:
            if root.is_symlink():
                remedy = f"a symbolic link; give the directory that it leads to, {os.path.realpath(root)}"
                raise ValueError(f"the root {root} is {remedy}") from None
            raise ValueError(f"the root {root}: {error.strerror}") from None
        self.top = Directory(os.open("/", STEP | os.O_DIRECTORY))
        self._is_proc: dict[int, bool] = {}

    # -- where the guest may write -----------------------------------------------------------------------

    def is_beneath(self, directory: Directory) -> bool:
        """Return whether a directory is the root or beneath it now."""
        try:
            while directory.identity != self.root.identity:
                above = directory.above()
                if above.identity == directory.identity:
                    return False
                directory = above
        except OSError:
            return False
        return True

    def is_root(self, status: os.stat_result) -> bool:
        return (status.st_dev, status.st_ino) == self.root.identity

    def may_change(self, place: Place) -> bool:
        """Return whether the guest may change the contents and attributes of what is there."""
        if place.other is not None:
            return isinstance(place.other, OpenFile) and place.other.inside
        if place.inside:
            return True
        try:
            return self.is_root(place.status())
        except OSError:
            return False

    # -- walking -----------------------------------------------------------------------------------------

    def find(
        self,
        path: str,
        start: Directory,
        own: Process,
        processes: Mapping[int, Process],
        *,
        follow: bool = True,
    ) -> Place:
        """Return what a path means; if not `follow`, a symbolic link at its very end. Raises OSError."""
        parts = _parts(path)
        if path.endswith("/"):
            parts.insert(0, ".")
        return _Walk(self, start, own, processes, path, parts).run(follow=follow)

    def entry(self, path: str, start: Directory, own: Process, processes: Mapping[int, Process]) -> Place:
        """Return the name that a path ends in, to be made, removed or renamed. Raises OSError."""
        parts = _parts(path) or ["."]
        last = parts.pop(0)
        place = _Walk(self, start, own, processes, path, [".", *parts]).run(follow=True)
        slash = "/" if path.endswith("/") else ""
        return Place(place.directory, last + slash, place.inside, place.other)

    def in_proc(self, directory: Directory) -> bool:
        """Return whether a directory is of a proc file system."""
        device = directory.identity[0]
        known = self._is_proc.get(device)
        if known is None:
            data = ctypes.create_string_buffer(256)
            failed = libc.fstatfs(directory.fd, data)
            kind = int.from_bytes(data.raw[:4], "little")
            known = self._is_proc[device] = not failed and kind == PROC_SUPER_MAGIC
        return known

    # -- opening -----------------------------------------------------------------------------------------

    def open(self, place: Place, flags: int, mode: int) -> OpenFile:
        """Open without waiting for a FIFO's other end. Raises OSError; ENXIO for a FIFO that nobody reads."""
        temporary = flags & os.O_TMPFILE == os.O_TMPFILE
        writes = bool(flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC or temporary)
        asked = writes or flags & os.O_CREAT or place.other is not None
        inside = self.may_change(place) if asked else place.inside
        if flags & os.O_CREAT and not inside:
            if not place.exists():
                raise ReadOnlyError
            flags &= ~os.O_CREAT
        given = flags & ~os.O_DIRECT | os.O_NOCTTY | os.O_NONBLOCK
        fd = self._open_device(place, given) if writes and not inside else place.open(given, mode)
        kept = flags & ~(os.O_CLOEXEC | os.O_CREAT | os.O_TRUNC | os.O_EXCL | os.O_NOFOLLOW | os.O_NOCTTY)
        status = os.fstat(fd)
        return OpenFile(
            fd,
            kept,
            inside=inside or self.is_root(status),
            waits=waits_for(status.st_mode),
            fifo=(status.st_dev, status.st_ino) if stat.S_ISFIFO(status.st_mode) else None,
        )

    @staticmethod
    def _open_device(place: Place, flags: int) -> int:
        """Open a device that may be written wherever it is. Raises ReadOnlyError, OSError."""
        with place.held() as fd:
            status = os.fstat(fd)
            if not stat.S_ISCHR(status.st_mode) or status.st_rdev not in WRITABLE_DEVICES:
                raise ReadOnlyError
            return os.open(host_name(fd), flags & ~os.O_NOFOLLOW | os.O_CLOEXEC)


class _Walk:
    """One way along a path; `rest` are the components to come, the last one first."""

    def __init__(
        self,
        tree: Tree,
        start: Directory,
        own: Process,
        processes: Mapping[int, Process],
        path: str,
        rest: list[str],
    ) -> None:
        if not path or "\0" in path:
            raise OSError(errno.ENOENT, "no name")
        self.tree = tree
        self.own = own
        self.processes = processes
        self.rest = rest
        self.links = 0
        self.here: Directory | About = start
        if path.startswith("/"):
            self._from_top()
        else:
            self.inside = tree.is_beneath(start)

    def _from_top(self) -> None:
        self.here = self.tree.top
        self.inside = self.tree.top.identity == self.tree.root.identity

    def run(self, *, follow: bool) -> Place:
        """Return the end of the way. Raises OSError."""
        while True:
            name = self.rest.pop() if self.rest else "."
            last, here = not self.rest, self.here
            if last and name == "." and isinstance(here, Directory):
                return Place(here, ".", self.inside)
            found = self._look(here, name, last=last, follow=follow)
            if found is None:
                assert isinstance(here, Directory)
                return Place(here, name, self.inside)
            if isinstance(found, Link) and (follow or not last):
                if found.leads_to is None:
                    self._follow(found.target, last=last)
                    continue
                found = found.leads_to
            if isinstance(found, OpenFile) and not last:
                found = Directory(os.dup(found.fd))
            if isinstance(found, Directory | About):
                self._enter(found, name)
                if last:
                    self.rest.append(".")
            elif last:
                return Place(self.tree.top, name, False, found)
            else:
                raise OSError(errno.ENOTDIR, "no directory")

    def _look(
        self, here: Directory | About, name: str, *, last: bool, follow: bool
    ) -> Directory | About | Link | OpenFile | Text | None:
        """Return what a name is; None: the last one, and the host's. Raises OSError."""
        if isinstance(here, About):
            return here.look(name)
        if name == "..":
            return here if here.identity == self.tree.top.identity else here.above()
        if (name.isdecimal() or name in ("self", "thread-self")) and self._is_proc_root(here):
            return about_process(name, self.own, self.processes, here)
        if not last:
            return self._step(here, name)
        if not follow:
            return None
        try:
            return Link(os.readlink(name, dir_fd=here.fd))
        except OSError:
            return None

    def _step(self, here: Directory, name: str) -> Directory | Link:
        fd = os.open(name, STEP, dir_fd=here.fd)
        status = os.fstat(fd)
        if stat.S_ISLNK(status.st_mode):
            try:
                return Link(os.readlink("", dir_fd=fd))
            finally:
                os.close(fd)
        found = Directory(fd, status)
        if self.tree.in_proc(found) and not self.tree.in_proc(here) and not self._is_proc_root(found):
            raise OSError(errno.ENOENT, "a part of /proc at another place")
        return found

    def _is_proc_root(self, directory: Directory) -> bool:
        return directory.identity[1] == PROC_ROOT_INODE and self.tree.in_proc(directory)

    def _follow(self, target: str, *, last: bool) -> None:
        self.links += 1
        if self.links > MOST_LINKS:
            raise OSError(errno.ELOOP, "too many symbolic links")
        if last and target.endswith("/"):
            self.rest.append(".")
        self.rest += _parts(target)
        if target.startswith("/"):
            self._from_top()

    def _enter(self, found: Directory | About, name: str) -> None:
        here, self.here = self.here, found
        if isinstance(found, About):
            self.inside = False
        elif isinstance(here, Directory) and name != "..":
            self.inside = self.inside or found.identity == self.tree.root.identity
        elif self.inside or isinstance(here, About):
            self.inside = self.tree.is_beneath(found)


def _parts(path: str) -> list[str]:
    """Return the components, the last one first, without those that mean nothing."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path == "." or path.endswith("/."):
        parts.append(".")
    return parts[::-1]
