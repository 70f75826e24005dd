"""Diagonal estimators against their definitions, their errors, counts and exact cases."""

from __future__ import annotations

import itertools

import pytest
import torch
from cases import F64, symmetric_matrix
from estimator_cases import matrices, operator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from curvkit_core import LambdaOperator, diagonal, frobenius_norm, trace
from curvkit_core.algorithms import Diagonal, HutchinsonDiagonal, run
from curvkit_core.results import load_result, save_result

N, EPS = 60, torch.finfo(F64).eps
DECAY = torch.arange(1, N + 1, dtype=F64) ** -2.0
BULK = symmetric_matrix(DECAY + 0.01)
METHODS = ("hutchinson", "xdiag", "xnysdiag")
PROBES = ("rademacher", "gaussian", "sphere")


def twin(A: Tensor, tests: Tensor, method: str) -> Tensor:
    """The k terms (k, n) by the book, the projector or approximation made anew without each test vector."""
    values, vectors = torch.linalg.eigh(A)
    root = vectors * values.clamp_min(0.0).sqrt()
    found = []
    for i in range(len(tests)):
        others = torch.cat([tests[:i], tests[i + 1 :]])
        U, sigma, _ = torch.linalg.svd((others @ (A if method == "xdiag" else root)).mT, full_matrices=False)
        U = U[:, sigma > (1e-12 if method == "xdiag" else 1e-7) * sigma.max()] if len(others) else U
        approximation = U @ U.mT @ A if method == "xdiag" else (root @ U) @ (root @ U).mT
        found.append(approximation.diagonal() + tests[i] * ((A - approximation) @ tests[i]))
    return torch.stack(found)


def test_hutchinson_is_exact_in_expectation_over_all_signs() -> None:
    """n = 6: the mean over all 64 sign vectors is the diagonal, the variance of element i sum_{k != i} A_ik^2."""
    A = torch.randn(6, 6, dtype=F64, generator=torch.Generator().manual_seed(0))
    algorithm, space = HutchinsonDiagonal(num_matvecs=64), operator(A).space
    state = algorithm.init(space)
    state.pending = signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=6)), dtype=F64)
    result = algorithm.result(space, algorithm.tell(space, state, signs, signs @ A.mT))
    assert float((result.estimate - A.diagonal()).abs().max()) <= 1e-14
    variance = (A - A.diagonal().diag()).square().sum(1)
    assert torch.allclose(result.stderr.square() * 63, variance, rtol=1e-13)


def test_the_mean_is_what_it_is_and_not_the_quotient() -> None:
    """For Gaussian probes the mean of z * A z, whose variance has 2 A_ii^2; with signs both are the same number."""
    A = BULK + 3.0 * torch.eye(N, dtype=F64)
    op = operator(A)
    for probes in ("rademacher", "gaussian"):
        z = op.space.random(probes, 1, 0, 30)
        mean = (z * (z @ A)).mean(0)
        quotient = (z * (z @ A)).sum(0) / z.square().sum(0)
        found = diagonal(op, num_matvecs=30, probes=probes, seed=1).estimate
        assert float((found - mean).abs().max()) <= 1e-13
        assert torch.allclose(mean, quotient, rtol=1e-12) == (probes == "rademacher")


@pytest.mark.parametrize("method", ["xdiag", "xnysdiag"])
@pytest.mark.parametrize("probes", PROBES)
def test_leave_one_out_diagonals_are_their_definition(method: str, probes: str) -> None:
    """The twin's mean, to rounding and ridge; its spread is the error's, but for one factor for all elements."""
    A = BULK[:40, :40]
    op = operator(A)
    result = diagonal(op, method=method, num_matvecs=16, probes=probes, seed=3)
    terms = twin(A, op.space.random(probes, 3, 0, 8 if method == "xdiag" else 16), method)
    tol = 1e5 * EPS * 40 * float(A.norm())
    assert float((result.estimate - terms.mean(0)).abs().max()) <= tol
    assert (
        float((result.estimate - twin(1.001 * A, op.space.random(probes, 3, 0, 8), method).mean(0)).abs().max()) > tol
    )
    factor = result.stderr / (terms.std(0) / len(terms) ** 0.5)
    assert torch.allclose(factor, factor[0].expand(40), rtol=1e-6)
    assert 1.0 <= float(factor[0]) < 3.0
    assert result.total_stderr == pytest.approx(float(result.stderr.norm()), rel=1e-12)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), method=st.sampled_from(["xdiag", "xnysdiag"]), seed=st.integers(0, 1000))
