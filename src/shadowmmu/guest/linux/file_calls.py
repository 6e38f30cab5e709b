"""Files, directories, pipes, terminals, poll."""

import ctypes
import errno
import fcntl
import os
import select
import stat
import struct
import termios
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from .calls import AT_FDCWD, Calls, int32, int64
from .files import Descriptor, OpenFile, stat_bytes, statx_bytes
from .proc import contents
from .tasks import SIGPIPE, Blocked, SignalInfo, Task

if TYPE_CHECKING:
    from .kernel import Kernel

AT_SYMLINK_NOFOLLOW, AT_REMOVEDIR, AT_SYMLINK_FOLLOW, AT_EMPTY_PATH = 0x100, 0x200, 0x400, 0x1000
LARGEST_READ = 16 << 20
MOST_VECTORS = 1024
F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC = 0, 1, 2, 3, 4, 1030
F_LOCKS = (5, 6, 7)
SETTABLE = os.O_APPEND | os.O_NONBLOCK
TCGETS, TCSETS, TCSETSW, TCSETSF, TIOCGPGRP, TIOCSPGRP, TIOCGWINSZ = (
    0x5401,
    0x5402,
    0x5403,
    0x5404,
    0x540F,
    0x5410,
    0x5413,
)
FIONREAD, FIONBIO = 0x541B, 0x5421
TERMIOS_SIZE = 36
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
FIFO_LOOKS = 0.005
"""Seconds between two looks whether a FIFO has a reader."""
_READS, _WRITES = select.POLLIN | select.POLLHUP | select.POLLERR, select.POLLOUT | select.POLLERR
_getdents64 = ctypes.CDLL(None, use_errno=True).getdents64


