"""Where the results of a sweep are kept: a line of JSON for each run, appended when it is done.

A line is written by one call, so that a process that is killed leaves at most one torn line, the last. It is
dropped when the file is opened again: its run is one of those that are missing.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["Store", "StoreError"]

_START = b'{"key": "'


class StoreError(Exception):
    """A file that cannot hold results; the text names it, the line and what helps."""


class Store:
    """The results in a file, by the keys of their runs. To be used by one process at a time (`with`).

    Raises StoreError if the file is something else or in use, OSError.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            self._lock()
            self._found = self._read()
        except BaseException:
            os.close(self._file)
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(
                f"{self._path}: another sweep writes it; wait, or name another with --runs"
            ) from None

    def _read(self) -> dict[str, Mapping[str, Any]]:
        """Return the results by key; drop a torn last line."""
        content = self._path.read_bytes()
        *lines, torn = content.split(b"\n")
        found = {}
        for number, line in enumerate(lines, 1):
            try:
                one = json.loads(line)
                found[one["key"]] = one["result"]
            except (ValueError, KeyError, TypeError):
                raise StoreError(
                    f"{self._path}: line {number} is not a run of a sweep; "
                    "remove it, or name another file with --runs"
                ) from None
        if torn:
            if not (torn.startswith(_START) or _START.startswith(torn)):
                raise StoreError(f"{self._path}: holds no runs of a sweep; name another file with --runs")
            os.ftruncate(self._file, len(content) - len(torn))
        return found

    def get(self, key: str) -> Mapping[str, Any] | None:
        """Return a result, or None."""
        return self._found.get(key)

    def add(self, key: str, run: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """Append the result of a run. Raises OSError."""
        line = json.dumps({"key": key, "run": run, "result": result}).encode() + b"\n"
        try:
            while line:
                line = line[os.write(self._file, line) :]
        except OSError as error:
            error.filename = str(self._path)
            raise
        self._found[key] = result

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)
