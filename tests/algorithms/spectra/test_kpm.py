"""Kernel polynomials: the damped series of the exact measure, an interval that encloses, two moments a product."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cases import F64, symmetric_matrix
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from curvkit_core import LambdaOperator, spectral_density
from curvkit_core.algorithms import SpectralDensity, run
from curvkit_core.algorithms.spectra import kpm
from curvkit_core.algorithms.spectra.kpm import ChebyshevMoments
from curvkit_core.results.density_drawing import draw_jackson, jackson_factors

EPS = torch.finfo(F64).eps
SPECTRUM = torch.cat([torch.linspace(0, 1, 97, dtype=F64) ** 2, torch.tensor([3.0, 4.0, 5.0], dtype=F64)])


def operator(A: Tensor, calls: list[int] | None = None) -> LambdaOperator:
    def product(v: Tensor) -> Tensor:
        if calls is not None:
            calls.append(1)
        return A @ v

    return LambdaOperator(product, len(A), dtype=A.dtype)


def diagonal(spectrum: Tensor) -> LambdaOperator:
    return LambdaOperator(lambda v: spectrum.to(v) * v, len(spectrum), dtype=spectrum.dtype)


def masses(A: Tensor, op: LambdaOperator, seed: int, probes: int) -> tuple[Tensor, Tensor]:
    theta, U = torch.linalg.eigh(A)
    z = op.space.random("rademacher", seed, 0, probes)
    return theta, (z @ U).square() / z.square().sum(1, keepdim=True)


def kernel(t: Tensor, eigenvalues: Tensor, interval: tuple[float, float], count: int) -> Tensor:
    """Jackson's kernel about each eigenvalue, term by term: (eigenvalues, t)."""
    centre, half = sum(interval) / 2, (interval[1] - interval[0]) / 2
    x, y = ((s - centre) / half for s in (t, eigenvalues))
    N = count
    out = torch.ones(len(y), len(x), dtype=F64)
    for k in range(1, N):
        a = math.pi / (N + 1)
        g = ((N - k + 1) * math.cos(a * k) + math.sin(a * k) / math.tan(a)) / (N + 1)
        out += 2 * g * torch.cos(k * y.acos())[:, None] * torch.cos(k * x.acos())
    return out / (math.pi * half * (1 - x**2).sqrt())


@pytest.mark.parametrize("steps", [1, 3, 20])
def test_density_is_the_damped_series_of_the_exact_measure(steps: int) -> None:
    """2 m + 1 moments of m products; the oracle sums the kernel over the dense eigenvalues with the probes' masses."""
    A = symmetric_matrix(SPECTRUM)
    op = operator(A)
    d = spectral_density(op, method="kpm", num_probes=3, steps=steps, seed=0, grid_size=200)
    theta, mass = masses(A, op, 0, 3)
    assert d.moments is not None
    assert d.interval is not None
    assert d.moments.shape == (3, 2 * steps + 1)
    exact = mass @ kernel(d.grid, theta, d.interval, 2 * steps + 1)
    tol = 1e3 * (2 * steps + 1) ** 2 * EPS * float(exact.max())  # the recurrence's rounding grows as k^2 at worst
    assert (d.density - exact.mean(0)).abs().max() <= tol
    assert (d.stderr - exact.std(0) / 3**0.5).abs().max() <= tol
    assert (1.001 * d.density - exact.mean(0)).abs().max() > tol
    whole = mass @ torch.cos(2 * steps * ((theta - sum(d.interval) / 2) / ((d.interval[1] - d.interval[0]) / 2)).acos())
    assert (d.moments[:, -1] - whole).abs().max() <= 1e-11


@pytest.mark.parametrize("count", [1, 2, 9, 101])
def test_jackson_factors_make_a_positive_kernel(count: int) -> None:
    """g_0 = 1, g_1 = cos(pi/(N+1)), falling; the kernel is nowhere negative, which the undamped one is."""
    g = jackson_factors(count)
    assert float(g[0]) == pytest.approx(1.0, abs=1e-14)
    if count > 1:
        assert float(g[1]) == pytest.approx(math.cos(math.pi / (count + 1)), abs=1e-14)
        assert (g.diff() < 0).all()
    angle = torch.linspace(0, math.pi, 2000, dtype=F64)
    waves = torch.cos(torch.arange(1, count, dtype=F64)[:, None] * angle)
    assert float((1 + 2 * g[1:] @ waves).min()) >= -1e-11
    if count > 1:
        assert float((1 + 2 * waves.sum(0)).min()) < -0.1


