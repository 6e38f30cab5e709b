"""brk, mmap and their kin."""

import errno
import os
import stat

from .calls import Calls, int32
from .files import OpenFile
from .layout import LOW_TOP, LOWEST_MMAP, MMAP_TOP, PAGE, STACK_SIZE, STACK_TOP, USER_END
from .memory import PROT_READ, PROT_WRITE, Area, page_up
from .shared_pages import SharedPages, shared_file
from .tasks import Task

MAP_SHARED, MAP_PRIVATE, MAP_TYPE, MAP_FIXED, MAP_ANONYMOUS = 1, 2, 0xF, 0x10, 0x20
MAP_32BIT, MAP_HUGETLB = 0x40, 0x40000
MAP_FIXED_NOREPLACE = 0x100000
MREMAP_MAYMOVE, MREMAP_FIXED = 1, 2
MADV_DONTNEED, MADV_FREE = 4, 8
ADVICES = frozenset((*range(5), 8, 10, 11, *range(14, 22)))
"""All but those that need what is not here: MADV_REMOVE, MADV_MERGEABLE, MADV_POPULATE."""
PROT_ALL = 7
MS_ALL, MS_BOTH = 7, 5
"""All flags of msync; those that exclude each other: MS_ASYNC and MS_SYNC."""
ZERO_DEVICE = os.makedev(1, 5)


