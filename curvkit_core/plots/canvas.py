"""Figures on a canvas of their own: Agg, with pyplot and its global state left alone."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["MissingPlotExtraError", "figure_bytes", "save_figure"]

BLUE, ORANGE, GREY = "#1f5fa8", "#d1601f", "#5f6368"
MEND = 'matplotlib is not installed, so no figure can be drawn. mend: pip install "curvkit-core[plot]"'


class MissingPlotExtraError(ImportError):
    """matplotlib, the extra ``plot``, is not installed."""

    def __init__(self) -> None:
        super().__init__(MEND)


def new_figure(width: float, height: float, panels: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure of a row of panels, sizes in inches.

    Raises
    ------
    MissingPlotExtraError
        If matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "matplotlib":
            raise MissingPlotExtraError from None
        raise
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=9, color=GREY)
        ax.grid(visible=True, color="#e6e6e6", linewidth=0.6)
        ax.set_axisbelow(True)
    return figure, axes


def figure_bytes(figure: Any, kind: str) -> bytes:
    """Return a figure as ``"png"`` or ``"svg"`` bytes, with no date in them."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def save_figure(figure: Any, path: str | Path) -> Path:
    """Save a figure as PNG or SVG, as the suffix says, whole or not at all.

    Raises
    ------
    ValueError
        If the suffix is another one.
    """
    from curvkit_core.results.atomic import write_bytes

    path = Path(path)
    kind = path.suffix.removeprefix(".").lower()
    if kind not in ("png", "svg"):
        msg = f"{path.name!r} has the suffix {path.suffix!r}: expected .png or .svg."
        raise ValueError(msg)
    write_bytes(path, figure_bytes(figure, kind))
    return path
