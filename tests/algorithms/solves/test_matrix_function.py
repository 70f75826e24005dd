"""f(A) b by Lanczos against dense eigendecompositions: values, error bounds, statuses, callables."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from cases import F64, relative, symmetric_matrix, tied_mlp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from curvkit_core import CurvatureOperator, GGNOperator, LambdaOperator, load_result, matrix_function, save_result
from curvkit_core.algorithms import MatrixFunction, run
from curvkit_core.algorithms.solves.function_values import FUNCTIONS, Function, evaluate
from curvkit_core.results.types import KrylovProjection

EPS = torch.finfo(F64).eps
F: dict[str, Callable[[Tensor], Tensor]] = {
    "sqrt": torch.sqrt,
    "inv-sqrt": lambda t: t**-0.5,
    "inverse": lambda t: 1.0 / t,
    "log": torch.log,
    "exp": torch.exp,
}


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
        "spread": torch.linspace(0.05, 5.0, n, dtype=F64),
        "clustered": torch.where(i % 2 == 0, 1.0, 5.0),
        "decades": torch.logspace(-6, 0, n, dtype=F64),
        "low-rank": torch.where(i < 4, i + 1.0, 0.0),
        "zero": torch.zeros(n, dtype=F64),
    }[kind]


def rows_of(rows: int, n: int, seed: int) -> Tensor:
    return torch.randn(rows, n, dtype=F64, generator=torch.Generator().manual_seed(seed))


def truth(M: Tensor, b: Tensor, f: Callable[[Tensor], Tensor], damping: float = 0.0) -> tuple[Tensor, float]:
    """By the dense eigendecomposition, and what that rounds: 20 n eps |f(lambda)| |b| of its eigenvectors."""
    values, U = torch.linalg.eigh(M)
    f_values = f(values.clamp_min(0.0) + damping)
    return (b @ U * f_values) @ U.mT, 20 * len(M) * EPS * float(f_values.abs().max())


def holds(projection: KrylovProjection, values: Tensor) -> bool:
    """Whether no eigenvalue lies beyond the Ritz values' ends, and none nearer to zero, by three residuals."""
    theta = projection.ritz_values
    residuals = 3.0 * projection.coupling * projection.coordinates[-1].abs()
    tiny = 100 * EPS * float(values.max())
    return float((theta - residuals).min()) <= float(values.min()) + tiny and float(values.max()) <= tiny + float(
        (theta + residuals).max()
    )


@settings(max_examples=80)
@given(
    kind=st.sampled_from(["spread", "clustered", "decades", "low-rank", "zero"]),
    name=st.sampled_from(sorted(F)),
    n=st.integers(1, 25),
    steps=st.integers(1, 25),
    damped=st.booleans(),
    seed=st.integers(0, 999),
)
def test_the_error_is_a_bound_at_any_number_of_steps(
    kind: str, name: str, n: int, steps: int, damped: bool, seed: int
) -> None:
    """|f(A) b - value| <= errors, the spectrum being where they say; what is converged is right; counts."""
    values, damping = spectrum(kind, n), 0.1 if damped else 0.0
    M, b = symmetric_matrix(values, seed), rows_of(2, n, seed)
    op = Counted(M)
    result = matrix_function(op, b, function=name, damping=damping, steps=steps)
    assert result.num_matvecs == op.count <= 2 * min(steps, n)
    undefined = kind in ("low-rank", "zero") and not damped and n > 4 * (kind == "low-rank")
    if undefined and name in ("inv-sqrt", "inverse", "log"):
        # two steps into a low rank need not show the zero: then nothing may be claimed
        for status, error in zip(result.status, result.errors.tolist(), strict=True):
            assert status == "outside" or error == math.inf
        return
    expected, rounding = truth(M, b, F[name], damping)
    error = (result.value - expected).norm(dim=1)
    krylov = run(MatrixFunction(function=None, steps=steps), op, inputs={"b": b})
    supposed = torch.tensor([holds(p, values) for p in krylov.projections])
    assert bool(((error <= result.errors + rounding * b.norm(dim=1)) | ~supposed).all())
    if steps >= n and kind != "decades":
        assert result.status == ("converged",) * 2
        tol = (1e-6 if undefined else 1e-9) * float(b.norm())  # sqrt at zero: sqrt(eps)
        assert float(error.norm()) <= tol
        assert float((1.001 * result.value - expected + 1e-3 * b).norm()) > tol  # can fail


