"""How a result settled: eigenvalues and residuals over the products, a trace over its samples."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from curvkit_core.plots.canvas import BLUE, GREY, ORANGE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from curvkit_core.results.types import EigenResult, TraceResult

__all__ = ["convergence_figure"]


def convergence_figure(result: EigenResult | TraceResult, *, title: str = "") -> Figure:
    """Draw how eigenvalues or a trace settled.

    Parameters
    ----------
    result : EigenResult or TraceResult
        Eigenvalues with their `history`; or a trace with its `samples`.
    title : str
        Above the panels.

    Returns
    -------
    matplotlib.figure.Figure
        Eigenvalues over the products, a band as wide as each residual, and the residuals on a logarithmic scale, the
        tolerance dashed. Of a trace the mean of the samples so far with one standard error; of xtrace and xnystrace,
        whose samples are made of the same products, the samples.

    Raises
    ------
    ValueError
        If there is nothing to draw: fewer than two looks, or three samples.
    MissingPlotExtraError
        If matplotlib is not installed.
    """
    from curvkit_core.results.types import EigenResult

    figure = _eigenvalues(result) if isinstance(result, EigenResult) else _trace(result)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _eigenvalues(result: EigenResult) -> Figure:
    history = result.history
    looks = 0 if history is None else len(history.num_matvecs)
    if history is None or looks < 2:
        msg = (
            f"the result's history has {looks} looks: expected two at least. lobpcg, eigsh and block_lanczos keep one."
        )
        raise ValueError(msg)
    figure, (values, residuals) = new_figure(10.0, 3.6, panels=2)
    at, k = history.num_matvecs.tolist(), history.eigenvalues.shape[1]
    for i in range(k):
        style: dict[str, Any] = {"color": BLUE if i == 0 else ORANGE if i == k - 1 else GREY}
        label = "number 1" if i == 0 else f"number {k}" if i == k - 1 else None
        theta, error = history.eigenvalues[:, i].tolist(), history.residuals[:, i].tolist()
        low, high = ([t + sign * e for t, e in zip(theta, error, strict=True)] for sign in (-1.0, 1.0))
        values.fill_between(at, low, high, alpha=0.15, linewidth=0.0, **style)
        values.plot(at, theta, linewidth=1.2, marker=".", markersize=4.0, label=label, **style)
        positive = [e if e > 0.0 else math.nan for e in error]
        residuals.plot(at, positive, linewidth=1.2, marker=".", markersize=4.0, **style)
    seen = history.eigenvalues.flatten().tolist()
    room = 0.05 * (max(seen) - min(seen)) or 0.05 * abs(max(seen)) or 1.0
    values.set_ylim(min(seen) - room, max(seen) + room)  # the first residuals would hide all else
    values.legend(fontsize=8, frameon=False)
    if bool((history.residuals > 0.0).any()):
        residuals.set_yscale("log")
    tol = (getattr(result.info, "options", None) or {}).get("tol")
    limits = sorted({tol * abs(t) for t in history.eigenvalues[-1, [0, -1]].tolist()} if isinstance(tol, float) else ())
    for limit in limits:
        if limit > 0.0:
            residuals.axhline(limit, color=GREY, linestyle="--", linewidth=1.0)
    values.set_title("eigenvalues, bands as wide as the residuals", fontsize=9, color=GREY, loc="left")
    name = "residual norms; dashed: the tolerance" if limits else "residual norms"
    residuals.set_title(name, fontsize=9, color=GREY, loc="left")
    for ax in (values, residuals):
        ax.set_xlabel("products", fontsize=10)
        ax.set_xlim(left=0.0)
    return figure


def _trace(result: TraceResult) -> Figure:
    from curvkit_core.results.running import LEAVE_ONE_OUT, running_mean

    samples = result.samples
    if len(samples) < 3 or not bool(samples.isfinite().all()):
        msg = f"the result has {len(samples)} finite samples: expected three at least."
        raise ValueError(msg)
    figure, (ax,) = new_figure(5.6, 3.6)
    if result.method in LEAVE_ONE_OUT:
        at = list(range(1, len(samples) + 1))
        ax.axhspan(result.estimate - result.stderr, result.estimate + result.stderr, color=BLUE, alpha=0.2, linewidth=0)
        ax.plot(at, samples.tolist(), marker="o", markersize=4.0, linestyle="none", color=BLUE)
        ax.set_xlabel("test vector left out", fontsize=10)
        ax.set_title("samples; band: estimate, one standard error", fontsize=9, color=GREY, loc="left")
        return figure
    mean, error = running_mean(samples)
    at = list(range(2, len(samples) + 1))
    ax.fill_between(at, (mean - error).tolist(), (mean + error).tolist(), color=BLUE, alpha=0.2, linewidth=0.0)
    ax.plot(at, mean.tolist(), color=BLUE, linewidth=1.3)
    ax.set_xlabel("samples", fontsize=10)
    ax.set_title("mean so far, one standard error", fontsize=9, color=GREY, loc="left")
    return figure
