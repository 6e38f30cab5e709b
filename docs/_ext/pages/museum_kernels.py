"""On which kernels the museum's scenarios show their defects: played when the documentation is built."""

from __future__ import annotations

from pathlib import Path

from marked import code, definitions, table
from shadowmmu.check.museum.on_kernels import MEANS, on_kernels
from shadowmmu.check.museum.results import EXHIBITS
from shadowmmu.kvm.design.switches import PROFILES

_ROOT = Path(__file__).parents[3]


def page() -> str:
    """Return what the verdicts say, and the table."""
    rows = []
    for exhibit in EXHIBITS:
        lines = (_ROOT / exhibit.scenario).read_text().splitlines()
        verdicts = [
            f"**{found.verdict}**" if found.verdict == "stands" else found.verdict
            for found in on_kernels(exhibit, lines)
        ]
        rows.append([f"[{code(exhibit.name)}](#exhibit-{exhibit.name})", *verdicts])
    head = ["defect", *(profile.kernel for profile in PROFILES)]
    return f"{definitions(MEANS.items())}\n\n{table(head, rows)}"
