"""The example notebook, with the outputs that it holds; the tests compare them with what it shows now."""

from __future__ import annotations

from pathlib import Path

from notebook_cells import as_markdown, read

_NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "stale-translation.ipynb"


def page() -> str:
    """Return the notebook as Markdown."""
    return as_markdown(read(_NOTEBOOK))
