r"""Curves out of quadrature rules or Chebyshev moments, on a linear or a logarithmic axis; no product is made here.

.. math:: \phi(t) = \frac{s}{p}\sum_{jk} w_{jk}\,g_\sigma(t - \theta_{jk})
          + \frac{1 - s}{k}\sum_i g_\sigma(t - \lambda_i)

s being the bulk's share beside k outliers that are known exactly. On the logarithmic axis t is replaced by
:math:`\log_{10}|t|`, on either side of zero for itself.
"""

from __future__ import annotations

import math

import torch
from attrs import frozen
from torch import Tensor

__all__ = [
    "SCALES",
    "Curve",
    "draw_jackson",
    "draw_linear",
    "draw_log",
    "gaussian_bias_bound",
    "jackson_factors",
    "jackson_rules",
    "jackson_width",
    "unresolved_about_zero",
]

SCALES = ("linear", "log")
_MARGIN = 6.0  # the grid ends so many widths outside the spectrum: 1e-9 of the mass is beyond
_FAR = 9.0
_WIDTHS = 200.0  # the default width is the range over this, or what the nodes resolve
_LOG_WIDTH = 0.05  # default width on the logarithmic axis, in decades
_SPIKE = 49  # points of an outlier's own grid, a quarter of a width apart
_DOUBLE = float(torch.finfo(torch.float64).eps)


@frozen(kw_only=True, eq=False)
class Curve:
    """A density with one standard error over the probes (NaN for one probe), and the width that was used."""

    grid: Tensor
    density: Tensor
    stderr: Tensor
    sigma: float


def draw_linear(
    nodes: Tensor,
    weights: Tensor,
    *,
    spreads: Tensor,
    outliers: Tensor,
    share: float,
    sigma: float | None,
    grid_size: int,
) -> Curve:
    """Gaussians over t: an even grid over the bulk, and a piece of its own for every outlier outside it."""
    points = nodes.reshape(-1) if nodes.numel() else outliers
    low, high = float(points.min()), float(points.max())
    if sigma is None:
        sigma = _default_width(nodes, weights, spreads, outliers)
    margin = _MARGIN * sigma
    apart = outliers
    if nodes.numel():
        outside = (outliers < low - margin) | (outliers > high + margin)
        apart, near = outliers[outside], outliers[~outside]
        if len(near):  # the bulk's grid holds them whole: cut off, one would reach over to the next piece
            low, high = min(low, float(near.min())), max(high, float(near.max()))
    grid = torch.linspace(low - margin, high + margin, grid_size, dtype=torch.float64)
    if not nodes.numel():
        grid = grid[:0]
    if len(apart):
        # between the pieces the density is zero, and the trapezoid rule must see that: the last point is at 1e-18
        far = _FAR * sigma
        outer = torch.tensor([-far, far], dtype=torch.float64)
        piece = torch.cat([torch.linspace(-margin, margin, _SPIKE, dtype=torch.float64), outer])
        ends = torch.tensor([low - far, high + far], dtype=torch.float64)[: 2 if nodes.numel() else 0]
        grid = torch.cat([grid, ends, (apart[:, None] + piece).reshape(-1)]).sort().values
    widths = torch.full_like(nodes, sigma)
    known = _bumps(grid, outliers, torch.ones_like(outliers) / max(len(outliers), 1), torch.full_like(outliers, sigma))
    per_probe = _each(grid, nodes, weights, widths)
    return Curve(
        grid=grid,
        density=share * per_probe.mean(0) + (1.0 - share) * known,
        stderr=share * _stderr(per_probe, exact=not nodes.numel()),
        sigma=sigma,
    )


