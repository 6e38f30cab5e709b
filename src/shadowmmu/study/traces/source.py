"""Files of traces as streams of bytes: plain, or compressed with gzip, xz or Zstandard."""

from __future__ import annotations

import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from .accesses import TraceError

__all__ = ["Source", "opened"]

HEAD = 1 << 16
"""Bytes by which a format is recognized."""
_GZIP, _XZ, _ZSTD = b"\x1f\x8b", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"
_RATIO = 8
"""Decompressed bytes for each compressed one, about."""
_NEEDS = 'a trace compressed with zstd needs zstandard: pip install "shadowmmu[traces]"'


class Readable(Protocol):
    """What bytes are read from."""

    def read(self, size: int, /) -> bytes:
        """Return at most so many of the next bytes, none at the end."""


class Source:
    """A stream of bytes with a name for messages.

    Attributes:
        name: What messages call it.
        head: Its first HEAD bytes, which `read` returns, too.
    """

    def __init__(self, name: str, stream: Readable) -> None:
        self.name = name
        self._stream = stream
        self._rest = b""
        self.head = self.read(HEAD)
        self._rest = self.head + self._rest

    def read(self, size: int) -> bytes:
        """Return the next bytes, fewer than `size` only at the end.

        Raises TraceError if compressed data are damaged or incomplete, OSError.
        """
        parts, wanted = [], size
        while wanted > 0:
            part = self._rest or self._decompressed(wanted)
            if not part:
                break
            parts.append(part[:wanted])
            self._rest = part[wanted:]
            wanted -= len(part)
        return b"".join(parts)

    def rest(self) -> bytes:
        """Return all that was not read yet. Raises what `read` does."""
        return b"".join(iter(lambda: self.read(HEAD), b""))

    def _decompressed(self, size: int) -> bytes:
        try:
            return self._stream.read(size)
        except EOFError:
            raise TraceError(
                f"{self.name}: the compressed data end too early; copy or record it again"
            ) from None
        except _damaged() as error:
            raise TraceError(
                f"{self.name}: the compressed data are damaged ({error}); copy or record it again"
            ) from None


def _damaged() -> tuple[type[Exception], ...]:
    """Return the exceptions by which decompressors report damaged data."""
    known: tuple[type[Exception], ...] = (gzip.BadGzipFile, lzma.LZMAError, zlib.error)
    try:
        from zstandard import ZstdError
    except ImportError:
        return known
    return (*known, ZstdError)


@contextmanager
def opened(path: Path) -> Iterator[Source]:
    """Open a trace for reading, decompressed by what it begins with. Raises TraceError, OSError."""
    with ExitStack() as files:
        file = files.enter_context(path.open("rb"))
        magic = file.peek(len(_XZ))
        stream: Readable = file
        if magic.startswith(_GZIP):
            stream = files.enter_context(gzip.open(file))
        elif magic.startswith(_XZ):
            stream = files.enter_context(lzma.open(file))
        elif magic.startswith(_ZSTD):
            stream = _Unzstd(path, file)
        yield Source(str(path), stream)


class _Unzstd:
    """The decompressed bytes of a file of Zstandard's frames."""

    def __init__(self, path: Path, file: io.BufferedReader) -> None:
        try:
            from zstandard import ZstdDecompressor
        except ImportError:
            raise TraceError(f"{path}: {_NEEDS}") from None
        self._new_frame = ZstdDecompressor().decompressobj
        self._frame = self._new_frame()
        self._file = file

    def read(self, size: int) -> bytes:
        """Return some bytes, none at the end. Raises EOFError within a frame, ZstdError."""
        while compressed := self._frame.unused_data or self._file.read(max(1, size // _RATIO)):
            if self._frame.eof:
                self._frame = self._new_frame()
            data = self._frame.decompress(compressed)
            if data:
                return data
        if not self._frame.eof:
            raise EOFError
        return b""