def test_bands_are_honest() -> None:
    """200 groups of 4 probes: 95 % bars (3.18 stderr) cover 88 to 99.5 %, halved ones less; no bias."""
    A = symmetric_matrix(SPECTRUM)
    d = spectral_density(operator(A), method="kpm", num_probes=800, steps=12, seed=0)
    assert d.moments is not None
    assert d.interval is not None
    curves = [draw_jackson(m, interval=d.interval, grid_size=100) for m in d.moments.split(4)]
    near = [int((curves[0].grid - t).abs().argmin()) for t in (0.1, 0.4, 0.8)]
    estimates, bars = (torch.stack([getattr(c, name)[near] for c in curves]) for name in ("density", "stderr"))
    truth = kernel(curves[0].grid[near], SPECTRUM, d.interval, 25).mean(0)
    spread = estimates.std(0)
    assert ((estimates.mean(0) - truth).abs() <= 4.5 * spread / 200**0.5).all()
    assert (spread < 0.2 * truth).all()
    off = (estimates - truth).abs()
    covered = (off <= 3.18 * bars).double().mean(0)
    assert ((covered >= 0.88) & (covered <= 0.995)).all(), covered
    assert ((off <= 0.5 * 3.18 * bars).double().mean(0) < 0.88).all()


numbers = st.sampled_from([0.0, 1.0, -1.0, 1.0 + 1e-9, 1e-9, 40.0, -3.0]) | st.floats(-10, 10)


@settings(max_examples=60, deadline=None)
@given(
    spectrum=st.lists(numbers, min_size=1, max_size=40),
    factor=st.sampled_from([1e-20, 1.0, 1e20]),
    steps=st.integers(1, 20),
)
def test_interval_encloses_the_spectrum(spectrum: list[float], factor: float, steps: int) -> None:
    """n = 1, one point, clusters, outliers: strictly inside, so that the series has no pole there."""
    values = torch.tensor(spectrum, dtype=F64) * factor
    moments = run(ChebyshevMoments(num_probes=2, steps=steps, seed=0), operator(symmetric_matrix(values)))
    assert moments.interval is not None
    low, high = moments.interval
    assert low < float(values.min())
    assert float(values.max()) < high
    assert (moments.moments.abs() <= 1 + 1e-9).all()


@pytest.mark.parametrize("outlier", [1.02, 1.3, 3.0, -0.5, 40.0])
def test_interval_encloses_one_outlier_among_many(outlier: float) -> None:
    """n = 20,000 uniform eigenvalues and one beside them, which a start vector hardly sees."""
    spectrum = torch.linspace(0, 1, 20_000)
    spectrum[7] = outlier
    moments = run(ChebyshevMoments(num_probes=2, steps=15, seed=0), diagonal(spectrum))
    assert moments.interval is not None
    assert moments.interval[0] < float(spectrum.min())
    assert moments.interval[1] > float(spectrum.max())
    assert moments.interval[1] - moments.interval[0] < 1.6 * float(spectrum.max() - spectrum.min())


