"""Inner products in float64 from float32 rows, at any scale; orthonormal rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from curvkit_core.backends import Segment, VectorSpace

BIG = 4_000_000
EPS32 = torch.finfo(torch.float32).eps


def space(n: int, dtype: torch.dtype = torch.float32) -> VectorSpace:
    return VectorSpace([Segment(name="", numel=n)], dtype=dtype)


@pytest.mark.parametrize("n", [1, 1000, 1024, 1025, 1_048_576, 1_050_001])
def test_gram_and_dots_match_float64(n: int) -> None:
    """A B^T to the rounding of float32 sums of 2^10 terms, whose errors cancel like a random walk: 3 eps32 |a||b|."""
    s = space(n)
    A, B = s.random("gaussian", 0, 0, 3), s.random("gaussian", 1, 0, 2)
    truth = A.double() @ B.double().mT
    scale = A.double().norm(dim=1)[:, None] * B.double().norm(dim=1)
    error = ((s.gram(A, B) - truth).abs() / scale).max()
    assert error <= EPS32 * 3
    assert s.gram(A, B).dtype == torch.float64
    assert torch.allclose(s.dots(A[:2], B), s.gram(A, B).diagonal(), rtol=0, atol=EPS32 * float(scale.max()))
    assert error > 0 or n == 1


def test_norm_of_four_million_elements_keeps_its_digits() -> None:
    """Where a plain float32 sum loses them: here it would differ in the fifth digit."""
    s = space(BIG)
    row = s.random("gaussian", 0, 0, 1).abs_()
    truth = float(row.double().norm())
    assert abs(float(s.norms(row)[0]) - truth) <= 1e-8 * truth
    naive = torch.zeros(())
    for piece in row[0].split(1000):
        naive = naive + piece.square().sum()
    assert abs(float(naive.sqrt()) - truth) > 1e-8 * truth


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1.0, 1e20, 1e30])
def test_products_survive_any_scale(scale: float) -> None:
    """Squares of 1e-30 and 1e30 are outside float32."""
    s = space(1000)
    A = s.random("gaussian", 0, 0, 2)
    truth = (A * scale).double() @ (A * scale).double().mT
    assert torch.allclose(s.gram(A * scale, A * scale), truth, rtol=1e-5, atol=1e-5 * float(truth.diagonal().max()))
    assert torch.allclose(s.norms(A * scale), truth.diagonal().sqrt(), rtol=1e-6)


def test_zero_rows_have_norm_zero() -> None:
    s = space(10)
    assert not s.norms(s.zeros(2)).any()
    assert s.gram(s.zeros(2), s.random("gaussian", 0, 0, 3)).shape == (2, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_orthonormalize_gives_orthonormal_rows_and_the_factor(dtype: torch.dtype) -> None:
    """A = R^T Q and Q Q^T = I, also for a block of rank 2."""
    s = space(50, dtype)
    A = s.random("gaussian", 0, 0, 4)
    A[2] = A[0] - 2 * A[1]
    A[3] = 0.0
    Q, R = s.orthonormalize(A)
    tol = 10 * 50 * torch.finfo(dtype).eps

    def gaps(Q: Tensor) -> tuple[float, float]:
        identity = float((Q.double() @ Q.double().mT - torch.eye(4)).abs().max())
        return identity, float((R.mT @ Q.double() - A.double()).abs().max() / A.double().norm())

    assert max(gaps(Q)) <= tol
    assert max(gaps(Q * 1.001)) > tol
    assert R[2, 2].abs() <= tol * float(A.double().norm())


def test_more_rows_than_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="3 rows cannot be orthonormal in dimension n=2"):
        space(2).orthonormalize(torch.ones(3, 2))


def test_low_precision_vectors_are_refused() -> None:
    with pytest.raises(TypeError, match="bfloat16 is no dtype for vectors"):
        space(3, torch.bfloat16)


def test_vectors_of_another_length_are_named() -> None:
    with pytest.raises(ValueError, match=r"start has shape \(4,\): expected \(3,\) or \(k, 3\)"):
        space(3).check(torch.ones(4), "start")
