"""Curvature through training: loss, sharpness against 2 / learning rate, and the gradient's share in the top space."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from curvkit_core.plots.canvas import BLUE, GREY, ORANGE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["tracking_figure"]


def tracking_figure(rows: Sequence[Mapping[str, Any]], *, title: str = "") -> Figure:
    """Draw what a tracker measured.

    Parameters
    ----------
    rows : sequence of mapping
        Columns as ``TrackerRow.flat`` has them.
    title : str
        Above the panels.

    Returns
    -------
    matplotlib.figure.Figure
        Loss; eigenvalues, with 2 / learning rate dashed where it is known; the gradient's overlap.

    Raises
    ------
    MissingPlotExtraError
        If matplotlib is not installed.
    """
    figure, (loss, sharpness, overlap) = new_figure(12.0, 3.6, panels=3)
    steps = [row["step"] for row in rows]
    loss.plot(steps, [row["loss"] for row in rows], color=BLUE, linewidth=1.3)
    if rows and all(row["loss"] > 0.0 for row in rows):
        loss.set_yscale("log")
    count = max((sum(name.startswith("eig_") for name in row) for row in rows), default=0)
    for i in range(count):
        shade: dict[str, Any] = {"alpha": 1.0 if i == 0 else 0.45, "linewidth": 1.5 if i == 0 else 1.0}
        label = "sharpness" if i == 0 else "further eigenvalues" if i == 1 else None
        sharpness.plot(steps, [row.get(f"eig_{i}", math.nan) for row in rows], color=BLUE, label=label, **shade)
    limits = [2.0 / row["learning_rate"] if row["learning_rate"] else math.nan for row in rows]
    if any(math.isfinite(limit) for limit in limits):
        sharpness.plot(steps, limits, color=ORANGE, linestyle="--", linewidth=1.2, label="2 / learning rate")
    if rows:
        sharpness.legend(fontsize=8, frameon=False)
    overlap.plot(steps, [row["overlap"] for row in rows], color=BLUE, linewidth=1.3)
    overlap.set_ylim(0.0, 1.02)
    names = ("loss", "largest eigenvalues", f"share of the gradient in the top {count or 'k'}")
    for ax, name in zip((loss, sharpness, overlap), names, strict=True):
        ax.set_title(name, fontsize=9, color=GREY, loc="left")
        ax.set_xlabel("step", fontsize=10)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure
