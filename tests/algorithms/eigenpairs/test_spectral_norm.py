"""The spectral norm against singular values, of symmetric and other operators."""

from __future__ import annotations

import pytest
import torch
from cases import F64, tied_mlp
from eigen_cases import counted, matrices
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from curvkit_core import GGNOperator, JacobianOperator, LambdaOperator, load_result, save_result, spectral_norm


@settings(max_examples=40)
@given(A=matrices(), dtype=st.sampled_from([torch.float32, torch.float64]), seed=st.integers(0, 10))
def test_symmetric_operators(A: Tensor, dtype: torch.dtype, seed: int) -> None:
    """The largest singular value to the residual given and to tol; the sign is kept beside it; products are counted."""
    A = A.to(dtype).double()
    op, calls = counted(A, dtype)
    result = spectral_norm(op, seed=seed)
    norm = float(torch.linalg.matrix_norm(A, 2))
    rounding = 20 * len(A) ** 0.5 * torch.finfo(dtype).eps * norm
    assert len(calls) == result.num_matvecs == result.info.num_matvecs
    assert result.converged
    assert abs(result.estimate - norm) <= 1e-4 * norm + rounding
    assert abs(result.estimate - norm) <= result.residual + rounding
    assert abs(result.eigenvalue) == result.estimate
    assert abs(float(result.vector.double().norm()) - 1.0) <= 1e-5


def lopsided(m: int = 40, n: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(m, n, dtype=F64, generator=generator)


@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_an_operator_with_its_transpose(scale: float) -> None:
    """By A^T A: the root's error is residual / sigma; both products count; a norm wrong by 1e-3 is told apart."""
    A = scale * lopsided()
    calls: list[int] = []
    op = LambdaOperator(
        lambda v: (calls.append(1), A @ v)[1],
        40,
        dtype=F64,
        symmetric=False,
        adjoint=lambda v: (calls.append(1), A.mT @ v)[1],
    )
    result = spectral_norm(op, tol=1e-8, seed=0)
    norm = float(torch.linalg.matrix_norm(A, 2))
    assert abs(result.estimate - norm) <= 1e-8 * norm < abs(1.001 * result.estimate - norm)
    assert abs(result.estimate - norm) <= result.residual
    assert result.eigenvalue is None
    assert len(calls) == result.num_matvecs == result.info.num_matvecs
    assert spectral_norm(2.0 * op, tol=1e-8, seed=0).estimate == pytest.approx(2 * norm, rel=1e-8)
    few = spectral_norm(op, tol=1e-12, max_matvecs=7, seed=0)
    assert few.num_matvecs == 6 and not few.converged and few.estimate <= norm * (1 + 1e-12)


def test_a_rectangular_map() -> None:
    """The Jacobian of a network's outputs, whose Gram matrix is the GGN of half the squared error's sum."""
    problem = tied_mlp().problem()
    J = JacobianOperator(problem)
    dense = J.to_dense()
    result = spectral_norm(J, tol=1e-8, seed=0)
    norm = float(torch.linalg.matrix_norm(dense, 2))
    assert abs(result.estimate - norm) <= 1e-8 * norm


def test_kept_results_come_back(tmp_path: object) -> None:
    result = spectral_norm(GGNOperator(tied_mlp().problem()), seed=0)
    save_result(result, tmp_path / "norm")
    again = load_result(tmp_path / "norm")
    assert type(again) is type(result)
    assert again.estimate == result.estimate and torch.equal(again.vector, result.vector)


def test_what_cannot_be_is_named() -> None:
    op = LambdaOperator(lambda v: v, 5, symmetric=False)
    with pytest.raises(ValueError, match="needs its transpose, which is not known.*LambdaOperator takes adjoint="):
        spectral_norm(op)
    both = LambdaOperator(lambda v: v, 5, symmetric=False, adjoint=lambda v: v)
    with pytest.raises(ValueError, match="max_matvecs=1: expected at least 2"):
        spectral_norm(both, max_matvecs=1)
