"""Results as NumPy arrays and pandas frames; pandas is imported when one is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["data_frame"]


def data_frame(rows: Sequence[dict[str, Any]]) -> Any:
    """Return rows as a ``pandas.DataFrame``.

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
    return pandas.DataFrame(list(rows))