def draw_log(
    nodes: Tensor,
    weights: Tensor,
    *,
    spreads: Tensor,
    outliers: Tensor,
    share: float,
    sigma: float | None,
    grid_size: int,
    resolution: float,
) -> Curve:
    """Gaussians over log10 |t|, `sigma` in decades; the negative half, if there is any, comes first.

    A node whose mass may lie further away is drawn as wide as that. What is below `resolution` in magnitude, or within
    its own spread of zero, cannot be told from zero: it is drawn at `resolution`, as positive.
    """
    sigma = _LOG_WIDTH if sigma is None else sigma
    largest = float(torch.cat([nodes[weights > 0], outliers]).abs().max())
    floor = resolution or _DOUBLE * largest or _DOUBLE
    spreads = spreads if spreads.numel() else torch.zeros_like(nodes)
    unresolved = (nodes.abs() <= spreads) | (nodes.abs() <= floor)
    sizes = torch.where(unresolved, floor, nodes.abs())
    exponents, known_exponents = sizes.log10(), outliers.abs().clamp_min(floor).log10()
    widths = (spreads.where(~unresolved, torch.zeros(())) / (sizes * math.log(10.0))).square().add(sigma**2).sqrt()
    every = torch.cat([(exponents - _MARGIN * widths)[weights > 0], known_exponents - _MARGIN * sigma])
    above = torch.cat([(exponents + _MARGIN * widths)[weights > 0], known_exponents + _MARGIN * sigma])
    x = torch.linspace(float(every.min()), float(above.max()), grid_size, dtype=torch.float64)
    halves, errors, grids = [], [], []
    for sign in (-1.0, 1.0):
        here = ((nodes < 0) & ~unresolved) == (sign < 0)
        known_here = (outliers < -floor) == (sign < 0)
        if sign < 0 and not bool((here & (weights != 0)).any() | known_here.any()):
            continue
        per_probe = _each(x, exponents, weights * here, widths)
        ones = known_here.double() / max(len(outliers), 1)
        known = _bumps(x, known_exponents, ones, torch.full_like(known_exponents, sigma))
        order = -1 if sign < 0 else 1
        halves.append(_turned(share * per_probe.mean(0) + (1.0 - share) * known, order))
        errors.append(_turned(share * _stderr(per_probe, exact=not nodes.numel()), order))
        grids.append(_turned(sign * 10.0**x, order))
    return Curve(grid=torch.cat(grids), density=torch.cat(halves), stderr=torch.cat(errors), sigma=sigma)


def unresolved_about_zero(nodes: Tensor, weights: Tensor, spreads: Tensor) -> float:
    """The mean spread, by weight, of the nodes that lie within their own spread of zero; 0.0 if none does."""
    mass = torch.where(nodes.abs() <= spreads, weights, torch.zeros_like(weights)).clamp_min(0.0)
    total = float(mass.sum())
    return float((mass * spreads).sum()) / total if total > 0.0 else 0.0


def draw_jackson(moments: Tensor, *, interval: tuple[float, float], grid_size: int) -> Curve:
    r"""The damped Chebyshev series :math:`\frac{1}{h\pi\sqrt{1-x^2}}(g_0\mu_0 + 2\sum_k g_k\mu_k T_k(x))`, t = c + h x.

    On a grid of Chebyshev points, as dense at the ends as the kernel is narrow there.
    """
    centre, half = 0.5 * (interval[0] + interval[1]), 0.5 * (interval[1] - interval[0])
    angle = math.pi * (torch.arange(grid_size, dtype=torch.float64).flip(0) + 0.5) / grid_size
    count = moments.shape[1]
    damped = moments * jackson_factors(count)
    damped[:, 1:] *= 2.0
    waves = torch.cos(torch.arange(count, dtype=torch.float64)[:, None] * angle)
    per_probe = (damped @ waves) / (math.pi * half * angle.sin())
    return Curve(
        grid=centre + half * angle.cos(),
        density=per_probe.mean(0),
        stderr=_stderr(per_probe),
        sigma=jackson_width(moments, interval),
    )


def jackson_factors(count: int) -> Tensor:
    """Jackson's factors g_0 = 1, ..., g_{count-1} of a series of `count` terms; they make its kernel positive."""
    k, big = torch.arange(count, dtype=torch.float64), count + 1
    turn = math.pi / big
    return ((big - k) * torch.cos(turn * k) + torch.sin(turn * k) / math.tan(turn)) / big


