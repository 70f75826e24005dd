"""The Nystrom approximation against dense matrices; the preconditioner made of it; products saved."""

from __future__ import annotations

import pytest
import torch
from cases import F64, symmetric_matrix, tied_mlp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from curvkit_core import (
    CurvatureOperator,
    DiagonalPreconditioner,
    GGNOperator,
    LambdaOperator,
    NystromPreconditioner,
    load_result,
    nystrom,
    save_result,
    solve,
)
from curvkit_core.algorithms import Nystrom, Preconditioner, low_rank_operator, run

EPS = torch.finfo(F64).eps


class Counted(CurvatureOperator):
    """A dense matrix that counts its products."""

    def __init__(self, M: Tensor) -> None:
        super().__init__(LambdaOperator(lambda v: v, len(M), dtype=M.dtype).space)
        self.M, self.count = M, 0

    def rows_product(self, V: Tensor) -> Tensor:
        self.count += len(V)
        return torch.stack([self.M @ v.clone() for v in V])


def spectrum(kind: str, n: int) -> Tensor:
    i = torch.arange(n, dtype=F64)
    return {
        "spread": torch.linspace(0.01, 5.0, n, dtype=F64),
        "clustered": torch.where(i % 2 == 0, 1.0, 5.0),
        "power-law": (i + 1.0) ** -2,
        "decades": torch.logspace(-12, 0, n, dtype=F64),
        "tiny": 1e-20 * (i + 1.0) ** -2,
        "huge": 1e20 * (i + 1.0) ** -2,
        "low-rank": torch.where(i < 4, i + 1.0, 0.0),
        "zero": torch.zeros(n, dtype=F64),
    }[kind]


KINDS = ("spread", "clustered", "power-law", "decades", "tiny", "huge", "low-rank", "zero")


def dense(result: object) -> Tensor:
    U = result.eigenvectors.double()
    return U.mT @ (result.eigenvalues[:, None] * U)


@settings(max_examples=60)
@given(kind=st.sampled_from(KINDS), n=st.integers(1, 25), rank=st.integers(1, 25), seed=st.integers(0, 999))
def test_it_lies_between_zero_and_the_operator(kind: str, n: int, rank: int, seed: int) -> None:
    """0 <= A_nys <= A to rounding, orthonormal rows, the bound holds; exact where the rank is enough; counts."""
    rank = min(rank, n)
    values = spectrum(kind, n)
    M = symmetric_matrix(values, seed)
    op = Counted(M)
    result = nystrom(op, rank=rank, oversample=3, seed=seed)
    assert result.status == "done"
    assert result.num_matvecs == op.count == min(n, rank + 3) + 4
    size = float(values.max())
    tol = 200 * EPS * n * size  # a shift of 10 eps |A|, through a factor and an SVD of n rows
    E = M - dense(result)
    assert float(torch.linalg.eigvalsh(E)[0]) >= -tol
    assert float(torch.linalg.matrix_norm(E, 2)) <= result.error_bound + tol
    U = result.eigenvectors
    assert float((U @ U.mT - torch.eye(rank, dtype=F64)).abs().max()) <= 1e-12
    assert bool((result.eigenvalues >= 0).all())
    assert bool((result.eigenvalues.diff() <= 0).all())
    exact = int((values > 0).sum()) <= rank
    if exact:
        assert float(torch.linalg.matrix_norm(E, 2)) <= tol
    if size:
        wrong = float(torch.linalg.eigvalsh(M - 1.01 * dense(result) - 1e-3 * size * torch.eye(n, dtype=F64))[0])
        assert wrong < -tol  # the check can fail


def test_the_frobenius_error_is_unbiased_and_its_bar_covers() -> None:
    """|A - A_nys|_F^2 over 200 seeds of probes: within 4.5 standard errors, of less than 5 %; coverage of 2 stderr."""
    M = symmetric_matrix((torch.arange(30, dtype=F64) + 1) ** -1.0)
    squares, covered, halved = [], 0, 0
    for seed in range(200):
        result = nystrom(Counted(M), rank=5, oversample=2, error_probes=12, seed=seed)
        true = float((M - dense(result)).norm())
        squares.append((result.frobenius_error / true) ** 2)
        covered += abs(result.frobenius_error - true) <= 2.2 * result.stderr  # t with 11 degrees of freedom
        halved += abs(result.frobenius_error - true) <= 1.1 * result.stderr
        assert float(torch.linalg.matrix_norm(M - dense(result), 2)) <= result.error_bound  # fails once in 1e12
    found = torch.tensor(squares, dtype=F64)
    stderr = float(found.std()) / 200**0.5
    assert stderr <= 0.05
    assert abs(float(found.mean()) - 1.0) <= 4.5 * stderr
    assert 0.88 <= covered / 200 <= 0.995
    assert halved < covered - 20


