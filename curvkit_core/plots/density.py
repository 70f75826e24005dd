"""The spectral density, linear and logarithmic, with its standard-error band and the top eigenvalues."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from curvkit_core.plots.canvas import BLUE, GREY, ORANGE, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from curvkit_core.results.types import DensityResult, EigenResult

__all__ = ["density_figure"]


def density_figure(result: DensityResult, *, eigen: EigenResult | None = None, title: str = "") -> Figure:
    """Draw a spectral density.

    Parameters
    ----------
    result : DensityResult
        The density, in mass 1 over the eigenvalue axis, with one standard error at each point.
    eigen : EigenResult, optional
        Eigenvalues of the same operator, marked; open where not converged.
    title : str
        Above the panels.

    Returns
    -------
    matplotlib.figure.Figure
        Linear to the left, logarithmic to the right: the bulk and the outliers differ by orders of magnitude.
        The logarithmic panel ends at a tenth of what one eigenvalue among n contributes.

    Raises
    ------
    MissingPlotExtraError
        If matplotlib is not installed.
    """
    figure, (linear, logarithmic) = new_figure(10.0, 3.8, panels=2)
    left, right = _span(result, eigen)
    for ax in (linear, logarithmic):
        _draw(ax, result)
        ax.set_xlim(left, right)
        ax.set_xlabel("eigenvalue", fontsize=10)
    floor, top = _log_limits(result)
    logarithmic.set_yscale("log")
    logarithmic.set_ylim(floor, top * 3.0)
    linear.set_ylim(0.0, 1.06 * float((result.density + result.stderr).max()) or 1.0)
    linear.set_ylabel("density (mass 1)", fontsize=10)
    for ax in (linear, logarithmic):
        if eigen is not None:
            _mark(ax, eigen)
    linear.set_title("linear", fontsize=9, color=GREY, loc="left")
    logarithmic.set_title("logarithmic", fontsize=9, color=GREY, loc="left")
    logarithmic.legend(fontsize=8, frameon=False, loc="upper right")
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _draw(ax: Axes, result: DensityResult) -> None:
    grid, density, stderr = (t.tolist() for t in (result.grid, result.density, result.stderr))
    low = [max(d - s, 1e-300) for d, s in zip(density, stderr, strict=True)]  # positive for the log panel
    high = [d + s for d, s in zip(density, stderr, strict=True)]
    label = f"one standard error, {_probes(result)}"
    ax.fill_between(grid, low, high, color=BLUE, alpha=0.22, linewidth=0.0, label=label)
    ax.plot(grid, density, color=BLUE, linewidth=1.3, label="spectral density")


def _mark(ax: Axes, eigen: EigenResult) -> None:
    for flag, fill, name in ((True, ORANGE, "eigenvalues"), (False, "none", "eigenvalues, not converged")):
        pairs = zip(eigen.eigenvalues.tolist(), eigen.converged.tolist(), strict=True)
        values = [value for value, converged in pairs if converged is flag]
        if values:
            ax.plot(
                values,
                [0.02] * len(values),
                marker="v",
                linestyle="none",
                markersize=5.5,
                zorder=4,
                markeredgecolor=ORANGE,
                markerfacecolor=fill,
                transform=ax.get_xaxis_transform(),
                label=f"{name} ({len(values)})",
            )


def _span(result: DensityResult, eigen: EigenResult | None) -> tuple[float, float]:
    """Return the grid's ends, or the eigenvalues' where they lie beyond, with a margin."""
    points = result.grid.tolist() + (eigen.eigenvalues.tolist() if eigen is not None else [])
    low, high = min(points, default=0.0), max(points, default=1.0)
    margin = 0.02 * (high - low) or 1.0
    return low - margin, high + margin


def _log_limits(result: DensityResult) -> tuple[float, float]:
    top = float(result.density.max())
    if not (math.isfinite(top) and top > 0.0):
        return 1e-6, 1.0
    size = result.info.n if result.info is not None else 0
    known = size > 0 and result.sigma > 0.0
    one = 1.0 / (size * result.sigma * math.sqrt(2.0 * math.pi)) if known else top * 1e-5
    return max(min(0.1 * one, top * 1e-2), top * 1e-12), top


def _probes(result: Any) -> str:
    count = int(result.weights.shape[0])
    return f"{count} probe{'s' if count != 1 else ''}"
