"""Rows as data frames of the libraries that notebooks use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas
    import polars

__all__ = ["pandas_frame", "polars_frame"]


def polars_frame(rows: Sequence[Mapping[str, Any]], asked: str) -> polars.DataFrame:
    """Return rows as a polars data frame; a row's missing columns are null.

    Raises ImportError without polars, which names what was asked for.
    """
    try:
        import polars
    except ImportError:
        raise ImportError(f"{asked} needs polars: pip install polars") from None
    columns = dict.fromkeys(name for row in rows for name in row)
    return polars.DataFrame({name: [row.get(name) for row in rows] for name in columns}, strict=False)


def pandas_frame(rows: Sequence[Mapping[str, Any]], asked: str) -> pandas.DataFrame:
    """Return rows as a pandas data frame; a row's missing columns are NaN.

    Raises ImportError without pandas, which names what was asked for.
    """
    try:
        import pandas
    except ImportError:
        raise ImportError(f"{asked} needs pandas: pip install pandas") from None
    return pandas.DataFrame(list(rows))
