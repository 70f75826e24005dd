"""MINRES: indefinite and singular systems against dense solves; what ends them; claims that true residuals hold."""

from __future__ import annotations

import pytest
import torch
from cases import F64, relative, symmetric_matrix
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from curvkit_core import CurvatureOperator, DiagonalPreconditioner, LambdaOperator, solve
from curvkit_core.algorithms import Minres, run

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
    signs = (-1.0) ** i
    return {
        "indefinite": torch.linspace(-3.0, 5.0, n, dtype=F64) + 0.03,
        "clustered": torch.where(i % 2 == 0, -1.0, 5.0),
        "repeated": torch.where(i % 3 == 0, -1.0, torch.where(i % 3 == 1, 2.0, 1e-2)),
        "negative": -torch.logspace(-2, 0, n, dtype=F64),
        "spread": torch.logspace(-3, 0, n, dtype=F64) * signs,
        "tiny": 1e-20 * (torch.linspace(-1.0, 1.0, n, dtype=F64) + 0.013),
        "huge": 1e20 * (torch.linspace(-1.0, 1.0, n, dtype=F64) + 0.013),
        "low-rank": torch.where(i < (n + 2) // 3, (i + 1.0) * signs, 0.0),
        "zero": torch.zeros(n, dtype=F64),
    }[kind]


REGULAR = ("indefinite", "clustered", "repeated", "negative", "spread", "tiny", "huge")


def rows_of(rows: int, n: int, seed: int) -> Tensor:
    return torch.randn(rows, n, dtype=F64, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=60)
@given(kind=st.sampled_from(REGULAR), n=st.integers(1, 25), rows=st.integers(1, 3), seed=st.integers(0, 999))
def test_solutions_of_regular_systems(kind: str, n: int, rows: int, seed: int) -> None:
    """|b - A x| is what the result says and below tol |b|; the count is the counter's."""
    values = spectrum(kind, n)
    M, b = symmetric_matrix(values, seed), rows_of(rows, n, seed)
    op = Counted(M)
    result = solve(op, b, method="minres", tol=1e-8, max_matvecs=5000)
    true = (b - result.solution @ M).norm(dim=1)
    assert result.status == ("converged",) * rows
    rounding = 100 * EPS * n * values.abs().max() * result.solution.norm(dim=1)
    assert bool(((true - result.residuals).abs() <= rounding).all())
    assert bool((true <= 1e-8 * b.norm(dim=1) + rounding).all())
    assert bool(((b - 1.001 * result.solution @ M).norm(dim=1) > 1e-4 * b.norm(dim=1)).all())  # can fail
    assert result.num_matvecs == op.count == result.info.num_matvecs
    error = (result.solution - torch.linalg.solve(M, b.mT).mT).norm(dim=1)
    assert bool((error <= (1e-8 * b.norm(dim=1) + rounding) / values.abs().min() * 1.01).all())


@settings(max_examples=40)
@given(kind=st.sampled_from(["low-rank", "zero"]), n=st.integers(2, 25), seed=st.integers(0, 999), inside=st.booleans())
@example(kind="low-rank", n=10, seed=1, inside=False)  # a leap into the null space looked smaller than the least
def test_singular_systems_are_solved_or_told(kind: str, n: int, seed: int, inside: bool) -> None:
    """b in the range: solved. Outside: no residual is smaller, to 1e-6, and the status says why."""
    M, b = symmetric_matrix(spectrum(kind, n), seed), rows_of(1, n, seed)
    b = b @ M if inside else b
    result = solve(Counted(M), b, method="minres", tol=1e-8)
    # b less its part in the range, by the dense pseudo-inverse
    least = float((b.mT - M @ torch.linalg.pinv(M, hermitian=True, rtol=1e-12) @ b.mT).norm())
    true = float((b - result.solution @ M).norm())
    if inside:
        assert result.status == ("converged",)
        assert true <= 1e-8 * float(b.norm()) * 1.01
        return
    assert result.status == ("incompatible",)
    assert not bool(result.converged[0])
    assert true <= least * (1 + 1e-6)
    assert abs(float(result.residuals[0]) - true) <= 1e-10 * float(b.norm())


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("decades", [8, 40])
def test_no_claim_that_the_true_residual_does_not_hold(decades: int, dtype: torch.dtype) -> None:
    """Condition numbers beyond rounding: never larger than b, and as claimed to three times eps |A| |x|."""
    values = torch.logspace(-decades, 0, 30, dtype=F64) * (-1.0) ** torch.arange(30)
    M, b = symmetric_matrix(values).to(dtype), rows_of(2, 30, 0).to(dtype)
    result = solve(Counted(M), b, method="minres", tol=1e-8, max_matvecs=3000)
    true = (b.double() - result.solution.double() @ M.double()).norm(dim=1)
    rounding = 30 * torch.finfo(dtype).eps * (result.solution.double().norm(dim=1) + b.double().norm(dim=1))
    assert bool(((true - result.residuals).abs() <= rounding).all())
    assert bool((true <= b.double().norm(dim=1) + rounding).all())
    assert all(s in ("converged", "stagnated", "incompatible", "max_matvecs") for s in result.status)
    claimed = result.residuals <= 1e-8 * b.double().norm(dim=1)
    assert torch.equal(result.converged, claimed)


def test_every_budget_gives_a_bound() -> None:
    """Stopped at every product: the residual is at most what is claimed, and it never grows."""
    M, b = symmetric_matrix(spectrum("spread", 20)), rows_of(2, 20, 1)
    before = torch.full((2,), float("inf"), dtype=F64)
    for budget in range(1, 130, 3):
        op = Counted(M)
        result = solve(op, b, method="minres", tol=1e-8, max_matvecs=budget)
        assert op.count == result.num_matvecs <= budget
        true = (b - result.solution @ M).norm(dim=1)
        assert bool((true <= result.residuals * (1 + 1e-9) + 1e-12).all()), budget
        assert bool((true <= before * (1 + 1e-9) + 1e-12).all()), budget
        before = true
    assert result.status == ("converged",) * 2


def test_fewer_products_than_conjugate_gradients_would_break_at() -> None:
    """Three eigenvalues: three steps and the verifying product; n = 1; b = 0; where CG breaks down it goes on."""
    values = torch.tensor([-1.0, 2.0, 7.0], dtype=F64).repeat(5)
    op = Counted(symmetric_matrix(values))
    b = torch.ones(15, dtype=F64)
    assert solve(op, b, method="minres", tol=1e-10).num_matvecs == 4
    assert solve(op, b, tol=1e-10).status == ("breakdown",)
    one = solve(Counted(torch.tensor([[-4.0]], dtype=F64)), torch.tensor([2.0], dtype=F64), method="minres")
    assert float(one.solution[0]) == -0.5
    zero = solve(op, torch.zeros(2, 15, dtype=F64), method="minres")
    assert (zero.status, zero.num_matvecs, zero.residuals.tolist()) == (("converged",) * 2, 0, [0.0, 0.0])


def test_lockstep_is_one_system_after_another() -> None:
    """Bit for bit the same alone, together, and at any number of rows a time."""
    M, b = symmetric_matrix(spectrum("spread", 15)), rows_of(4, 15, 3)
    b[2] = 0.0
    op, algorithm = Counted(M), Minres(tol=1e-9)
    together = run(algorithm, op, inputs={"b": b})
    for rows in (1, 3):
        assert torch.equal(run(algorithm, op, inputs={"b": b}, max_rows=rows).solution, together.solution)
    alone = [run(algorithm, op, inputs={"b": row}) for row in b]
    assert torch.equal(torch.stack([r.solution for r in alone]), together.solution)
    assert sum(r.num_matvecs for r in alone) == together.num_matvecs


def test_damping_and_start() -> None:
    """Damping is a shift; from the solution one product a row confirms it."""
    M, b = symmetric_matrix(spectrum("indefinite", 12)), rows_of(2, 12, 0)
    damped = solve(Counted(M), b, method="minres", damping=0.3, tol=1e-12)
    expected = torch.linalg.solve(M + 0.3 * torch.eye(12, dtype=F64), b.mT).mT
    assert relative(damped.solution, expected) <= 1e-10
    again = solve(Counted(M), b, method="minres", damping=0.3, tol=1e-11, start=damped.solution)
    assert (again.status, again.num_matvecs) == (("converged",) * 2, 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_operators_end_with_a_status(dtype: torch.dtype) -> None:
    """Products with noise of 2^-8: it stops, and what is claimed is the operator's own residual."""
    M = symmetric_matrix(torch.linspace(-1.0, 2.0, 40, dtype=F64) + 0.02).to(dtype)
    op = LambdaOperator(lambda v: M @ v, 40, dtype=dtype)
    b = torch.ones(40)
    result = solve(op, b, method="minres", tol=1e-6, max_matvecs=400)
    assert result.status[0] in ("stagnated", "max_matvecs")
    assert float((b - op @ result.solution).norm()) <= float(b.norm())


def test_a_preconditioner_that_is_not_definite_is_told() -> None:
    class Indefinite:
        def inverse_rows(self, space: object, R: Tensor) -> Tensor:
            return R * torch.linspace(-1.0, 1.0, 12, dtype=F64)

    M, b = symmetric_matrix(torch.linspace(1.0, 2.0, 12, dtype=F64)), torch.eye(12, dtype=F64)[:1]
    for method in ("cg", "minres"):
        result = solve(Counted(M), b, method=method, preconditioner=Indefinite())
        assert result.status == ("preconditioner",)
        assert not bool(result.converged[0])
    fine = DiagonalPreconditioner(diagonal=torch.ones(12, dtype=F64))
    assert solve(Counted(M), b, method="minres", preconditioner=fine).status == ("converged",)
