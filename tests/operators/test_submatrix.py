"""A submatrix by indices is the dense matrix's."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, F64, dense_truth, relative, tied_mlp

from curvkit_core import HessianOperator, LambdaOperator
from curvkit_core.operators import SubmatrixOperator

TOLERANCE = 1e4 * torch.finfo(F64).eps  # as in test_dense_match


@pytest.mark.parametrize("name", ["tied-mlp", "shared-convnet", "tiny-transformer"])
def test_products_match_the_dense_submatrix(name: str) -> None:
    """In any order of the indices; the same indices sorted are told apart."""
    case = CASES[name]()
    H = HessianOperator(case.problem())
    indices = torch.randperm(H.n, generator=torch.Generator().manual_seed(0))[: H.n // 2]
    dense = dense_truth(case).hessian
    operator = SubmatrixOperator(H, indices)
    assert (operator.symmetric, operator.shape) == (True, (len(indices), len(indices)))
    assert relative(operator.to_dense(), dense[indices][:, indices]) <= TOLERANCE
    ordered = indices.sort().values
    assert relative(operator.to_dense(), dense[ordered][:, ordered]) > 1e3 * TOLERANCE


def test_indices_of_one_parameter_are_the_restricted_problem() -> None:
    problem = tied_mlp().problem()
    place = problem.parameters.entries[2].place
    by_index = SubmatrixOperator(HessianOperator(problem), range(place.start, place.stop)).to_dense()
    by_name = HessianOperator(problem.restrict(problem.parameters.entries[2].name)).to_dense()
    assert relative(by_index, by_name) <= TOLERANCE


def test_an_unsymmetric_operators_submatrix_has_the_transposes() -> None:
    M = torch.randn(6, 6, dtype=F64)
    op = LambdaOperator(lambda v: M @ v, 6, dtype=F64, symmetric=False, adjoint=lambda v: M.mT @ v)
    part = SubmatrixOperator(op, [4, 1, 2])
    expected = M[[4, 1, 2]][:, [4, 1, 2]]
    assert not part.symmetric
    assert (part.to_dense() - expected).abs().max() <= 1e-14
    assert (part.T.to_dense() - expected.mT).abs().max() <= 1e-14


def test_indices_that_are_none_are_named() -> None:
    op = LambdaOperator(lambda v: v, 5)
    with pytest.raises(ValueError, match="indices run from -1 to 3: expected 0 to 4"):
        SubmatrixOperator(op, [3, -1])
    with pytest.raises(ValueError, match="indices run from 0 to 5: expected 0 to 4"):
        SubmatrixOperator(op, [0, 5])
    with pytest.raises(ValueError, match="index 2 is there 2 times"):
        SubmatrixOperator(op, [2, 1, 2])
    with pytest.raises(ValueError, match=r"indices are torch.bool of shape \(5,\).*mask.nonzero"):
        SubmatrixOperator(op, torch.ones(5, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"shape \(0,\): expected one or more integers"):
        SubmatrixOperator(op, torch.empty(0, dtype=torch.int64))
    assert relative(SubmatrixOperator(op, [0]).to_dense(), torch.ones(1, 1)) == 0.0
