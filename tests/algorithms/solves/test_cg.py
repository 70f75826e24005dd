"""Conjugate gradients: solutions against dense solves, statuses, counts, several systems in lockstep."""

from __future__ import annotations

import attrs
import pytest
import torch
from cases import F64, relative, symmetric_matrix, tied_mlp
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from curvkit_core import CurvatureOperator, GGNOperator, HessianOperator, LambdaOperator, load_result, save_result
from curvkit_core.algorithms import ConjugateGradients, run, solve
from curvkit_core.results.types import SolveResult

EPS = torch.finfo(F64).eps


class Counted(CurvatureOperator):
    """A dense matrix that counts its products."""

    def __init__(self, M: Tensor) -> None:
        super().__init__(LambdaOperator(lambda v: v, len(M), dtype=M.dtype).space)
        self.M, self.count = M, 0

    def rows_product(self, V: Tensor) -> Tensor:
        self.count += len(V)
        return V @ self.M.mT


SPECTRA = st.sampled_from(["spread", "clustered", "one", "scaled"])


def spectrum(kind: str, n: int) -> Tensor:
    return {
        "spread": torch.logspace(-3, 1, n, dtype=F64),
        "clustered": torch.where(torch.arange(n) % 2 == 0, 1.0, 5.0).to(F64),
        "one": torch.ones(n, dtype=F64),
        "scaled": 1e-15 * torch.logspace(-2, 0, n, dtype=F64),
    }[kind]


@given(kind=SPECTRA, n=st.integers(1, 25), rows=st.integers(1, 4), seed=st.integers(0, 1000))
def test_solutions_meet_their_residuals(kind: str, n: int, rows: int, seed: int) -> None:
    """A1: |b - A x| is what the result says and below tol |b|; A3: the count is the counter's."""
    values = spectrum(kind, n)
    M = symmetric_matrix(values, seed)
    op = Counted(M)
    b = torch.randn(rows, n, dtype=F64, generator=torch.Generator().manual_seed(seed))
    result = solve(op, b, tol=1e-8, max_matvecs=5000)
    true = (b - result.solution @ M).norm(dim=1)
    assert result.status == ("converged",) * rows
    rounding = 100 * EPS * n * values.max() * result.solution.norm(dim=1)
    assert bool(((true - result.residuals).abs() <= rounding).all())
    assert bool((true <= 1e-8 * b.norm(dim=1) + rounding).all())
    assert bool(((b - 1.001 * result.solution @ M).norm(dim=1) > 1e-4 * b.norm(dim=1)).all())  # can fail
    assert result.num_matvecs == op.count == result.info.num_matvecs
    error = (result.solution - torch.linalg.solve(M, b.mT).mT).norm(dim=1)
    assert bool((error <= (1e-8 * b.norm(dim=1) + rounding) / values.min() * 1.01).all())


def test_damping_is_a_shift_of_the_operator() -> None:
    """A2, and the residual is the damped system's."""
    M = symmetric_matrix(torch.linspace(0, 1, 12, dtype=F64))
    b = torch.randn(12, dtype=F64, generator=torch.Generator().manual_seed(0))
    damped = solve(Counted(M), b, damping=0.3, tol=1e-12)
    shifted = solve(Counted(M).shift(0.3), b, tol=1e-12)
    expected = torch.linalg.solve(M + 0.3 * torch.eye(12, dtype=F64), b)
    assert damped.solution.shape == (12,)
    assert relative(damped.solution, expected) <= 1e-11
    assert relative(shifted.solution, expected) <= 1e-11
    assert relative(solve(Counted(M).shift(0.2), b, tol=1e-12).solution, expected) > 1e-3


def test_as_many_steps_as_distinct_eigenvalues_and_one_to_check() -> None:
    """A5: three eigenvalues, three steps and the verifying product; the identity, one and one; n = 1; b = 0, none."""
    values = torch.tensor([1.0, 2.0, 7.0], dtype=F64).repeat(5)
    assert solve(Counted(symmetric_matrix(values)), torch.ones(15, dtype=F64), tol=1e-10).num_matvecs == 4
    assert solve(Counted(torch.eye(6, dtype=F64)), torch.ones(6, dtype=F64)).num_matvecs == 2
    one = solve(Counted(torch.tensor([[4.0]], dtype=F64)), torch.tensor([2.0], dtype=F64))
    assert float(one.solution[0]) == 0.5
    zero = solve(Counted(torch.eye(3, dtype=F64)), torch.zeros(2, 3, dtype=F64))
    assert (zero.status, zero.num_matvecs, float(zero.solution.abs().max())) == (("converged",) * 2, 0, 0.0)
    assert zero.residuals.tolist() == [0.0, 0.0]


