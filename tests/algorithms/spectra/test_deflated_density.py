"""Outliers taken out: exactly 1/n each, the rest by quadrature in few steps."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest
import torch
from cases import F64, symmetric_matrix
from torch import Tensor

from curvkit_core import LambdaOperator, spectral_density
from curvkit_core.algorithms import SpectralDensity, run

N, K = 400, 8
SPECTRUM = torch.cat([torch.linspace(0, 1, N - K, dtype=F64), torch.linspace(20, 40, K, dtype=F64)])


def operator(A: Tensor, calls: list[int] | None = None) -> LambdaOperator:
    def product(v: Tensor) -> Tensor:
        if calls is not None:
            calls.append(1)
        return A @ v

    return LambdaOperator(product, len(A), dtype=A.dtype)


def smooth(spectrum: Tensor, grid: Tensor, sigma: float, n: int) -> Tensor:
    return torch.exp(-0.5 * ((grid - spectrum[:, None]) / sigma) ** 2).sum(0) / (n * sigma * math.sqrt(2 * math.pi))


def test_outliers_are_exact_and_the_bulk_is_resolved_in_few_steps() -> None:
    """Eight outliers up to 40 over a bulk in [0, 1], the same products: the bulk's error 10 times below plain SLQ's.

    Plain quadrature spends its steps on the outliers: where steps are few, as here, its band is twice as wide at
    least. With steps enough for both (from about twice the outliers' number) the bands are alike.
    """
    A = symmetric_matrix(SPECTRUM)
    found = spectral_density(operator(A), method="deflated", num_outliers=K, num_probes=8, steps=8, seed=0)
    assert torch.allclose(found.outliers.sort().values, SPECTRUM[-K:], rtol=1e-8)
    assert (found.outlier_residuals <= 1e-3).all()
    assert found.bulk_share == pytest.approx(1 - K / N)
    assert found.nodes.max() <= 1 + 1e-9
    plain = spectral_density(operator(A), num_probes=found.num_matvecs // 8 + 1, steps=8, seed=0)
    assert plain.num_matvecs >= found.num_matvecs
    errors, bands = [], []
    for d in (found, plain):
        drawn = d.redraw(sigma=0.1, grid_size=20_000)
        bulk = (drawn.grid > 0.2) & (drawn.grid < 0.8)
        errors.append(float((drawn.density[bulk] - smooth(SPECTRUM, drawn.grid[bulk], 0.1, N)).abs().mean()))
        bands.append(float(drawn.stderr[bulk].mean()))
    assert errors[0] <= 0.1 * errors[1]
    assert bands[0] <= 0.5 * bands[1]
    assert found.redraw(sigma=0.1).bias_bound < 0.2 * plain.redraw(sigma=0.1).bias_bound


def test_outliers_weigh_what_they_should() -> None:
    """The mean of the whole, tr A / n: what a probe gives the outliers is a chi-square; taken out, 1/n each."""
    A = symmetric_matrix(SPECTRUM)
    found = spectral_density(operator(A), method="deflated", num_outliers=K, num_probes=40, steps=8, seed=0)
    plain = spectral_density(operator(A), num_probes=40, steps=8, seed=0)
    means = found.bulk_share * (found.weights * found.nodes).sum(1) + float(found.outliers.sum()) / N
    truth = float(SPECTRUM.mean())
    spread, plain_spread = float(means.std()), float((plain.weights * plain.nodes).sum(1).std())
    assert abs(float(means.mean()) - truth) <= 4.5 * spread / 40**0.5
    assert spread <= 0.2 * plain_spread


def test_combined_density_has_spikes_and_bulk() -> None:
    """Mass 1; k/n of it in the spikes, which have no band; the bulk's rules are in `nodes` and `weights`."""
    A = symmetric_matrix(SPECTRUM)
    d = spectral_density(operator(A), method="deflated", num_outliers=K, num_probes=4, steps=10, seed=0)
    assert d.mass == pytest.approx(1.0, abs=1e-5)
    above = d.grid > 10
    assert float(torch.trapezoid(d.density[above], d.grid[above])) == pytest.approx(K / N, rel=1e-6)
    assert float(d.stderr[above].max()) == 0.0
    assert (d.weights.sum(1) - 1).abs().max() <= 1e-12
    peaks = d.grid[above][d.density[above] > 0.9 * float(d.density[above].max())]
    assert len({round(float(t)) for t in peaks}) == K
    assert attrs.evolve(d, outliers=d.outliers[:0], bulk_share=1.0).redraw().mass == pytest.approx(1.0, abs=1e-5)


def test_bands_are_honest() -> None:
    """200 groups of 4 probes: 95 % bars (3.18 stderr) cover 88 to 99.5 % of the dense density, halved ones less."""
    spectrum = torch.cat([torch.linspace(0, 1, 95, dtype=F64), torch.linspace(20, 40, 5, dtype=F64)])
    A = symmetric_matrix(spectrum)
    made = spectral_density(operator(A), method="deflated", num_outliers=5, num_probes=800, steps=7, seed=0)
    estimates, bars, truths = [], [], []
    for j in range(0, 800, 4):
        few = attrs.evolve(made, nodes=made.nodes[j : j + 4], weights=made.weights[j : j + 4])
        drawn = few.redraw(sigma=0.2, grid_size=100)
        near = (drawn.grid[:, None] - torch.tensor([0.2, 0.5, 0.8], dtype=F64)).abs().argmin(0)
        estimates.append(drawn.density[near])
        bars.append(drawn.stderr[near])
        truths.append(smooth(spectrum, drawn.grid[near], 0.2, 100))
    off = torch.stack(estimates) - torch.stack(truths)
    spread = off.std(0)
    assert (off.mean(0).abs() <= 4.5 * spread / 200**0.5).all()
    assert (spread < 0.3 * torch.stack(truths).mean(0)).all()
    covered = (off.abs() <= 3.18 * torch.stack(bars)).double().mean(0)
    assert ((covered >= 0.88) & (covered <= 0.995)).all(), covered
    assert ((off.abs() <= 0.5 * 3.18 * torch.stack(bars)).double().mean(0) < 0.88).all()


@pytest.mark.parametrize("which", ["LM", "LA", "SA", "BE"])
def test_either_end_is_taken_out(which: str) -> None:
    """Two of them, by magnitude, largest, smallest, or one from each end."""
    spectrum = torch.cat([torch.linspace(-1, 1, 56, dtype=F64), torch.tensor([-50.0, -30.0, 20.0, 40.0], dtype=F64)])
    options: dict[str, Any] = {"num_outliers": 2, "which": which, "num_probes": 2, "steps": 10, "seed": 0}
    d = spectral_density(operator(symmetric_matrix(spectrum)), method="deflated", **options)
    expected = {"LM": [-50.0, 40.0], "LA": [20.0, 40.0], "SA": [-50.0, -30.0], "BE": [-50.0, 40.0]}[which]
    assert d.outliers.sort().values.tolist() == pytest.approx(expected, rel=1e-6)
    assert d.mass == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("n", [1, 2, 5, 11])
def test_all_of_a_small_operator_are_outliers(n: int) -> None:
    """k >= n: spikes alone, no probe, no band; k = n - 1 leaves one for the bulk, found to rounding."""
    spectrum = torch.linspace(1, 3, n, dtype=F64) ** 2
    op = operator(symmetric_matrix(spectrum))
    d = spectral_density(op, method="deflated", num_outliers=20, seed=0)
    assert torch.allclose(d.outliers.sort().values, spectrum, rtol=1e-10)
    assert (d.bulk_share, d.nodes.numel()) == (0.0, 0)
    for scale in ("linear", "log"):
        drawn = d.redraw(scale=scale)
        assert drawn.mass == pytest.approx(1.0, abs=1e-3)
        assert (drawn.stderr == 0).all()
    if n > 1:
        left = spectral_density(op, method="deflated", num_outliers=n - 1, seed=0)
        assert left.bulk_share == pytest.approx(1 / n)
        assert (left.nodes - spectrum[0]).abs().max() <= 1e-6 * float(spectrum[-1])


def test_products_are_counted_and_budgets_kept() -> None:
    """Stopped while the outliers are sought there is no density yet; after that the bulk so far; never overspent."""
    A = symmetric_matrix(SPECTRUM[::4])
    algorithm = SpectralDensity(method="deflated", num_outliers=2, num_probes=3, steps=6, seed=0)
    calls: list[int] = []
    whole = run(algorithm, operator(A, calls))
    assert len(calls) == whole.num_matvecs
    outliers = whole.num_matvecs - 18
    for budget in (1, outliers - 1, outliers + 3, outliers + 18):
        calls = []
        part = run(algorithm, operator(A, calls), max_matvecs=budget)
        assert len(calls) == part.num_matvecs == budget
        assert len(part.grid) == 0 if budget < outliers else part.mass == pytest.approx(1.0, abs=1e-3)
        assert len(part.outliers) == (0 if budget < outliers else 2)
    one = run(algorithm, operator(A), max_rows=1)
    assert torch.allclose(one.density, whole.density, rtol=1e-9, atol=1e-12)


def test_pairs_that_do_not_converge_stay_in_the_bulk() -> None:
    """No outliers to find in a dense bulk with few products: fewer are taken out than asked for, nothing is lost."""
    spectrum = torch.linspace(0, 1, 300, dtype=F64)
    options: dict[str, Any] = {"num_outliers": 10, "num_probes": 4, "steps": 10, "seed": 0}
    d = spectral_density(operator(symmetric_matrix(spectrum)), method="deflated", **options)
    assert len(d.outliers) < 10
    assert d.bulk_share == pytest.approx(1 - len(d.outliers) / 300)
    assert d.mass == pytest.approx(1.0, abs=1e-3)
    mean = d.bulk_share * float((d.weights * d.nodes).sum(1).mean()) + float(d.outliers.sum()) / 300
    assert mean == pytest.approx(0.5, abs=0.1)
