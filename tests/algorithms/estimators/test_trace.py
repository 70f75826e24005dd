"""Trace estimators: exact expectation over all probes, honest error bars, the products they cost."""

from __future__ import annotations

import itertools

import pytest
import torch
from cases import F64, symmetric_matrix
from torch import Tensor

from curvkit_core import LambdaOperator, trace
from curvkit_core.algorithms import Hutchinson, HutchPlusPlus

DECAY = torch.arange(1, 61, dtype=F64) ** -2.0


def operator(A: Tensor) -> LambdaOperator:
    return LambdaOperator(lambda v: A @ v, len(A), dtype=A.dtype, symmetric=bool(torch.equal(A, A.mT)))


def test_hutchinson_is_exact_in_expectation_over_all_signs() -> None:
    """n = 6: the mean of z^T A z over all 64 sign vectors is the trace, its variance 2(|S|_F^2 - sum S_ii^2)."""
    A = torch.randn(6, 6, dtype=F64, generator=torch.Generator().manual_seed(0))
    S = (A + A.mT) / 2
    algorithm, space = Hutchinson(num_matvecs=64), operator(A).space
    state = algorithm.init(space)
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=6)), dtype=F64)
    state.pending = signs
    result = algorithm.result(space, algorithm.tell(space, state, signs, signs @ A.mT))
    assert abs(result.estimate - float(A.trace())) <= 1e-14
    variance = 2 * float(S.square().sum() - S.diagonal().square().sum())
    assert abs(float(result.samples.var(unbiased=False)) - variance) <= 1e-12
    assert variance > 1


@pytest.mark.parametrize("method", ["hutchinson", "hutch++"])
@pytest.mark.parametrize("probes", ["rademacher", "gaussian", "sphere"])
def test_estimates_are_unbiased_and_error_bars_honest(method: str, probes: str) -> None:
    """200 seeds: the mean within 4.5 of its standard errors; 95 % bars cover 88 to 99.5 %; and they are not vacuous."""
    A = symmetric_matrix(DECAY) + 0.1 * symmetric_matrix(torch.linspace(-1, 1, 60, dtype=F64), seed=1)
    truth = float(A.trace())
    results = [trace(operator(A), method=method, num_matvecs=45, probes=probes, seed=s) for s in range(200)]
    estimates = torch.tensor([r.estimate for r in results], dtype=F64)
    errors = torch.tensor([r.stderr for r in results], dtype=F64)
    spread = float(estimates.std())
    assert abs(float(estimates.mean()) - truth) <= 4.5 * spread / 200**0.5
    assert spread < 0.5 * truth
    covered = float(((estimates - truth).abs() <= 1.96 * errors).double().mean())
    assert 0.88 <= covered <= 0.995
    narrow = float(((estimates - truth).abs() <= 0.5 * 1.96 * errors).double().mean())
    assert narrow < 0.88


def test_hutchpp_beats_hutchinson_on_a_decaying_spectrum() -> None:
    """Same products, squared error over 50 seeds at most a tenth."""
    A = symmetric_matrix(DECAY)
    truth = float(A.trace())
    errors = {
        method: sum(
            (trace(operator(A), method=method, num_matvecs=45, seed=s).estimate - truth) ** 2 for s in range(50)
        )
        for method in ("hutchinson", "hutch++")
    }
    assert errors["hutch++"] <= 0.1 * errors["hutchinson"]


@pytest.mark.parametrize("method", ["hutchinson", "hutch++", "xtrace", "xnystrace"])
@pytest.mark.parametrize("budget", [2, 3, 4, 5, 7, 12, 99])
@pytest.mark.parametrize("n", [1, 3, 40])
def test_the_budget_is_never_passed_and_counted_right(method: str, budget: int, n: int) -> None:
    """X32: the operator's own count; a finite error bar even with the least budget."""
    calls = []
    diagonal = torch.arange(1, n + 1, dtype=F64)
    op = LambdaOperator(lambda v: (calls.append(1), diagonal * v)[1], n, dtype=F64)
    result = trace(op, method=method, num_matvecs=budget, seed=0)
    assert len(calls) == result.num_matvecs <= budget
    assert result.stderr < float("inf")
    if method == "hutchinson":  # sign probes are exact on a diagonal
        assert result.estimate == pytest.approx(float(diagonal.sum()), rel=1e-12)


