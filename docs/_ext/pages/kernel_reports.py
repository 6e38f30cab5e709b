"""The reports about KVM: on which kernels their programs showed the defect, from the kept outputs."""

from __future__ import annotations

import re
from pathlib import Path

from marked import table
from shadowmmu.kvm.design.switches import PROFILES

_FOLDER = Path(__file__).parents[2] / "kernel-reports"


def page() -> str:
    """Return the table of reports and kernels."""
    kernels = [profile.kernel for profile in PROFILES]
    kernels.sort(key=lambda kernel: [int(number) for number in kernel.split(".")])
    rows = [
        [
            f"[{_title(path)}]({path.name})",
            _severity(path),
            *(_verdict(path.stem, kernel) for kernel in kernels),
        ]
        for path in reports()
    ]
    return table(["report", "severity", *kernels], rows)


def reports() -> list[Path]:
    """Return the pages of the reports, in the order of the index."""
    listed = re.findall(r"^([a-z][\w-]+)$", (_FOLDER / "index.md").read_text(), re.MULTILINE)
    return [_FOLDER / f"{name}.md" for name in listed]


def _title(path: Path) -> str:
    return path.read_text().split("\n", 1)[0].removeprefix("# ")


def _severity(path: Path) -> str:
    """Return the first words of what a report says of its severity."""
    return path.read_text().partition("## Severity\n\n")[2].partition(":")[0].lower()


def _verdict(name: str, kernel: str) -> str:
    output = _FOLDER / "output" / f"{name}.{kernel}.txt"
    if not output.exists():
        return "not run"
    statuses = re.findall(r"^# exit status (\d+)$", output.read_text(), re.MULTILINE)
    return "**stands**" if "1" in statuses else "no"
