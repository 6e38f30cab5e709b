"""Write the C view of the constants (bits.pxd from bits.py) and compile the hot modules (X.py with an X.pxd
beside it); everything else is in pyproject.toml.
"""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import Cython
from Cython.Build import cythonize
from setuptools import Extension, setup

PACKAGE = Path("src/shadowmmu")
BUILD = Path("build/cython", Cython.__version__)  # modules of two releases do not fit together
SHARED = "shadowmmu._cyshared"
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": True,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
    "show_performance_hints": False,
    "emit_code_comments": False,
    "auto_pickle": False,
}
FASTEST = frozenset(
    [
        "guest/play/accesses",
        "kvm/exits/page_fault_exit",
        "x86/processor",
        "x86/tlb",
        "x86/walker",
        "kvm/guest_access/guest_walk",
        "kvm/state/mmu",
        "kvm/pages/get_page",
        "kvm/fault/page_fault",
        "kvm/map/prefetch",
        "kvm/spte/rmap",
        "kvm/spte/spte",
        "kvm/pages/zap",
        "kvm/state/tdp_iter",
    ]
)
"""The modules that take fewer instructions with -O3 in a workload of benchmarks/run.py (callgrind, by file).

With it TLB hits are 1.6 times as fast as with -O2. The other modules are compiled with -O1, which takes half
the time: for them it is as good (kvm/state/vm, kvm/map/fetch, host/mapping), or no workload reaches them."""


def shared_utilities() -> Extension:
    """The code for memoryviews that Cython would otherwise put into each module: a third of all C lines."""
    source = BUILD / "_cyshared.c"
    if not source.exists():
        source.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "cython", "--generate-shared", str(source), "--module-name", SHARED]
        subprocess.run(command, check=True)
    return Extension(SHARED, [str(source)], extra_compile_args=flags("-O1"))


def flags(optimization: str) -> list[str]:
    """The C compiler's options; of warnings about generated code nobody can do anything."""
    return [optimization, "-g0", "-w"]


def extension(name: str) -> Extension:
    """The extension of src/shadowmmu/`name`.py."""
    optimization = "-O3" if name in FASTEST else "-O1"
    return Extension(
        f"shadowmmu.{name.replace('/', '.')}",
        [f"{PACKAGE}/{name}.py"],
        extra_compile_args=flags(optimization),
    )


def extensions() -> list[Extension]:
    """The extensions, optional unless SHADOWMMU_REQUIRE_NATIVE is set; none with SHADOWMMU_INTERPRETED.

    Not abi3: calls from Python would take twice as long.
    """
    mode = runpy.run_path(str(PACKAGE / "_native.py"))
    if mode["is_set"]("SHADOWMMU_INTERPRETED"):
        return []
    names = [
        source.relative_to(PACKAGE).with_suffix("").as_posix() for source in mode["hot_modules"](PACKAGE)
    ]
    built = [shared_utilities()]
    built += cythonize(
        [extension(name) for name in names],
        build_dir=str(BUILD),
        compiler_directives=DIRECTIVES,
        shared_utility_qualified_name=SHARED,
        nthreads=os.cpu_count() or 1,
        quiet=True,
    )
    for each in built:  # cythonize() drops the flag
        each.optional = not mode["is_set"]("SHADOWMMU_REQUIRE_NATIVE")
    return sorted(built, key=lambda each: -Path(each.sources[0]).stat().st_size)  # no core waits for the last


def describes_only() -> bool:
    """Return True if only metadata or the source archive was asked for, as pip does before it builds."""
    return not {"egg_info", "dist_info", "sdist"}.isdisjoint(sys.argv)


if __name__ == "__main__":  # cythonize's worker processes import this file
    runpy.run_path(str(PACKAGE / "_sources.py"))["write_constants"](PACKAGE)
    setup(
        ext_modules=[] if describes_only() else extensions(),
        options={"build_ext": {"parallel": os.cpu_count() or 1}},
    )
