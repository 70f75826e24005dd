"""A sweep over groups of parameters: eigenvalues and traces by group, and the norms of all blocks as a heat map."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from curvkit_core.plots.canvas import BLUE, GREY, ORANGE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from curvkit_core.results.types import SweepResult

__all__ = ["sweep_figure"]

_DECADES = 3.0  # of the heat map's colours


def sweep_figure(result: SweepResult, *, title: str = "") -> Figure:
    """Draw a sweep.

    Parameters
    ----------
    result : SweepResult
        With its errors.
    title : str
        Above the panels.

    Returns
    -------
    matplotlib.figure.Figure
        Largest eigenvalue of each group with its residual; traces with their standard errors; the norms of all blocks,
        on a logarithmic scale of three decades.

    Raises
    ------
    MissingPlotExtraError
        If matplotlib is not installed.
    """
    count = len(result.rows)
    height = max(3.2, 0.9 + 0.22 * count)
    figure, (values, traces, blocks) = new_figure(13.0, height, panels=3)
    names = [row.group for row in result.rows]
    at = list(range(count))
    top = [row.eigenvalues[0] if row.eigenvalues else math.nan for row in result.rows]
    error = [row.residuals[0] if row.residuals else 0.0 for row in result.rows]
    spread = [row.trace_stderr if math.isfinite(row.trace_stderr) else 0.0 for row in result.rows]
    style: dict[str, Any] = {"height": 0.7, "alpha": 0.45, "ecolor": ORANGE, "capsize": 2.5, "color": BLUE}
    values.barh(at, top, xerr=error, **style)
    traces.barh(at, [row.trace for row in result.rows], xerr=spread, **style)
    for ax, name in ((values, "largest eigenvalue, with residual"), (traces, "trace, with standard error")):
        ax.set_title(name, fontsize=9, color=GREY, loc="left")
        ax.set_ylim(count - 0.4, -0.6)
    values.set_yticks(at, names, fontsize=8)
    traces.set_yticks(at, [""] * count)
    norms = result.frobenius_norms.tolist()
    largest = max((v for row in norms for v in row if math.isfinite(v)), default=0.0)
    shades = [[_shade(v, largest) for v in row] for row in norms]
    blocks.imshow(shades, cmap="Blues", vmin=0.0, vmax=1.0, aspect="equal")
    blocks.set_xticks(at, names, fontsize=8, rotation=90)
    blocks.set_yticks(at, [""] * count)
    blocks.grid(visible=False)
    coupling = f"{100.0 * result.coupling:.2g} % between groups"
    blocks.set_title(f"norms of the blocks, {coupling}", fontsize=9, color=GREY, loc="left")
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _shade(value: float, largest: float) -> float:
    if not (math.isfinite(value) and value > 0.0 and largest > 0.0):
        return 0.0
    return max(0.0, 1.0 + math.log10(value / largest) / _DECADES)
