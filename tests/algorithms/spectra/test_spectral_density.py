"""Densities by Lanczos quadrature: mass, moments, the dense density, the band, the bias, both scales."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest
import torch
from cases import F64, symmetric_matrix
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from curvkit_core import LambdaOperator, load_result, save_result, spectral_density
from curvkit_core.algorithms import SpectralDensity, run
from curvkit_core.results.types import DensityResult

SPECTRUM = torch.cat([torch.linspace(0, 1, 97, dtype=F64) ** 2, torch.tensor([3.0, 4.0, 5.0], dtype=F64)])


def operator(A: Tensor) -> LambdaOperator:
    return LambdaOperator(lambda v: A @ v, len(A), dtype=A.dtype)


def smooth(spectrum: Tensor, grid: Tensor, sigma: float, mass: Tensor | None = None) -> Tensor:
    """Gaussians on the eigenvalues, of mass 1/n each or of the masses given."""
    mass = torch.full_like(spectrum, 1 / len(spectrum)) if mass is None else mass
    return mass @ torch.exp(-0.5 * ((grid - spectrum[:, None]) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))


def test_mass_is_one_and_moments_are_the_traces() -> None:
    """Sum of weights 1; the first three moments are z^T A^j z / z^T z to rounding, so their means are tr A^j / n."""
    A = symmetric_matrix(SPECTRUM)
    d = spectral_density(operator(A), num_probes=20, steps=30, seed=0)
    assert torch.allclose(d.weights.sum(1), torch.ones(20, dtype=F64), rtol=0, atol=1e-13)
    assert d.mass == pytest.approx(1.0, abs=1e-6)
    assert d.mass == pytest.approx(float(torch.trapezoid(d.density, d.grid)), rel=1e-14)
    for power in (1, 2, 3):
        moments = (d.weights * d.nodes**power).sum(1)
        truth = float((SPECTRUM**power).mean())
        stderr = float(moments.std()) / 20**0.5
        assert abs(float(moments.mean()) - truth) <= 4.5 * stderr
        assert stderr < 0.3 * truth


def test_exact_where_lanczos_runs_to_the_end() -> None:
    """With steps = n each probe's rule is its whole measure: no bias, and the mean is the dense density's."""
    A = symmetric_matrix(SPECTRUM[::5])
    d = spectral_density(operator(A), num_probes=100, steps=20, sigma=0.1, seed=0)
    assert d.bias_bound == 0.0
    truth = smooth(SPECTRUM[::5], d.grid, 0.1)
    assert ((d.density - truth).abs() <= 4.5 * d.stderr + 1e-9).double().mean() > 0.98
    assert float(d.stderr.max()) < 0.15 * float(truth.max())
    assert d.nodes.min() >= -1e-12
    assert d.nodes.max() <= 5 + 1e-12


def test_bands_are_honest() -> None:
    """200 groups of 4 probes: 95 % bars (3.18 stderr, Student's t) cover 88 to 99.5 %, halved ones less; no bias.

    The truth is smoothed alike. The points have twenty eigenvalues within sigma: where there are few, a probe's weight
    is a skew chi-square and no symmetric bar is right.
    """
    A = symmetric_matrix(SPECTRUM)
    made = spectral_density(operator(A), num_probes=800, steps=9, sigma=0.3, seed=0)
    points = torch.tensor([0.0, 0.3, 0.6, 1.0], dtype=F64)
    truth = smooth(SPECTRUM, points, 0.3)
    found, errors = [], []
    for j in range(0, 800, 4):
        part = slice(j, j + 4)
        few = attrs.evolve(made, nodes=made.nodes[part], weights=made.weights[part], degrees=made.degrees[part])
        drawn = few.redraw(sigma=0.3, grid_size=200)
        near = (drawn.grid[:, None] - points).abs().argmin(0)
        shift = smooth(SPECTRUM, drawn.grid[near], 0.3) - truth  # the grid's points are not quite those
        found.append(drawn.density[near] - shift)
        errors.append(drawn.stderr[near])
    estimates, bars = torch.stack(found), torch.stack(errors)
    spread = estimates.std(0)
    assert ((estimates.mean(0) - truth).abs() <= 4.5 * spread / 200**0.5).all()
    assert (spread < 0.2 * truth).all()
    off = (estimates - truth).abs()
    covered = (off <= 3.18 * bars).double().mean(0)
    assert ((covered >= 0.88) & (covered <= 0.995)).all(), covered
    assert ((off <= 0.5 * 3.18 * bars).double().mean(0) < 0.88).all()


@pytest.mark.parametrize("steps", [4, 8, 16, 32])
@pytest.mark.parametrize("sigma", [0.05, 0.2, 0.8])
def test_bias_bound_holds(steps: int, sigma: float) -> None:
    """Against each probe's own measure, smoothed, from the dense decomposition: deterministic, at every point.

    And it is no more than the theorem gives at one radius, taken by hand, of an ellipse about the spectrum, 0 to 5.
    """
    A = symmetric_matrix(SPECTRUM)
    op = operator(A)
    d = spectral_density(op, num_probes=4, steps=steps, sigma=sigma, seed=0)
    theta, U = torch.linalg.eigh(A)
    z = op.space.random("rademacher", 0, 0, 4)
    mass = ((z @ U).square() / z.square().sum(1, keepdim=True)).mean(0)
    gap = float((d.density - smooth(theta, d.grid, sigma, mass)).abs().max())
    assert d.bias_bound is not None
    assert gap <= d.bias_bound + 1e-10
    peak = 1 / (sigma * math.sqrt(2 * math.pi))
    rho, half, degree = {0.05: 1.1, 0.2: 1.4, 0.8: 3.0}[sigma], 1.05 * 2.5, 2 * steps - 1
    growth = (half / sigma * (rho - 1 / rho)) ** 2 / 8
    by_hand = min(1.0, 4 / (rho - 1) * math.exp(growth) * rho**-degree)
    assert d.bias_bound <= by_hand * peak * (1 + 1e-12)
    if steps * sigma >= 6:
        assert d.bias_bound <= 0.01 * float(d.density.max())  # nothing that a figure would show
    if steps * sigma <= 0.4:
        assert gap > 1e-2  # and there is something to bound


def test_lockstep_and_rows_leave_the_density_alone() -> None:
    op = operator(symmetric_matrix(SPECTRUM))
    alone = run(SpectralDensity(num_probes=5, steps=9, lockstep=1, seed=0), op, max_rows=1)
    for options, rows in (({}, 16), ({"lockstep": 3}, 2), ({"basis_storage": "host"}, 5)):
        other = run(SpectralDensity(num_probes=5, steps=9, seed=0, **options), op, max_rows=rows)
        assert torch.allclose(other.density, alone.density, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_redrawing_costs_no_product(scale: str) -> None:
    d = spectral_density(operator(symmetric_matrix(SPECTRUM)), scale=scale, seed=0)
    again = d.redraw(sigma=d.sigma, scale=scale)
    assert torch.equal(again.grid, d.grid)
    assert torch.equal(again.density, d.density)
    assert torch.equal(again.stderr, d.stderr)
    wider = d.redraw(sigma=10 * d.sigma, scale=scale, grid_size=300)
    assert float(wider.density.max()) < float(d.density.max())
    assert wider.mass == pytest.approx(1.0, abs=1e-6)
    assert (wider.num_matvecs, wider.seed) == (d.num_matvecs, d.seed)
    there = d.redraw(scale="log").redraw()
    assert torch.equal(there.density, d.redraw().density)


numbers = st.sampled_from([0.0, 1.0, -1.0, 1e-9, -1e-9, 1e-3, 3.0, -40.0, 1e-16]) | st.floats(-10, 10)


@settings(max_examples=40, deadline=None)
@example([0.0] * 9 + [1e-9, 3.0], 1, 1e-20, "deflated", "linear")  # an outlier five widths beside the bulk
@given(
    spectrum=st.lists(numbers, min_size=1, max_size=12),
    steps=st.integers(1, 14),
    factor=st.sampled_from([1e-20, 1.0, 1e20]),
    method=st.sampled_from(["slq", "kpm", "deflated"]),
    scale=st.sampled_from(["linear", "log"]),
)
def test_mass_is_one_whatever_the_spectrum(
    spectrum: list[float], steps: int, factor: float, method: str, scale: str
) -> None:
    """Every method, either scale: on its own grid the density is finite, never negative, and of mass 1."""
    A = symmetric_matrix(torch.tensor(spectrum, dtype=F64)) * factor
    d = spectral_density(operator(A), method=method, scale=scale, num_probes=2, steps=steps, seed=0, grid_size=3000)
    assert d.density.isfinite().all()
    assert float(d.density.min()) >= -1e-9 * float(d.density.max())
    # trapezoid: the pieces of outliers meet the bulk's grid at a quarter of a width, Chebyshev points miss the ends
    assert d.mass == pytest.approx(1.0, abs=2e-3)
    assert attrs.evolve(d, density=d.density * 1.01).mass != pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("method", ["slq", "kpm", "deflated"])
@pytest.mark.parametrize("factor", [1e-20, 1e20])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_densities_scale_with_the_operator(factor: float, method: str, dtype: torch.dtype) -> None:
    """A2: c A has the density of A over c t, c times lower; per decade the same, shifted."""
    A = symmetric_matrix(SPECTRUM).to(dtype)
    op, scaled = (LambdaOperator(lambda v, c=c: (A @ v) * c, 100, dtype=dtype) for c in (1.0, factor))
    one, other = (spectral_density(o, method=method, num_probes=3, steps=12, seed=0) for o in (op, scaled))
    tol = 1e-9 if dtype == F64 else 2e-3
    assert torch.allclose(other.nodes / factor, one.nodes, rtol=0, atol=5 * tol)
    wide, narrow = (d.redraw(sigma=0.1 * c) for d, c in ((other, factor), (one, 1.0)))
    assert torch.allclose(wide.density * factor, narrow.density, rtol=0, atol=20 * tol)
    logs = [d.redraw(scale="log", sigma=0.3) for d in (other, one)]
    assert torch.allclose(logs[0].density, logs[1].density, rtol=0, atol=20 * tol)


def test_log_scale_keeps_the_signs_apart() -> None:
    """Mass on either side is the share of eigenvalues there; per decade, of points that are even in log10 |t|."""
    spectrum = torch.cat(
        [10.0 ** torch.linspace(-3, 2, 30, dtype=F64), -(10.0 ** torch.linspace(-2, 0, 10, dtype=F64))]
    )
    d = spectral_density(operator(symmetric_matrix(spectrum)), scale="log", num_probes=60, steps=40, sigma=0.3, seed=0)
    assert (d.scale, d.bias_bound) == ("log", None)
    assert (d.grid.diff() > 0).all()
    negative = d.grid < 0
    assert torch.allclose(-d.grid[negative].flip(0), d.grid[~negative])
    steps = d.grid[~negative].log10().diff()
    assert torch.allclose(steps, steps[:1].expand_as(steps), rtol=1e-6)
    below = -float(torch.trapezoid(d.density[negative], d.grid[negative].abs().log10()))
    assert below == pytest.approx(0.25, abs=0.04)  # shares of 60 probes: 0.8 % of spread
    x = d.grid[~negative].log10()
    truth = 0.75 * smooth(spectrum[:30].log10(), x, 0.3)
    assert ((d.density[~negative] - truth).abs() <= 4.5 * d.stderr[~negative] + 1e-6).double().mean() > 0.98
    assert float(d.stderr.max()) < 0.2 * float(truth.max())


def test_log_scale_says_what_cannot_be_told_from_zero() -> None:
    """A third of zeros: exact rules draw them at rounding; few steps at what the nodes next to zero leave open.

    A sign probe's mass in a subspace with projector P has the variance 2 (|P|_F^2 - sum_i P_ii^2) / n^2.
    """
    spectrum = torch.cat([torch.zeros(30, dtype=F64), 10.0 ** torch.linspace(-4, 0, 60, dtype=F64)])
    A = symmetric_matrix(spectrum)
    theta, U = torch.linalg.eigh(A)
    whole = spectral_density(operator(A), scale="log", steps=90, num_probes=10, seed=0)
    assert whole.resolution <= 1e-13
    few = spectral_density(operator(A), scale="log", steps=12, num_probes=30, seed=0)
    assert 1e-4 < few.resolution < 0.1

    def share(bound: float, probes: int) -> tuple[float, float]:
        """Of eigenvalues up to the bound, and 4.5 standard errors of it."""
        near = U[:, theta <= bound + 1e-14]
        P = near @ near.mT
        variance = 2 * float(P.square().sum() - P.diag().square().sum()) / len(A) ** 2
        return near.shape[1] / len(A), 4.5 * (variance / probes) ** 0.5

    for d, probes in ((whole, 10), (few, 30)):
        here = d.grid <= d.resolution * 10 ** (6 * d.sigma)
        mass = float(torch.trapezoid(d.density[here], d.grid[here].log10()))
        # the grid's share up to 6 sigma (a factor 2) above, and what nodes next to it stand for: a factor 4 either way
        (least, below), (most, above) = share(0.25 * d.resolution, probes), share(4.0 * d.resolution, probes)
        assert least - below <= mass <= most + above
        assert least > 3 * below  # so that a density without its zeros would be seen


@pytest.mark.parametrize("method", ["slq", "kpm", "deflated"])
@pytest.mark.parametrize("factor", [0.0, 3.0, 1e-20, -2.0])
@pytest.mark.parametrize("n", [1, 50])
def test_a_multiple_of_the_identity_is_one_peak(factor: float, n: int, method: str) -> None:
    """Breakdown at the first step: all mass within the width used of one place."""
    d = spectral_density(LambdaOperator(lambda v: factor * v, n, dtype=F64), method=method, num_probes=3, seed=0)
    assert d.mass == pytest.approx(1.0, abs=1e-4)
    if len(d.nodes):
        mean, spread = (d.weights * d.nodes).sum(1), (d.weights * (d.nodes - factor).square()).sum(1).sqrt()
        assert (mean - factor).abs().max() <= max(2 * d.sigma, 1e-12 * abs(factor))
        assert spread.max() <= 2 * d.sigma
    if method == "slq":
        assert d.num_matvecs == 3
        assert torch.allclose(d.nodes[:, 0], torch.full((3,), factor, dtype=F64), rtol=1e-12)
        assert d.weights[:, 0].tolist() == pytest.approx([1.0] * 3, abs=1e-12)
        assert d.bias_bound == 0.0


def test_one_probe_has_no_band_and_a_cut_run_is_right_so_far() -> None:
    """Probes that are through count alone; before that all, at the steps they have made; before any, nothing."""
    op = operator(symmetric_matrix(SPECTRUM))
    assert spectral_density(op, num_probes=1, seed=0).stderr.isnan().all()
    cut = run(SpectralDensity(num_probes=4, steps=10, lockstep=1, seed=0), op, max_matvecs=25)
    whole = spectral_density(op, num_probes=2, steps=10, seed=0)
    assert cut.info.interrupted == "matvecs"
    assert torch.equal(cut.nodes, whole.nodes)
    begun = run(SpectralDensity(num_probes=4, steps=10, seed=0), op, max_matvecs=20)
    short = spectral_density(op, num_probes=4, steps=5, seed=0)
    assert begun.nodes.shape == (4, 10)
    assert torch.equal(begun.nodes[:, :5], short.nodes)
    assert begun.degrees.tolist() == [9.0] * 4
    algorithm = SpectralDensity(num_probes=4, steps=10, seed=0)
    for method in ("slq", "kpm", "deflated"):
        algorithm = SpectralDensity(method=method, seed=0)
        empty = algorithm.result(op.space, algorithm.init(op.space))
        assert len(empty.nodes) == len(empty.grid) == 0
        assert len(empty.redraw(scale="log").grid) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", ["slq", "kpm", "deflated"])
def test_low_precision_operators_are_taken(dtype: torch.dtype, method: str) -> None:
    """The operator rounds argument and result: the density smoothed by far more than that is the dense one's."""
    A = symmetric_matrix(SPECTRUM).to(dtype)
    d = spectral_density(operator(A), method=method, num_probes=40, steps=30, seed=0).redraw(sigma=0.4)
    spectrum = torch.linalg.eigvalsh(A.double())
    truth = smooth(spectrum, d.grid, 0.4)
    assert ((d.density - truth).abs() <= 4.5 * d.stderr + 0.02).all()
    assert float(d.stderr.max()) < 0.1 * float(truth.max())


def test_results_are_stored_and_drawn_anew(tmp_path: Any) -> None:
    """Field by field, with what redrawing needs."""
    op = operator(symmetric_matrix(SPECTRUM))
    for method in ("slq", "kpm", "deflated"):
        d = spectral_density(op, method=method, num_probes=2, steps=8, seed=0)
        save_result(d, tmp_path / method)
        loaded = load_result(tmp_path / method)
        assert isinstance(loaded, DensityResult)
        assert torch.equal(loaded.redraw(scale="log").density, d.redraw(scale="log").density)
        assert torch.equal(loaded.redraw().density, d.redraw().density)


def test_options_out_of_range_are_named() -> None:
    op = operator(torch.eye(3, dtype=F64))
    for options, words in (
        ({"method": "lanczos"}, "'method' must be in"),
        ({"scale": "symlog"}, "'scale' must be in"),
        ({"num_outliers": 3}, "num_outliers=3 has no effect with method='slq'. Leave it out"),
        ({"method": "kpm", "which": "LA"}, "which='LA' has no effect with method='kpm'"),
        ({"method": "kpm", "basis_storage": "disk"}, "basis_storage='disk' has no effect with method='kpm'"),
        ({"basis_dtype": "int8"}, "'basis_dtype' must be in"),
        ({"lockstep": 0}, "'lockstep' must be >= 1"),
        ({"sigma": 0.0}, "'sigma' must be > 0"),
    ):
        with pytest.raises(ValueError, match=words):
            spectral_density(op, **options)
    d = spectral_density(op, seed=0)
    with pytest.raises(ValueError, match="scale='symlog' is unknown: expected one of linear, log"):
        d.redraw(scale="symlog")
    with pytest.raises(ValueError, match="sigma=-1.0, grid_size=1024: expected sigma > 0"):
        d.redraw(sigma=-1.0)
    with pytest.raises(ValueError, match="SpectralDensity needs a symmetric operator"):
        spectral_density(LambdaOperator(lambda v: v, 3, symmetric=False))
