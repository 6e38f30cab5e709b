"""Compile the hot modules (each X.py with an X.pxd beside it); everything else is in pyproject.toml."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

PACKAGE = Path("src/shadowmmu")
BUILD = Path("build/cython")
SHARED = "shadowmmu._cyshared"
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": True,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
    "show_performance_hints": False,
    "auto_pickle": False,
}


def shared_utilities() -> Extension:
    """The code for memoryviews that Cython would otherwise put into each module: a third of all C lines."""
    source = BUILD / "_cyshared.c"
    if not source.exists():
        source.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "cython", "--generate-shared", str(source), "--module-name", SHARED]
        subprocess.run(command, check=True)
    return Extension(SHARED, [str(source)], extra_compile_args=["-O1", "-g0"])


def extensions() -> list[Extension]:
    """The extensions, optional unless SHADOWMMU_REQUIRE_NATIVE is set; none with SHADOWMMU_INTERPRETED.

    -O3 makes TLB hits 1.6 times as fast as -O2 does. Not abi3: calls from Python would take twice as long.
    """
    mode = runpy.run_path(str(PACKAGE / "_native.py"))
    if mode["is_set"]("SHADOWMMU_INTERPRETED"):
        return []
    built = [shared_utilities()]
    built += cythonize(
        [
            Extension(
                ".".join(("shadowmmu", *source.relative_to(PACKAGE).with_suffix("").parts)),
                [str(source)],
                extra_compile_args=["-O3", "-g0"],
            )
            for source in mode["hot_modules"](PACKAGE)
        ],
        build_dir=str(BUILD),
        compiler_directives=DIRECTIVES,
        shared_utility_qualified_name=SHARED,
        nthreads=os.cpu_count() or 1,
    )
    for extension in built:  # cythonize() drops the flag
        extension.optional = not mode["is_set"]("SHADOWMMU_REQUIRE_NATIVE")
    return built


if __name__ == "__main__":  # cythonize's worker processes import this file
    setup(ext_modules=extensions(), options={"build_ext": {"parallel": os.cpu_count() or 1}})
