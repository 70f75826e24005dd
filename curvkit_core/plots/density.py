"""The spectral density, linear and logarithmic, with its standard-error band, outliers and the top eigenvalues."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from curvkit_core.plots.canvas import BLUE, GREY, ORANGE, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from curvkit_core.results.types import DensityResult, EigenResult

__all__ = ["density_figure"]

_BELOW = 30.0  # the log axis begins at the resolution over this
_INSET = 0.01  # of the grid, at either end
_TINY = 1e-300  # positive, for the logarithmic panel
_PLAIN = ("", BLUE, 1.0)
_SIGNED = (("t > 0", BLUE, 1.0), ("t < 0", ORANGE, -1.0))


def density_figure(result: DensityResult, *, eigen: EigenResult | None = None, title: str = "") -> Figure:
    """Draw a spectral density.

    Parameters
    ----------
    result : DensityResult
        The density, in mass 1 over its axis, with one standard error at each point.
    eigen : EigenResult, optional
        Eigenvalues of the same operator, marked; open where not converged.
    title : str
        Above the panels.

    Returns
    -------
    matplotlib.figure.Figure
        Density linear to the left, logarithmic to the right: the bulk and the outliers differ by orders of magnitude.
        The logarithmic panel ends at a tenth of what one eigenvalue among n contributes. Where outliers were taken out,
        the left panel shows the bulk alone, the right one all of it. On the log scale the axis is that of |t|, with a
        curve for either sign, and what cannot be told from zero is shaded.

    Raises
    ------
    MissingPlotExtraError
        If matplotlib is not installed.
    """
    figure, (linear, logarithmic) = new_figure(10.0, 3.8, panels=2)
    over_decades = result.scale == "log"
    for ax in (linear, logarithmic):
        if over_decades:
            ax.set_xscale("log")
        _draw(ax, result)
        ax.set_xlim(*_span(result, eigen, bulk=ax is linear and len(result.outliers) > 0))
        ax.set_xlabel("|eigenvalue|" if over_decades else "eigenvalue", fontsize=10)
        if over_decades and result.resolution > 0.0:
            unresolved = f"|t| < {result.resolution:.1g}, not told from zero"
            ax.axvspan(ax.get_xlim()[0], result.resolution, color=GREY, alpha=0.12, linewidth=0.0, label=unresolved)
        if len(result.outliers):
            _mark_outliers(ax, result)
        if eigen is not None:
            _mark(ax, eigen, over_decades)
    floor, top = _log_limits(result)
    logarithmic.set_yscale("log")
    logarithmic.set_ylim(floor, top * 3.0)
    linear.set_ylim(0.0, 1.06 * _highest(result))  # of what is resolved: a peak at zero would hide all else
    linear.set_ylabel("density per decade (mass 1)" if over_decades else "density (mass 1)", fontsize=10)
    linear.set_title(f"linear{_unseen(result)}", fontsize=9, color=GREY, loc="left")
    kernel = "; ripples beside a peak are the kernel's" if result.moments is not None and not over_decades else ""
    logarithmic.set_title(f"logarithmic{kernel}", fontsize=9, color=GREY, loc="left")
    if logarithmic.get_legend_handles_labels()[0]:
        logarithmic.legend(fontsize=8, frameon=False, loc="upper right")
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _draw(ax: Axes, result: DensityResult) -> None:
    grid, density, stderr = (t.tolist() for t in (result.grid, result.density, result.stderr))
    band = f"one standard error, {_probes(result)}"
    for name, colour, sign in _SIGNED if result.scale == "log" else (_PLAIN,):
        here = [i for i, t in enumerate(grid) if result.scale == "linear" or t * sign > 0.0]
        if not here:
            continue
        x = [grid[i] * sign for i in here]
        low = [max(density[i] - stderr[i], _TINY) for i in here]
        high = [density[i] + stderr[i] for i in here]
        if not any(math.isnan(stderr[i]) for i in here):  # one probe has no band
            ax.fill_between(x, low, high, color=colour, alpha=0.22, linewidth=0.0, label=band)
            band = ""
        label = f"spectral density, {name}" if name else "spectral density"
        ax.plot(x, [max(density[i], _TINY) for i in here], color=colour, linewidth=1.3, label=label)


def _mark_outliers(ax: Axes, result: DensityResult) -> None:
    values, share = result.outliers.tolist(), (1.0 - result.bulk_share) / len(result.outliers)
    if result.scale == "log":
        values = [abs(v) for v in values if v]
    height = share / (result.sigma * math.sqrt(2.0 * math.pi))
    # as high as the density has it there: a line keeps it visible where the axis is far wider than sigma
    ax.vlines(values, _TINY, height, color=ORANGE, linewidth=1.0, label=f"outliers taken out ({len(values)})")
    ax.plot(values, [height] * len(values), marker="o", markersize=3.0, linestyle="none", color=ORANGE)


def _mark(ax: Axes, eigen: EigenResult, over_decades: bool) -> None:
    for flag, fill, name in ((True, ORANGE, "eigenvalues"), (False, "none", "eigenvalues, not converged")):
        pairs = zip(eigen.eigenvalues.tolist(), eigen.converged.tolist(), strict=True)
        values = [value for value, converged in pairs if converged is flag]
        if over_decades:
            values = [abs(v) for v in values if v]
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


def _span(result: DensityResult, eigen: EigenResult | None, *, bulk: bool) -> tuple[float, float]:
    """Return the ends of the grid or of the bulk, or the eigenvalues' where they lie beyond, with a margin."""
    if result.scale == "log":
        points = [abs(t) for t in result.grid.tolist() + (eigen.eigenvalues.tolist() if eigen else []) if t]
        if not points:
            return 0.1, 10.0
        return max(min(points), result.resolution / _BELOW) / 1.1, max(points) * 1.1
    if bulk and result.nodes.numel():
        widths = 6.0 * result.sigma
        points = [float(result.nodes.min()) - widths, float(result.nodes.max()) + widths]
    else:
        grid = result.grid.tolist()
        if result.moments is not None and grid:  # the interval's margin, where the series has its poles, is left out
            inset = _INSET * (grid[-1] - grid[0])
            grid = [t for t in grid if grid[0] + inset <= t <= grid[-1] - inset]
        points = grid + (eigen.eigenvalues.tolist() if eigen is not None else [])
    low, high = min(points, default=0.0), max(points, default=1.0)
    margin = 0.0 if result.moments is not None else 0.02 * (high - low) or 1.0
    return low - margin, high + margin


