"""Results in a notebook: a small table of what they hold; and as NumPy arrays and pandas frames."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any

import attrs
from torch import Tensor

from curvkit_core.results.tables import data_frame

__all__ = ["ShowsItself", "to_numpy", "to_pandas"]

SHOWN = 8  # numbers of a vector
LEFT = 'style="text-align:left"'
_LEFT_OUT = ("info", "error_covers", "history")


class ShowsItself:
    """What every result can do: show itself in a notebook, and become NumPy arrays or a pandas frame.

    The one base class of results: three methods and no state.
    """

    __slots__ = ()

    def _repr_html_(self) -> str:
        return result_html(self)

    def to_numpy(self) -> dict[str, Any]:
        """Return the fields, tensors as NumPy arrays (bfloat16 as float32), without the record `info`."""
        return to_numpy(self)

    def to_pandas(self) -> Any:
        """Return a ``pandas.DataFrame``: one row of numbers for an estimate, else a row an eigenvalue, point, group."""
        return to_pandas(self)


def result_html(result: Any) -> str:
    """Return a result as a table, every text escaped."""
    rows = []
    for field in attrs.fields(type(result)):
        if field.name in _LEFT_OUT:
            continue
        value = _words(getattr(result, field.name))
        rows.append(f"<tr><th {LEFT}>{escape(field.name)}</th><td {LEFT}>{escape(value)}</td></tr>")
    covers = getattr(result, "error_covers", "")
    note = f"<caption>error: {escape(covers)}</caption>" if covers else ""
    return f"<b>{escape(type(result).__name__)}</b><table>{note}{''.join(rows)}</table>"


def to_numpy(result: Any) -> dict[str, Any]:
    """Return a result's fields as NumPy has them.

    Parameters
    ----------
    result : attrs instance
        A result.

    Returns
    -------
    dict
        By field: arrays for tensors, lists of dictionaries for rows, the rest as it is. ``info`` is left out, and so
        are vectors that have no elements here, being on disk.
    """
    fields = {f.name: getattr(result, f.name) for f in attrs.fields(type(result)) if f.name != "info"}
    return {k: _numpy(value) for k, value in fields.items() if not (isinstance(value, Tensor) and value.is_meta)}


def to_pandas(result: Any) -> Any:
    """Return a result as a ``pandas.DataFrame``.

    Parameters
    ----------
    result : attrs instance
        A result.

    Returns
    -------
    pandas.DataFrame
        A sweep's rows as rows. Of an estimate its numbers in one row, so that frames of several runs can be put below
        one another; its samples are a field. Else the vectors that are as long as the first as columns (eigenvalues,
        residuals, converged; grid, density, stderr); of a result without vectors, its numbers in one row.

    Raises
    ------
    ImportError
        If pandas is not installed.
    """
    values = to_numpy(result)
    rows = values.get("rows")
    if isinstance(rows, list):
        return data_frame(rows)
    vectors = {name: v for name, v in values.items() if getattr(v, "ndim", 0) == 1}
    first = next(iter(vectors.values()), None)
    if first is None or isinstance(values.get("estimate"), float):
        return data_frame([{name: v for name, v in values.items() if isinstance(v, (bool, int, float, str))}])
    columns = {name: v for name, v in vectors.items() if len(v) == len(first)}
    rows = [{name: v[i] for name, v in columns.items()} for i in range(len(first))]
    return data_frame(rows, columns=list(columns))


def _numpy(value: Any) -> Any:
    if isinstance(value, Tensor):
        import torch

        own = value.detach().cpu()
        return (own.float() if own.dtype == torch.bfloat16 else own).numpy()
    if attrs.has(type(value)):
        return to_numpy(value)
    if isinstance(value, tuple) and any(attrs.has(type(item)) for item in value):
        return [_numpy(item) for item in value]
    return value


def _words(value: Any) -> str:
    if isinstance(value, Tensor):
        if value.is_meta:
            return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}, not read from disk"
        if value.ndim == 0:
            return _words(value.item())
        if not value.numel():
            return "empty"
        if value.ndim == 1 and value.numel() <= 4096:
            more = f", ... ({len(value)})" if len(value) > SHOWN else ""
            return ", ".join(_words(item) for item in value[:SHOWN].tolist()) + more
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_words(item)}" for key, item in value.items())
    if isinstance(value, tuple):
        shown = "; ".join(_words(item) for item in value[:SHOWN])
        return shown + (f"; ... ({len(value)})" if len(value) > SHOWN else "")
    if attrs.has(type(value)):
        return ", ".join(f"{f.name} {_words(getattr(value, f.name))}" for f in attrs.fields(type(value)))
    return str(value)