def test_leave_one_out_diagonals_are_their_definition_on_any_spectrum(
    data: st.DataObject, method: str, seed: int
) -> None:
    """Clustered, repeated, zero, low rank, wild and (XDiag) indefinite."""
    A = data.draw(matrices(24, semidefinite=method == "xnysdiag"))
    op = operator(A)
    result = diagonal(op, method=method, num_matvecs=12, seed=seed)
    expected = twin(A, op.space.random("rademacher", seed, 0, 6 if method == "xdiag" else 12), method).mean(0)
    assert float((result.estimate - expected).abs().max()) <= (1e-7 if method == "xdiag" else 1e-5) * float(A.norm())


@pytest.mark.parametrize("method", METHODS)
def test_diagonals_are_unbiased_and_their_errors_honest(method: str) -> None:
    """200 seeds: every mean within 4.5 of its standard errors; the errors cover, element by element and as a whole.

    Of the leave-one-out ones less is claimed: on average over the elements.
    """
    results = [diagonal(operator(BULK), method=method, num_matvecs=20, seed=s) for s in range(200)]
    off = torch.stack([r.estimate for r in results]) - BULK.diagonal()
    errors = torch.stack([r.stderr for r in results])
    assert float((off.mean(0).abs() / (off.std(0) / 200**0.5)).max()) <= 4.5
    assert float(off.std(0).norm()) < (1.0 if method == "hutchinson" else 0.25) * float(BULK.diagonal().norm())
    assert 0.88 <= float((off.abs() <= 1.96 * errors).double().mean()) <= 0.995
    assert float((off.abs() <= 0.98 * errors).double().mean()) < 0.88
    total = torch.tensor([r.total_stderr for r in results], dtype=F64)
    assert 0.6 <= float(off.norm(dim=1).square().mean().sqrt() / total.square().mean().sqrt()) <= 1.1


@pytest.mark.parametrize("method", ["xdiag", "xnysdiag"])
def test_leave_one_out_beats_hutchinson_tenfold_on_a_power_law(method: str) -> None:
    """The same products, root mean square error over 20 seeds."""
    A = symmetric_matrix(torch.arange(1, 121, dtype=F64) ** -2.0)

    def rms(name: str) -> float:
        found = torch.stack([diagonal(operator(A), method=name, num_matvecs=50, seed=s).estimate for s in range(20)])
        return float((found - A.diagonal()).norm())

    assert rms(method) <= 0.1 * rms("hutchinson")


def test_exact_cases_are_exact() -> None:
    """Sign probes on a diagonal; low rank; zero; n products; n = 1."""
    d = torch.linspace(-2, 3, 30, dtype=F64)
    result = diagonal(operator(d.diag()), num_matvecs=5, seed=0)
    assert torch.allclose(result.estimate, d, rtol=1e-15) and float(result.stderr.max()) == 0.0
    low = symmetric_matrix(torch.cat([torch.zeros(45, dtype=F64), torch.arange(1, 6, dtype=F64)]))
    for method in ("xdiag", "xnysdiag"):
        found = diagonal(operator(low), method=method, num_matvecs=24, seed=1)
        assert float((found.estimate - low.diagonal()).abs().max()) <= 1e-10
        assert found.total_stderr <= 1e-9
        zero = diagonal(operator(torch.zeros(30, 30, dtype=F64)), method=method, num_matvecs=20, seed=0)
        assert not zero.estimate.any() and zero.total_stderr == 0.0
        whole = diagonal(operator(BULK - 0.1 * torch.eye(N, dtype=F64)), method=method, seed=0)
        assert float((whole.estimate - BULK.diagonal() + 0.1).abs().max()) <= 1e-14
        assert (whole.total_stderr, whole.status, whole.num_matvecs) == (0.0, "exact", N)
    for method in METHODS:
        one = diagonal(operator(torch.tensor([[3.0]], dtype=F64)), method=method, num_matvecs=5, seed=0)
        assert float(one.estimate[0]) == pytest.approx(3.0, rel=1e-15)


