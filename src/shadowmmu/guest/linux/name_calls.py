"""What files are, and changes of directories."""

import ctypes
import errno
import os
import stat
import struct
import time
from typing import TYPE_CHECKING

from .calls import AT_FDCWD, int32
from .files import OpenFile, stat_bytes, statx_bytes
from .path_calls import PathCalls
from .tasks import Task

if TYPE_CHECKING:
    pass

AT_SYMLINK_NOFOLLOW, AT_REMOVEDIR, AT_SYMLINK_FOLLOW, AT_EMPTY_PATH = 0x100, 0x200, 0x400, 0x1000
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
_getdents64 = ctypes.CDLL(None, use_errno=True).getdents64


class NameCalls(PathCalls):
    """System calls about names and attributes of files."""

    # -- what files are -------------------------------------------------------------------------------------

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

    # -- changes --------------------------------------------------------------------------------------------

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
