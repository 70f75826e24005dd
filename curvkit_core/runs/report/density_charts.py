"""A spectral density, linear and logarithmic: its band, what was taken out of it, eigenvalues found besides."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from curvkit_core.runs.report.axis import Axis, axis_over
from curvkit_core.runs.report.chart import Mark, chart
from curvkit_core.runs.report.numbers import number

if TYPE_CHECKING:
    from curvkit_core.results.types import DensityResult, EigenResult

__all__ = ["density_charts"]

POINTS = 400  # of a curve: more cannot be told apart at a chart's width


def density_charts(result: DensityResult, *, eigen: EigenResult | None = None, label: str = "") -> list[str]:
    """Return two charts of one density.

    Parameters
    ----------
    result : DensityResult
        With its band.
    eigen : EigenResult or None
        Eigenvalues of the same operator, marked.
    label : str
        The operator's name.

    Returns
    -------
    list of str
        Linear, of the bulk alone where outliers were taken out; and logarithmic, down to what one eigenvalue weighs.
        Empty for a density without points.
    """
    if len(result.grid) < 2:
        return []
    if result.scale == "log":
        return [_over_decades(result, label)]
    bulk = result.nodes[result.weights > 0]
    whole = axis_over(_known(result, eigen), label="eigenvalue", margin=0.03)
    narrow = whole
    if len(result.outliers) and bulk.numel():
        ends = (float(bulk.min()) - 6.0 * result.sigma, float(bulk.max()) + 6.0 * result.sigma)
        narrow = axis_over(ends, label="eigenvalue")
    top = float((result.density + result.stderr.nan_to_num(0.0)).max()) or 1.0
    one = _one_eigenvalue(result)
    floor = max(min(0.1 * one, 1e-2 * top), 1e-12 * top)
    linear = Axis(low=0.0, high=1.05 * top, label="density (mass 1)")
    logarithmic = Axis(low=floor, high=3.0 * top, scale="log", label="density (mass 1)")
    mass = f"mass {result.mass:.3f}, smoothing width {number(result.sigma, 2)}"
    return [
        chart(
            _marks(result, eigen, narrow, floor),
            narrow,
            linear,
            title=f"Spectral density of {label}{', the bulk' if narrow is not whole else ''}",
            summary=f"Spectral density of {label} on a linear scale, {mass}",
        ),
        chart(
            _marks(result, eigen, whole, floor),
            whole,
            logarithmic,
            title=f"Spectral density of {label}, logarithmic",
            summary=f"Spectral density of {label} on a logarithmic scale, {mass}",
        ),
    ]


def _marks(result: DensityResult, eigen: EigenResult | None, x: Axis, floor: float) -> list[Mark]:
    grid, density, stderr = (t.tolist() for t in (result.grid, result.density, result.stderr))
    inside = [i for i, t in enumerate(grid) if x.low <= t <= x.high]
    kept = inside[:: max(1, len(inside) // POINTS)]
    at, value = [grid[i] for i in kept], [density[i] for i in kept]
    marks = []
    if not any(math.isnan(stderr[i]) for i in kept):
        low, high = [density[i] - stderr[i] for i in kept], [density[i] + stderr[i] for i in kept]
        marks.append(Mark(kind="band", x=at, low=low, high=high, label="one standard error"))
    marks.append(Mark(kind="line", x=at, y=value, label="density"))
    if len(result.outliers):
        height = (1.0 - result.bulk_share) / len(result.outliers) / (result.sigma * math.sqrt(2.0 * math.pi))
        out = [t for t in result.outliers.tolist() if x.low <= t <= x.high]
        if out:
            marks.append(Mark(kind="stems", x=out, y=[height] * len(out), colour="b", label="outliers taken out"))
    if eigen is not None:
        known = [t for t in eigen.eigenvalues.tolist() if x.low <= t <= x.high]
        marks.append(Mark(kind="points", x=known, y=[floor] * len(known), colour="b", label="eigenvalues found"))
    return marks


def _over_decades(result: DensityResult, label: str) -> str:
    grid, density = result.grid.tolist(), result.density.tolist()
    x = axis_over((abs(t) for t in grid), scale="log", label="|eigenvalue|", margin=0.0)
    marks = []
    for sign, colour, name in ((1.0, "a", "t > 0"), (-1.0, "b", "t < 0")):
        here = sorted((t * sign, d) for t, d in zip(grid, density, strict=True) if t * sign > 0.0)
        if here:
            here = here[:: max(1, len(here) // POINTS)]
            marks.append(Mark(kind="line", x=[t for t, _ in here], y=[d for _, d in here], colour=colour, label=name))
    y = Axis(low=0.0, high=1.05 * max(*density, 1e-300), label="density per decade")
    return chart(marks, x, y, title=f"Spectral density of {label}, per decade")


def _known(result: DensityResult, eigen: EigenResult | None) -> list[float]:
    found = [*result.grid[[0, -1]].tolist(), *result.outliers.tolist()]
    return found + (eigen.eigenvalues.tolist() if eigen is not None else [])


def _one_eigenvalue(result: DensityResult) -> float:
    size = result.info.n if result.info is not None else 0
    if not (size and result.sigma > 0.0):
        return float(result.density.max()) * 1e-5
    return 1.0 / (size * result.sigma * math.sqrt(2.0 * math.pi))
