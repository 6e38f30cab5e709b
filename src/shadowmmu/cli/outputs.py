"""Files that commands write: what is replaced, what is written in place, and what is refused.

A regular file appears under its name only when all of it is written; a symbolic link stays one, what it
points to is replaced. Devices, pipes and open files (/dev/stdout) are written to where they are, and `-` is
standard output.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol, TextIO

import click

__all__ = ["Written", "is_stdout", "make_folder", "output", "refuse_overwriting"]

_STDOUT = Path("-")
_LONGEST_PREFIX = 100


class Written(Protocol):
    """An output that is open."""

    def write(self, text: str, /) -> object:
        """Append text. Raises OSError, with the output's name."""
        ...

    def write_bytes(self, data: bytes, /) -> object:
        """Append bytes. Raises OSError, with the output's name."""
        ...


@contextmanager
def output(path: Path) -> Iterator[Written]:
    """Open an output; a regular file is complete afterwards, or as it was before.

    Raises OSError, with the path that was given, when it cannot be written.
    """
    with _naming(path):
        opened = _open(path)
    try:
        yield _Named(opened.file, path)
        with _naming(path):
            opened.commit()
    except BaseException:
        with suppress(OSError):
            opened.abandon()
        raise


class _Named:
    """A file whose errors bear the name that the user gave it."""

    def __init__(self, file: TextIO, path: Path) -> None:
        self._file = file
        self._path = path

    def write(self, text: str, /) -> object:
        with _naming(self._path):
            return self._file.write(text)

    def write_bytes(self, data: bytes, /) -> object:
        with _naming(self._path):
            self._file.flush()
            return self._file.buffer.write(data)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        error.filename = "standard output" if path == _STDOUT else str(path)
        error.filename2 = None
        error.strerror = f"cannot write: {os.strerror(error.errno or 0)}"
        raise


def _open(path: Path) -> _InPlace | _Replacement:
    number = _number(path)
    if number is not None:
        file = sys.stdout if number == 1 else os.fdopen(os.dup(number), "w", encoding="utf-8")
        return _InPlace(file, ours=number != 1)
    status = _status(path)
    if status is not None and not stat.S_ISREG(status.st_mode):
        return _InPlace(path.open("w", encoding="utf-8"), ours=True)
    return _Replacement(Path(os.path.realpath(path)), status)


class _InPlace:
    """A device, a pipe, or a file that is open already."""

    def __init__(self, file: TextIO, *, ours: bool) -> None:
        self.file = file
        self._ours = ours

    def commit(self) -> None:
        self.file.flush()
        self.abandon()

    def abandon(self) -> None:
        if self._ours:
            self.file.close()


class _Replacement:
    """A file beside the one that it replaces in the end, with its owner and permissions."""

    def __init__(self, target: Path, status: os.stat_result | None) -> None:
        if status is not None and not os.access(target, os.W_OK):
            raise PermissionError(13, os.strerror(13))
        self._target = target
        self._status = status
        handle, self._temporary = tempfile.mkstemp(
            dir=target.parent, prefix=f".{target.name[:_LONGEST_PREFIX]}."
        )
        self.file: TextIO = os.fdopen(handle, "w", encoding="utf-8")

    def commit(self) -> None:
        self.file.close()
        if self._status is None:
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(self._temporary, 0o666 & ~umask)
        else:
            with suppress(PermissionError):
                os.chown(self._temporary, self._status.st_uid, self._status.st_gid)
            os.chmod(self._temporary, stat.S_IMODE(self._status.st_mode))
        os.replace(self._temporary, self._target)

    def abandon(self) -> None:
        try:
            self.file.close()
        finally:
            os.unlink(self._temporary)


def make_folder(path: Path) -> None:
    """Make a folder for outputs, unless it is there. Raises ClickException for `-`, OSError."""
    if path == _STDOUT:
        raise click.ClickException("`-` is standard output, but this output is a folder of files; name one")
    path.mkdir(parents=True, exist_ok=True)


# -- which file a name is ----------------------------------------------------------------------------------


def is_stdout(path: Path | None) -> bool:
    """Return whether an output is standard output: `-`, /dev/stdout, or another name of it."""
    return path is not None and _number(path) == 1


def refuse_overwriting(outputs: Mapping[str, Path | None], inputs: Iterable[Path] = ()) -> None:
    """Raise UsageError if two outputs (by their options) are one file, or one is an input or standard output.

    Names are of one file if they lead to the same inode, or would.
    """
    written: dict[object, str] = {}
    if stat.S_ISREG(os.fstat(1).st_mode):
        written[_identity(_STDOUT)] = "standard output"
    read = {_identity(path): path for path in inputs}
    for option, path in outputs.items():
        if path is None:
            continue
        identity = _STDOUT if is_stdout(path) else _identity(path)
        if identity in read:
            raise click.UsageError(f"{option} {path} would overwrite the input {read[identity]}")
        if identity in written:
            raise click.UsageError(f"{option} {path} is the same file as {written[identity]}; name another")
        if identity == _STDOUT or not _is_in_place(path):
            written[identity] = option


def _is_in_place(path: Path) -> bool:
    """Return whether an output is written in place, not as a file that is replaced:
    several may write there.
    """
    status = _status(path)
    return status is not None and not stat.S_ISREG(status.st_mode)


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _identity(path: Path) -> object:
    """Return something that is equal for names of one file."""
    number = _number(path)
    try:
        status = path.stat() if number is None else os.fstat(number)
    except OSError:
        return os.path.realpath(path)
    return status.st_dev, status.st_ino


def _number(path: Path) -> int | None:
    from shadowmmu.guest.scenario.text import open_file

    return 1 if path == _STDOUT else open_file(path)
