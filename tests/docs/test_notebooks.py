"""The example notebooks: executed, they show what they hold, in the format of Jupyter."""

import json
import os
import subprocess
import sys

import pytest
from docs.examples import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
EXECUTED = """
import json, sys
from pathlib import Path
from notebook_cells import executed, read

json.dump(executed(read(Path(sys.argv[1]))), sys.stdout)
"""


@pytest.fixture
def cells(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    import notebook_cells

    yield notebook_cells
    for name in [name for name, module in sys.modules.items() if "docs/_ext" in str(module)]:
        del sys.modules[name]


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_what_its_cells_show_now(path, cells):
    """In a process of its own: cells may import what they like. To renew: docs/_ext/notebook_cells.py."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'docs' / '_ext'}"}
    done = subprocess.run(
        [sys.executable, "-c", EXECUTED, path], env=environment, capture_output=True, text=True, check=True
    )

    held, shown = cells.read(path), json.loads(done.stdout)
    for one, two in zip(held["cells"], shown["cells"], strict=True):
        assert one == two


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_of_jupyters_format(path, cells):
    notebook = cells.read(path)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        keys = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            keys |= {"execution_count", "outputs"}
        assert cell.keys() == keys


def test_a_failing_cell_is_an_error(cells):
    notebook = {"cells": [{"cell_type": "code", "source": ["1 / 0"]}]}
    with pytest.raises(ZeroDivisionError):
        cells.executed(notebook)


def test_a_cell_shows_what_it_prints_and_its_last_value(cells):
    notebook = {"cells": [{"cell_type": "code", "source": ["x = 6\n", "print(x)\n", "x * 7"]}]}
    (cell,) = cells.executed(notebook)["cells"]
    stream, result = cell["outputs"]
    assert stream["text"] == ["6\n"]
    assert result["data"] == {"text/plain": ["42"]}
    assert "```python\nx = 6" in cells.as_markdown({"cells": [cell]})
