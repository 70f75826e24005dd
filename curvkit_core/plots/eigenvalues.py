"""Eigenvalues in their order, with a bar as long as each residual."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from curvkit_core.plots.canvas import BLUE, GREY, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from curvkit_core.results.types import EigenResult

__all__ = ["eigenvalue_figure"]


def eigenvalue_figure(result: EigenResult, *, title: str = "") -> Figure:
    """Draw eigenvalues with residual bars, and the residuals below on a scale of their own.

    Parameters
    ----------
    result : EigenResult
        An eigenvalue of the operator lies within ``residuals[i]`` of ``eigenvalues[i]``.
    title : str
        Above the panels.

    Returns
    -------
    matplotlib.figure.Figure
        Full markers converged, open ones did not.

    Raises
    ------
    MissingPlotExtraError
        If matplotlib is not installed.
    """
    figure, (values, residuals) = new_figure(10.0, 3.6, panels=2)
    from matplotlib.ticker import MaxNLocator

    theta, error, done = (t.tolist() for t in (result.eigenvalues, result.residuals, result.converged))
    for flag, fill, name in ((True, BLUE, "converged"), (False, "white", "not converged")):
        chosen = [i for i, c in enumerate(done) if c is flag]
        if not chosen:
            continue
        at = [i + 1 for i in chosen]
        style: dict[str, Any] = {"marker": "o", "linestyle": "none", "markersize": 5.5, "color": BLUE}
        style["markerfacecolor"] = fill
        values.errorbar(
            at,
            [theta[i] for i in chosen],
            yerr=[error[i] for i in chosen],
            elinewidth=1.2,
            capsize=3.0,
            label=f"{name} ({len(at)})",
            **style,
        )
        positive = [i for i in chosen if error[i] > 0.0]  # an exact pair has no place on a log scale
        residuals.plot([i + 1 for i in positive], [error[i] for i in positive], **style)
    for ax in (values, residuals):
        ax.set_xlabel("index", fontsize=10)
        ax.set_xlim(0.4, max(len(theta), 1) + 0.6)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if any(e > 0.0 for e in error):
        residuals.set_yscale("log")
        residuals.set_ylim(*_decades([e for e in error if e > 0.0]))
    if min(theta, default=0.0) < 0.0 < max(theta, default=0.0):
        values.axhline(0.0, color=GREY, linewidth=0.8)
    values.set_title("eigenvalues, bars as long as the residuals", fontsize=9, color=GREY, loc="left")
    residuals.set_title("residual norms", fontsize=9, color=GREY, loc="left")
    if theta:
        values.legend(fontsize=8, frameon=False)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _decades(positive: list[float]) -> tuple[float, float]:
    """Return whole decades around the values, so that residuals that are all alike do not fill the panel."""
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    return 10.0**low, 10.0 ** max(high, low + 1)
