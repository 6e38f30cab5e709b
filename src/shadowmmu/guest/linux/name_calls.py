"""What files are, and changes of directories."""

import ctypes
import errno
import os
import stat
import struct

from .calls import AT_FDCWD, int32, libc, result
from .directory import Directory, host_name
from .files import stat_bytes
from .path_calls import PathCalls
from .paths import Place, ReadOnlyError
from .proc import Link
from .tasks import Task

AT_SYMLINK_NOFOLLOW, AT_REMOVEDIR, AT_SYMLINK_FOLLOW, AT_EMPTY_PATH = 0x100, 0x200, 0x400, 0x1000
RENAME_FLAGS = 3
"""RENAME_NOREPLACE and RENAME_EXCHANGE."""
TIMES_SIZE = 32
STATX_SIZE = 256


class NameCalls(PathCalls):
    """System calls about names and attributes of files."""

    # -- what files are -------------------------------------------------------------------------------------

    def _target(self, task: Task, directory: int, path: int, flags: int) -> Place:
        """Return what a path means to the calls with AT_ flags; the descriptor itself with AT_EMPTY_PATH."""
        if flags & AT_EMPTY_PATH and (not path or not task.process.mm.string(path)):
            if int32(directory) == AT_FDCWD:
                return self._find(task, ".")
            return Place(self.kernel.tree.top, "", False, self._file(task, directory))
        return self._place(task, path, directory, follow=not flags & AT_SYMLINK_NOFOLLOW)

    def sys_stat(self, task: Task, path: int, address: int) -> int:
        return self.sys_newfstatat(task, AT_FDCWD, path, address, 0)

    def sys_lstat(self, task: Task, path: int, address: int) -> int:
        return self.sys_newfstatat(task, AT_FDCWD, path, address, AT_SYMLINK_NOFOLLOW)

    def sys_fstat(self, task: Task, fd: int, address: int) -> int:
        task.process.mm.write(address, stat_bytes(os.fstat(self._file(task, fd).fd)))
        return 0

    def sys_newfstatat(self, task: Task, directory: int, path: int, address: int, flags: int) -> int:
        task.process.mm.write(address, stat_bytes(self._target(task, directory, path, flags).status()))
        return 0

    def sys_statx(self, task: Task, directory: int, path: int, flags: int, mask: int, address: int) -> int:
        data = ctypes.create_string_buffer(STATX_SIZE)
        with self._target(task, directory, path, flags).held() as fd:
            result(libc.statx(fd, b"", AT_EMPTY_PATH, mask & 0xFFFFFFFF, data))
        task.process.mm.write(address, data.raw)
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
        with self._place(task, path).held() as fd:
            return self._statfs(task, os.fstatvfs(fd), address)

    def sys_fstatfs(self, task: Task, fd: int, address: int) -> int:
        return self._statfs(task, os.fstatvfs(self._file(task, fd).fd), address)

    def sys_access(self, task: Task, path: int, mode: int) -> int:
        return self.sys_faccessat(task, AT_FDCWD, path, mode)

    def sys_faccessat(self, task: Task, directory: int, path: int, mode: int) -> int:
        place = self._place(task, path, directory)
        with place.held() as fd:
            if not os.access(host_name(fd), mode & 7):
                raise OSError(errno.EACCES, "no access")
            kind = stat.S_IFMT(os.fstat(fd).st_mode)
        if mode & os.W_OK and kind in (stat.S_IFREG, stat.S_IFDIR) and not self.kernel.tree.may_change(place):
            raise ReadOnlyError
        return 0

    def sys_readlink(self, task: Task, path: int, address: int, size: int) -> int:
        return self.sys_readlinkat(task, AT_FDCWD, path, address, size)

    def sys_readlinkat(self, task: Task, directory: int, path: int, address: int, size: int) -> int:
        if int32(size) <= 0:
            raise OSError(errno.EINVAL, "no room")
        place = self._target(task, directory, path, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)
        if isinstance(place.other, Link):
            target = place.other.target
        elif place.other is None:
            target = os.readlink(place.name, dir_fd=place.directory.fd)
        else:
            target = os.readlink("", dir_fd=place.file.fd)
        data = os.fsencode(target)[: int32(size)]
        task.process.mm.write(address, data)
        return len(data)

    def sys_getdents64(self, task: Task, fd: int, address: int, size: int) -> int:
        buffer = ctypes.create_string_buffer(min(size, 1 << 16))
        got = int(libc.getdents64(self._file(task, fd).fd, buffer, ctypes.c_size_t(len(buffer))))
        if got < 0:
            raise OSError(ctypes.get_errno(), "getdents64")
        task.process.mm.write(address, buffer.raw[:got])
        return got

    def sys_getcwd(self, task: Task, address: int, size: int) -> int:
        data = os.fsencode(task.process.directory.path) + b"\0"
        if len(data) > size:
            raise OSError(errno.ERANGE, "too small")
        task.process.mm.write(address, data)
        return len(data)

    @staticmethod
    def _enter(task: Task, directory: Directory) -> int:
        if not os.access(host_name(directory.fd), os.X_OK):
            raise OSError(errno.EACCES, "no access")
        task.process.directory = directory
        return 0

    def sys_chdir(self, task: Task, path: int) -> int:
        return self._enter(task, Directory(self._place(task, path).open(os.O_PATH)))

    def sys_fchdir(self, task: Task, fd: int) -> int:
        return self._enter(task, Directory(os.dup(self._file(task, fd).fd)))

    # -- changes -------------------------------------------------------------------------------------------

    def sys_unlink(self, task: Task, path: int) -> int:
        return self.sys_unlinkat(task, AT_FDCWD, path, 0)

    def sys_rmdir(self, task: Task, path: int) -> int:
        return self.sys_unlinkat(task, AT_FDCWD, path, AT_REMOVEDIR)

    def sys_unlinkat(self, task: Task, directory: int, path: int, flags: int) -> int:
        if int32(flags) & ~AT_REMOVEDIR:
            raise OSError(errno.EINVAL, "unlinkat")
        place = self._entry(task, path, directory)
        remove = os.rmdir if flags & AT_REMOVEDIR else os.unlink
        remove(place.name, dir_fd=place.directory.fd)
        return 0

    def sys_mkdir(self, task: Task, path: int, mode: int) -> int:
        return self.sys_mkdirat(task, AT_FDCWD, path, mode)

    def sys_mkdirat(self, task: Task, directory: int, path: int, mode: int) -> int:
        place = self._new(task, path, directory)
        os.mkdir(place.name, mode & 0o1777 & ~task.process.umask, dir_fd=place.directory.fd)
        return 0

    def sys_mknod(self, task: Task, path: int, mode: int, device: int) -> int:
        return self.sys_mknodat(task, AT_FDCWD, path, mode, device)

    def sys_mknodat(self, task: Task, directory: int, path: int, mode: int, device: int) -> int:
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFIFO):
            raise OSError(errno.EPERM, "no devices and sockets")
        place = self._new(task, path, directory)
        kind = stat.S_IFIFO if stat.S_ISFIFO(mode) else stat.S_IFREG
        os.mknod(place.name, kind | mode & 0o1777 & ~task.process.umask, dir_fd=place.directory.fd)
        return 0

    def sys_chroot(self, task: Task) -> int:
        raise OSError(errno.EPERM, "not permitted")

    def sys_rename(self, task: Task, old: int, new: int) -> int:
        return self.sys_renameat2(task, AT_FDCWD, old, AT_FDCWD, new, 0)

    def sys_renameat(self, task: Task, old_at: int, old: int, new_at: int, new: int) -> int:
        return self.sys_renameat2(task, old_at, old, new_at, new, 0)

    def sys_renameat2(self, task: Task, old_at: int, old: int, new_at: int, new: int, flags: int) -> int:
        if int32(flags) & ~RENAME_FLAGS:
            raise OSError(errno.EINVAL, "renameat2")
        source, target = self._entry(task, old, old_at), self._entry(task, new, new_at)
        names = [os.fsencode(place.name) for place in (source, target)]
        result(libc.renameat2(source.directory.fd, names[0], target.directory.fd, names[1], int32(flags)))
        return 0

    def sys_link(self, task: Task, old: int, new: int) -> int:
        return self.sys_linkat(task, AT_FDCWD, old, AT_FDCWD, new, 0)

    def sys_linkat(self, task: Task, old_at: int, old: int, new_at: int, new: int, flags: int) -> int:
        """Link a file inside to a name inside only: who may write to the one may write to the other."""
        ways = flags & AT_EMPTY_PATH | (0 if flags & AT_SYMLINK_FOLLOW else AT_SYMLINK_NOFOLLOW)
        source = self._allowed(self._target(task, old_at, old, ways))
        target = self._new(task, new, new_at)
        with source.held() as fd:
            os.link(host_name(fd), target.name, dst_dir_fd=target.directory.fd, follow_symlinks=True)
        return 0

    def sys_symlink(self, task: Task, target: int, path: int) -> int:
        return self.sys_symlinkat(task, target, AT_FDCWD, path)

    def sys_symlinkat(self, task: Task, target: int, directory: int, path: int) -> int:
        place = self._new(task, path, directory)
        os.symlink(self._name(task, target), place.name, dir_fd=place.directory.fd)
        return 0

    def sys_chmod(self, task: Task, path: int, mode: int) -> int:
        return self.sys_fchmodat(task, AT_FDCWD, path, mode)

    def sys_fchmodat(self, task: Task, directory: int, path: int, mode: int) -> int:
        with self._changeable(task, path, directory).held() as fd:
            os.chmod(host_name(fd), mode & 0o1777)
        return 0

    def sys_fchmod(self, task: Task, fd: int, mode: int) -> int:
        os.fchmod(self._changeable_file(task, fd).fd, mode & 0o1777)
        return 0

    def sys_chown(self, task: Task, path: int, user: int, group: int) -> int:
        return self.sys_fchownat(task, AT_FDCWD, path, user, group, 0)

    def sys_lchown(self, task: Task, path: int, user: int, group: int) -> int:
        return self.sys_fchownat(task, AT_FDCWD, path, user, group, AT_SYMLINK_NOFOLLOW)

    def sys_fchown(self, task: Task, fd: int, user: int, group: int) -> int:
        os.fchown(self._changeable_file(task, fd).fd, int32(user), int32(group))
        return 0

    def sys_fchownat(self, task: Task, directory: int, path: int, user: int, group: int, flags: int) -> int:
        place = self._target(task, directory, path, flags)
        with self._allowed(place).held() as fd:
            os.chown(host_name(fd), int32(user), int32(group))
        return 0

    def sys_utimensat(self, task: Task, directory: int, path: int, times: int, flags: int) -> int:
        data = task.process.mm.read(times, TIMES_SIZE) if times else None
        if not path:
            result(libc.futimens(self._changeable_file(task, directory).fd, data))
            return 0
        with self._allowed(self._target(task, directory, path, flags)).held() as fd:
            result(libc.utimensat(AT_FDCWD, host_name(fd).encode(), data, 0))
        return 0