def test_indefinite_operators_are_told() -> None:
    """A negative eigenvalue above rounding: no approximation, the quotient that showed it, no preconditioner."""
    M = symmetric_matrix(torch.linspace(-1.0, 2.0, 20, dtype=F64))
    op = Counted(M)
    result = nystrom(op, rank=10, seed=0)
    assert (result.status, len(result.eigenvalues), op.count) == ("indefinite", 0, 20)
    assert -1.0 <= result.curvature < 0.0
    with pytest.raises(ValueError, match=r"the operator is indefinite .*Rayleigh quotient -.*Take the GGN"):
        NystromPreconditioner.of(result, damping=1.0)


def test_every_budget_gives_what_there_is() -> None:
    """Stopped at every product: psd and below A; the rows at once do not matter beyond rounding."""
    M = symmetric_matrix(spectrum("power-law", 20))
    for budget in range(1, 17):
        result = run(Nystrom(rank=8, oversample=4, seed=0), Counted(M), max_matvecs=budget, max_rows=3)
        assert len(result.eigenvalues) == min(8, budget)
        assert result.status == ("max_matvecs" if budget < 12 else "done")
        assert float(torch.linalg.eigvalsh(M - dense(result))[0]) >= -1e-13
    one = run(Nystrom(rank=8, oversample=4, seed=0), Counted(M), max_rows=1)
    assert (one.eigenvalues - result.eigenvalues).abs().max() <= 1e-13


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_products_of_lower_precision_show_in_the_shift(dtype: torch.dtype) -> None:
    """The error is a small multiple of the shift, which the products' own asymmetry sets."""
    M = symmetric_matrix(spectrum("low-rank", 40)).to(dtype)
    result = nystrom(LambdaOperator(lambda v: M @ v, 40, dtype=dtype), rank=8, seed=0)
    assert result.status == "done"
    error = float(torch.linalg.matrix_norm(M.double() - dense(result), 2))
    assert error <= result.error_bound
    assert error <= 30 * result.shift
    assert result.shift <= 30 * torch.finfo(dtype).eps * 4.0


def test_it_is_an_operator() -> None:
    """Products of the approximation, on the operator's own space."""
    G = GGNOperator(tied_mlp().problem())
    result = nystrom(G, rank=30, seed=0)
    approximation = low_rank_operator(result, like=G)
    assert approximation.space is G.space
    V = torch.randn(3, G.n, dtype=F64, generator=torch.Generator().manual_seed(0))
    expected = V @ dense(result)
    assert (approximation.apply(V) - expected).norm() <= 1e-12 * expected.norm()
    assert (low_rank_operator(result).apply(V) - expected).norm() <= 1e-12 * expected.norm()
    # a GGN of 11 units and 3 classes has rank 22 at most
    assert (approximation.apply(V) - G.apply(V)).norm() <= 1e-10 * expected.norm()


def test_the_preconditioner_is_the_formula() -> None:
    """M^-1 = (lambda_r + mu) U^T (Lambda + mu)^-1 U + I - U^T U, dense; positive definite."""
    M = symmetric_matrix(spectrum("power-law", 15))
    op = Counted(M)
    result = nystrom(op, rank=5, seed=0)
    mu = 1e-3
    P = NystromPreconditioner.of(result, damping=mu)
    assert isinstance(P, Preconditioner)
    U, values = result.eigenvectors, result.eigenvalues
    expected = torch.eye(15, dtype=F64) - U.mT @ U
    expected += (values[-1] + mu) * U.mT @ ((1.0 / (values + mu))[:, None] * U)
    assert (P.inverse_rows(op.space, torch.eye(15, dtype=F64)) - expected).abs().max() <= 1e-14
    assert float(torch.linalg.eigvalsh(expected)[0]) > 0.0
    zero = NystromPreconditioner.of(nystrom(Counted(torch.zeros(4, 4, dtype=F64)), rank=2, seed=0), damping=1.0)
    assert torch.equal(zero.inverse_rows(Counted(torch.eye(4, dtype=F64)).space, torch.eye(4, dtype=F64)), torch.eye(4))


