"""The museum: historic defects, what found them, and the scenario that shows each."""

from __future__ import annotations

from pathlib import Path

from marked import code, fence, prose, sentence
from shadowmmu.check.museum.results import EXHIBITS, Exhibit, results

_ROOT = Path(__file__).parents[3]


def page() -> str:
    """Return all exhibits."""
    return "\n\n".join(_exhibit(exhibit) for exhibit in EXHIBITS)


def _exhibit(exhibit: Exhibit) -> str:
    switches = " ".join(f"{key}={value}" for key, value in exhibit.switches.items())
    facts = [
        ("Fixed by", sentence(exhibit.fix)),
        ("Kernels", sentence(exhibit.kernels)),
        ("Switches", code(switches)),
        ("Found by", _finding(exhibit)),
        ("See it", code(f"shadowmmu check {exhibit.scenario}")),
    ]
    parts = [
        f"(exhibit-{exhibit.name})=\n## {code(exhibit.name)}",
        f"**{sentence(exhibit.title)}** {sentence(exhibit.story)}",
        "\n".join(f"- {name}: {text}" for name, text in facts),
        _scenario(exhibit),
    ]
    return "\n\n".join(part for part in parts if part)


def _finding(exhibit: Exhibit) -> str:
    found = results().get(exhibit.name)
    if found is None or not found["found"]:
        return "no search yet."
    return (
        f"{prose(found['check'])}, {code(found['predicate'])}, after {found['ops']:,} operations of a "
        f"random guest ({prose(str(found['guest']))}): {sentence(found['says'])}"
    )


def _scenario(exhibit: Exhibit) -> str:
    path = _ROOT / exhibit.scenario
    if not path.exists():
        return ""
    return f"<details><summary>The scenario</summary>\n\n{fence(path.read_text())}\n\n</details>"
