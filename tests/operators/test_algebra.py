"""Algebra against dense matrices; refusals that say what to write instead; the SciPy edge."""

from __future__ import annotations

import numpy
import pytest
import scipy.sparse.linalg
import torch
from cases import F64, symmetric_matrix, tied_mlp
from torch import Tensor

from curvkit_core import GGNOperator, HessianOperator, LambdaOperator

A = symmetric_matrix(torch.linspace(-1, 4, 9, dtype=F64))
B = symmetric_matrix(torch.linspace(0, 2, 9, dtype=F64), seed=1)


def operator(M: Tensor, **options: object) -> LambdaOperator:
    return LambdaOperator(lambda v: M @ v, len(M), dtype=M.dtype, **options)


@pytest.mark.parametrize(
    ("made", "dense", "symmetric"),
    [
        (lambda a, b: a.shift(0.5), A + 0.5 * torch.eye(9), True),
        (lambda a, b: 2.5 * a, 2.5 * A, True),
        (lambda a, b: -a, -A, True),
        (lambda a, b: a + b, A + B, True),
        (lambda a, b: a - b, A - B, True),
        (lambda a, b: a @ b, A @ B, False),
        (lambda a, b: a @ a, A @ A, True),
        (lambda a, b: (2 * a - b).shift(-1.0) @ b, (2 * A - B - torch.eye(9)) @ B, False),
    ],
)
def test_algebra_is_that_of_the_matrices(made: object, dense: Tensor, symmetric: bool) -> None:
    result = made(operator(A), operator(B))
    assert (result.to_dense() - dense).abs().max() <= 1e-13
    assert result.symmetric is symmetric


def test_sums_of_operators_on_one_problem_keep_it() -> None:
    problem = tied_mlp().problem()
    both = HessianOperator(problem) + GGNOperator(problem)
    assert both.problem is problem
    v = both.space.random("gaussian", 0, 0, 1)[0]
    assert torch.equal(both @ v, HessianOperator(problem) @ v + GGNOperator(problem) @ v)


def test_ambiguous_expressions_say_what_to_write() -> None:
    a = operator(A)
    with pytest.raises(TypeError, match=r"A \+ 0.001 is ambiguous: .* A.shift\(0.001\)"):
        a + 1e-3
    with pytest.raises(TypeError, match=r"A.shift\(-0.5\)"):
        a - 0.5
    with pytest.raises(ValueError, match=r"A @ V with V of shape \(9, 2\): expected one vector \(9,\).* A.apply\(V\)"):
        a @ torch.ones(9, 2, dtype=F64)
    with pytest.raises(ValueError, match=r"V has shape \(9,\): expected rows of vectors, \(k, 9\)"):
        a.apply(torch.ones(9, dtype=F64))
    with pytest.raises(ValueError, match=r"V has shape \(2, 8\): expected \(9,\) or \(k, 9\)"):
        a.apply(torch.ones(2, 8, dtype=F64))
    with pytest.raises(TypeError, match=r"A @ ndarray: .* A.to_scipy\(\)"):
        a @ numpy.ones(9)
    with pytest.raises(ValueError, match="expected operators of one size"):
        a + operator(torch.eye(3, dtype=F64))
    with pytest.raises(TypeError, match="unsupported operand"):
        a * None


def test_lambda_operator_checks_its_function() -> None:
    with pytest.raises(ValueError, match=r"fn returned shape \(2,\) for a vector of shape \(3,\)"):
        LambdaOperator(lambda v: v[:2], 3) @ torch.ones(3)
    with pytest.raises(ValueError, match="n=0: expected a positive integer"):
        LambdaOperator(lambda v: v, 0)


def test_vectors_of_another_dtype_are_taken() -> None:
    """A float32 vector on a float64 operator, and what comes back is the operator's."""
    product = operator(A) @ torch.ones(9)
    assert product.dtype == F64
    assert (product - A.sum(1)).abs().max() <= 1e-14


def test_scipy_sees_the_same_matrix_in_columns() -> None:
    exported = operator(A).to_scipy()
    assert isinstance(exported, scipy.sparse.linalg.LinearOperator)
    X = numpy.random.default_rng(0).normal(size=(9, 3))
    assert numpy.abs(exported @ X - A.numpy() @ X).max() <= 1e-14
    assert numpy.abs(exported @ X[:, 0] - A.numpy() @ X[:, 0]).max() <= 1e-14
    assert numpy.abs(exported.T @ X - A.numpy() @ X).max() <= 1e-14
    top = scipy.sparse.linalg.eigsh(exported, k=2, return_eigenvectors=False)
    assert abs(float(top.max()) - 4.0) <= 1e-12
    with pytest.raises(NotImplementedError):
        operator(A, symmetric=False).to_scipy().rmatvec(X[:, 0])


def test_dense_is_refused_where_it_does_not_fit() -> None:
    with pytest.raises(ValueError, match="to_dense\\(\\) of an operator with n=20,001: expected n <= 20,000"):
        LambdaOperator(lambda v: v, 20_001).to_dense()


def test_dense_of_an_unsymmetric_operator_is_not_its_transpose() -> None:
    M = torch.arange(9.0, dtype=F64).view(3, 3)
    assert torch.equal(operator(M, symmetric=False).to_dense(), M)