class MemoryCalls(Calls):
    """System calls about address spaces."""

    def sys_brk(self, task: Task, address: int) -> int:
        mm = task.process.mm
        if not mm.brk_start <= address < STACK_TOP - STACK_SIZE:
            return mm.brk
        old, new = page_up(mm.brk), page_up(address)
        if new > old:
            if any(mm.overlapping(old, new)) or new - mm.brk_start > self.kernel.machine.size:
                return mm.brk
            mm.add(Area(old, new, PROT_READ | PROT_WRITE))
        elif new < old:
            mm.unmap(new, old)
        mm.brk = address
        return address

    def sys_mmap(
        self, task: Task, address: int, length: int, prot: int, flags: int, fd: int, offset: int
    ) -> int:
        mm = task.process.mm
        size = page_up(length)
        kind = flags & MAP_TYPE
        if not 0 < size < USER_END or offset % PAGE or kind not in (MAP_SHARED, MAP_PRIVATE, 3):
            raise OSError(errno.EINVAL, "mmap")
        fixed = flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)
        if fixed and (address % PAGE or not LOWEST_MMAP <= address <= USER_END - size):
            raise OSError(errno.EINVAL if address % PAGE else errno.ENOMEM, "mmap")
        prot &= PROT_ALL
        area, file = Area(0, 0, prot), None
        if flags & MAP_HUGETLB:
            raise OSError(errno.ENOMEM, "no huge pages are reserved")
        if not flags & MAP_ANONYMOUS:
            file = self._mapped_file(task, fd, kind, prot)
        if flags & MAP_FIXED_NOREPLACE and any(mm.overlapping(address, address + size)):
            raise OSError(errno.EEXIST, "something is mapped there")
        if not fixed:
            address = mm.free_range(size, address, LOW_TOP if flags & MAP_32BIT else MMAP_TOP)
        else:
            mm.unmap(address, address + size)
        area.start, area.end = address, address + size
        if file is not None:
            area.offset = offset // PAGE
            if kind == MAP_PRIVATE:
                area.file = mm.frames.file_pages(file.fd)
            else:
                area.shared = shared_file(mm.frames, file.fd, writable=file.flags & os.O_ACCMODE == os.O_RDWR)
        elif kind != MAP_PRIVATE:
            area.shared = SharedPages(mm.frames)
        mm.add(area)
        return address

    @staticmethod
    def _mapped_file(task: Task, fd: int, kind: int, prot: int) -> OpenFile | None:
        """Return the file to map; None for /dev/zero: anonymous memory. Raises OSError."""
        file = task.process.files.get(int32(fd))
        access = file.flags & os.O_ACCMODE
        if access == os.O_WRONLY or kind != MAP_PRIVATE and prot & PROT_WRITE and access != os.O_RDWR:
            raise OSError(errno.EACCES, "not open for that")
        if file.flags & os.O_PATH:
            raise OSError(errno.EBADF, "not open")
        status = os.fstat(file.fd)
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == ZERO_DEVICE:
            return None
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.ENODEV, "no file that can be mapped")
        return file

    @staticmethod
    def _range(address: int, length: int) -> tuple[int, int]:
        end = address + page_up(length)
        if address % PAGE or end > USER_END:
            raise OSError(errno.EINVAL, "no range of pages")
        return address, end

    def sys_munmap(self, task: Task, address: int, length: int) -> int:
        start, end = self._range(address, length)
        if start == end:
            raise OSError(errno.EINVAL, "munmap")
        task.process.mm.unmap(start, end)
        return 0

    def sys_mprotect(self, task: Task, address: int, length: int, prot: int) -> int:
        start, end = self._range(address, length)
        task.process.mm.protect(start, end, prot & PROT_ALL)
        return 0

    def sys_mremap(
        self, task: Task, address: int, old_length: int, new_length: int, flags: int, target: int
    ) -> int:
        mm = task.process.mm
        start, end = self._range(address, old_length)
        size = page_up(new_length)
        area = mm.find(start)
        if not size or not end - start or flags & ~3 or flags & MREMAP_FIXED and not flags & MREMAP_MAYMOVE:
            raise OSError(errno.EINVAL, "mremap")
        if area is None or end > area.end:
            raise OSError(errno.EFAULT, "not mapped")
        if flags & MREMAP_FIXED:
            self._range(target, new_length)
            if target < end and start < target + size:
                raise OSError(errno.EINVAL, "mremap")
            mm.unmap(target, target + size)
        if size <= end - start:
            if size < end - start:
                mm.unmap(start + size, end)
            end = start + size
            if not flags & MREMAP_FIXED:
                return address
        elif not flags & MREMAP_FIXED:
            if end == area.end and start + size <= USER_END and not any(mm.overlapping(end, start + size)):
                mm.add(area.part(end, start + size))
                return address
            if not flags & MREMAP_MAYMOVE:
                raise OSError(errno.ENOMEM, "mremap")
            target = mm.free_range(size)
        mm.move(start, end - start, target, size)
        return target

    def sys_madvise(self, task: Task, address: int, length: int, advice: int) -> int:
        start, end = self._range(address, length)
        mm = task.process.mm
        if advice not in ADVICES:
            raise OSError(errno.EINVAL, "madvise")
        if advice in (MADV_DONTNEED, MADV_FREE):
            mm.discard(start, end)
        if not mm.covered(start, end):
            raise OSError(errno.ENOMEM, "not mapped")
        return 0

    def sys_msync(self, task: Task, address: int, length: int, flags: int) -> int:
        start, end = self._range(address, length)
        if flags & ~MS_ALL or flags & MS_BOTH == MS_BOTH:
            raise OSError(errno.EINVAL, "msync")
        if not task.process.mm.covered(start, end):
            raise OSError(errno.ENOMEM, "not mapped")
        return 0

    def sys_mlock(self, task: Task) -> int:
        return 0

    def sys_munlock(self, task: Task) -> int:
        return 0

    def sys_mincore(self, task: Task, address: int, length: int, vector: int) -> int:
        mm = task.process.mm
        start, end = self._range(address, length)
        if not mm.covered(start, end):
            raise OSError(errno.ENOMEM, "not mapped")
        pages = range(start // PAGE, end // PAGE)
        mm.write(vector, bytes(int(page in mm.pages) for page in pages))
        return 0

    def sys_get_mempolicy(self, task: Task) -> int:
        raise OSError(errno.ENOSYS, "no NUMA")
