"""The compact form of a trace: a Parquet file with the columns kind, page and repeat.

kind    Enum "read", "write", "fetch"
page    u64, number of the page of 4 KiB
repeat  u64, accesses that the row stands for
"""

from __future__ import annotations

import io
from array import array
from types import ModuleType
from typing import IO

from .accesses import KINDS, TraceError
from .pages import PAGE_BITS, PageTrace

__all__ = ["MAGIC", "as_parquet", "from_parquet", "require_polars"]

MAGIC = b"PAR1"
"""What a Parquet file begins and ends with."""
_COLUMNS = ("kind", "page", "repeat")
_LEVEL = 19
_NEEDS = 'the compact form of traces needs polars: pip install "shadowmmu[traces]"'


def require_polars() -> ModuleType:
    """Return the module polars. Raises TraceError if it is not installed."""
    try:
        import polars
    except ImportError:
        raise TraceError(_NEEDS) from None
    module: ModuleType = polars
    return module


def as_parquet(trace: PageTrace) -> bytes:
    """Return a trace as a Parquet file. Raises TraceError."""
    pl = require_polars()
    kinds = pl.Series("kind", trace.kinds, dtype=pl.UInt8).replace_strict(
        list(range(len(KINDS))), list(KINDS), return_dtype=pl.Enum(list(KINDS))
    )
    pages, repeats = (
        pl.Series(name, values, dtype=pl.UInt64)
        for name, values in (("page", trace.pages), ("repeat", trace.repeats))
    )
    frame = pl.DataFrame([kinds, pages, repeats])
    file = io.BytesIO()
    frame.write_parquet(file, compression="zstd", compression_level=_LEVEL)
    return file.getvalue()


def from_parquet(name: str, file: IO[bytes]) -> PageTrace:
    """Return the trace in a Parquet file; messages call it `name`. Raises TraceError, OSError."""
    pl = require_polars()
    try:
        frame = pl.read_parquet(file)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise TraceError(
            f"{name}: not a whole Parquet file ({_line(error)}); record or copy it again"
        ) from None
    for column in _COLUMNS:
        if column not in frame.columns:
            raise TraceError(
                f"{name}: no column {column}; a trace has {', '.join(_COLUMNS)}, as "
                "`shadowmmu workload convert` writes it"
            )
    try:
        kinds = frame["kind"].cast(pl.String).cast(pl.Enum(list(KINDS))).to_physical()
        columns = kinds.cast(pl.UInt8), frame["page"].cast(pl.UInt64), frame["repeat"].cast(pl.UInt64)
    except pl.exceptions.PolarsError as error:
        raise TraceError(f"{name}: the columns have other types ({_line(error)}); convert it again") from None
    for column in columns:
        if column.null_count():
            raise TraceError(f"{name}: column {column.name}: a value is missing; convert it again")
    _, pages, repeats = columns
    wrong = ((pages >= 1 << PAGE_BITS) | (repeats == 0)).arg_true()
    if len(wrong):
        row = wrong[0]
        raise TraceError(
            f"{name}: row {row}: page {pages[row]:#x}, repeat {repeats[row]}: a page must be below "
            f"2^{PAGE_BITS}, a repeat at least 1"
        )
    return PageTrace(*(array(code, column.to_list()) for code, column in zip("BQQ", columns, strict=True)))


def _line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
