"""Figures of results. matplotlib, the extra `plot`, is imported when one is drawn."""

from curvkit_core.plots.canvas import MissingPlotExtraError, figure_bytes, save_figure
from curvkit_core.plots.convergence import convergence_figure
from curvkit_core.plots.density import density_figure
from curvkit_core.plots.eigenvalues import eigenvalue_figure
from curvkit_core.plots.slices import slice_figure
from curvkit_core.plots.sweep import sweep_figure
from curvkit_core.plots.tracking import tracking_figure

__all__ = [
    "MissingPlotExtraError",
    "convergence_figure",
    "density_figure",
    "eigenvalue_figure",
    "figure_bytes",
    "save_figure",
    "slice_figure",
    "sweep_figure",
    "tracking_figure",
]
