"""Tests of machine code need the extra `shadowmmu[guest]`."""

import importlib.util

import pytest

MISSING = [name for name in ("unicorn", "iced_x86") if importlib.util.find_spec(name) is None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if MISSING:
        skip = pytest.mark.skip(reason=f"needs {' and '.join(MISSING)} (pip install 'shadowmmu[guest]')")
        for item in items:
            if "guest/svm" in item.nodeid:
                item.add_marker(skip)
