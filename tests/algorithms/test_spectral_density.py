"""Lanczos quadrature: mass, moments, the dense density, the band."""

from __future__ import annotations

import math

import pytest
import torch
from cases import F64, symmetric_matrix
from torch import Tensor

from curvkit_core import LambdaOperator, spectral_density
from curvkit_core.algorithms.spectral_density import density_from_quadrature

SPECTRUM = torch.cat([torch.linspace(0, 1, 97, dtype=F64) ** 2, torch.tensor([3.0, 4.0, 5.0], dtype=F64)])


def operator(A: Tensor) -> LambdaOperator:
    return LambdaOperator(lambda v: A @ v, len(A), dtype=A.dtype)


def smooth(spectrum: Tensor, grid: Tensor, sigma: float) -> Tensor:
    """The density that is estimated: Gaussians on the eigenvalues."""
    bumps = torch.exp(-0.5 * ((grid - spectrum[:, None]) / sigma) ** 2)
    return bumps.mean(0) / (sigma * math.sqrt(2 * math.pi))


def test_mass_is_one_and_moments_are_the_traces() -> None:
    """Sum of weights 1; the first three moments are z^T A^j z / z^T z to rounding, so their means are tr A^j / n."""
    A = symmetric_matrix(SPECTRUM)
    d = spectral_density(operator(A), num_probes=20, steps=30, seed=0)
    assert torch.allclose(d.weights.sum(1), torch.ones(20, dtype=F64), rtol=0, atol=1e-13)
    assert float(torch.trapezoid(d.density, d.grid)) == pytest.approx(1.0, abs=1e-6)
    for power in (1, 2, 3):
        moments = (d.weights * d.nodes**power).sum(1)
        truth = float((SPECTRUM**power).mean())
        stderr = float(moments.std()) / 20**0.5
        assert abs(float(moments.mean()) - truth) <= 4.5 * stderr
        assert stderr < 0.3 * truth


def test_exact_where_lanczos_runs_to_the_end() -> None:
    """With steps = n each probe's rule is its whole measure; over many probes the density is the dense one's."""
    A = symmetric_matrix(SPECTRUM[::5])
    d = spectral_density(operator(A), num_probes=400, steps=20, sigma=0.1, seed=0)
    truth = smooth(SPECTRUM[::5], d.grid, 0.1)
    assert ((d.density - truth).abs() <= 4.5 * d.stderr + 1e-9).double().mean() > 0.98
    assert float(d.stderr.max()) < 0.1 * float(truth.max())
    assert float((d.density - truth).abs().max()) < 0.1 * float(truth.max())
    assert d.nodes.min() >= -1e-12
    assert d.nodes.max() <= 5 + 1e-12


def test_bands_are_honest() -> None:
    """100 groups of 16 probes: bars of 2.13 stderr (95 % of Student's t) cover the dense density 85 % at least.

    Not 95 %: where few eigenvalues are near, a probe's weight is a skew chi-square. Half the bar covers less.
    """
    A = symmetric_matrix(SPECTRUM)
    run = spectral_density(operator(A), num_probes=1600, steps=15, sigma=0.3, seed=0)
    whole = halved = torch.zeros(4, dtype=F64)
    for nodes, weights in zip(run.nodes.split(16), run.weights.split(16), strict=True):
        grid, density, stderr, _ = density_from_quadrature(nodes, weights, sigma=0.3, grid_size=200)
        near = (grid[:, None] - torch.tensor([0.1, 0.5, 1.0, 4.0], dtype=F64)).abs().argmin(0)
        off = (density[near] - smooth(SPECTRUM, grid[near], 0.3)).abs()
        whole = whole + (off <= 2.13 * stderr[near]).double() / 100
        halved = halved + (off <= 0.5 * 2.13 * stderr[near]).double() / 100
    assert (whole >= 0.85).all(), whole
    assert (halved <= 0.85).all(), halved


def test_replotting_costs_no_product() -> None:
    d = spectral_density(operator(symmetric_matrix(SPECTRUM)), seed=0)
    grid, density, stderr, sigma = density_from_quadrature(d.nodes, d.weights, sigma=d.sigma)
    assert torch.equal(grid, d.grid)
    assert torch.equal(density, d.density)
    assert torch.equal(stderr, d.stderr)
    wider = density_from_quadrature(d.nodes, d.weights, sigma=10 * sigma)[1]
    assert float(wider.max()) < float(density.max())


@pytest.mark.parametrize("factor", [0.0, 3.0, 1e-20])
def test_a_multiple_of_the_identity_is_one_peak(factor: float) -> None:
    """Breakdown at the first step: one node of weight 1, one product a probe."""
    d = spectral_density(LambdaOperator(lambda v: factor * v, 50, dtype=F64), num_probes=3, seed=0)
    assert d.num_matvecs == 3
    assert torch.allclose(d.nodes[:, 0], torch.full((3,), factor, dtype=F64), rtol=1e-12)
    assert d.weights[:, 0].tolist() == pytest.approx([1.0] * 3, abs=1e-12)
    assert float(torch.trapezoid(d.density, d.grid)) == pytest.approx(1.0, abs=1e-6)


def test_one_probe_has_no_band_and_a_cut_run_is_right_so_far() -> None:
    from curvkit_core.algorithms import SpectralDensity, run

    op = operator(symmetric_matrix(SPECTRUM))
    assert spectral_density(op, num_probes=1, seed=0).stderr.isnan().all()
    cut = run(SpectralDensity(num_probes=4, steps=10, seed=0), op, max_matvecs=25)
    whole = spectral_density(op, num_probes=2, steps=10, seed=0)
    assert cut.info.interrupted == "matvecs"
    assert torch.equal(cut.nodes, whole.nodes)
    empty = run(SpectralDensity(num_probes=4, steps=10, seed=0), op, max_matvecs=5)
    assert len(empty.nodes) == len(empty.grid) == 0