def test_what_the_bound_supposes_is_so() -> None:
    """From the second step on, in 19 of 20 spaces at least: the test above leaves out few.

    One step shows one number of the spectrum and its spread, and the ends may be anywhere.
    """
    held = []
    for kind in ("spread", "clustered", "decades", "low-rank", "zero"):
        for n in (2, 5, 9, 16, 25):
            for steps in (2, 3, 5, 8, 14):
                for seed in range(2):
                    values = spectrum(kind, n)
                    op = Counted(symmetric_matrix(values, seed))
                    krylov = run(MatrixFunction(function=None, steps=steps), op, inputs={"b": rows_of(2, n, seed)})
                    held += [holds(p, values) for p in krylov.projections]
    assert sum(held) / len(held) >= 0.95


def test_the_bound_is_not_a_wild_one() -> None:
    """Never below the true error, and within a factor of 30 in the median, over steps, functions and seeds."""
    ratios = []
    for name in F:
        for seed in range(6):
            M, b = symmetric_matrix(torch.linspace(0.05, 5.0, 60, dtype=F64), seed), rows_of(1, 60, seed)
            expected, _ = truth(M, b, F[name])
            for steps in (8, 14, 20):
                result = matrix_function(Counted(M), b, function=name, damping=1e-300, steps=steps)
                if math.isfinite(float(result.errors[0])) and result.status[0] == "steps":
                    ratios.append(float(result.errors[0] / (result.value - expected).norm()))
    assert len(ratios) >= 20
    assert min(ratios) >= 1.0
    assert float(torch.tensor(ratios).median()) <= 30.0


def test_the_error_identity_holds() -> None:
    """|b| beta g(A) q_{m+1} is the error itself, g on the true eigenvalues; with beta wrong by 1e-3 it is not."""
    n, m = 20, 10
    M, b = symmetric_matrix(torch.linspace(0.5, 4.0, n, dtype=F64)), rows_of(1, n, 0)[0]
    Q = [b / b.norm()]
    for _ in range(m):  # a slow twin: Arnoldi, orthogonalised twice
        w = M @ Q[-1]
        for _ in range(2):
            for q in Q:
                w = w - (q @ w) * q
        Q.append(w / w.norm())
    basis, beyond = torch.stack(Q[:m]), Q[m]
    theta, S = torch.linalg.eigh(basis @ M @ basis.mT)
    beta = float(beyond @ M @ basis[-1])
    values, U = torch.linalg.eigh(M)
    g = ((values.log()[:, None] - theta.log()) / (values[:, None] - theta)) @ (S[0] * S[-1])
    error = U @ (values.log() * (U.mT @ b)) - b.norm() * basis.mT @ (S @ (S[0] * theta.log()))
    predicted = b.norm() * beta * U @ (g * (U.mT @ beyond))
    assert relative(predicted, error) <= 1e-9
    assert relative(1.001 * predicted, error) > 1e-9
    projection = KrylovProjection(
        ritz_values=theta, coordinates=S, coupling=beta, noise=0.0, scale=4.0, norm=float(b.norm())
    )
    found = evaluate(FUNCTIONS["log"], projection, 0.0, EPS)
    assert float(error.norm()) <= found.truncation <= 50 * float(error.norm())


def test_tolerance_stops_it_and_holds() -> None:
    """Fewer products than steps; the error is below tol times the value; a tolerance below rounding is not claimed."""
    M, b = symmetric_matrix(torch.linspace(0.5, 5.0, 80, dtype=F64)), rows_of(3, 80, 0)
    expected, _ = truth(M, b, torch.sqrt)
    op = Counted(M)
    result = matrix_function(op, b, function="sqrt", tol=1e-6, steps=60)
    assert result.status == ("converged",) * 3
    assert op.count == result.num_matvecs == int(result.steps.sum()) < 3 * 30
    assert bool(((result.value - expected).norm(dim=1) <= 1e-6 * expected.norm(dim=1)).all())
    low = matrix_function(LambdaOperator(lambda v: M.float() @ v, 80), b, function="sqrt", tol=1e-9, steps=60)
    assert low.status == ("noise",) * 3
    assert not bool(low.converged.any())
    forms = (b * expected).sum(dim=1)
    assert bool(((result.quadratic_forms - forms).abs() <= 1e-6 * forms.abs()).all())