def test_an_interval_too_narrow_is_seen_and_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one Lanczos step and no margin the spectrum sticks out: T_k grows, the interval widens, all begins again."""
    monkeypatch.setattr(kpm, "_BOUND_STEPS", 1)
    monkeypatch.setattr(kpm, "_MARGIN", 1e-3)
    A = symmetric_matrix(torch.cat([torch.linspace(0, 1, 98, dtype=F64), torch.tensor([30.0, -20.0], dtype=F64)]))
    calls: list[int] = []
    op = operator(A, calls)
    d = spectral_density(op, method="kpm", num_probes=4, steps=40, seed=0)
    assert len(calls) == d.num_matvecs > 161
    assert d.interval is not None
    assert d.interval[0] < -20 < 30 < d.interval[1]
    theta, mass = masses(A, op, 0, 4)
    exact = (mass @ kernel(d.grid, theta, d.interval, 81)).mean(0)
    assert (d.density - exact).abs().max() <= 1e-9 * float(exact.max())
    monkeypatch.setattr(kpm, "_GROWN", math.inf)  # unwatched, the moments explode
    assert float(spectral_density(op, method="kpm", num_probes=4, steps=40, seed=0).nodes.max()) < 30
    blind = spectral_density(op, method="kpm", num_probes=4, steps=40, seed=0)
    assert blind.moments is not None
    assert float(blind.moments.abs().max()) > 1e3


def test_products_are_counted_and_budgets_kept() -> None:
    """20 for the interval, `steps` a probe; cut anywhere, the moments there are those of the whole run."""
    A = symmetric_matrix(SPECTRUM)
    whole = run(ChebyshevMoments(num_probes=3, steps=6, lockstep=2, seed=0), operator(A))
    for budget in (3, 20, 21, 27, 33, 37, 38, 99):
        calls: list[int] = []
        part = run(ChebyshevMoments(num_probes=3, steps=6, lockstep=2, seed=0), operator(A, calls), max_matvecs=budget)
        assert len(calls) == min(budget, 38)
        rows, count = part.moments.shape
        assert torch.equal(part.moments, whole.moments[:rows, :count])
        assert rows == {3: 0, 20: 0, 21: 1, 27: 2, 33: 2, 37: 2, 38: 3, 99: 3}[budget]


@pytest.mark.parametrize("max_rows", [1, 2, 16])
@pytest.mark.parametrize("lockstep", [1, 2, 5, None])
def test_results_do_not_depend_on_what_shares_a_product(lockstep: int | None, max_rows: int) -> None:
    """Bitwise, for an operator whose rows do not feel each other."""
    A = symmetric_matrix(SPECTRUM)
    alone = run(ChebyshevMoments(num_probes=5, steps=6, lockstep=1, seed=0), operator(A), max_rows=1)
    other = run(ChebyshevMoments(num_probes=5, steps=6, lockstep=lockstep, seed=0), operator(A), max_rows=max_rows)
    assert torch.equal(alone.moments, other.moments)
    assert alone.interval == other.interval


def test_rules_keep_the_damped_moments_and_gaussians_go_on_top() -> None:
    """Nodes and weights at Chebyshev points: mass 1, the damped moments; with sigma given they carry Gaussians."""
    A = symmetric_matrix(SPECTRUM)
    d = spectral_density(operator(A), method="kpm", num_probes=4, steps=10, seed=0)
    assert d.moments is not None
    assert d.interval is not None
    assert (d.weights >= -1e-15).all()
    centre, half = sum(d.interval) / 2, (d.interval[1] - d.interval[0]) / 2
    g = jackson_factors(21)
    for k in range(21):
        found = (d.weights * torch.cos(k * ((d.nodes - centre) / half).acos())).sum(1)
        assert (found - g[k] * d.moments[:, k]).abs().max() <= 1e-13
    smooth = d.redraw(sigma=1.0)
    twin = torch.exp(-0.5 * (smooth.grid - SPECTRUM[:, None]) ** 2).mean(0) / math.sqrt(2 * math.pi)
    # Jackson's kernel, 0.42 wide, widens a Gaussian of 1 by 8 %
    assert float((smooth.density - twin).abs().max()) < 0.12 * float(twin.max())
    assert smooth.mass == pytest.approx(1.0, abs=1e-6)
    assert d.sigma == pytest.approx(math.pi * half / 21)
    assert d.bias_bound is None


def test_progress_reaches_its_total() -> None:
    seen: list[Any] = []
    run(
        SpectralDensity(method="kpm", num_probes=3, steps=6, seed=0),
        operator(symmetric_matrix(SPECTRUM)),
        on_progress=seen.append,
    )
    assert seen[-1].done == seen[-1].total == 38
    assert seen[0].note == "interval"
    assert seen[-1].note == "moments"
