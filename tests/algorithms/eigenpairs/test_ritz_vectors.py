"""Ritz vectors as they are given: orthonormal, the best first, and what they leave then."""

from __future__ import annotations

import pytest
import torch
from cases import F64, symmetric_matrix
from torch import Tensor

from curvkit_core.algorithms.eigenpairs.ritz_vectors import orthonormalize_ritz_vectors
from curvkit_core.backends import Segment, VectorSpace

N, K = 60, 4
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def eigenvectors(dtype: torch.dtype) -> tuple[VectorSpace, Tensor, Tensor, Tensor]:
    A = symmetric_matrix(torch.linspace(0.0, 3.0, N, dtype=F64))
    theta, U = torch.linalg.eigh(A)
    return VectorSpace([Segment(name="", numel=N)], dtype=dtype), A, theta[-K:].flip(0), U[:, -K:].mT.flip(0)


@DTYPES
def test_a_worse_vector_loses_what_it_has_of_a_better_one(dtype: torch.dtype) -> None:
    """The last is contaminated by the first: the first stays, the last's residual goes, and what is left says so."""
    space, A, theta, V = eigenvectors(dtype)
    eps = torch.finfo(dtype).eps
    dirt = 10 * eps**0.5
    rows = V.clone()
    rows[3] += dirt * V[0]
    rows = (3.0 * rows).to(dtype)
    left = torch.zeros(K, K, dtype=F64)
    left[0, 3] = dirt * (theta[0] - theta[3])
    before = rows.double() / 3.0
    assert (before @ A - theta[:, None] * before)[3].norm() > 0.9 * abs(left[0, 3])
    found = orthonormalize_ritz_vectors(space, rows, theta, left, torch.zeros(K, dtype=F64))
    after = rows.double()
    assert (after @ after.mT - torch.eye(K, dtype=F64)).abs().max() <= 10 * eps
    assert (after[0] - V[0]).norm() <= 10 * eps
    assert (after @ A - theta[:, None] * after).norm(dim=1).max() <= 30 * eps + 2 * dirt**2
    assert found.abs().max() <= 10 * eps + 2 * dirt**2 < 0.1 * float(left.abs().max())


@DTYPES
def test_what_is_left_is_the_products_in_the_new_vectors(dtype: torch.dtype) -> None:
    """V' A V'^T - theta of any overlaps: column i is what the i-th product has of the others."""
    space, A, theta, V = eigenvectors(dtype)
    generator = torch.Generator().manual_seed(0)
    mixed = torch.eye(K, dtype=F64) + 1e-2 * torch.randn(K, K, dtype=F64, generator=generator)
    rows = (mixed @ V).to(dtype)
    values, left = theta, mixed.mT.inverse() @ theta.diag() @ mixed.mT - theta.diag()
    residuals = torch.tensor([3.0, 1.0, 4.0, 2.0], dtype=F64) * 1e-3
    best = int(residuals.hypot(left.norm(dim=0)).argmin())
    kept = rows[best].clone()
    found = orthonormalize_ritz_vectors(space, rows, values, left, residuals)
    after = rows.double()
    tol = 30 * torch.finfo(dtype).eps
    assert (after @ after.mT - torch.eye(K, dtype=F64)).abs().max() <= tol
    assert (after @ A @ after.mT - (theta.diag() + found)).abs().max() <= tol
    assert (after @ A @ after.mT - (theta.diag() + left)).abs().max() > 10 * tol
    assert (after[best] - kept.double() / kept.double().norm()).norm() <= tol


@DTYPES
def test_rows_that_are_orthogonal_or_far_from_it_are_only_normalised(dtype: torch.dtype) -> None:
    """Rounding is not turned into a pass over the rows; vectors that are none yet are not mixed."""
    space, _A, theta, V = eigenvectors(dtype)
    left = torch.randn(K, K, dtype=F64, generator=torch.Generator().manual_seed(0))
    clean = (2.0 * V).to(dtype)
    apart = V.clone()
    apart[1] += 0.5 * V[0]
    apart = apart.to(dtype)
    for rows in (clean, apart):
        expected = rows / rows.norm(dim=1, keepdim=True)
        found = orthonormalize_ritz_vectors(space, rows, theta, left, torch.zeros(K, dtype=F64))
        assert torch.equal(found, left)
        assert (rows - expected).abs().max() <= 2 * torch.finfo(dtype).eps
    none = orthonormalize_ritz_vectors(space, space.zeros(0), theta[:0], left[:0, :0], theta[:0])
    assert none.shape == (0, 0)
