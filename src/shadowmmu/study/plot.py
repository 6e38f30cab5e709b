"""The picture of a study: for each case a bar of each alternative, with its value."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from .table import heading, with_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .results import Results

__all__ = ["draw", "svg"]

COLOURS = ("#1f5fa8", "#d4691e", "#3c8d40", "#8a4fa3", "#a8323e", "#5b5b5b", "#b89000", "#2aa3a3")
"""Colours of the alternatives, in their order; each has a contrast of 3 and more to white."""
UNSAFE_HATCH = "///"
_ROW, _HEAD, _WIDTH = 0.26, 1.5, 8.6
_ROOM = 1.22


def draw(results: Results) -> Figure:
    """Return the picture. Raises ImportError without matplotlib (the extra `study`)."""
    from matplotlib.figure import Figure

    study = results.study
    bars = len(study.alternatives)
    height = _HEAD + _ROW * (bars + 0.8) * len(study.cases)
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    highest = max(
        results.value(case.label, one.label, study.plotted)
        for case in study.cases
        for one in study.alternatives
    )
    for number, one in enumerate(study.alternatives):
        places = [place * (bars + 0.8) + number for place in range(len(study.cases))]
        values = [results.value(case.label, one.label, study.plotted) for case in study.cases]
        widths = [results.half_width(case.label, one.label, study.plotted) for case in study.cases]
        label = f"{one.label} (unsafe)" if one.unsafe else one.label
        axes.barh(
            places,
            values,
            height=0.86,
            color=COLOURS[number % len(COLOURS)],
            hatch=UNSAFE_HATCH if one.unsafe else None,
            edgecolor="white",
            linewidth=0,
            label=label,
            xerr=[width or 0 for width in widths] if any(widths) else None,
            error_kw={"ecolor": "#222222", "elinewidth": 1},
        )
        for place, value, width in zip(places, values, widths, strict=True):
            axes.annotate(
                with_interval(study.plotted, value, width),
                (value + (width or 0), place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
    axes.set_yticks(
        [place * (bars + 0.8) + (bars - 1) / 2 for place in range(len(study.cases))],
        [case.label for case in study.cases],
    )
    axes.invert_yaxis()
    if study.logarithmic:
        axes.set_xscale("log")
        axes.set_xlim(right=highest * 6)
    else:
        axes.set_xlim(0, highest * _ROOM or 1)
    axes.set_xlabel(heading(study.plotted) + (", logarithmic" if study.logarithmic else ""))
    axes.xaxis.set_major_formatter(
        lambda value, _: with_interval(study.plotted, value, None) if value > 0 else "0"
    )
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.9 / height), ncols=min(bars, 4), frameon=False)
    axes.set_title(study.question, loc="left", fontweight="bold", wrap=True)
    return figure


def svg(results: Results) -> str:
    """Return the picture as SVG text, without anything that changes from run to run."""
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context({"svg.hashsalt": results.study.name, "svg.fonttype": "none"}):
        draw(results).savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()
