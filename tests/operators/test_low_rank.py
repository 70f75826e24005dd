"""Low-rank updates, and the transposes of everything the algebra makes, against dense matrices."""

from __future__ import annotations

import pytest
import torch
from cases import F64, symmetric_matrix, tied_mlp

from curvkit_core import GGNOperator, LambdaOperator, eigsh
from curvkit_core.operators import LowRankUpdate, StochasticOperator

A = symmetric_matrix(torch.linspace(-1, 4, 9, dtype=F64))
M = torch.randn(9, 9, dtype=F64, generator=torch.Generator().manual_seed(1))
U = torch.randn(3, 9, dtype=F64, generator=torch.Generator().manual_seed(2))
TOL = 1e-13  # sums of 9 terms of order 1


def symmetric() -> LambdaOperator:
    return LambdaOperator(lambda v: A @ v, 9, dtype=F64)


def general() -> LambdaOperator:
    return LambdaOperator(lambda v: M @ v, 9, dtype=F64, symmetric=False, adjoint=lambda v: M.mT @ v)


def test_updates_are_those_of_the_matrix() -> None:
    """Coefficients of both signs, none given, one row; the coefficients left out are told apart."""
    c = torch.tensor([2.0, -1.0, 0.5], dtype=F64)
    updated = symmetric().low_rank_update(U, c)
    expected = A + U.mT @ torch.diag(c) @ U
    assert updated.symmetric
    assert (updated.to_dense() - expected).abs().max() <= TOL
    assert (symmetric().low_rank_update(U).to_dense() - (A + U.mT @ U)).abs().max() <= TOL
    assert (symmetric().low_rank_update(U).to_dense() - expected).abs().max() > 1e-3
    assert (symmetric().low_rank_update(U[0]).to_dense() - (A + torch.outer(U[0], U[0]))).abs().max() <= TOL


def test_found_eigenpairs_are_deflated() -> None:
    """A with its top pairs taken away has the next one on top."""
    G = GGNOperator(tied_mlp().problem())
    exact = torch.linalg.eigvalsh(G.to_dense()).flip(0)
    top = eigsh(G, k=3, tol=1e-12, seed=0)
    rest = G.low_rank_update(top.eigenvectors, -top.eigenvalues)
    assert abs(float(eigsh(rest, k=1, tol=1e-10, seed=0).eigenvalues[0] - exact[3])) <= 1e-9 * exact[0]


def test_transposes_of_made_operators_are_those_of_the_matrices() -> None:
    """Shift, scale, sum, product, update of an operator that is not symmetric; <A v, w> = <v, A^T w>."""
    g, s = general(), symmetric()
    made = [
        (g.shift(0.5), M + 0.5 * torch.eye(9)),
        (2.5 * g, 2.5 * M),
        (g + s, M + A),
        (g - s, M - A),
        (g @ s, M @ A),
        (s @ g @ g, A @ M @ M),
        (g.low_rank_update(U), M + U.mT @ U),
        (g.T @ g, M.mT @ M),
    ]
    for operator, dense in made:
        assert (operator.to_dense() - dense).abs().max() <= 10 * TOL
        assert (operator.T.to_dense() - dense.mT).abs().max() <= 10 * TOL
        assert operator.symmetric == bool((dense - dense.mT).abs().max() <= TOL)
    assert s.T is s
    assert g.T.T is g
    assert (g.T @ g).T.symmetric
    assert (g.to_scipy().rmatvec(torch.ones(9).numpy()) - M.sum(0).numpy()).max() <= TOL


def test_an_unknown_transpose_says_what_to_give() -> None:
    blind = LambdaOperator(lambda v: M @ v, 9, dtype=F64, symmetric=False)
    for operator in (
        blind,
        blind.shift(1.0),
        2 * blind,
        blind + symmetric(),
        blind @ symmetric(),
        blind.low_rank_update(U),
    ):
        with pytest.raises(TypeError, match="the transpose of .* is not known.* LambdaOperator its adjoint= function"):
            operator.T  # noqa: B018 - asking is the test
    # a product of two different operators that happen to be transposes is not known to be symmetric
    assert not (general() @ general()).symmetric


def test_what_is_made_of_a_stochastic_operator_is_one() -> None:
    """Each product is of another matrix, and two of them are no square."""
    op = StochasticOperator(GGNOperator, tied_mlp().problem((6, 7)))
    made = (op.shift(1.0), 2 * op, op + op, op @ op, op.low_rank_update(torch.zeros(1, op.n, dtype=F64)))
    assert not any(m.deterministic for m in made)
    assert not (op @ op).symmetric


def test_updates_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"U has shape \(2, 5\): expected \(9,\) or \(k, 9\)"):
        LowRankUpdate(symmetric(), torch.ones(2, 5))
    with pytest.raises(ValueError, match=r"c has shape \(2,\): expected \(3,\), a coefficient for each row of U"):
        LowRankUpdate(symmetric(), U, torch.ones(2))