def test_lockstep_is_one_system_after_another() -> None:
    """Rows do not touch one another: bit for bit the same alone, together, and at any number of rows a time."""
    M = symmetric_matrix(torch.logspace(-2, 1, 15, dtype=F64))
    b = torch.randn(5, 15, dtype=F64, generator=torch.Generator().manual_seed(3))
    b[3] = 0.0
    op = LambdaOperator(lambda v: M @ v.clone(), 15, dtype=F64)  # a copy: sums depend on where memory begins
    algorithm = ConjugateGradients(tol=1e-9)
    together = run(algorithm, op, inputs={"b": b})
    for rows in (1, 2, 3):
        assert torch.equal(run(algorithm, op, inputs={"b": b}, max_rows=rows).solution, together.solution)
    alone = [run(algorithm, op, inputs={"b": row}) for row in b]
    assert torch.equal(torch.stack([r.solution for r in alone]), together.solution)
    assert sum(r.num_matvecs for r in alone) == together.num_matvecs


def test_indefinite_operators_break_down_with_the_curvature_that_showed_it() -> None:
    """The Rayleigh quotient is negative, and no solution is claimed; damping above it mends it."""
    M = symmetric_matrix(torch.tensor([-1.0, 1.0, 2.0, 3.0], dtype=F64))
    vectors = torch.linalg.eigh(M).eigenvectors
    b = torch.stack([vectors[:, 0], vectors[:, 2]])
    result = solve(Counted(M), b)
    assert result.status == ("breakdown", "converged")
    assert result.converged.tolist() == [False, True]
    assert abs(float(result.curvatures[0]) + 1.0) <= 1e-12
    assert torch.isnan(result.curvatures[1])
    assert solve(Counted(M), b, damping=1.5).status == ("converged", "converged")
    H = HessianOperator(tied_mlp().problem())
    assert float(torch.linalg.eigvalsh(H.to_dense())[0]) < 0.0
    hessian = solve(H, torch.randn(H.n, dtype=F64, generator=torch.Generator().manual_seed(0)))
    assert hessian.status == ("breakdown",)
    assert float(hessian.curvatures[0]) <= 0.0


def test_budgets_stop_it_and_nothing_is_claimed() -> None:
    """The status says so; the residual is the iterate's own, to rounding; going on from there converges."""
    M = symmetric_matrix(torch.logspace(-4, 0, 20, dtype=F64))
    b = torch.ones(2, 20, dtype=F64)
    op = Counted(M)
    short = solve(op, b, tol=1e-8, max_matvecs=7)
    assert (short.status, op.count, short.num_matvecs) == (("max_matvecs",) * 2, 7, 7)
    assert (short.residuals - (b - short.solution @ M).norm(dim=1)).abs().max() <= 1e-12
    go_on = solve(op, b, tol=1e-8, start=short.solution)
    assert go_on.status == ("converged",) * 2
    assert solve(op, b, tol=1e-8, start=go_on.solution).num_matvecs == 2


def test_a_tolerance_below_rounding_stagnates_instead_of_lying() -> None:
    """float32 and a condition number of 1e6: the recurrence's residual passes 1e-9, the true one does not."""
    M = symmetric_matrix(torch.logspace(-6, 0, 40, dtype=F64)).float()
    b = torch.ones(40)
    result = solve(LambdaOperator(lambda v: M @ v, 40), b, tol=1e-9, max_matvecs=5000)
    assert result.status == ("stagnated",)
    assert not bool(result.converged[0])
    true = float((b.double() - M.double() @ result.solution.double()).norm())
    assert true > 1e-9 * float(b.norm())
    scale = torch.finfo(torch.float32).eps * 40 * float(result.solution.norm())
    assert abs(float(result.residuals[0]) - true) <= scale
    assert result.num_matvecs < 5000


