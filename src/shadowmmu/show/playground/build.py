"""The folder of the playground: page, runtime and model, as files that a browser reads from the disk.

A page that was opened from the disk may load scripts and style sheets beside it and nothing else. Hence what
else it needs (WebAssembly, archives) is base64 in scripts, compressed.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import distribution
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from .lessons import lessons
from .menus import completions, menus
from .runtime import RELEASE

__all__ = ["folder_files"]

_PAGE = ("index.html", "playground.css")
_SCRIPTS = ("completion.js", "editor.js", "menus.js", "sharing.js", "model.js", "main.js")
"""In the order in which they build on one another."""
_ELSEWHERE = (
    "cli",
    "vm",
    "study",
    "guest/svm",
    "guest/pc",
    "guest/linux",
    "guest/workload",
    "check/race",
    "check/random",
    "check/museum",
    "check/program.py",
    "show/tui",
    "show/diff",
)
"""What the page does not use, or what needs more than WebAssembly has."""
_EPOCH = (1980, 1, 1, 0, 0, 0)

_NOTICE = f"""\
shadowmmu       GPL-2.0-or-later, LICENSE.txt; its source is in model.zip.js, a zip archive in base64
Pyodide {RELEASE} MPL-2.0; npm package pyodide; source: repository pyodide/pyodide, tag {RELEASE}
CPython 3.14    PSF-2.0; part of Pyodide
Cython          Apache-2.0; its module for interpreted runs, in model.zip.js
"""


def folder_files(runtime: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return what the folder has, name -> contents; `runtime` is that of runtime_files()."""
    page = files("shadowmmu.show.playground") / "page"
    read = {name: (page / name).read_text("utf-8") for name in (*_PAGE, *_SCRIPTS, "worker.js")}
    embedded = {**runtime, "model.zip": _model()}
    data = {
        "lessons": [
            {
                "name": lesson.name,
                "title": lesson.title,
                "html": lesson.html(),
                "scenario": lesson.scenario,
                "changed": lesson.changed,
                "settings": lesson.settings,
                "asks": lesson.asks,
            }
            for lesson in lessons()
        ],
        "menus": menus(),
        "completions": completions(),
        "worker": read["worker.js"],
        "files": list(embedded),
    }
    scripts = "\n".join(f'<script defer src="{name}.js"></script>' for name in embedded)
    script = "\n".join(
        ['"use strict";', f"const given = {json.dumps(data)};", *(read[each] for each in _SCRIPTS)]
    )
    found = {
        "index.html": read["index.html"].replace("<!--RUNTIME-->", scripts).encode(),
        "playground.css": read["playground.css"].encode(),
        "playground.js": script.encode(),
        "NOTICE.txt": _NOTICE.encode(),
        "LICENSE.txt": _licence(),
    }
    return found | {f"{name}.js": _as_script(name, contents) for name, contents in embedded.items()}


def _as_script(name: str, contents: bytes) -> bytes:
    """Return a script that holds a file: compressed, the same at each build."""
    packed = base64.b64encode(gzip.compress(contents, 9, mtime=0)).decode()
    return f'(globalThis.embedded ??= {{}})["{name}"] = "{packed}";\n'.encode()


def _model() -> bytes:
    """Return the zip archive of the Python files that the page imports."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_STORED) as archive:
        for name, contents in (*_package_files(files("shadowmmu"), ""), *_cython_files()):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), contents)
    return written.getvalue()


def _package_files(folder: Traversable, inside: str) -> Iterator[tuple[str, bytes]]:
    """Yield the model's Python files, and the page of page tables."""
    for each in sorted(folder.iterdir(), key=lambda each: each.name):
        path = f"{inside}{each.name}"
        if path in _ELSEWHERE:
            continue
        if each.is_dir():
            yield from _package_files(each, f"{path}/")
        elif each.name.endswith(".py") or inside == "show/browser/page/":
            yield f"shadowmmu/{path}", each.read_bytes()


def _cython_files() -> Iterable[tuple[str, bytes]]:
    """Return what interpreted runs import of Cython."""
    installed = distribution("cython")
    for name in ("cython.py", "Cython/__init__.py", "Cython/Shadow.py"):
        yield name, Path(str(installed.locate_file(name))).read_bytes()


def _licence() -> bytes:
    """Return the text of the licence that shadowmmu was installed with."""
    installed = distribution("shadowmmu")
    for path in installed.files or ():
        if path.name == "LICENSE":
            return path.read_binary()
    return b"GNU General Public License, version 2 or later: see the source of shadowmmu\n"
