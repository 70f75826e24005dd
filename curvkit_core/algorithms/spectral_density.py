r"""The smoothed spectral density :math:`\frac1n\sum_i g_\sigma(t-\lambda_i)` by stochastic Lanczos quadrature [1]_.

For a random unit probe, Lanczos gives Ritz values and squared first components: a Gauss quadrature rule of the probe's
spectral measure. Probes are independent, which gives the band. The basis is fully reorthogonalised: no ghosts.

References
----------
.. [1] Ubaru, Chen, Saad, SIAM J. Matrix Anal. Appl. 38(4), 2017, 1075-1099; Lin, Saad, Yang, SIAM Review 58(1), 2016.
"""

from __future__ import annotations

import math
from typing import Unpack

import torch
from attrs import define, field, frozen, validators
from torch import Tensor

from curvkit_core.algorithms.driver import DriverOptions, run
from curvkit_core.algorithms.krylov import orthogonalize
from curvkit_core.algorithms.protocol import Progress
from curvkit_core.algorithms.samples import PROBE_KINDS
from curvkit_core.algorithms.seeds import fresh_seed, is_seed
from curvkit_core.backends import VectorSpace
from curvkit_core.operators import CurvatureOperator
from curvkit_core.results.types import DensityResult

__all__ = ["SpectralDensity", "density_from_quadrature", "spectral_density"]

_BREAKDOWN = 10.0  # a remainder below this times eps |A| is rounding: the Krylov space is exhausted
_MARGIN = 6.0  # the grid ends so many widths outside the spectrum: 1e-9 of the mass is beyond


@define(kw_only=True)
class SpectralDensityState:
    """The Lanczos run of probe number `probe`: basis rows, `size` of them multiplied; quadratures of those finished."""

    seed: int
    probe: int
    basis: Tensor
    size: int
    alpha: Tensor
    beta: Tensor
    scale: float
    nodes: Tensor
    weights: Tensor
    num_matvecs: int


@frozen(kw_only=True)
class SpectralDensity:
    """The spectral density of a symmetric operator. Holds `steps` vectors.

    Parameters
    ----------
    method : {"slq"}
        Stochastic Lanczos quadrature.
    num_probes : int, at least 1
        Independent probes; two at least for a band.
    steps : int, at least 1
        Lanczos steps a probe, at most n are made.
    sigma : float or None
        Width of the Gaussians; None: 1/200 of the Ritz values' range.
    grid_size : int, at least 2
        Points of the grid.
    probes : {"rademacher", "gaussian", "sphere"}
        Distribution of the probes.
    seed : int or None
        None draws one and records it.
    """

    needs_symmetric = True

    method: str = field(default="slq", validator=validators.in_(("slq",)))
    num_probes: int = field(default=8, validator=validators.ge(1))
    steps: int = field(default=40, validator=validators.ge(1))
    sigma: float | None = field(default=None, validator=validators.optional(validators.gt(0.0)))
    grid_size: int = field(default=1024, validator=validators.ge(2))
    probes: str = field(default="rademacher", validator=validators.in_(PROBE_KINDS))
    seed: int | None = field(default=None, validator=is_seed)

    def init(self, space: VectorSpace) -> SpectralDensityState:
        """Draw the first probe."""
        steps = min(self.steps, space.n)
        state = SpectralDensityState(
            seed=fresh_seed(self.seed),
            probe=0,
            basis=space.zeros(steps),
            size=0,
            alpha=torch.zeros(steps, dtype=torch.float64),
            beta=torch.zeros(steps, dtype=torch.float64),
            scale=0.0,
            nodes=torch.zeros((self.num_probes, steps), dtype=torch.float64),
            weights=torch.zeros((self.num_probes, steps), dtype=torch.float64),
            num_matvecs=0,
        )
        self._start_probe(space, state)
        return state

    def ask(self, state: SpectralDensityState, max_rows: int) -> Tensor | None:
        """The newest basis vector of the current probe."""
        return None if state.probe == self.num_probes else state.basis[state.size : state.size + 1]

    def tell(self, space: VectorSpace, state: SpectralDensityState, V: Tensor, AV: Tensor) -> SpectralDensityState:
        """One Lanczos step; at the end of a probe its quadrature rule, and the next probe."""
        j = state.size
        w = AV.clone()
        h, norm, after = orthogonalize(space, w, state.basis[: j + 1])
        state.alpha[j], state.beta[j] = h[j], after
        state.scale = max(state.scale, norm)
        state.num_matvecs += 1
        state.size = j + 1
        if state.size == len(state.basis) or after <= _BREAKDOWN * space.eps * state.scale:
            self._finish_probe(state)
            state.probe += 1
            if state.probe < self.num_probes:
                self._start_probe(space, state)
        else:
            state.basis[j + 1] = w[0] / after
        return state

    def result(self, space: VectorSpace, state: SpectralDensityState) -> DensityResult:
        """The density of the probes finished so far; empty before the first."""
        nodes, weights = state.nodes[: state.probe], state.weights[: state.probe]
        grid, density, stderr, sigma = density_from_quadrature(
            nodes, weights, sigma=self.sigma, grid_size=self.grid_size
        )
        return DensityResult(
            grid=grid,
            density=density,
            stderr=stderr,
            nodes=nodes,
            weights=weights,
            sigma=sigma,
            num_matvecs=state.num_matvecs,
            seed=state.seed,
        )

    def progress(self, state: SpectralDensityState) -> Progress:
        """Products done of num_probes times steps."""
        return Progress(
            done=state.probe * len(state.basis) + state.size % len(state.basis),
            total=self.num_probes * len(state.basis),
            note=f"probe {min(state.probe + 1, self.num_probes)} of {self.num_probes}",
        )

    def _start_probe(self, space: VectorSpace, state: SpectralDensityState) -> None:
        row = space.random(self.probes, state.seed, state.probe, 1)
        state.basis[:1] = row / float(space.norms(row)[0])
        state.size, state.scale = 0, 0.0

    def _finish_probe(self, state: SpectralDensityState) -> None:
        m = state.size
        off = state.beta[: m - 1]
        T = state.alpha[:m].diag() + off.diag(1) + off.diag(-1)
        theta, S = torch.linalg.eigh(T)
        state.nodes[state.probe, :m] = theta
        state.nodes[state.probe, m:] = theta[-1]
        state.weights[state.probe, :m] = S[0].square()
        state.weights[state.probe, m:] = 0.0