def test_a_stopped_state_goes_on_bit_for_bit() -> None:
    """A4: the state is data; a copy of it in the middle ends at the same result."""
    M = symmetric_matrix(torch.logspace(-2, 1, 15, dtype=F64))
    op = Counted(M)
    algorithm = ConjugateGradients(tol=1e-9)
    state = algorithm.init(op.space, b=torch.ones(3, 15, dtype=F64))
    saved = None
    for step in range(200):
        V = algorithm.ask(state, 2)
        if V is None:
            break
        state = algorithm.tell(op.space, state, V, op.apply(V))
        if step == 10:
            fields = {f.name: getattr(state, f.name) for f in attrs.fields(type(state))}
            saved = type(state)(**{k: v.clone() if isinstance(v, Tensor) else v for k, v in fields.items()})
    while (V := algorithm.ask(saved, 2)) is not None:
        saved = algorithm.tell(op.space, saved, V, op.apply(V))
    assert torch.equal(algorithm.result(op.space, state).solution, algorithm.result(op.space, saved).solution)
    assert bool(algorithm.result(op.space, saved).converged.all())


def test_results_are_saved_and_read_again(tmp_path: object) -> None:
    result = solve(GGNOperator(tied_mlp().problem()), torch.ones(54, dtype=F64), damping=0.1)
    save_result(result, tmp_path / "solve")
    again = load_result(tmp_path / "solve", types=[SolveResult])
    assert isinstance(again, SolveResult)
    assert torch.equal(again.solution, result.solution)
    assert again.status == ("converged",)
    assert again.damping == 0.1


def test_options_and_shapes_out_of_range_are_named() -> None:
    op = Counted(torch.eye(3, dtype=F64))
    with pytest.raises(ValueError, match="'tol' must be > 0"):
        solve(op, torch.ones(3), tol=0.0)
    with pytest.raises(ValueError, match="'damping' must be >= 0"):
        solve(op, torch.ones(3), damping=-1.0)
    with pytest.raises(ValueError, match="'max_matvecs' must be >= 1"):
        solve(op, torch.ones(3), max_matvecs=0)
    with pytest.raises(ValueError, match=r"b has shape \(2,\): expected \(3,\) or \(k, 3\)"):
        solve(op, torch.ones(2))
    with pytest.raises(ValueError, match=r"start has shape \(1, 3\): expected \(2, 3\), a row for each"):
        solve(op, torch.ones(2, 3), start=torch.ones(3))
    with pytest.raises(ValueError, match="start 0 has norm inf: expected finite numbers"):
        solve(op, torch.ones(3), start=torch.tensor([float("inf"), 0.0, 0.0]))
    with pytest.raises(ValueError, match="right-hand side 1 has norm nan: expected finite numbers"):
        solve(op, torch.tensor([[1.0, 1.0, 1.0], [1.0, float("nan"), 1.0]]))
    with pytest.raises(ValueError, match="Solve needs a symmetric operator"):
        solve(LambdaOperator(lambda v: v, 3, symmetric=False), torch.ones(3))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("kind", ["low-rank", "decades"])
def test_what_is_claimed_holds_at_every_product(kind: str, dtype: torch.dtype) -> None:
    """Singular systems with b outside the range, too: the true residual is at most the claim; none is "converged"."""
    i = torch.arange(20, dtype=F64)
    values = torch.where(i < 7, i + 1.0, 0.0) if kind == "low-rank" else torch.logspace(-5, 0, 20, dtype=F64)
    M = symmetric_matrix(values).to(dtype)
    b = torch.randn(1, 20, dtype=F64, generator=torch.Generator().manual_seed(0)).to(dtype)
    for budget in range(1, 60, 2):
        result = solve(Counted(M), b, tol=1e-7, max_matvecs=budget)
        true = float((b.double() - result.solution.double() @ M.double()).norm())
        assert true <= float(result.residuals[0]) * (1 + 1e-9) + 1e-12, budget
        assert result.status[0] != "converged" or true <= 1.1e-7 * float(b.norm())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_operators_end_with_a_status(dtype: torch.dtype) -> None:
    """Products with noise of 2^-8: it stops, and "converged" is of the operator's own products."""
    M = symmetric_matrix(torch.linspace(0.5, 2.0, 40, dtype=F64)).to(dtype)
    op = LambdaOperator(lambda v: M @ v, 40, dtype=dtype)
    b = torch.ones(40)
    result = solve(op, b, tol=1e-6, max_matvecs=400)
    assert result.status[0] in ("stagnated", "max_matvecs")
    assert float((b - op @ result.solution).norm()) <= 0.1 * float(b.norm())
    assert solve(op, b, tol=0.05, max_matvecs=400).status == ("converged",)
