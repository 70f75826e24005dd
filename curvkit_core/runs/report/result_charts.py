"""Charts of the other results: eigenvalues with residual bars, slices of the loss, sweeps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from curvkit_core.runs.report.axis import Axis, axis_over
from curvkit_core.runs.report.chart import Mark, chart

if TYPE_CHECKING:
    from curvkit_core.results.landscape import SliceResult
    from curvkit_core.results.sweeps import SweepResult
    from curvkit_core.results.types import EigenResult

__all__ = ["eigenvalue_charts", "slice_charts", "sweep_charts"]

MOST_BARS = 40


def eigenvalue_charts(result: EigenResult, label: str) -> list[str]:
    """Return eigenvalues with bars as long as their residuals, and the residuals beside the tolerance."""
    theta, error, done = (t.tolist() for t in (result.eigenvalues, result.residuals, result.converged))
    if not theta:
        return []
    x = Axis(low=0.4, high=len(theta) + 0.6, label="index", whole=True)
    ends = [t - e for t, e in zip(theta, error, strict=True)] + [t + e for t, e in zip(theta, error, strict=True)]
    values, residuals = [], []
    for flag, kind, name in ((True, "points", "converged"), (False, "open", "not converged")):
        chosen = [i for i, c in enumerate(done) if c is flag]
        if not chosen:
            continue
        at = [i + 1.0 for i in chosen]
        low, high = [theta[i] - error[i] for i in chosen], [theta[i] + error[i] for i in chosen]
        values.append(Mark(kind=kind, x=at, y=[theta[i] for i in chosen], low=low, high=high, label=name))
        residuals.append(Mark(kind=kind, x=at, y=[error[i] for i in chosen], label=name))
    charts = [
        chart(
            values,
            x,
            axis_over([*ends, 0.0] if min(theta) > 0.0 and min(theta) < 0.5 * max(theta) else ends, label="eigenvalue"),
            title=f"Eigenvalues of {label}, bars as long as the residuals",
            summary=f"{len(theta)} eigenvalues of {label}, from {theta[0]:.4g} to {theta[-1]:.4g}",
        )
    ]
    if any(e > 0.0 for e in error):
        tol = (getattr(result.info, "options", None) or {}).get("tol")
        known = list(error)
        if isinstance(tol, float) and tol > 0.0:
            limits = [tol * abs(t) for t in theta]
            known += limits
            at = [i + 1.0 for i in range(len(theta))]
            residuals.append(Mark(kind="dashes", x=at, y=limits, colour="c", label="tolerance"))
        y = axis_over(known, scale="log", label="residual norm")
        charts.append(chart(residuals, x, y, title=f"Residuals of {label} beside the tolerance"))
    return charts


def slice_charts(result: SliceResult, label: str) -> list[str]:
    """Return the loss along each direction beside the parabola of its curvature."""
    charts = []
    for i in range(len(result.curvatures)):
        steps, losses, parabola = (t[i].tolist() for t in (result.steps, result.losses, result.parabola))
        high = max([v for v in losses if math.isfinite(v)], default=1.0)
        y = axis_over([*losses, *(min(p, high) for p in parabola)], label="loss")
        marks = [
            Mark(kind="dashes", x=steps, y=parabola, colour="b", label="parabola of the curvature"),
            Mark(kind="line", x=steps, y=losses, label="loss"),
        ]
        x = Axis(low=steps[0], high=steps[-1], label="distance along the eigenvector")
        charts.append(chart(marks, x, y, title=f"Loss along eigenvector {i + 1} of {label}"))
    return charts


def sweep_charts(result: SweepResult, label: str) -> list[str]:
    """Return each group's largest eigenvalue and trace, in the order of the parameters."""
    rows = result.rows[:MOST_BARS]
    if not rows:
        return []
    at = [i + 1.0 for i in range(len(rows))]
    x = Axis(low=0.4, high=len(rows) + 0.6, label="group, in the table's order", whole=True)
    charts = []
    if all(row.eigenvalues for row in rows):
        top = [row.eigenvalues[0] for row in rows]
        low = [row.eigenvalues[0] - row.residuals[0] for row in rows]
        high = [row.eigenvalues[0] + row.residuals[0] for row in rows]
        y = axis_over([*low, *high, 0.0], label="largest eigenvalue")
        marks = [Mark(kind="bars", x=at, y=top), Mark(kind="points", x=at, y=top, low=low, high=high, colour="b")]
        charts.append(chart(marks, x, y, title=f"Largest eigenvalue of each group, {label}"))
    if all(math.isfinite(row.trace_stderr) for row in rows):
        traces = [row.trace for row in rows]
        low = [row.trace - row.trace_stderr for row in rows]
        high = [row.trace + row.trace_stderr for row in rows]
        y = axis_over([*low, *high, 0.0], label="trace")
        marks = [Mark(kind="bars", x=at, y=traces), Mark(kind="points", x=at, y=traces, low=low, high=high, colour="b")]
        charts.append(chart(marks, x, y, title=f"Trace of each group with its standard error, {label}"))
    return charts
