"""Spectral densities with their bands."""

from __future__ import annotations

import math

import attrs
import torch
from attrs import Factory, field, frozen, validators
from torch import Tensor

from curvkit_core.results.density_drawing import SCALES, Curve, draw_jackson, draw_linear, draw_log, gaussian_bias_bound
from curvkit_core.results.info import ResultInfo
from curvkit_core.results.notebook import ShowsItself

__all__ = ["DensityResult"]


def _none() -> Tensor:
    return torch.empty(0, dtype=torch.float64)


@frozen(kw_only=True, eq=False)
class DensityResult(ShowsItself):
    r"""A spectral density :math:`\phi(t) = \frac1n\sum_i g_\sigma(t-\lambda_i)`, of mass 1, with a band.

    Parameters
    ----------
    grid : Tensor, shape (g,), float64
        Points t, ascending. On the log scale they are even in log10 |t|; a negative half, if there is one, comes first.
    density : Tensor, shape (g,), float64
        The estimate at each point, per unit of eigenvalue; per decade on the log scale.
    stderr : Tensor, shape (g,), float64
        One standard error over the probes; NaN for one probe.
    nodes, weights : Tensor, shape (p, m), float64
        Each probe's quadrature rule, of the bulk where there are outliers: enough to draw the density anew, see
        :meth:`redraw`. Unused places carry weight 0.
    sigma : float
        Width of the Gaussian, in decades on the log scale; with ``moments`` that of Jackson's kernel in the middle.
    num_matvecs : int
        Products used.
    seed : int
        Of the probes.
    method : str
        The estimator that ran.
    scale : {"linear", "log"}
        What `grid` and `density` are drawn over.
    bias_bound : float or None
        Bound at every t on what the finite number of Lanczos steps changes, in the unit of `density`; at worst the
        Gaussian's peak, which says that `sigma` is finer than the steps resolve. None where no bound is known.
    spreads : Tensor, shape (p, m), float64
        How far from a node the mass it stands for may lie: its Ritz residual, at most the distance to its neighbours;
        with ``moments`` the kernel's width. Empty where it is not known.
    degrees : Tensor, shape (p,), float64
        Up to this degree a probe's rule integrates polynomials exactly; inf where it is the whole measure. Empty for
        rules of another kind.
    outliers, outlier_residuals : Tensor, shape (k,), float64
        Eigenvalues known by themselves, and their residual norms. They enter the density as 1/n each.
    bulk_share : float
        Share of the rest, (n - k)/n.
    moments : Tensor, shape (p, num_moments), float64, or None
        Chebyshev moments of each probe on `interval`, undamped.
    interval : (float, float) or None
        What the moments refer to; encloses the spectrum.
    resolution : float
        Magnitudes below this cannot be told from zero: for rounding, or because the nodes next to zero stand for mass
        on either side of it.
    error_covers : str
        In words, what ``stderr`` covers.
    info : ResultInfo or None
        Filled in by the driver.
    """

    grid: Tensor = Factory(_none)
    density: Tensor = Factory(_none)
    stderr: Tensor = Factory(_none)
    nodes: Tensor
    weights: Tensor
    sigma: float = math.nan
    num_matvecs: int
    seed: int
    method: str = "slq"
    scale: str = field(default="linear", validator=validators.in_(SCALES))
    bias_bound: float | None = None
    spreads: Tensor = Factory(_none)
    degrees: Tensor = Factory(_none)
    outliers: Tensor = Factory(_none)
    outlier_residuals: Tensor = Factory(_none)
    bulk_share: float = 1.0
    moments: Tensor | None = None
    interval: tuple[float, float] | None = None
    resolution: float = 0.0
    error_covers: str = "the random probes; the width sigma and the finite number of Lanczos steps are not included"
    info: ResultInfo | None = None

    @property
    def mass(self) -> float:
        """The integral of the density over its axis, by the trapezoid rule: 1 to the grid's accuracy."""
        if self.scale == "linear":
            return float(torch.trapezoid(self.density, self.grid))
        halves = (self.grid < 0, self.grid > 0)
        return sum(float(torch.trapezoid(self.density[h], self.grid[h].abs().log10()).abs()) for h in halves)

    def redraw(self, *, sigma: float | None = None, grid_size: int = 1024, scale: str = "linear") -> DensityResult:
        """Draw the density anew; costs no product.

        Parameters
        ----------
        sigma : float or None
            Width of the Gaussians: in the operator's unit, on the log scale in decades. None: 1/200 of the bulk's
            range, or the nodes' median spread where that is more; on the log scale 0.05; with moments on the linear
            scale Jackson's kernel instead.
        grid_size : int, at least 2
            Points; those on the log scale are for each sign. Outliers far outside the bulk get 49 each of their own.
            A grid coarser than sigma misses mass.
        scale : {"linear", "log"}
            ``"log"`` is over log10 |t|, either sign for itself, nodes as wide as their spread. Quadrature resolves the
            ends of a spectrum best and knows of the decades next to zero only how much lies there: what cannot be told
            from zero is drawn at `resolution`, as positive.

        Returns
        -------
        DensityResult
            This one with another curve, whose mass is 1 on either scale.

        Raises
        ------
        ValueError
            If an option is out of range.
        """
        if scale not in SCALES:
            msg = f"scale={scale!r} is unknown: expected one of {', '.join(SCALES)}."
            raise ValueError(msg)
        if grid_size < 2 or not (sigma is None or 0.0 < sigma < math.inf):
            msg = f"sigma={sigma!r}, grid_size={grid_size!r}: expected sigma > 0 or None, and at least 2 points."
            raise ValueError(msg)
        if not (self.nodes.numel() or (len(self.outliers) and self.bulk_share == 0.0)):  # no probe yet
            empty = Curve(grid=_none(), density=_none(), stderr=_none(), sigma=math.nan)
            return self._with(empty, scale, None)
        if scale == "log":
            curve = draw_log(
                self.nodes,
                self.weights,
                spreads=self.spreads,
                outliers=self.outliers,
                share=self.bulk_share,
                sigma=sigma,
                grid_size=grid_size,
                resolution=self.resolution,
            )
            return self._with(curve, scale, None)
        if self.moments is not None and self.interval is not None and sigma is None:
            return self._with(draw_jackson(self.moments, interval=self.interval, grid_size=grid_size), scale, None)
        curve = draw_linear(
            self.nodes,
            self.weights,
            spreads=self.spreads,
            outliers=self.outliers,
            share=self.bulk_share,
            sigma=sigma,
            grid_size=grid_size,
        )
        bias = None
        if len(self.degrees):
            bias = gaussian_bias_bound(self.degrees, self.nodes, sigma=curve.sigma, share=self.bulk_share)
        return self._with(curve, scale, bias)

    def _with(self, curve: Curve, scale: str, bias: float | None) -> DensityResult:
        return attrs.evolve(
            self,
            grid=curve.grid,
            density=curve.density,
            stderr=curve.stderr,
            sigma=curve.sigma,
            scale=scale,
            bias_bound=bias,
        )
