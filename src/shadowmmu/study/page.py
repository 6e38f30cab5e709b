"""A study as one HTML file that needs no network: question, verdict, picture, tables, costs."""

from __future__ import annotations

from html import escape

from .costs import Costs
from .plot import svg
from .results import Results
from .study import verdict_of
from .table import heading, meaning

__all__ = ["page"]

_STYLE = """
:root { color-scheme: light dark; --line: #8886; --head: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
.verdict { font-size: 1.1rem; border-left: 4px solid #1f5fa8; padding: .4rem 1rem; background: var(--head); }
figure { margin: 1.5rem 0; background: white; padding: .5rem; overflow-x: auto; }
figure svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; }
caption { text-align: left; font-weight: 600; padding: .4rem 0; }
dt { font-weight: 600; } dd { margin: 0 0 .4rem 1rem; }
"""


def page(results: Results, costs: Costs) -> str:
    """Return the HTML of a study. Raises ImportError without matplotlib (the extra `study`)."""
    study = results.study
    picture = svg(results)
    picture = picture[picture.index("<svg") :]
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(study.question)}</title>',
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>',
        f"<h1>{escape(study.question)}</h1><p>{escape(study.about)}</p>",
        f'<p class="verdict">{escape(verdict_of(results))}</p>',
        f'<figure aria-label="{escape(heading(study.plotted))} of each alternative">{picture}</figure>',
        *(_table(results, case.label) for case in study.cases),
        "<h2>What the columns are</h2><dl>",
        *(f"<dt>{escape(heading(one))}</dt><dd>{escape(meaning(one))}.</dd>" for one in study.columns),
        f"</dl><h2>Costs</h2><p>Cycles at {costs.ghz:g} GHz, and the range that is plausible.</p>",
        "<table><tr><th>counter</th><th>cycles</th><th>low</th><th>high</th><th>source</th></tr>",
        *(
            f"<tr><td>{escape(heading(name))}</td><td>{cost.cycles:g}</td><td>{cost.low:g}</td>"
            f'<td>{cost.high:g}</td><td style="text-align:left">{escape(cost.source)}</td></tr>'
            for name, cost in costs.of.items()
        ),
        f"</table><p>shadowmmu study {escape(study.name)}; seeds "
        f"{', '.join(map(str, results.seeds))}.</p></body></html>\n",
    ]
    return "\n".join(parts)


def _table(results: Results, case: str) -> str:
    study = results.study
    head = "".join(f"<th>{escape(heading(one))}</th>" for one in study.columns)
    rows = "".join(
        f"<tr><td>{escape(one.label)}{' (unsafe)' if one.unsafe else ''}</td>"
        + "".join(f"<td>{escape(results.shown(case, one.label, c))}</td>" for c in study.columns)
        + "</tr>"
        for one in study.alternatives
    )
    return f"<table><caption>{escape(case)}</caption><tr><th></th>{head}</tr>{rows}</table>"