class FileCalls(Calls):
    """System calls about files."""

    def __init__(self, kernel: "Kernel") -> None:
        super().__init__(kernel)
        self._fifo_writers: Counter[tuple[int, int]] = Counter()
        """How often each FIFO was opened for writing."""

    # -- paths -------------------------------------------------------------------------------------------

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

    # -- opening and closing -----------------------------------------------------------------------------

    def sys_open(self, task: Task, path: int, flags: int, mode: int) -> int:
        return self.sys_openat(task, AT_FDCWD, path, flags, mode)

    def sys_creat(self, task: Task, path: int, mode: int) -> int:
        return self.sys_openat(task, AT_FDCWD, path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, mode)

    def sys_openat(self, task: Task, directory: int, path: int, flags: int, mode: int) -> int:
        name = self._path(task, path, directory)
        process = task.process
        flags &= 0x7FFFFFFF
        own = self.kernel.tree.own_descriptor(name)
        about = contents(name, process, self.kernel.processes) if name.startswith("/proc/") else None
        if own is not None:
            file = process.files.get(own)
            file.users += 1
        elif about is not None:
            file = self._filled(about, name, flags)
        else:
            file = self._open(task, name, flags, mode & 0o7777 & ~process.umask)
        return process.files.add(file, close_on_exec=bool(flags & os.O_CLOEXEC))

    @staticmethod
    def _filled(data: bytes, path: str, flags: int) -> OpenFile:
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(errno.EACCES, "cannot be written")
        fd = os.memfd_create("proc")
        os.write(fd, data)
        os.lseek(fd, 0, os.SEEK_SET)
        return OpenFile(fd, flags, path)

    def _open(self, task: Task, name: str, flags: int, mode: int) -> OpenFile:
        """Open a file; a FIFO when there is somebody at its other end. Raises OSError or Blocked."""
        if task.opening is not None:
            file = task.opening
        else:
            try:
                file = self.kernel.tree.open(name, flags, mode)
            except OSError as error:
                if error.errno != errno.ENXIO or flags & os.O_NONBLOCK or not self._is_fifo(name):
                    raise
                self._wait_for_reader(task)
        if file.fifo is None or flags & os.O_NONBLOCK:
            return file
        if flags & os.O_ACCMODE != os.O_RDONLY:
            self._fifo_writers[file.fifo] += 1
            return file
        return self._with_writer(task, file, file.fifo)

    def _is_fifo(self, name: str) -> bool:
        return stat.S_ISFIFO(os.stat(self.kernel.tree.resolve(name)).st_mode)

    @staticmethod
    def _wait_for_reader(task: Task) -> NoReturn:
        if task.deliverable() is not None:
            raise OSError(errno.EINTR, "interrupted")
        raise Blocked(deadline=time.monotonic() + FIFO_LOOKS, outside=True)

    def _with_writer(self, task: Task, file: OpenFile, fifo: tuple[int, int]) -> OpenFile:
        """A FIFO for reading, as soon as somebody has opened it for writing. Raises OSError or Blocked."""
        if task.opening is None:
            task.opening, task.progress = file, self._fifo_writers[fifo]
        ready = (
            self._fifo_writers[fifo] != task.progress
            or file.ready(select.POLLIN)
            or any(
                one.file.fifo == fifo and one.file.flags & os.O_ACCMODE != os.O_RDONLY
                for process in self.kernel.processes.values()
                for one in process.files.open.values()
            )
        )
        if ready:
            task.opening = None
            return file
        if task.deliverable() is not None:
            raise OSError(errno.EINTR, "interrupted")
        raise Blocked(
            [(file.fd, select.POLLIN)],
            test=lambda: self._fifo_writers[fifo] != task.progress,
            outside=True,
        )

    def sys_close(self, task: Task, fd: int) -> int:
        task.process.files.close(int32(fd))
        return 0

    def sys_pipe(self, task: Task, address: int) -> int:
        return self.sys_pipe2(task, address, 0)

    def sys_pipe2(self, task: Task, address: int, flags: int) -> int:
        files = task.process.files
        ends = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        own, close = flags & os.O_NONBLOCK, bool(flags & os.O_CLOEXEC)
        reads = OpenFile(ends[0], os.O_RDONLY | own, waits=True, internal=True)
        writes = OpenFile(ends[1], os.O_WRONLY | own, waits=True, internal=True)
        first = files.add(reads, close_on_exec=close)
        second = files.add(writes, close_on_exec=close)
        task.process.mm.write(address, struct.pack("<ii", first, second))
        return 0

    def sys_dup(self, task: Task, fd: int) -> int:
        return self._duplicate(task, fd, 0)

    def _duplicate(self, task: Task, fd: int, lowest: int, *, close_on_exec: bool = False) -> int:
        file = self._file(task, fd)
        file.users += 1
        return task.process.files.add(file, close_on_exec=close_on_exec, lowest=lowest)

    def sys_dup2(self, task: Task, old: int, new: int) -> int:
        if int32(old) == int32(new):
            self._file(task, old)
            return int32(old)
        return self.sys_dup3(task, old, new, 0)

    def sys_dup3(self, task: Task, old: int, new: int, flags: int) -> int:
        file, new = self._file(task, old), int32(new)
        if not 0 <= new < 1024:
            raise OSError(errno.EBADF, "bad descriptor")
        if int32(old) == new:
            raise OSError(errno.EINVAL, "the same")
        files = task.process.files
        file.users += 1
        if new in files.open:
            files.close(new)
        files.open[new] = Descriptor(file, bool(flags & os.O_CLOEXEC))
        return new

    def sys_fcntl(self, task: Task, fd: int, command: int, argument: int) -> int:
        file = self._file(task, fd)
        descriptor = task.process.files.open[int32(fd)]
        if command in (F_DUPFD, F_DUPFD_CLOEXEC):
            return self._duplicate(task, fd, int32(argument), close_on_exec=command == F_DUPFD_CLOEXEC)
        if command == F_GETFD:
            return int(descriptor.close_on_exec)
        if command == F_SETFD:
            descriptor.close_on_exec = bool(argument & 1)
            return 0
        if command == F_GETFL:
            return file.flags | 0x8000
        if command == F_SETFL:
            file.flags = file.flags & ~SETTABLE | argument & SETTABLE
            return 0
        if command in F_LOCKS:
            return 0
        raise OSError(errno.EINVAL, "fcntl")

    # -- reading and writing -------------------------------------------------------------------------------

    def _wait(self, task: Task, file: OpenFile, events: int) -> None:
        """Raises Blocked, or OSError, if the file is not ready."""
        if file.nonblocking:
            raise OSError(errno.EAGAIN, "not ready")
        raise Blocked([(file.fd, events)], outside=not file.internal)

    def _read(self, task: Task, file: OpenFile, size: int) -> bytes:
        if file.waits:
            if not file.ready(select.POLLIN):
                self._wait(task, file, select.POLLIN)
            size = min(size, 1 << 16)
        return os.read(file.fd, min(size, LARGEST_READ))

    def sys_read(self, task: Task, fd: int, address: int, size: int) -> int:
        data = self._read(task, self._file(task, fd), size)
        task.process.mm.write(address, data)
        return len(data)

    def sys_pread64(self, task: Task, fd: int, address: int, size: int, offset: int) -> int:
        data = os.pread(self._file(task, fd).fd, min(size, LARGEST_READ), int64(offset))
        task.process.mm.write(address, data)
        return len(data)

    def _vectors(self, task: Task, address: int, count: int) -> list[tuple[int, int]]:
        if not 0 <= int32(count) <= MOST_VECTORS:
            raise OSError(errno.EINVAL, "too many vectors")
        data = task.process.mm.read(address, 16 * count)
        return list(struct.iter_unpack("<QQ", data))

    def _scatter(self, task: Task, vectors: Sequence[tuple[int, int]], data: bytes) -> int:
        position = 0
        for address, size in vectors:
            task.process.mm.write(address, data[position : position + size])
            position += size
        return len(data)

    def sys_readv(self, task: Task, fd: int, address: int, count: int) -> int:
        vectors = self._vectors(task, address, count)
        data = self._read(task, self._file(task, fd), sum(size for _, size in vectors))
        return self._scatter(task, vectors, data)

    def _write(self, task: Task, file: OpenFile, data: bytes) -> int:
        while True:
            rest = data[task.progress :] if task.progress else data
            try:
                written = os.write(file.fd, rest)
            except BrokenPipeError:
                self.kernel.send(task, SIGPIPE, SignalInfo())
                raise
            except BlockingIOError:
                if task.progress and (file.nonblocking or task.deliverable() is not None):
                    return task.progress
                self._wait(task, file, select.POLLOUT)
                raise
            task.progress += written
            if task.progress >= len(data) or not written:
                return task.progress

    def sys_write(self, task: Task, fd: int, address: int, size: int) -> int:
        file = self._file(task, fd)
        return self._write(task, file, task.process.mm.read(address, min(size, LARGEST_READ)))

    def sys_pwrite64(self, task: Task, fd: int, address: int, size: int, offset: int) -> int:
        data = task.process.mm.read(address, min(size, LARGEST_READ))
        return os.pwrite(self._file(task, fd).fd, data, int64(offset))

    def sys_writev(self, task: Task, fd: int, address: int, count: int) -> int:
        file, mm, left, parts = self._file(task, fd), task.process.mm, LARGEST_READ, []
        for start, size in self._vectors(task, address, count):
            parts.append(mm.read(start, min(size, left)))
            left -= len(parts[-1])
        return self._write(task, file, b"".join(parts))

    def sys_sendfile(self, task: Task, target: int, source: int, offset: int, size: int) -> int:
        mm, into, file = task.process.mm, self._file(task, target), self._file(task, source)
        if task.progress == 0 and into.waits and not into.ready(select.POLLOUT):
            self._wait(task, into, select.POLLOUT)
        size = min(size, 1 << 16)
        if offset:
            place = mm.read_word(offset)
            data = os.pread(file.fd, size, place)
        else:
            if file.waits:
                raise OSError(errno.EINVAL, "no file that can be sent")
            place = os.lseek(file.fd, 0, os.SEEK_CUR)
            data = os.pread(file.fd, size, place)
        if not data:
            return 0
        written = self._write(task, into, data)
        if offset:
            mm.write(offset, (place + written).to_bytes(8, "little"))
        else:
            os.lseek(file.fd, place + written, os.SEEK_SET)
        return written

    def sys_lseek(self, task: Task, fd: int, offset: int, whence: int) -> int:
        return os.lseek(self._file(task, fd).fd, int64(offset), int32(whence))

    def sys_ftruncate(self, task: Task, fd: int, size: int) -> int:
        os.ftruncate(self._file(task, fd).fd, int64(size))
        return 0

    def sys_truncate(self, task: Task, path: int, size: int) -> int:
        os.truncate(self.kernel.tree.writable(self._path(task, path)), int64(size))
        return 0

    def sys_fallocate(self, task: Task, fd: int, mode: int, offset: int, size: int) -> int:
        if mode:
            raise OSError(errno.EOPNOTSUPP, "fallocate")
        os.posix_fallocate(self._file(task, fd).fd, offset, size)
        return 0

    def sys_fsync(self, task: Task, fd: int) -> int:
        self._file(task, fd)
        return 0

    sys_fdatasync = sys_fsync

    def sys_sync(self, task: Task) -> int:
        return 0

    def sys_fadvise64(self, task: Task, fd: int) -> int:
        self._file(task, fd)
        return 0

    def sys_flock(self, task: Task, fd: int) -> int:
        self._file(task, fd)
        return 0

    # -- what files are ------------------------------------------------------------------------------------

    def _status(self, task: Task, directory: int, path: int, flags: int) -> os.stat_result:
        name = os.fsdecode(task.process.mm.string(path)) if path else ""
        if not name and flags & AT_EMPTY_PATH:
            if int32(directory) == AT_FDCWD:
                return os.stat(task.process.directory)
            return os.fstat(self._file(task, directory).fd)
        name = self.absolute(task, name, int32(directory))
        own = self.kernel.tree.own_descriptor(name)
        if own is not None and not flags & AT_SYMLINK_NOFOLLOW:
            return os.fstat(task.process.files.get(own).fd)
        follow = not flags & AT_SYMLINK_NOFOLLOW
        slash = "/" if name.endswith("/") else ""
        return os.stat(
            self.kernel.tree.resolve(name, follow=follow) + slash, follow_symlinks=follow or bool(slash)
        )

    def sys_stat(self, task: Task, path: int, address: int) -> int:
        return self.sys_newfstatat(task, AT_FDCWD, path, address, 0)

    def sys_lstat(self, task: Task, path: int, address: int) -> int:
        return self.sys_newfstatat(task, AT_FDCWD, path, address, AT_SYMLINK_NOFOLLOW)

    def sys_fstat(self, task: Task, fd: int, address: int) -> int:
        task.process.mm.write(address, stat_bytes(os.fstat(self._file(task, fd).fd)))
        return 0

    def sys_newfstatat(self, task: Task, directory: int, path: int, address: int, flags: int) -> int:
        task.process.mm.write(address, stat_bytes(self._status(task, directory, path, flags)))
        return 0

    def sys_statx(self, task: Task, directory: int, path: int, flags: int, mask: int, address: int) -> int:
        task.process.mm.write(address, statx_bytes(self._status(task, directory, path, flags)))
        return 0

    def _statfs(self, task: Task, found: os.statvfs_result, address: int) -> int:
        data = struct.pack(
            "<12q",
            0xEF53,
            found.f_bsize,
            found.f_blocks,
            found.f_bfree,
            found.f_bavail,
            found.f_files,
            found.f_ffree,
            0,
            found.f_namemax,
            found.f_frsize,
            found.f_flag,
            0,
        )
        task.process.mm.write(address, data.ljust(120, b"\0"))
        return 0

    def sys_statfs(self, task: Task, path: int, address: int) -> int:
        return self._statfs(task, os.statvfs(self.kernel.tree.resolve(self._path(task, path))), address)

    def sys_fstatfs(self, task: Task, fd: int, address: int) -> int:
        return self._statfs(task, os.fstatvfs(self._file(task, fd).fd), address)

    def sys_access(self, task: Task, path: int, mode: int) -> int:
        return self.sys_faccessat(task, AT_FDCWD, path, mode)

    def sys_faccessat(self, task: Task, directory: int, path: int, mode: int) -> int:
        name = self._path(task, path, directory)
        own = self.kernel.tree.own_descriptor(name)
        if own is not None:
            self._file(task, own)
            return 0
        real = self.kernel.tree.resolve(name)
        os.stat(real)
        if not os.access(real, mode & 7):
            raise OSError(errno.EACCES, "no access")
        if mode & os.W_OK and stat.S_ISREG(os.stat(real).st_mode) and not self.kernel.tree.is_writable(real):
            raise OSError(errno.EROFS, "outside of the directory that may be written")
        return 0

    def sys_readlink(self, task: Task, path: int, address: int, size: int) -> int:
        return self.sys_readlinkat(task, AT_FDCWD, path, address, size)

    def sys_readlinkat(self, task: Task, directory: int, path: int, address: int, size: int) -> int:
        name = self._path(task, path, directory)
        tree = self.kernel.tree
        own = tree.own_descriptor(name)
        if own is not None:
            target = self._file(task, own).path or "pipe:[1]"
        elif name in ("/proc/self/exe", f"/proc/{task.process.pid}/exe"):
            target = task.process.program
        elif name == "/proc/self/cwd":
            target = task.process.directory
        else:
            target = os.readlink(tree.resolve(name, follow=False))
        data = os.fsencode(target)[:size]
        task.process.mm.write(address, data)
        return len(data)

    def sys_getdents64(self, task: Task, fd: int, address: int, size: int) -> int:
        buffer = ctypes.create_string_buffer(min(size, 1 << 16))
        got = int(_getdents64(self._file(task, fd).fd, buffer, ctypes.c_size_t(len(buffer))))
        if got < 0:
            raise OSError(ctypes.get_errno(), "getdents64")
        task.process.mm.write(address, buffer.raw[:got])
        return got

    def sys_getcwd(self, task: Task, address: int, size: int) -> int:
        data = os.fsencode(task.process.directory) + b"\0"
        if len(data) > size:
            raise OSError(errno.ERANGE, "too small")
        task.process.mm.write(address, data)
        return len(data)

    def _enter(self, task: Task, real: str) -> int:
        if not stat.S_ISDIR(os.stat(real).st_mode):
            raise OSError(errno.ENOTDIR, "no directory")
        if not os.access(real, os.X_OK):
            raise OSError(errno.EACCES, "no access")
        task.process.directory = real
        return 0

    def sys_chdir(self, task: Task, path: int) -> int:
        return self._enter(task, self.kernel.tree.resolve(self._path(task, path)))

    def sys_fchdir(self, task: Task, fd: int) -> int:
        return self._enter(task, self._file(task, fd).path)

    # -- changes -------------------------------------------------------------------------------------------

    def _writable(self, task: Task, path: int, directory: int = AT_FDCWD, *, follow: bool = False) -> str:
        """The real path of something that is to be made, removed or changed. Raises OSError."""
        return self.kernel.tree.writable(self._path(task, path, directory), follow=follow)

    def sys_unlink(self, task: Task, path: int) -> int:
        return self.sys_unlinkat(task, AT_FDCWD, path, 0)

    def sys_rmdir(self, task: Task, path: int) -> int:
        return self.sys_unlinkat(task, AT_FDCWD, path, AT_REMOVEDIR)

    def sys_unlinkat(self, task: Task, directory: int, path: int, flags: int) -> int:
        name = self._writable(task, path, directory)
        if flags & AT_REMOVEDIR:
            os.rmdir(name)
        else:
            os.unlink(name)
        return 0

    def sys_mkdir(self, task: Task, path: int, mode: int) -> int:
        return self.sys_mkdirat(task, AT_FDCWD, path, mode)

    def sys_mkdirat(self, task: Task, directory: int, path: int, mode: int) -> int:
        name = self.kernel.tree.resolve(self._path(task, path, directory), follow=False)
        if os.path.lexists(name):
            raise OSError(errno.EEXIST, "there already")
        os.mkdir(self._writable(task, path, directory), mode & 0o7777 & ~task.process.umask)
        return 0

    def sys_mknod(self, task: Task, path: int, mode: int, device: int) -> int:
        return self.sys_mknodat(task, AT_FDCWD, path, mode, device)

    def sys_mknodat(self, task: Task, directory: int, path: int, mode: int, device: int) -> int:
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFIFO):
            raise OSError(errno.EPERM, "no devices and sockets")
        name = self._writable(task, path, directory)
        kind = stat.S_IFIFO if stat.S_ISFIFO(mode) else stat.S_IFREG
        os.mknod(name, kind | mode & 0o1777 & ~task.process.umask)
        return 0

    def sys_chroot(self, task: Task) -> int:
        raise OSError(errno.EPERM, "not permitted")

    def sys_rename(self, task: Task, old: int, new: int) -> int:
        return self.sys_renameat2(task, AT_FDCWD, old, AT_FDCWD, new, 0)

    def sys_renameat(self, task: Task, old_at: int, old: int, new_at: int, new: int) -> int:
        return self.sys_renameat2(task, old_at, old, new_at, new, 0)

    def sys_renameat2(self, task: Task, old_at: int, old: int, new_at: int, new: int, flags: int) -> int:
        source, target = self._writable(task, old, old_at), self._writable(task, new, new_at)
        if flags & ~1:
            raise OSError(errno.EINVAL, "renameat2")
        if flags & 1 and os.path.lexists(target):
            raise OSError(errno.EEXIST, "there already")
        os.rename(source, target)
        return 0

    def sys_link(self, task: Task, old: int, new: int) -> int:
        return self.sys_linkat(task, AT_FDCWD, old, AT_FDCWD, new, 0)

    def sys_linkat(self, task: Task, old_at: int, old: int, new_at: int, new: int, flags: int) -> int:
        source = self._writable(task, old, old_at, follow=bool(flags & AT_SYMLINK_FOLLOW))
        os.link(source, self._writable(task, new, new_at), follow_symlinks=False)
        return 0

    def sys_symlink(self, task: Task, target: int, path: int) -> int:
        return self.sys_symlinkat(task, target, AT_FDCWD, path)

    def sys_symlinkat(self, task: Task, target: int, directory: int, path: int) -> int:
        os.symlink(os.fsdecode(task.process.mm.string(target)), self._writable(task, path, directory))
        return 0

    def sys_chmod(self, task: Task, path: int, mode: int) -> int:
        return self.sys_fchmodat(task, AT_FDCWD, path, mode)

    def sys_fchmodat(self, task: Task, directory: int, path: int, mode: int) -> int:
        os.chmod(self._writable(task, path, directory, follow=True), mode & 0o1777)
        return 0

    def _writable_file(self, task: Task, fd: int) -> OpenFile:
        file = self._file(task, fd)
        if not file.path or not self.kernel.tree.is_writable(file.path):
            raise OSError(errno.EROFS, "outside of the directory that may be written")
        return file

    def sys_fchmod(self, task: Task, fd: int, mode: int) -> int:
        os.fchmod(self._writable_file(task, fd).fd, mode & 0o1777)
        return 0

    def sys_chown(self, task: Task, path: int, user: int, group: int) -> int:
        os.chown(self._writable(task, path, follow=True), int32(user), int32(group))
        return 0

    def sys_lchown(self, task: Task, path: int, user: int, group: int) -> int:
        os.lchown(self._writable(task, path), int32(user), int32(group))
        return 0

    def sys_fchown(self, task: Task, fd: int, user: int, group: int) -> int:
        os.fchown(self._writable_file(task, fd).fd, int32(user), int32(group))
        return 0

    def sys_fchownat(self, task: Task, directory: int, path: int, user: int, group: int, flags: int) -> int:
        follow = not flags & AT_SYMLINK_NOFOLLOW
        name = self._writable(task, path, directory, follow=follow)
        os.chown(name, int32(user), int32(group), follow_symlinks=follow)
        return 0

    def sys_utimensat(self, task: Task, directory: int, path: int, times: int, flags: int) -> int:
        mm, now = task.process.mm, time.time_ns()
        values = [now, now]
        if path:
            follow = not flags & AT_SYMLINK_NOFOLLOW
            name: str | int = self._writable(task, path, directory, follow=follow)
        else:
            follow, name = True, self._writable_file(task, directory).fd
        if times:
            old = os.stat(name, follow_symlinks=follow)
            fields = struct.unpack("<4q", mm.read(times, 32))
            for number, before in enumerate((old.st_atime_ns, old.st_mtime_ns)):
                seconds, nanoseconds = fields[2 * number : 2 * number + 2]
                if nanoseconds == UTIME_OMIT:
                    values[number] = before
                elif nanoseconds != UTIME_NOW:
                    values[number] = seconds * 10**9 + nanoseconds
        if isinstance(name, int):
            os.utime(name, ns=(values[0], values[1]))
        else:
            os.utime(name, ns=(values[0], values[1]), follow_symlinks=follow)
        return 0

    # -- terminals and waiting -----------------------------------------------------------------------------

    def sys_ioctl(self, task: Task, fd: int, request: int, argument: int) -> int:
        file, mm = self._file(task, fd), task.process.mm
        request &= 0xFFFFFFFF
        if request == FIONBIO:
            wanted = mm.read_int(argument)
            file.flags = file.flags & ~os.O_NONBLOCK | (os.O_NONBLOCK if wanted else 0)
            return 0
        if request == FIONREAD:
            mm.write(argument, fcntl.ioctl(file.fd, termios.FIONREAD, bytes(4)))
            return 0
        if not os.isatty(file.fd):
            raise OSError(errno.ENOTTY, "no terminal")
        if request == TCGETS:
            mm.write(argument, fcntl.ioctl(file.fd, request, bytes(TERMIOS_SIZE)))
        elif request in (TCSETS, TCSETSW, TCSETSF):
            self.kernel.keep_terminal(file.fd)
            fcntl.ioctl(file.fd, request, mm.read(argument, TERMIOS_SIZE))
        elif request == TIOCGWINSZ:
            mm.write(argument, fcntl.ioctl(file.fd, request, bytes(8)))
        elif request == TIOCGPGRP:
            mm.write(argument, task.process.group.to_bytes(4, "little"))
        elif request != TIOCSPGRP:
            raise OSError(errno.ENOTTY, "not supported")
        return 0

    def _poll(self, task: Task, wanted: list[tuple[int, int]], seconds: float | None) -> list[int]:
        """What is ready of (descriptor, events), in that order; all 0 when the time is over."""
        files = task.process.files
        events: dict[int, int] = {}
        internal = True
        for fd, mask in wanted:
            if fd in files.open:
                file = files.open[fd].file
                events[file.fd] = events.get(file.fd, 0) | mask
                internal = internal and file.internal
        poll = select.poll()
        for host, mask in events.items():
            poll.register(host, mask)
        found = dict(poll.poll(0))
        results = []
        for fd, mask in wanted:
            if fd < 0:
                results.append(0)
            elif fd not in files.open:
                results.append(select.POLLNVAL)
            else:
                got = found.get(files.open[fd].file.fd, 0)
                results.append(got & (mask | select.POLLERR | select.POLLHUP))
        now = time.monotonic()
        if task.started is None:
            task.started = float("inf") if seconds is None else now + seconds
        if any(results) or now >= task.started:
            if task.saved_mask is not None:
                task.mask, task.saved_mask = task.saved_mask, None
            return results
        if task.deliverable() is not None:
            raise OSError(errno.EINTR, "interrupted")
        deadline = None if seconds is None else task.started
        raise Blocked(list(events.items()), deadline, outside=not internal)

    def _poll_table(self, task: Task, address: int, count: int, seconds: float | None) -> int:
        if count > 1024:
            raise OSError(errno.EINVAL, "too many")
        mm = task.process.mm
        table = list(struct.iter_unpack("<ihH", mm.read(address, 8 * count)))
        results = self._poll(task, [(fd, events) for fd, events, _ in table], seconds)
        data = b"".join(
            struct.pack("<ihH", fd, events, got) for (fd, events, _), got in zip(table, results, strict=True)
        )
        mm.write(address, data)
        return sum(bool(got) for got in results)

    def sys_poll(self, task: Task, address: int, count: int, timeout: int) -> int:
        milliseconds = int32(timeout)
        return self._poll_table(task, address, count, None if milliseconds < 0 else milliseconds / 1000)

    def _timeout(self, task: Task, address: int, unit: int) -> float | None:
        if not address:
            return None
        seconds, parts = struct.unpack("<qq", task.process.mm.read(address, 16))
        return float(seconds + parts / unit)

    def sys_ppoll(self, task: Task, address: int, count: int, timeout: int, mask: int) -> int:
        if mask:
            self.suspend_mask(task, mask)
        return self._poll_table(task, address, count, self._timeout(task, timeout, 10**9))

    def _select(self, task: Task, count: int, sets: tuple[int, int, int], seconds: float | None) -> int:
        mm, size = task.process.mm, -(-min(max(int32(count), 0), 1024) // 64) * 8
        reads, writes, errors = (int.from_bytes(mm.read(one, size), "little") if one else 0 for one in sets)
        wanted = []
        for fd in range(min(int32(count), 1024)):
            events = (select.POLLIN if reads >> fd & 1 else 0) | (select.POLLOUT if writes >> fd & 1 else 0)
            if events or errors >> fd & 1:
                task.process.files.get(fd)
                wanted.append((fd, events))
        results = self._poll(task, wanted, seconds)
        found = [0, 0, 0]
        for (fd, events), got in zip(wanted, results, strict=True):
            if events & select.POLLIN and got & _READS:
                found[0] |= 1 << fd
            if events & select.POLLOUT and got & _WRITES:
                found[1] |= 1 << fd
        for address, value in zip(sets, found, strict=True):
            if address:
                mm.write(address, value.to_bytes(size, "little"))
        return sum(value.bit_count() for value in found)

    def sys_select(self, task: Task, count: int, reads: int, writes: int, errors: int, timeout: int) -> int:
        return self._select(task, count, (reads, writes, errors), self._timeout(task, timeout, 10**6))

    def sys_pselect6(
        self, task: Task, count: int, reads: int, writes: int, errors: int, timeout: int, mask: int
    ) -> int:
        if mask and (address := task.process.mm.read_word(mask)):
            self.suspend_mask(task, address)
        return self._select(task, count, (reads, writes, errors), self._timeout(task, timeout, 10**9))
