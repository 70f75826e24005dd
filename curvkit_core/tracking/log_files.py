"""Rows of a tracker as files: CSV for a spreadsheet, JSON lines for programs."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from curvkit_core.results.atomic import write_text
from curvkit_core.tracking.row import TrackerRow

__all__ = ["save_rows"]


def save_rows(rows: Sequence[TrackerRow], path: str | Path) -> Path:
    """Write rows, whole or not at all.

    Parameters
    ----------
    rows : sequence of TrackerRow
        Columns as :meth:`TrackerRow.flat` has them.
    path : str or Path
        ``.csv``: an empty cell is no number. ``.jsonl``: an object a line, null for no number.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If the suffix is another one.
    """
    path = Path(path)
    flat = [row.flat() for row in rows]
    if path.suffix == ".csv":
        write_text(path, _csv(flat))
    elif path.suffix == ".jsonl":
        lines = ({name: _finite(value) for name, value in row.items()} for row in flat)
        write_text(path, "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))
    else:
        msg = f"{path.name!r} has the suffix {path.suffix!r}: expected .csv or .jsonl."
        raise ValueError(msg)
    return path


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: "" if _finite(v) is None else v for name, v in row.items()} for row in rows)
    return stream.getvalue()


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