def _unseen(result: DensityResult) -> str:
    """Say what the linear panel does not show: outliers beyond the bulk, the share that is not told from zero."""
    if not result.nodes.numel():
        return ""
    if result.scale == "log":
        near = result.weights[result.nodes.abs() <= result.resolution].sum() / len(result.weights)
        share = 100.0 * result.bulk_share * float(near)
        return f"; {share:.2g} % not told from zero" if share else ""
    if not len(result.outliers):
        return ""
    low, high = (float(t) + w * result.sigma for t, w in ((result.nodes.min(), -6.0), (result.nodes.max(), 6.0)))
    beyond = [v for v in result.outliers.tolist() if not low <= v <= high]
    if not beyond:
        return ", bulk"
    ends = f"{min(beyond):.3g} to {max(beyond):.3g}" if len(beyond) > 1 else f"{beyond[0]:.3g}"
    return f", bulk; {len(beyond)} outlier{'s' if len(beyond) > 1 else ''} beyond it: {ends}"


def _highest(result: DensityResult) -> float:
    heights = result.density + result.stderr.nan_to_num(0.0)
    if result.scale == "log":
        resolved = heights[result.grid.abs() > result.resolution * 10.0 ** (5.0 * result.sigma)]
        heights = resolved if resolved.numel() and float(resolved.max()) > 0.0 else heights
    top = max(heights.tolist(), default=0.0)
    return top if math.isfinite(top) and top > 0.0 else 1.0


def _log_limits(result: DensityResult) -> tuple[float, float]:
    top = max(result.density.tolist(), default=0.0)
    if not (math.isfinite(top) and top > 0.0):
        return 1e-6, 1.0
    size = result.info.n if result.info is not None else 0
    known = size > 0 and result.sigma > 0.0
    one = 1.0 / (size * result.sigma * math.sqrt(2.0 * math.pi)) if known else top * 1e-5
    return max(min(0.1 * one, top * 1e-2), top * 1e-12), top


def _probes(result: Any) -> str:
    count = int(result.weights.shape[0])
    return f"{count} probe{'s' if count != 1 else ''}"
