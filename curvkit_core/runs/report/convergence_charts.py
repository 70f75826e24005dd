"""How results settled: eigenvalues and their residuals over the products, estimates over their samples."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from curvkit_core.runs.report.axis import Axis, axis_over
from curvkit_core.runs.report.chart import Mark, chart

if TYPE_CHECKING:
    from curvkit_core.results.types import EigenResult

__all__ = ["estimate_charts", "history_charts"]

MOST = 8  # eigenvalues in a chart


def history_charts(result: EigenResult, label: str) -> list[str]:
    """Return the eigenvalues over the products, a band as wide as each residual, and the residuals on a log scale.

    Empty where nothing was kept, or only the end.
    """
    history = result.history
    if history is None or len(history.num_matvecs) < 2:
        return []
    at = [float(count) for count in history.num_matvecs.tolist()]
    k = history.eigenvalues.shape[1]
    shown = sorted({round(i * (k - 1) / max(min(k, MOST) - 1, 1)) for i in range(min(k, MOST))})
    bands, lines, residuals = [], [], []
    for i in shown:
        name, colour = ("number 1", "a") if i == 0 else (f"number {k}", "b") if i == k - 1 else ("", "c")
        name = "between" if 0 < i < k - 1 and i == shown[1] else name
        theta, error = history.eigenvalues[:, i].tolist(), history.residuals[:, i].tolist()
        low, high = ([t + sign * e for t, e in zip(theta, error, strict=True)] for sign in (-1.0, 1.0))
        bands.append(Mark(kind="band", x=at, low=low, high=high, colour=colour))
        lines.append(Mark(kind="line", x=at, y=theta, colour=colour, label=name))
        residuals.append(Mark(kind="line", x=at, y=error, colour=colour, label=name))
    tol = (getattr(result.info, "options", None) or {}).get("tol")
    limits = [tol * abs(float(history.eigenvalues[-1, i])) for i in shown] if isinstance(tol, float) else []
    if limits and min(limits) > 0.0:
        for limit, name in {max(limits): "", min(limits): "tolerance"}.items():
            ends = [at[0], at[-1]]
            residuals.append(Mark(kind="dashes", x=ends, y=[limit, limit], colour="c", label=name))
    x = Axis(low=0.0, high=at[-1], label="products", whole=True)
    y = axis_over(history.eigenvalues[:, shown].flatten().tolist(), label="eigenvalue")
    known = [*history.residuals[:, shown].flatten().tolist(), *limits]
    return [
        chart([*bands, *lines], x, y, title=f"Eigenvalues of {label} over the products, with their residuals"),
        chart(
            residuals,
            x,
            axis_over(known, scale="log", label="residual norm"),
            title=f"Residuals of {label} over the products",
        ),
    ]


def estimate_charts(result: Any, label: str, what: str) -> list[str]:
    """Return the mean of an estimate's samples so far with its standard error, or the samples where they depend.

    Empty for fewer than three samples.
    """
    from curvkit_core.results.running import LEAVE_ONE_OUT, running_mean

    samples = result.samples
    if len(samples) < 3 or not bool(samples.isfinite().all()):
        return []
    if getattr(result, "method", "") in LEAVE_ONE_OUT:
        return [_samples_chart(result, label, what)]
    mean, error = running_mean(samples)
    at = [float(count) for count in range(2, len(samples) + 1)]
    low, high = (mean - error).tolist(), (mean + error).tolist()
    marks = [
        Mark(kind="band", x=at, low=low, high=high, label="one standard error"),
        Mark(kind="line", x=at, y=mean.tolist(), label="mean so far"),
    ]
    x = Axis(low=at[0], high=at[-1], label="samples", whole=True)
    tail = max(1, len(at) // 8)  # the first few would hide all else
    y = axis_over([*low[tail:], *high[tail:]], label=what)
    return [chart(marks, x, y, title=f"Convergence of the {what} of {label}")]


def _samples_chart(result: Any, label: str, what: str) -> str:
    samples = result.samples.tolist()
    at = [i + 1.0 for i in range(len(samples))]
    ends = [0.4, len(samples) + 0.6]
    error = result.stderr if math.isfinite(result.stderr) else 0.0
    low, high = result.estimate - error, result.estimate + error
    marks = [
        Mark(kind="band", x=ends, low=[low, low], high=[high, high], label="estimate, one standard error"),
        Mark(kind="points", x=at, y=samples, label="with one test vector left out"),
    ]
    x = Axis(low=ends[0], high=ends[1], label="test vector", whole=True)
    return chart(marks, x, axis_over([*samples, low, high], label=what), title=f"Samples of the {what} of {label}")
