"""Results as NumPy arrays and pandas frames; pandas is imported when one is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["data_frame"]


def data_frame(rows: Sequence[dict[str, Any]], *, columns: Sequence[str] | None = None) -> Any:
    """Return rows as a ``pandas.DataFrame``; with `columns`, it has these also where there is no row.

    Raises
    ------
    ImportError
        If pandas is not installed.
    """
    try:
        import pandas
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "pandas":
            raise
        msg = "pandas is not installed, so there is no data frame. mend: pip install pandas"
        raise ImportError(msg) from None
    return pandas.DataFrame(list(rows), columns=None if columns is None else list(columns))