def test_hutchpp_is_exact_where_the_sketch_spans_everything() -> None:
    A = symmetric_matrix(torch.linspace(-1, 3, 10, dtype=F64))
    result = trace(operator(A), num_matvecs=99, seed=0)
    assert result.estimate == pytest.approx(10.0, rel=1e-12)
    assert result.stderr == 0.0
    assert result.num_matvecs == 20


def test_hutchpp_is_exact_for_low_rank() -> None:
    """Rank 5 within a sketch of 15: the rest is zero to rounding."""
    spectrum = torch.cat([torch.zeros(55, dtype=F64), torch.arange(1, 6, dtype=F64)])
    result = trace(operator(symmetric_matrix(spectrum)), num_matvecs=45, seed=0)
    assert result.estimate == pytest.approx(15.0, rel=1e-12)
    assert result.stderr <= 1e-12


@pytest.mark.parametrize("algorithm", [Hutchinson(seed=3), HutchPlusPlus(seed=3)])
def test_estimates_do_not_depend_on_how_many_rows_are_multiplied_at_once(algorithm: Hutchinson | HutchPlusPlus) -> None:
    from curvkit_core.algorithms import run

    A = symmetric_matrix(DECAY)
    results = [run(algorithm, operator(A), max_rows=rows) for rows in (1, 4, 16)]
    assert results[0].estimate == pytest.approx(results[1].estimate, rel=1e-13)
    assert results[0].estimate == pytest.approx(results[2].estimate, rel=1e-13)


def test_hutchpp_is_hutchinson_until_it_has_a_range() -> None:
    """Stopped in the sketch or its range: Hutchinson's estimate from the sketch's probes, and never NaN after one."""
    from curvkit_core.algorithms import run

    A = symmetric_matrix(DECAY)
    for products in range(1, 15):
        cut = run(HutchPlusPlus(num_matvecs=15, seed=3), operator(A), max_matvecs=products)
        assert cut.num_matvecs == products
        if products <= 10:
            sketched = min(products, 5)
            plain = run(Hutchinson(num_matvecs=5, seed=3), operator(A), max_matvecs=sketched)
            assert cut.estimate == pytest.approx(plain.estimate, rel=1e-12)
        assert cut.estimate == cut.estimate
        assert (cut.stderr == float("inf")) == (products in (1, 11))


@pytest.mark.parametrize("scale", [1e-20, 1e20])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("method", ["hutchinson", "hutch++", "xtrace", "xnystrace"])
def test_traces_scale_with_the_operator(method: str, scale: float, dtype: torch.dtype) -> None:
    """A times c has c times the trace and the error, from 1e-20 to 1e20, where float32's squares leave its range."""
    A = symmetric_matrix(DECAY)
    one, other = (trace(operator((c * A).to(dtype)), method=method, num_matvecs=30, seed=0) for c in (1.0, scale))
    tol = 1e-4 if dtype == torch.float32 else 1e-10
    assert other.estimate == pytest.approx(scale * one.estimate, rel=tol, abs=0)
    assert other.stderr == pytest.approx(scale * one.stderr, rel=1e3 * tol if method != "hutchinson" else tol, abs=0)
    assert one.stderr > 1e-4


def test_options_out_of_range_are_named() -> None:
    op = operator(torch.eye(3, dtype=F64))
    with pytest.raises(ValueError, match="'num_matvecs' must be >= 2: 1"):
        trace(op, num_matvecs=1)
    with pytest.raises(ValueError, match="'method' must be in"):
        trace(op, method="xtrace++")
    with pytest.raises(ValueError, match="'probes' must be in"):
        trace(op, probes="cauchy")
