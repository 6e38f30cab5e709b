"""The measurements of a study, to be asked, shown, drawn and taken into data frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..show.html.table import table
from ..trace.frames import pandas_frame, polars_frame
from .interval import half_width
from .measure import Measurement
from .plot import draw
from .table import as_rows, heading, with_interval

if TYPE_CHECKING:
    import pandas
    import polars
    from matplotlib.figure import Figure

    from .study import Alternative, Case, Study

__all__ = ["Results"]


class Results:
    """Measurements of a study, by case and alternative; one for each seed."""

    def __init__(self, study: Study, seeds: Sequence[int]) -> None:
        self.study = study
        self.seeds = tuple(seeds)
        self._found: dict[tuple[str, str], list[Measurement]] = {}

    def add(self, case: Case, alternative: Alternative, measured: Measurement) -> None:
        """Take a measurement."""
        self._found.setdefault((case.label, alternative.label), []).append(measured)

    def of(self, case: str, alternative: str) -> list[Measurement]:
        """Return the measurements of an alternative on a case, by their labels. Raises KeyError."""
        return self._found[case, alternative]

    def value(self, case: str, alternative: str, counter: str) -> float:
        """Return the mean of a counter over the seeds. Raises KeyError."""
        values = [one[counter] for one in self.of(case, alternative)]
        return sum(values) / len(values)

    def half_width(self, case: str, alternative: str, counter: str) -> float | None:
        """Return half the width of the mean's 95 % confidence interval; None of a single seed."""
        return half_width([one[counter] for one in self.of(case, alternative)])

    def shown(self, case: str, alternative: str, counter: str) -> str:
        """Return the mean of a counter for people, with its confidence interval over several seeds."""
        value = self.value(case, alternative, counter)
        return with_interval(counter, value, self.half_width(case, alternative, counter))

    def __iter__(self) -> Iterator[tuple[Case, Alternative, Measurement]]:
        for case in self.study.cases:
            for alternative in self.study.alternatives:
                for measured in self._found.get((case.label, alternative.label), ()):
                    yield case, alternative, measured

    @property
    def clean(self) -> bool:
        """Return whether the audit found nothing in any measurement."""
        return all(measured.clean for _, _, measured in self)

    def to_polars(self) -> polars.DataFrame:
        """Return a polars data frame with a row for each measurement. Raises ImportError without polars."""
        return polars_frame(list(as_rows(self)), "Results.to_polars()")

    def to_pandas(self) -> pandas.DataFrame:
        """Return a pandas data frame with a row for each measurement. Raises ImportError without pandas."""
        return pandas_frame(list(as_rows(self)), "Results.to_pandas()")

    def plot(self) -> Figure:
        """Return the picture. Raises ImportError without matplotlib (the extra `study`)."""
        return draw(self)

    def __repr__(self) -> str:
        measured = sum(1 for _ in self)
        return f"<Results of {self.study.name}: {measured} measurements>"

    def _repr_html_(self) -> str:
        """Return the tables that a notebook shows: one for each case, a row for each alternative."""
        head = ("", *(heading(counter) for counter in self.study.columns))
        return "".join(
            table(
                f"{self.study.question} {case.label}",
                head,
                [
                    (
                        one.label,
                        *(self.shown(case.label, one.label, counter) for counter in self.study.columns),
                    )
                    for one in self.study.alternatives
                ],
                marked=[number for number, one in enumerate(self.study.alternatives) if one.unsafe],
            )
            for case in self.study.cases
        )
