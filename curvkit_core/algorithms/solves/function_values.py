r"""A function of an operator on one Krylov space, and how far it is from the function itself.

With :math:`AQ^\top = Q^\top T + \beta q_{m+1}^\top e_m^\top` and :math:`T = S\Theta S^\top`, comparing both sides in an
eigenvector of A gives for any f

.. math:: f(A)b - \|b\| Q^\top f(T) e_1 = \|b\|\,\beta\; g(A)\, q_{m+1}, \quad
          g(\lambda) = \sum_i S_{1i} S_{mi}\, \frac{f(\lambda) - f(\theta_i)}{\lambda - \theta_i},

so that :math:`\|b\|\beta \max|g|` over any interval that holds A's spectrum bounds the error: no integral, no product,
and no decay of the iterates is assumed (the identity is that behind [1]_). The interval is that of the Ritz values,
widened by their residuals.

References
----------
.. [1] Chen, Greenbaum, Musco, Musco, SIAM J. Matrix Anal. Appl. 43(2), 2022, 787-811.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from attrs import frozen
from torch import Tensor

from curvkit_core.results.types import KrylovProjection

__all__ = ["FUNCTIONS", "Evaluated", "Function", "evaluate"]

_ROUNDING = 10.0  # Ritz values below this times eps |A| cannot be told from zero
_NOISE = 3.0  # what products miss of symmetry is not all they miss
_OWN = 4.0  # times eps |f|: what putting the value together rounds, seen are 0.5 to 2
_NEAR = 1e-4  # relative: nearer to a Ritz value a divided difference is rounding
_WIDER = 3.0  # times its residual may an eigenvalue lie outside the end of the Ritz values
_KNOWN = 0.3  # a Ritz value whose residual, widened, is below this times itself stands for the eigenvalue nearest zero
_POINTS = 200  # of each of the interval's grids


@frozen(kw_only=True)
class Function:
    """f, elementwise on float64, and where it is defined: "anywhere", where lambda is "nonnegative", ..."""

    name: str
    fn: Callable[[Tensor], Tensor]
    domain: str = "anywhere"


FUNCTIONS = {
    f.name: f
    for f in (
        Function(name="sqrt", fn=torch.sqrt, domain="nonnegative"),
        Function(name="inv-sqrt", fn=torch.rsqrt, domain="positive"),
        Function(name="inverse", fn=torch.reciprocal, domain="nonzero"),
        Function(name="log", fn=torch.log, domain="positive"),
        Function(name="exp", fn=torch.exp),
    )
}


@frozen(kw_only=True, eq=False)
class Evaluated:
    """The value's coordinates in the basis, and bounds on what truncation and rounding do to it.

    `problem` is empty, "outside" or "overflow": then there are no coordinates.
    """

    coordinates: Tensor
    quadratic_form: float
    truncation: float
    rounding: float
    problem: str = ""

    @property
    def size(self) -> float:
        """Norm of the value."""
        return float(self.coordinates.norm())

    @property
    def error(self) -> float:
        """Both together."""
        return self.truncation + self.rounding


def evaluate(function: Function, projection: KrylovProjection, damping: float, eps: float) -> Evaluated:
    """Give f(A + damping) b on its Krylov space; `eps` is the vectors' unit roundoff, or that of the basis."""
    theta = projection.ritz_values + damping
    S, m = projection.coordinates, len(projection.ritz_values)
    zero = max(_ROUNDING * eps * (projection.scale + damping), _NOISE * projection.noise)
    problem = _outside(function.domain, theta, zero)
    values = function.fn(theta.clamp_min(0.0) if function.domain == "nonnegative" else theta)
    if not problem and not bool(torch.isfinite(values).all()):
        problem = "outside" if bool(torch.isnan(values).any()) else "overflow"
    if problem:
        nothing = torch.full((m,), float("nan"), dtype=torch.float64)
        return Evaluated(
            coordinates=nothing, quadratic_form=math.nan, truncation=math.inf, rounding=math.inf, problem=problem
        )
    first, last = S[0], S[-1]
    grid = _grid(function, projection, theta, damping, zero)
    noise = max(projection.noise, eps * (projection.scale + damping))
    return Evaluated(
        coordinates=projection.norm * (S @ (first * values)),
        quadratic_form=projection.norm**2 * float(first.square() @ values),
        truncation=projection.norm * projection.coupling * _largest(function, grid, theta, values, first * last),
        rounding=projection.norm * _variation(function, theta, values, _NOISE * noise, eps),
    )


def _outside(domain: str, theta: Tensor, zero: float) -> str:
    low = float(theta.abs().min() if domain == "nonzero" else theta.min())
    wrong = {"anywhere": False, "nonnegative": low < -zero, "positive": low <= zero, "nonzero": low <= zero}[domain]
    return "outside" if wrong else ""


def _grid(function: Function, projection: KrylovProjection, theta: Tensor, damping: float, zero: float) -> Tensor:
    """Points of the interval that holds the spectrum: dense at its ends, and by powers of ten from each of them."""
    residuals = _WIDER * projection.coupling * projection.coordinates[-1].abs()
    low, high = float((theta - residuals).min()), float((theta + residuals).max())
    near = int(theta.abs().argmin())
    known = float(residuals[near]) <= _KNOWN * float(theta[near].abs())
    if function.domain in ("nonnegative", "positive") and float(theta.min()) >= damping - zero:
        low = max(low, damping) if known else damping  # all that was seen says psd
    if function.domain == "positive" and low <= 0.0:
        return torch.zeros(1, dtype=torch.float64)
    ends = 0.5 - 0.5 * torch.cos(torch.linspace(0.0, math.pi, _POINTS, dtype=torch.float64))
    powers = torch.logspace(-12.0, 0.0, _POINTS, dtype=torch.float64)
    points = torch.cat([low + (high - low) * ends, low + (high - low) * powers, high - (high - low) * powers])
    if low > 0.0:
        points = torch.cat([points, torch.logspace(math.log10(low), math.log10(high), _POINTS, dtype=torch.float64)])
    if function.domain == "nonzero":
        # no eigenvalue is nearer to zero than the nearest Ritz value by more than its residual, if that is small
        gap = float(theta[near].abs() - residuals[near]) if known else 0.0
        points = torch.cat([points[points.abs() >= gap], torch.tensor([-gap, gap], dtype=torch.float64)])
    return points


def _largest(function: Function, grid: Tensor, theta: Tensor, values: Tensor, weights: Tensor) -> float:
    """The largest |g| on the grid, leaving out points that a Ritz value is too near to: g is smooth."""
    gaps = grid[:, None] - theta
    near = gaps.abs() <= _NEAR * torch.maximum(grid.abs()[:, None], theta.abs())
    there = function.fn(grid)
    usable = ~near.any(dim=1) & ~torch.isnan(there)
    if not bool(usable.any()):
        return 0.0
    differences = (there[usable, None] - values) / gaps[usable]
    return float((differences @ weights).abs().max().nan_to_num(nan=math.inf, posinf=math.inf))


def _variation(function: Function, theta: Tensor, values: Tensor, noise: float, eps: float) -> float:
    """How much f changes where its argument is uncertain by `noise`, and its own rounding."""
    moved = torch.cat([theta - noise, theta + noise])
    if function.domain == "nonnegative":
        moved = moved.clamp_min(0.0)
    change = (function.fn(moved) - values.repeat(2)).abs().nan_to_num(nan=math.inf, posinf=math.inf)
    return float(change.max()) + _OWN * eps * float(values.abs().max())
