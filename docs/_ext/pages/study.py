"""A study: its question, verdict, picture and tables, from its stored result."""

from __future__ import annotations

from html import escape

from marked import definitions, prose, table
from pages.studies import mail_of
from shadowmmu.study.plot import svg
from shadowmmu.study.results import Results
from shadowmmu.study.studies import STUDIES
from shadowmmu.study.study import verdict_of
from shadowmmu.study.table import heading, meaning
from stored_studies import stored


def page(name: str) -> str:
    """Return the page of a study."""
    study = STUDIES[name]
    results = stored(study)
    mail = mail_of(study)
    parts = [
        f"# {prose(study.question)}",
        prose(study.about) + (f" [The mail](../mails/{mail}.md) has the argument." if mail else ""),
        f":::{{admonition}} The answer\n{prose(verdict_of(results))}\n:::",
        _picture(results),
        *(f"## {prose(case.label)}\n\n{_table(results, case.label)}" for case in study.cases),
        "## The columns",
        definitions((prose(heading(one)), prose(meaning(one)) + ".") for one in study.columns),
        "## Run it",
        f"```text\nshadowmmu study {name}\n```",
        "The counters are exact; times come from them by a table of costs, which you can edit "
        "(`shadowmmu study --print-costs`).",
    ]
    return "\n\n".join(parts)


def _picture(results: Results) -> str:
    drawn = svg(results)
    drawn = drawn[drawn.index("<svg") :]
    label = escape(heading(results.study.plotted))
    figure = f'<figure class="study" role="img" aria-label="{label}">\n{drawn}</figure>'
    return f"```{{raw}} html\n{figure}\n```"


def _table(results: Results, case: str) -> str:
    study = results.study
    rows = [
        [
            prose(f"{one.label} (unsafe)" if one.unsafe else one.label),
            *(results.shown(case, one.label, counter) for counter in study.columns),
        ]
        for one in study.alternatives
    ]
    return table(["", *map(heading, study.columns)], rows)