@pytest.mark.parametrize("scale", [1e-20, 1e20])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize(("name", "power"), [("sqrt", 0.5), ("inverse", -1.0), ("inv-sqrt", -0.5)])
def test_values_scale_with_the_operator(name: str, power: float, dtype: torch.dtype, scale: float) -> None:
    """A2: f(cA) = c^p f(A), with the same count."""
    M, b = symmetric_matrix(torch.linspace(0.5, 5.0, 30, dtype=F64)).to(dtype), rows_of(1, 30, 0).to(dtype)
    one = matrix_function(LambdaOperator(lambda v: M @ v, 30, dtype=dtype), b, function=name, steps=12)
    other = matrix_function(LambdaOperator(lambda v: (M @ v) * scale, 30, dtype=dtype), b, function=name, steps=12)
    assert relative(other.value.double() * scale**-power, one.value) <= 1e5 * torch.finfo(dtype).eps
    assert other.num_matvecs == one.num_matvecs
    # float32: rounding, which the scale does not carry through bit by bit, is most of the error
    ratio = float(other.errors[0]) * scale**-power / float(one.errors[0])
    assert abs(math.log(ratio)) <= (math.log(3.0) if dtype == torch.float32 else 0.1)


def test_float32_gets_float32s_digits() -> None:
    """n = 3,000, where the basis shows little of a product's rounding: the bound holds, below 1e-4 of the value."""
    diagonal = torch.linspace(0.5, 5.0, 3000)
    b = torch.randn(1, 3000, generator=torch.Generator().manual_seed(0))
    result = matrix_function(LambdaOperator(lambda v: diagonal * v, 3000), b, function="inv-sqrt")
    expected = b.double() * diagonal.double() ** -0.5
    error = float((result.value - expected).norm())
    assert result.status == ("converged",)
    assert error <= float(result.errors[0]) <= 1e-4 * float(expected.norm())
    assert error <= 1e-5 * float(expected.norm())


def test_negative_ritz_values_are_told_with_their_value() -> None:
    """sqrt and log of an indefinite operator: no number; damping mends it. exp and inverse take it."""
    values = torch.linspace(-1.0, 3.0, 20, dtype=F64) + 0.05
    M, b = symmetric_matrix(values), rows_of(1, 20, 0)
    for name in ("sqrt", "log", "inv-sqrt"):
        result = matrix_function(Counted(M), b, function=name)
        assert result.status == ("outside",)
        assert torch.isnan(result.value).all()
        assert abs(float(result.lowest[0]) - float(values[0])) <= 1e-10
        mended = matrix_function(Counted(M), b, function=name, damping=1.0)
        assert mended.status == ("converged",)
    for name in ("exp", "inverse"):
        result = matrix_function(Counted(M), b, function=name)
        expected = torch.linalg.solve(M, b.mT).mT if name == "inverse" else b @ torch.linalg.matrix_exp(M)
        assert result.status == ("converged",)
        assert relative(result.value, expected) <= 1e-10
    assert matrix_function(Counted(1e20 * M), b, function="exp").status == ("overflow",)


def test_a_callable_is_the_named_function() -> None:
    """The same value from the same products; any other function, too; several from one class run."""
    M, b = symmetric_matrix(torch.linspace(0.5, 5.0, 30, dtype=F64)), rows_of(2, 30, 0)
    op = Counted(M)
    called = matrix_function(op, b, function=torch.sqrt, steps=12)
    named = matrix_function(Counted(M), b, function="sqrt", steps=12)
    assert relative(called.value, named.value) <= 1e-14
    assert called.function == "callable"
    assert op.count == 24
    assert bool((called.errors <= 1.5 * named.errors).all())
    expected, _ = truth(M, b, lambda t: torch.sin(3.0 * t))
    sine = matrix_function(Counted(M), b, function=lambda t: torch.sin(3.0 * t), steps=30)
    assert relative(sine.value, expected) <= 1e-11
    assert sine.info.converged is True
    krylov = run(MatrixFunction(function=None, steps=30), op, inputs={"b": b})
    gram = krylov.bases[0] @ krylov.bases[0].mT
    assert (gram - torch.eye(30, dtype=F64)).abs().max() <= 1e-13
    e = evaluate(Function(name="cube", fn=lambda t: t**3), krylov.projections[1], 0.0, EPS)
    assert relative(e.coordinates @ krylov.bases[1], M @ M @ M @ b[1]) <= 1e-12
    with pytest.raises(ValueError, match="tol=1e-06 with a callable: expected tol=None"):
        matrix_function(op, b, function=torch.sqrt, tol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["sqrt", "exp", "log"])