def density_from_quadrature(
    nodes: Tensor, weights: Tensor, *, sigma: float | None = None, grid_size: int = 1024
) -> tuple[Tensor, Tensor, Tensor, float]:
    r"""Smooth quadrature rules by Gaussians: :math:`\phi(t) = \frac1p\sum_{jk} w_{jk}\,g_\sigma(t - \theta_{jk})`.

    Parameters
    ----------
    nodes, weights : Tensor, shape (p, m)
        One rule a probe, weights summing to 1.
    sigma : float or None
        Width; None: 1/200 of the nodes' range, or 1/200 of their magnitude where the range is 0.
    grid_size : int
        Points.

    Returns
    -------
    (Tensor, Tensor, Tensor, float)
        Grid, density, standard error over the probes (NaN for one probe), the width used. Costs no product.
    """
    if not nodes.numel():
        empty = torch.empty(0, dtype=torch.float64)
        return empty, empty, empty, float("nan")
    low, high = float(nodes.min()), float(nodes.max())
    if sigma is None:
        extent = max(high - low, torch.finfo(torch.float64).eps ** 0.5 * max(abs(low), abs(high)))
        sigma = (extent or 1.0) / 200.0
    grid = torch.linspace(low - _MARGIN * sigma, high + _MARGIN * sigma, grid_size, dtype=torch.float64)
    per_probe = torch.stack(
        [
            (w[:, None] * torch.exp(-0.5 * ((grid - t[:, None]) / sigma) ** 2)).sum(0)
            for t, w in zip(nodes, weights, strict=True)
        ]
    ) / (sigma * math.sqrt(2.0 * math.pi))
    density = per_probe.mean(0)
    if len(nodes) == 1:
        return grid, density, torch.full_like(density, float("nan")), sigma
    return grid, density, per_probe.std(0, unbiased=True) / len(nodes) ** 0.5, sigma


def spectral_density(
    op: CurvatureOperator,
    *,
    method: str = "slq",
    num_probes: int = 8,
    steps: int = 40,
    sigma: float | None = None,
    grid_size: int = 1024,
    probes: str = "rademacher",
    seed: int | None = None,
    **driver: Unpack[DriverOptions],
) -> DensityResult:
    r"""Estimate the spectral density :math:`\phi(t) = \frac1n\sum_i g_\sigma(t - \lambda_i)`, with a band over probes.

    Parameters
    ----------
    op : CurvatureOperator, shape (n, n)
        Symmetric.
    method : {"slq"}
        Stochastic Lanczos quadrature [1]_.
    num_probes : int, at least 1
        Independent probes; two at least for a band.
    steps : int, at least 1
        Lanczos steps a probe; num_probes times steps products, `steps` vectors of memory.
    sigma : float or None
        Width of the Gaussians; None: 1/200 of the range found.
    grid_size : int, at least 2
        Points of the grid.
    probes : {"rademacher", "gaussian", "sphere"}
        Distribution of the probes.
    seed : int or None
        None draws one and records it.
    **driver
        Budgets, progress and checkpoints: the options of :func:`curvkit_core.algorithms.run`.

    Returns
    -------
    DensityResult
        Mass 1. ``nodes`` and ``weights`` draw it anew with another width, see :func:`density_from_quadrature`.

    Raises
    ------
    ValueError
        If the operator is not symmetric or an option is out of range.

    References
    ----------
    .. [1] Lin, Saad, Yang, SIAM Review 58(1), 2016, 34-65.
    """
    algorithm = SpectralDensity(
        method=method,
        num_probes=num_probes,
        steps=steps,
        sigma=sigma,
        grid_size=grid_size,
        probes=probes,
        seed=seed,
    )
    result: DensityResult = run(algorithm, op, **driver)
    return result
