"""What all tests share: the mode they run in, and hypothesis settings that hold in both modes."""

import gc
from pathlib import Path

import hypothesis
import pytest

import shadowmmu
from shadowmmu._native import hot_modules, is_set
from shadowmmu._sources import why_stale

hypothesis.settings.register_profile(
    "shadowmmu",
    deadline=None,  # interpreted runs are about 80 times slower
    derandomize=True,  # the same tests in both modes and on every machine
    max_examples=100 if shadowmmu.native else 25,
)
hypothesis.settings.load_profile("shadowmmu")


def pytest_report_header() -> str:
    return f"shadowmmu: {'compiled' if shadowmmu.native else 'interpreted'}"


def pytest_collection_finish() -> None:
    """Leave the modules and the tests themselves out of every search for garbage: they stay to the end."""
    gc.collect()
    gc.freeze()


def pytest_sessionstart() -> None:
    """Refuse to test extension modules that are not what the sources say."""
    package = Path(shadowmmu.__file__).parent
    sources = hot_modules(package)
    for extension in package.rglob("*.so") if shadowmmu.native else ():
        source = extension.with_name(extension.name.partition(".")[0] + ".py")
        if source.stem == "_cyshared":  # Cython's own code, which setup.py generates
            continue
        if source not in sources:
            pytest.exit(f"{extension} has no source: delete it", returncode=3)
    reason = "" if is_set("SHADOWMMU_INTERPRETED") else why_stale(package, sources)
    if reason:
        pytest.exit(f"{reason}: run make build", returncode=3)
