"""The Frobenius norm: exact in expectation, its error bar and bias bound, counts and exact cases."""

from __future__ import annotations

import itertools

import pytest
import torch
from cases import F64, symmetric_matrix
from estimator_cases import operator, spectra
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from curvkit_core import frobenius_norm
from curvkit_core.algorithms import FrobeniusNorm, run
from curvkit_core.results import load_result, save_result

FLAT = symmetric_matrix(torch.linspace(-1, 2, 40, dtype=F64))


def test_the_square_is_exact_in_expectation_over_all_signs() -> None:
    """n = 6, not symmetric, all 64 sign vectors: the mean of |A z|^2 is |A|_F^2.

    Its variance is 2 sum_{i != j} B_ij^2, B = A^T A.
    """
    A = torch.randn(6, 6, dtype=F64, generator=torch.Generator().manual_seed(0))
    algorithm, space = FrobeniusNorm(num_matvecs=64), operator(A).space
    state = algorithm.init(space)
    state.pending = signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=6)), dtype=F64)
    result = algorithm.result(space, algorithm.tell(space, state, signs, signs @ A.mT))
    B = A.mT @ A
    variance = 2 * float((B - B.diagonal().diag()).square().sum())
    assert result.estimate == pytest.approx(float(A.norm()), rel=1e-13)
    assert float(result.samples.var(unbiased=False)) == pytest.approx(variance, rel=1e-12)
    assert result.stderr == pytest.approx((variance / 63) ** 0.5 / (2 * float(A.norm())), rel=1e-12)


@pytest.mark.parametrize("probes", ["rademacher", "gaussian", "sphere"])
def test_error_bar_and_bias_bound_are_honest(probes: str) -> None:
    """200 seeds: the bias within its bound and 4.5 standard errors, and not beyond the bound's sign; coverage."""
    truth = float(FLAT.norm())
    results = [frobenius_norm(operator(FLAT), num_matvecs=12, probes=probes, seed=s) for s in range(200)]
    off = torch.tensor([r.estimate for r in results], dtype=F64) - truth
    errors = torch.tensor([r.stderr for r in results], dtype=F64)
    bound = sum(r.bias_bound for r in results) / 200
    noise = 4.5 * float(off.std()) / 200**0.5
    assert -bound - noise <= float(off.mean()) <= noise
    assert noise < 0.05 * truth
    assert 0.88 <= float((off.abs() <= 1.96 * errors).double().mean()) <= 0.995
    assert float((off.abs() <= 0.98 * errors).double().mean()) < 0.88


def test_the_bias_is_where_the_formula_has_it() -> None:
    """Two probes on rank one, over all pairs of sign vectors: the exact bias lies between 0 and the bound, and is seen.

    n = 4: |A z|^2 is 0, 1 or 4 with chances 3/8, 1/2, 1/8.
    """
    chances = {0.0: 3 / 8, 1.0: 1 / 2, 4.0: 1 / 8}
    mean = sum(p * q * ((x + y) / 2) ** 0.5 for x, p in chances.items() for y, q in chances.items())
    variance = sum(p * (x - 1.0) ** 2 for x, p in chances.items()) / 2  # of the mean of two, |A|_F = 1
    assert 0.05 < 1.0 - mean <= variance / 2
    u = torch.full((4,), 0.5, dtype=F64)
    results = [frobenius_norm(operator(torch.outer(u, u)), num_matvecs=2, seed=s) for s in range(400)]
    found = torch.tensor([r.estimate for r in results], dtype=F64)
    assert abs(float(found.mean()) - mean) <= 4.5 * float(found.std()) / 20
    assert abs(float(found.mean()) - 1.0) > 4.5 * float(found.std()) / 20  # the bias is no rounding
    for r in results[:20]:
        s = r.stderr
        assert r.bias_bound == pytest.approx(2 * s**2 / r.estimate if s else 0.0)


@settings(max_examples=40, deadline=None)
@given(values=spectra(20), seed=st.integers(0, 1000))
def test_the_norm_of_any_spectrum_is_near(values: Tensor, seed: int) -> None:
    """Never above sqrt(n) times the norm, nor NaN; zero is zero; a signed diagonal is exact with signs."""
    A = symmetric_matrix(values)
    result = frobenius_norm(operator(A), num_matvecs=10, seed=seed)
    assert 0.0 <= result.estimate <= 20**0.5 * float(A.norm()) * (1 + 1e-12)
    assert (result.estimate == 0.0) == (not A.any())
    assert result.stderr == result.stderr and result.bias_bound == result.bias_bound
    exact = frobenius_norm(operator(values.diag()), num_matvecs=3, seed=seed)
    assert exact.estimate == pytest.approx(float(values.norm()), rel=1e-12, abs=0)
    assert exact.stderr <= 1e-7 * exact.estimate


@pytest.mark.parametrize("budget", [2, 3, 4, 5, 7, 12, 99])
@pytest.mark.parametrize("n", [1, 3, 40])
def test_the_budget_is_never_passed_and_counted_right(budget: int, n: int) -> None:
    calls: list[int] = []
    result = frobenius_norm(operator(torch.ones(n, n, dtype=F64), calls), num_matvecs=budget, seed=0)
    assert len(calls) == result.num_matvecs == len(result.samples) == budget
    assert result.stderr < float("inf")
    if n == 1:
        assert (result.estimate, result.stderr, result.bias_bound) == (1.0, 0.0, 0.0)


def test_stopped_anywhere_the_result_is_right_so_far() -> None:
    """After any product: the same as with that many from the beginning."""
    for products in range(2, 12):
        cut = run(FrobeniusNorm(num_matvecs=12, seed=5), operator(FLAT), max_matvecs=products)
        assert torch.equal(cut.samples, frobenius_norm(operator(FLAT), num_matvecs=products, seed=5).samples)
    one = run(FrobeniusNorm(num_matvecs=12, seed=5), operator(FLAT), max_matvecs=1)
    assert (one.stderr, one.bias_bound) == (float("inf"), float("inf"))


@pytest.mark.parametrize(("dtype", "tol"), [(F64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_the_norm_scales_with_the_operator(scale: float, dtype: torch.dtype, tol: float) -> None:
    one, other = (frobenius_norm(operator((c * FLAT).to(dtype)), num_matvecs=12, seed=0) for c in (1.0, scale))
    assert other.estimate == pytest.approx(scale * one.estimate, rel=tol)
    assert other.stderr == pytest.approx(scale * one.stderr, rel=100 * tol)


def test_bf16_operators_are_estimated() -> None:
    A = FLAT.to(torch.bfloat16)
    result = frobenius_norm(operator(A), num_matvecs=40, seed=0)
    assert abs(result.estimate - float(A.double().norm())) <= 3 * result.stderr + 2**-8 * float(A.double().norm())
    assert result.stderr < 0.1 * result.estimate


def test_a_norm_is_kept_and_read_back(tmp_path) -> None:
    result = frobenius_norm(operator(FLAT), num_matvecs=12, seed=0)
    back = load_result(save_result(result, tmp_path / "norm"))
    assert (back.estimate, back.stderr, back.bias_bound) == (result.estimate, result.stderr, result.bias_bound)
