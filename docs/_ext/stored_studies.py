"""The results of studies that the pages show: `make studies` measures them again.

For each study there is docs/studies/results/NAME.json, what `shadowmmu study NAME --json` prints, and its
page docs/studies/NAME.md; the pictures of two are in the README. NAMES="..." measures those only.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from shadowmmu.study.named import study as measured
from shadowmmu.study.plot import svg
from shadowmmu.study.results import Results
from shadowmmu.study.stored import StoredError, as_data, results_of
from shadowmmu.study.studies import STUDIES
from shadowmmu.study.study import Study

DOCS = Path(__file__).parents[1]
FOLDER = DOCS / "studies"
PICTURES = DOCS / "_static" / "studies"
IN_README = ("003-prefetch-window", "002-zap-all")


def result_file(name: str) -> Path:
    """Return where the result of a study is stored."""
    return FOLDER / "results" / f"{name}.json"


def stored(study: Study) -> Results:
    """Return the stored result of a study. Raises SystemExit with the remedy if it is missing or old."""
    try:
        return results_of(study, json.loads(result_file(study.name).read_text()))
    except (StoredError, OSError) as error:
        raise SystemExit(f'{error}: make studies NAMES="{study.name}"') from None


def renew(name: str) -> None:
    """Measure a study and write its files."""
    results = measured(name)
    result_file(name).parent.mkdir(exist_ok=True)
    result_file(name).write_text(json.dumps(as_data(results)) + "\n")
    (FOLDER / f"{name}.md").write_text(f"% generated: study {name}\n")
    if name in IN_README:
        PICTURES.mkdir(exist_ok=True)
        (PICTURES / f"{name}.svg").write_text(svg(results))


if __name__ == "__main__":
    for name in sys.argv[1:] or STUDIES:
        renew(name)
