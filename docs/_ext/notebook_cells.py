"""Notebooks without a Jupyter: their cells are executed here, in one process, and shown as Markdown.

    python docs/_ext/notebook_cells.py docs/notebooks/*.ipynb

executes notebooks and writes their outputs into them. What Jupyter's own machinery would add (nbclient,
ipykernel and what they need: some thirty packages) is not used by any cell.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

from marked import fence

Notebook = dict[str, Any]


def read(path: Path) -> Notebook:
    """Return a notebook (nbformat 4). Raises OSError, ValueError."""
    notebook: Notebook = json.loads(path.read_text(encoding="utf-8"))
    return notebook


def executed(notebook: Notebook) -> Notebook:
    """Return the notebook with the outputs that its cells have now, executed in their order."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    cells = []
    count = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            count += 1
            outputs = _outputs("".join(cell["source"]), namespace, count)
            cell = {**cell, "execution_count": count, "outputs": outputs}
        cells.append(cell)
    return {**notebook, "cells": cells}


def _outputs(source: str, namespace: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Return what a cell prints, and the value of its last expression as a notebook shows it."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    value = None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "<cell>", "exec"), namespace)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), namespace)
    found: list[dict[str, Any]] = []
    if printed.getvalue():
        found.append({"name": "stdout", "output_type": "stream", "text": _lines(printed.getvalue())})
    if value is not None:
        data = {"text/plain": _lines(repr(value))}
        if hasattr(value, "_repr_html_"):
            data["text/html"] = _lines(value._repr_html_())
        result = {"output_type": "execute_result", "execution_count": count, "data": data, "metadata": {}}
        found.append(result)
    return found


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def as_markdown(notebook: Notebook) -> str:
    """Return a notebook as a page: its texts, its code, and the outputs that it holds."""
    parts = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(fence(text, "python"))
        for output in cell["outputs"]:
            if output["output_type"] == "stream":
                parts.append(fence("".join(output["text"])))
            elif "text/html" in output["data"]:
                parts.append(fence("".join(output["data"]["text/html"]), "{raw} html"))
            else:
                parts.append(fence("".join(output["data"]["text/plain"])))
    return "\n\n".join(parts)


def main() -> None:
    """Execute the notebooks named on the command line and write them back."""
    for name in sys.argv[1:]:
        path = Path(name)
        text = json.dumps(executed(read(path)), indent=1, ensure_ascii=False) + "\n"
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
