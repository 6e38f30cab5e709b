"""A file that is mapped shared, by itself."""

import errno
import os
from pathlib import Path

import pytest

from shadowmmu.guest.linux.entry import Work
from shadowmmu.guest.linux.frames import Frames
from shadowmmu.guest.linux.shared_pages import SharedFile, shared_file

PAGE = 4096


class Bytes:
    """Guest memory."""

    size = 1 << 20

    def __init__(self) -> None:
        self.data = bytearray(self.size)

    def read(self, gpa: int, size: int) -> bytes:
        return bytes(self.data[gpa : gpa + size])

    def write(self, gpa: int, data: bytes) -> None:
        self.data[gpa : gpa + len(data)] = data


@pytest.fixture
def memory() -> Bytes:
    return Bytes()


@pytest.fixture
def file(memory: Bytes, tmp_path: Path) -> SharedFile:
    path = tmp_path / "file"
    path.write_bytes(b"x" * (PAGE + 10))
    fd = os.open(path, os.O_RDWR)
    found = shared_file(Frames(memory, Work(memory), 0x10000), fd, writable=True)
    os.close(fd)
    found.areas = 1
    return found


def test_what_is_written_on_one_side_is_seen_on_the_other(file: SharedFile, memory: Bytes) -> None:
    gpa = file.get(1)
    assert gpa is not None
    assert file.get(2) is None
    memory.write(gpa, b"ab")
    memory.write(gpa + 20, b"beyond the end")
    file.store()
    assert os.pread(file.fd, 100, PAGE) == b"ab" + b"x" * 8
    os.pwrite(file.fd, b"c", PAGE + 1)
    file.load()
    assert memory.read(gpa, 3) == b"acx"


def test_a_full_disk_does_not_keep_a_process_alive(
    file: SharedFile, memory: Bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    gpa = file.get(0)
    assert gpa is not None
    memory.write(gpa, b"a")
    monkeypatch.setattr(os, "pwrite", full)
    file.leave()
    assert file.frames.shared_files == {}