def test_low_precision_operators_get_their_error(name: str, dtype: torch.dtype) -> None:
    """The products' asymmetry tells their rounding: the bound holds against the rounded matrix in float64."""
    M, b = symmetric_matrix(torch.linspace(0.5, 5.0, 40, dtype=F64)).to(dtype), torch.ones(1, 40)
    result = matrix_function(LambdaOperator(lambda v: M @ v, 40, dtype=dtype), b, function=name, steps=40)
    expected, _ = truth(M.double(), b.double(), F[name])
    error = float((result.value - expected).norm())
    assert error <= float(result.errors[0])
    assert float(result.errors[0]) <= 0.3 * float(expected.norm())


@pytest.mark.parametrize("storage", ["device", "host", "disk"])
@pytest.mark.parametrize("kind", [None, "bfloat16"])
def test_the_basis_may_lie_elsewhere(storage: str, kind: str | None) -> None:
    """The same bits wherever it lies; a lower precision is within its error."""
    M, b = symmetric_matrix(torch.linspace(0.5, 5.0, 30, dtype=F64)).float(), rows_of(2, 30, 0).float()
    op = LambdaOperator(lambda v: M @ v, 30)
    plain = matrix_function(op, b, steps=12)
    other = matrix_function(op, b, steps=12, basis_storage=storage, basis_dtype=kind)
    if kind is None:
        assert relative(other.value, plain.value) <= 1e-6
    expected, _ = truth(M.double(), b.double(), torch.sqrt)
    assert bool(((other.value - expected).norm(dim=1) <= other.errors).all())


def test_budgets_rows_at_once_and_zero() -> None:
    """Any budget gives a bound; rows at once do not matter; b = 0 costs nothing; n = 1."""
    M, b = symmetric_matrix(torch.linspace(0.5, 5.0, 20, dtype=F64)), rows_of(3, 20, 1)
    b[1] = 0.0
    expected, rounding = truth(M, b, torch.log)
    algorithm = MatrixFunction(function="log", steps=20)
    whole = run(algorithm, Counted(M), inputs={"b": b})
    for budget in (1, 2, 3, 7, 15):
        op = Counted(M)
        result = run(algorithm, op, inputs={"b": b}, max_matvecs=budget, max_rows=2)
        assert op.count == result.num_matvecs == budget
        assert bool(((result.value - expected).norm(dim=1) <= result.errors + rounding * 20).all())
        assert result.status[1] == "converged"
    assert torch.equal(run(algorithm, Counted(M), inputs={"b": b}, max_rows=1).value, whole.value)
    assert float(whole.value[1].abs().max()) == float(whole.errors[1]) == 0.0
    one = matrix_function(Counted(torch.tensor([[4.0]], dtype=F64)), torch.tensor([3.0], dtype=F64))
    assert (float(one.value[0]), one.num_matvecs, one.status) == (6.0, 1, ("converged",))


def test_results_are_saved_and_a_random_vector_is_recorded(tmp_path: object) -> None:
    G = GGNOperator(tied_mlp().problem())
    result = matrix_function(G, function="inv-sqrt", damping=0.1, seed=3)
    assert result.seed == result.info.seed == 3
    b = G.space.random("gaussian", 3, 0, 1)[0]
    assert torch.equal(matrix_function(G, b, function="inv-sqrt", damping=0.1).value, result.value)
    save_result(result, tmp_path / "f")
    assert torch.equal(load_result(tmp_path / "f").value, result.value)


def test_options_out_of_range_are_named() -> None:
    op = Counted(torch.eye(3, dtype=F64))
    with pytest.raises(ValueError, match="'function' must be in"):
        matrix_function(op, torch.ones(3), function="cosine")
    with pytest.raises(ValueError, match="'steps' must be >= 1"):
        matrix_function(op, torch.ones(3), steps=0)
    with pytest.raises(ValueError, match=r"b has shape \(2,\)"):
        matrix_function(op, torch.ones(2))
    with pytest.raises(ValueError, match="right-hand side 0 has norm nan"):
        matrix_function(op, torch.full((3,), float("nan")))
    with pytest.raises(ValueError, match="MatrixFunction needs a symmetric operator"):
        matrix_function(LambdaOperator(lambda v: v, 3, symmetric=False), torch.ones(3))
