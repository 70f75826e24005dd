"""Spectral densities with their bands."""

from __future__ import annotations

from attrs import frozen
from torch import Tensor

from curvkit_core.results.info import ResultInfo

__all__ = ["DensityResult"]


@frozen(kw_only=True, eq=False)
class DensityResult:
    r"""A spectral density :math:`\phi(t) = \frac1n\sum_i g_\sigma(t-\lambda_i)`, of mass 1, with a band.

    Parameters
    ----------
    grid : Tensor, shape (g,), float64
        Points t.
    density : Tensor, shape (g,), float64
        The estimate at each point, per unit of eigenvalue.
    stderr : Tensor, shape (g,), float64
        One standard error over the probes.
    nodes, weights : Tensor, shape (num_probes, steps), float64
        Each probe's quadrature rule (Ritz values and squared first components): enough to draw the density anew with
        another width, with no further product. Unused places carry weight 0.
    sigma : float
        Width of the Gaussian.
    num_matvecs : int
        Products used.
    seed : int
        Of the probes.
    error_covers : str
        In words, what ``stderr`` covers.
    info : ResultInfo or None
        Filled in by the driver.
    """

    grid: Tensor
    density: Tensor
    stderr: Tensor
    nodes: Tensor
    weights: Tensor
    sigma: float
    num_matvecs: int
    seed: int
    error_covers: str = "the random probes; the width sigma and the finite number of Lanczos steps are not included"
    info: ResultInfo | None = None
