"""The loss along directions, beside the parabola that the curvature predicts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from curvkit_core.plots.canvas import BLUE, GREY, ORANGE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from curvkit_core.results.types import SliceResult

__all__ = ["slice_figure"]


def slice_figure(result: SliceResult, *, title: str = "") -> Figure:
    """Draw slices, a panel a direction.

    Parameters
    ----------
    result : SliceResult
        With losses and parabola.
    title : str
        Above the panels.

    Returns
    -------
    matplotlib.figure.Figure
        The loss as a line, the parabola dashed.

    Raises
    ------
    MissingPlotExtraError
        If matplotlib is not installed.
    """
    count = len(result.curvatures)
    figure, axes = new_figure(max(4.2, 3.6 * count), 3.4, panels=count)
    for i, ax in enumerate(axes):
        steps, losses, parabola = (t[i].tolist() for t in (result.steps, result.losses, result.parabola))
        ax.plot(steps, losses, color=BLUE, linewidth=1.4, label="loss")
        ax.plot(steps, parabola, color=ORANGE, linestyle="--", linewidth=1.2, label="parabola")
        known = [v for v in losses if math.isfinite(v)]
        if known and max(known) > min(known):
            room = 0.1 * (max(known) - min(known))
            low = min(*known, max(min(parabola), min(known) - 3.0 * room))
            ax.set_ylim(low - room, max(known) + room)
        ax.set_xlabel("distance", fontsize=10)
        ax.set_title(
            f"direction {i + 1}, curvature {float(result.curvatures[i]):.4g}", fontsize=9, color=GREY, loc="left"
        )
    axes[0].set_ylabel("loss", fontsize=10)
    axes[0].legend(fontsize=8, frameon=False)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure
