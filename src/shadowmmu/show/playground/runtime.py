"""Python for the browser: the Pyodide package of npm, fetched once, checked, and kept."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

__all__ = ["FILES", "INTEGRITY", "RELEASE", "RuntimeUnusable", "runtime_files"]

RELEASE = "314.0.7"
"""The release that the page was written for: Python 3.14, interpreted by WebAssembly."""
INTEGRITY = "sha512-0YvXxEhfEdpLfb/XkM2BFAeMROq0iMUX2bzzH9pOttyMcWkwq+HbE5uyuGD82LN7y2q+SNvi/6V5JEsOlD2R1A=="
"""The digest of its archive, as npm's lock files have it."""
FILES = ("pyodide.mjs", "pyodide.asm.mjs", "pyodide.asm.wasm", "python_stdlib.zip", "pyodide-lock.json")
"""What of the package the page needs."""
_SECONDS = 300
_REMEDY = (
    f"install npm, or run `npm pack pyodide@{RELEASE}` elsewhere, unpack it and give its folder by --pyodide"
)


class RuntimeUnusable(Exception):
    """There is no runtime to be had; the text says why and what helps."""


def runtime_files(folder: Path | None = None) -> dict[str, bytes]:
    """Return the contents of FILES by name, of an unpacked package or of the one that npm fetches.

    npm asks whatever registry the user has configured; the archive is kept in the user's cache.
    Raises RuntimeUnusable, OSError.
    """
    if folder is not None:
        return _unpacked(folder)
    kept = _cache() / f"pyodide-{RELEASE}.tgz"
    if not kept.exists() or not _is_intact(kept.read_bytes()):
        _fetch(kept)
    with tarfile.open(kept) as archive:
        return {name: _member(archive, f"package/{name}") for name in FILES}


def _cache() -> Path:
    """Return the folder for what can be fetched again (XDG Base Directory Specification).

    Raises RuntimeUnusable if the user has none.
    """
    held = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(held) if os.path.isabs(held) else Path.home() / ".cache") / "shadowmmu"
    except RuntimeError:
        raise RuntimeUnusable(
            f"no home directory for what npm fetches: set XDG_CACHE_HOME; {_REMEDY}"
        ) from None


def _is_intact(data: bytes) -> bool:
    digest = base64.b64encode(hashlib.sha512(data).digest()).decode()
    return f"sha512-{digest}" == INTEGRITY


def _fetch(kept: Path) -> None:
    """Let npm fetch the archive, which appears under its name only if it is complete."""
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeUnusable(f"Pyodide is not here and npm is not installed; {_REMEDY}")
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
        command = [npm, "pack", f"pyodide@{RELEASE}", "--silent", "--pack-destination", folder]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, cwd=folder)
        except subprocess.TimeoutExpired:
            raise RuntimeUnusable(f"npm did not fetch Pyodide within {_SECONDS} s; {_REMEDY}") from None
        fetched = Path(folder, kept.name)
        if done.returncode or not fetched.exists():
            said = next((line for line in done.stderr.splitlines() if line.strip()), "it gave no reason")
            raise RuntimeUnusable(f"npm cannot fetch Pyodide {RELEASE}: {said.strip()}; {_REMEDY}")
        if not _is_intact(fetched.read_bytes()):
            raise RuntimeUnusable(
                f"what npm fetched is not Pyodide {RELEASE}: its digest is another; {_REMEDY}"
            )
        os.replace(fetched, kept)


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise RuntimeUnusable(f"the archive of Pyodide lacks {name}")
    return file.read()


def _unpacked(folder: Path) -> dict[str, bytes]:
    """Return the files of an unpacked package. Raises RuntimeUnusable if it is none, or another release."""
    missing = [name for name in ("package.json", *FILES) if not (folder / name).is_file()]
    if missing:
        raise RuntimeUnusable(f"{folder}: no unpacked Pyodide, {missing[0]} is missing; {_unpack_hint()}")
    try:
        described = json.loads((folder / "package.json").read_text("utf-8"))
    except ValueError:
        described = None
    release = described.get("version") if isinstance(described, Mapping) else None
    if release != RELEASE:
        raise RuntimeUnusable(f"{folder}: Pyodide {release} is not {RELEASE}; {_unpack_hint()}")
    return {name: (folder / name).read_bytes() for name in FILES}


def _unpack_hint() -> str:
    return f"run `npm pack pyodide@{RELEASE}`, unpack it and give its folder `package`"