@pytest.mark.parametrize("method", ["cg", "minres"])
def test_it_saves_products(method: str) -> None:
    """lambda_i = 1/i^2, mu = 1e-6, n = 1,000: less than half of CG's products, the sketch's included; solved truly."""
    n, mu = 1000, 1e-6
    diagonal = (torch.arange(n, dtype=F64) + 1.0) ** -2
    op = LambdaOperator(lambda v: diagonal * v, n, dtype=F64)
    b = torch.randn(n, dtype=F64, generator=torch.Generator().manual_seed(0))
    plain = solve(op, b, method=method, damping=mu, tol=1e-8, max_matvecs=5000)
    sketch = nystrom(op, rank=80, error_probes=0, seed=0)
    P = NystromPreconditioner.of(sketch, damping=mu)
    quick = solve(op, b, method=method, damping=mu, tol=1e-8, max_matvecs=5000, preconditioner=P)
    assert plain.status == quick.status == ("converged",)
    assert 2 * (quick.num_matvecs + sketch.num_matvecs) < plain.num_matvecs
    assert float((b - (diagonal + mu) * quick.solution).norm()) <= 1.0001e-8 * float(b.norm())
    jacobi = DiagonalPreconditioner(diagonal=diagonal + mu)
    assert solve(op, b, method=method, damping=mu, tol=1e-8, preconditioner=jacobi).num_matvecs == 2


@settings(max_examples=25)
@given(kind=st.sampled_from(KINDS), n=st.integers(1, 20), seed=st.integers(0, 999))
def test_preconditioned_solves_are_those_of_the_dense_matrix(kind: str, n: int, seed: int) -> None:
    """Both solvers, a rank that is too small, damping 1e-3 |A|: the true residual is below tol."""
    values = spectrum(kind, n)
    damping = 1e-3 * (float(values.max()) or 1.0)
    M = symmetric_matrix(values, seed)
    op = Counted(M)
    P = NystromPreconditioner.of(nystrom(op, rank=max(1, n // 3), oversample=0, seed=seed), damping=damping)
    b = torch.randn(2, n, dtype=F64, generator=torch.Generator().manual_seed(seed))
    for method in ("cg", "minres"):
        result = solve(op, b, method=method, damping=damping, tol=1e-8, preconditioner=P)
        assert result.status == ("converged",) * 2
        true = (b - result.solution @ (M + damping * torch.eye(n, dtype=F64))).norm(dim=1)
        assert bool((true <= 1.01e-8 * b.norm(dim=1)).all())


def test_results_are_saved_and_read_again(tmp_path: object) -> None:
    result = nystrom(GGNOperator(tied_mlp().problem()), rank=5, seed=0)
    save_result(result, tmp_path / "nystrom")
    again = load_result(tmp_path / "nystrom")
    assert type(again) is type(result)
    assert torch.equal(again.eigenvectors, result.eigenvectors)


def test_options_out_of_range_are_named() -> None:
    op = Counted(torch.eye(3, dtype=F64))
    with pytest.raises(ValueError, match="rank=4 is out of range: expected 1 <= rank <= 3"):
        nystrom(op, rank=4)
    with pytest.raises(ValueError, match="'rank' must be >= 1"):
        nystrom(op, rank=0)
    with pytest.raises(ValueError, match="Nystrom needs a symmetric operator"):
        nystrom(LambdaOperator(lambda v: v, 3, symmetric=False), rank=1)
    with pytest.raises(ValueError, match=r"diagonal\[1\]=0: expected finite numbers above 0.*Pass a damping"):
        DiagonalPreconditioner(diagonal=torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match="damping=-1.0: expected a number of at least 0"):
        NystromPreconditioner.of(nystrom(op, rank=1, seed=0), damping=-1.0)