def jackson_rules(moments: Tensor, interval: tuple[float, float]) -> tuple[Tensor, Tensor, Tensor]:
    """The damped series as rules, (p, count) nodes, weights and spreads: at Chebyshev points, which keep its moments.

    A spread is the kernel's width there.
    """
    count, half = moments.shape[1], 0.5 * (interval[1] - interval[0])
    angle = math.pi * (torch.arange(count, dtype=torch.float64).flip(0) + 0.5) / count
    damped = moments * jackson_factors(count)
    damped[:, 1:] *= 2.0
    weights = damped @ torch.cos(torch.arange(count, dtype=torch.float64)[:, None] * angle) / count
    nodes = 0.5 * (interval[0] + interval[1]) + half * angle.cos()
    spreads = math.pi * half / count * angle.sin()
    return nodes.expand(len(moments), count).clone(), weights, spreads.expand(len(moments), count).clone()


def jackson_width(moments: Tensor, interval: tuple[float, float]) -> float:
    """The kernel's width in the middle of the interval, where it is widest."""
    return math.pi * 0.5 * (interval[1] - interval[0]) / moments.shape[1]


def gaussian_bias_bound(degrees: Tensor, nodes: Tensor, *, sigma: float, share: float) -> float:
    r"""Bound at every t on how far finite steps move the smoothed density.

    A rule that is exact to degree d errs by at most twice the best approximation of degree d, over the ellipse of
    radius rho at most :math:`4 M_\rho\rho^{-d}/(\rho-1)` with
    :math:`M_\rho = e^{h^2(\rho-1/\rho)^2/8\sigma^2}/\sigma\sqrt{2\pi}`, and never by more than the Gaussian's peak. The
    spectrum is taken to lie within the nodes' range, half of it being h, widened by a twentieth.
    """
    peak = 1.0 / (sigma * math.sqrt(2.0 * math.pi))
    half = 1.05 * 0.5 * float(nodes.max() - nodes.min())
    excess = torch.logspace(-6, 3, 2000, dtype=torch.float64)  # rho - 1
    rho = 1.0 + excess
    growth = (half / sigma * (rho - 1.0 / rho)).square() / 8.0
    found = []
    for degree in degrees.unique().tolist():
        if math.isinf(degree):
            found.append(0.0)
            continue
        exponent = math.log(4.0) + growth - degree * rho.log() - excess.log()
        found.append(min(1.0, math.exp(min(0.0, float(exponent.min())))))
    counts = degrees.unique(return_counts=True)[1].tolist()
    mean = sum(f * c for f, c in zip(found, counts, strict=True)) / len(degrees)
    return float(share * peak * mean)


def _default_width(nodes: Tensor, weights: Tensor, spreads: Tensor, outliers: Tensor) -> float:
    """The bulk's range over 200, or the nodes' median spread where that is more; of a point, a trace of its size."""
    points = torch.cat([nodes.reshape(-1), outliers])
    extent = float(nodes.max() - nodes.min()) if nodes.numel() else 0.0
    extent = max(extent, _DOUBLE**0.5 * float(points.abs().max()))
    apart = spreads[weights > 0] if spreads.numel() else spreads
    return max((extent or 1.0) / _WIDTHS, float(apart.median()) if apart.numel() else 0.0)


def _each(grid: Tensor, centres: Tensor, weights: Tensor, widths: Tensor) -> Tensor:
    """One curve a probe, (p, g); a row of zeros where there is no probe."""
    rows = [_bumps(grid, t, w, s) for t, w, s in zip(centres, weights, widths, strict=True)]
    return torch.stack(rows or [torch.zeros_like(grid)])


def _bumps(grid: Tensor, centres: Tensor, weights: Tensor, widths: Tensor) -> Tensor:
    if not len(centres):
        return torch.zeros_like(grid)
    heights = weights / (widths * math.sqrt(2.0 * math.pi))
    curve: Tensor = heights @ torch.exp(-0.5 * ((grid - centres[:, None]) / widths[:, None]).square())
    return curve


def _stderr(per_probe: Tensor, *, exact: bool = False) -> Tensor:
    if exact:
        return torch.zeros_like(per_probe[0])
    if len(per_probe) == 1:
        return torch.full_like(per_probe[0], float("nan"))
    variance: Tensor = per_probe.var(0, unbiased=True) / len(per_probe)
    return variance.sqrt()


def _turned(values: Tensor, order: int) -> Tensor:
    return values.flip(0) if order < 0 else values