def test_an_indefinite_operator_gets_a_status_and_no_numbers() -> None:
    A = symmetric_matrix(torch.cat([DECAY, torch.full((10,), -0.01, dtype=F64)]))
    result = diagonal(operator(A), method="xnysdiag", num_matvecs=60, seed=0)
    assert result.status == "indefinite"
    assert bool(result.estimate.isnan().all())
    assert result.total_stderr == float("inf")
    for method in ("xdiag", "xnysdiag"):
        with pytest.raises(ValueError, match="Diagonal needs a symmetric operator"):
            diagonal(operator(A, symmetric=False), method=method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("budget", [2, 3, 4, 5, 7, 12, 99])
@pytest.mark.parametrize("n", [1, 3, 40])
def test_the_budget_is_never_passed_and_counted_right(method: str, budget: int, n: int) -> None:
    """The operator's own count; finite errors even with the least budget."""
    calls: list[int] = []
    A = torch.arange(1, n + 1, dtype=F64).diag()
    result = diagonal(operator(A, calls), method=method, num_matvecs=budget, seed=0)
    assert len(calls) == result.num_matvecs <= budget
    assert bool(result.estimate.isfinite().all()) and result.total_stderr < float("inf")


@pytest.mark.parametrize("method", METHODS)
def test_stopped_anywhere_the_result_is_right_so_far(method: str) -> None:
    """After any product: the count, a finite estimate, and errors of its size."""
    for products in range(1, 13):
        calls: list[int] = []
        cut = run(Diagonal(method=method, num_matvecs=13, seed=2), operator(BULK, calls), max_matvecs=products)
        assert cut.num_matvecs == len(calls) == products - (method == "xdiag" and products == 13)
        off = float((cut.estimate - BULK.diagonal()).norm())
        assert off <= 8 * cut.total_stderr if products > 1 else cut.total_stderr == float("inf")


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("scale", [1e-20, 1e20])
@pytest.mark.parametrize("method", METHODS)
def test_diagonals_scale_with_the_operator(method: str, scale: float, dtype: torch.dtype) -> None:
    """In float32 the squares leave its range: A times c has c times the diagonal, and the errors."""
    one, other = (diagonal(operator((c * BULK).to(dtype)), method=method, num_matvecs=24, seed=0) for c in (1.0, scale))
    tol = 1e-3 if dtype == torch.float32 else 1e-9
    assert torch.allclose(other.estimate.double() / scale, one.estimate.double(), rtol=tol, atol=tol)
    assert torch.allclose(other.stderr.double() / scale, one.stderr.double(), rtol=10 * tol, atol=1e-5)
    assert float(one.stderr.max()) > 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_bf16_operators_are_estimated(method: str) -> None:
    """Products rounded to bfloat16: within the error and the rounding."""
    A = BULK.to(torch.bfloat16)
    op = operator(A)
    result = diagonal(op, method=method, num_matvecs=40, seed=0)
    rounding = 4 * torch.finfo(torch.bfloat16).eps * float(A.double().norm())
    assert result.estimate.dtype == torch.float32
    assert float((result.estimate - A.float().diagonal()).norm()) <= 3 * result.total_stderr + rounding
    assert result.total_stderr < 2 * float(A.float().diagonal().norm())


def test_hutchinson_alone_bears_an_operator_that_changes() -> None:
    """Each product of another matrix: unbiased for the mean one; the others are refused."""
    calls: list[int] = []
    op = LambdaOperator(
        lambda v: (calls.append(1), (BULK + (-1) ** len(calls) * BULK.diagonal().diag()) @ v)[1], N, dtype=F64
    )
    op.deterministic = False
    result = diagonal(op, num_matvecs=400, seed=0)
    off = float((result.estimate - BULK.diagonal()).norm())
    assert off <= 2 * result.total_stderr < float(BULK.diagonal().norm())
    for refused in (
        lambda: diagonal(op, method="xdiag"),
        lambda: trace(op, method="xtrace"),
        lambda: frobenius_norm(op),
    ):
        with pytest.raises(ValueError, match="multiplies one fixed matrix"):
            refused()


def test_growing_to_all_dimensions_is_exact() -> None:
    """A tolerance that is not met: 30 test vectors of 30, two products each, and the sum over the basis is exact.

    XNysDiag leaves one out all the same: an estimate, with its error.
    """
    A = BULK[:30, :30]
    options = {"num_matvecs": 99, "tol": 1e-13, "seed": 0}
    result = diagonal(operator(A), method="xdiag", **options)
    traced = trace(operator(A), method="xtrace", **options)
    assert float((result.estimate - A.diagonal()).abs().max()) <= 1e-13
    assert (traced.estimate, traced.status, traced.converged) == (pytest.approx(float(A.trace())), "exact", True)
    assert (result.total_stderr, result.status, result.converged, result.num_matvecs) == (0.0, "exact", True, 60)
    left_out = diagonal(operator(A), method="xnysdiag", **options)
    assert (left_out.status, left_out.converged, left_out.num_matvecs) == ("estimated", False, 30)
    assert float((left_out.estimate - A.diagonal()).norm()) <= 4 * left_out.total_stderr
    assert left_out.total_stderr < 0.1 * float(A.diagonal().norm())


def test_a_diagonal_is_kept_and_read_back(tmp_path) -> None:
    result = diagonal(operator(BULK), num_matvecs=12, seed=0)
    back = load_result(save_result(result, tmp_path / "diagonal"))
    assert torch.equal(back.estimate, result.estimate) and torch.equal(back.stderr, result.stderr)
    assert back.total_stderr == result.total_stderr
