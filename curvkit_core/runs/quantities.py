"""The numbers of a result that are compared and tabled: a name, a value, an error each."""

from __future__ import annotations

from typing import Any

__all__ = ["Quantity", "quantities"]

Quantity = tuple[str, float, float]


def quantities(result: Any) -> list[Quantity]:
    """Return a result's numbers.

    Parameters
    ----------
    result : object
        An algorithm's.

    Returns
    -------
    list of (str, float, float)
        Eigenvalues with their residuals; a sweep's traces and its coupling, or whatever has an ``estimate`` and a
        ``stderr``, with the standard error. Empty for other results.
    """
    from curvkit_core.results.types import EigenResult, SweepResult

    if isinstance(result, EigenResult):
        pairs = zip(result.eigenvalues.tolist(), result.residuals.tolist(), strict=True)
        return [(f"eigenvalue {i + 1}", value, residual) for i, (value, residual) in enumerate(pairs)]
    if isinstance(result, SweepResult):
        rows = [(f"trace of {row.group}", row.trace, row.trace_stderr) for row in result.rows]
        return [*rows, ("coupling", result.coupling, result.coupling_stderr)]
    value, error = getattr(result, "estimate", None), getattr(result, "stderr", None)
    if isinstance(value, float) and isinstance(error, float):
        return [("estimate", value, error)]
    return []
