"""Blocks made orthonormal: what depends is dropped, what is there is kept, whatever the rows' sizes."""

from __future__ import annotations

import pytest
import torch
from cases import F64, symmetric_matrix
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from curvkit_core.algorithms import Basis
from curvkit_core.algorithms.eigenpairs.block_orthogonalize import block_orthogonalize
from curvkit_core.algorithms.eigenpairs.block_start import append_random, append_start
from curvkit_core.backends import Segment, VectorSpace

DTYPES = [torch.float32, torch.float64]


def space_of(n: int, dtype: torch.dtype) -> VectorSpace:
    return VectorSpace([Segment(name="", numel=n)], dtype=dtype)


def basis_of(space: VectorSpace, rows: int) -> Basis:
    basis = Basis.allocate(space, rows)
    append_random(space, basis, 5, 0, rows)
    return basis


def worst_overlap(space: VectorSpace, rows: Tensor, basis: Basis | None) -> float:
    """The largest entry of N N^T - I and N Q^T, in float64."""
    N = rows.double()
    gaps = [(N @ N.mT - torch.eye(len(N), dtype=F64)).flatten()]
    if basis is not None:
        gaps.append((N @ basis.rows(space, 0, basis.size).double().mT).flatten())
    return float(torch.cat([*gaps, torch.zeros(1, dtype=F64)]).abs().max())


def misfit(space: VectorSpace, W: Tensor, found: object, basis: Basis | None) -> Tensor:
    """|W - C Q - F N| a row, over the row's norm."""
    rebuilt = found.factor @ found.rows.double()
    if basis is not None:
        rebuilt = rebuilt + found.coefficients @ basis.rows(space, 0, basis.size).double()
    return (W.double() - rebuilt).norm(dim=1) / W.double().norm(dim=1).clamp_min(torch.finfo(F64).tiny)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=60)
@given(
    n=st.integers(6, 300),
    k=st.integers(1, 6),
    rank=st.integers(0, 6),
    in_basis=st.booleans(),
    powers=st.lists(st.sampled_from([-20, -10, -3, 0, 3, 10, 20]), min_size=6, max_size=6),
    seed=st.integers(0, 1000),
)
def test_blocks_of_any_rank_and_scale(
    dtype: torch.dtype, n: int, k: int, rank: int, in_basis: bool, powers: list[int], seed: int
) -> None:
    """W = C Q + F N to rounding of each row, N orthonormal to a few eps and orthogonal to Q, as many rows as the rank.

    Rows are sums of `rank` random directions (an exactly dependent block where rank < k), of sizes 1e-20 to 1e20, with
    a large part in the basis or none.
    """
    space = space_of(n, dtype)
    generator = torch.Generator().manual_seed(seed)
    basis = basis_of(space, min(4, n // 2)) if in_basis else None
    room = n - (basis.size if basis is not None else 0)
    rank = min(rank, k, room)
    mix = torch.randn(k, rank, dtype=F64, generator=generator)
    W = mix @ torch.randn(rank, n, dtype=F64, generator=generator)
    if basis is not None:
        W += torch.randn(k, basis.size, dtype=F64, generator=generator) @ basis.rows(space, 0, basis.size).double()
    W = (W * 10.0 ** torch.tensor(powers[:k], dtype=F64)[:, None]).to(dtype)
    found = block_orthogonalize(space, W, basis)
    eps = torch.finfo(dtype).eps
    assert worst_overlap(space, found.rows, basis) <= 20 * eps
    # rounding W to `dtype` makes a dependent block independent by eps |w|: such directions may come or go
    assert len(found.rows) >= min(rank, k) - int(_nearly_dependent(mix, eps))
    assert (misfit(space, W, found, basis) <= 40 * eps).all()
    spoiled = W * (1 + 1e-3 * torch.randn(W.shape, dtype=F64, generator=generator)).to(dtype)
    if rank and n > 50:
        assert (misfit(space, spoiled, found, basis) > 40 * eps).any()


def _nearly_dependent(mix: Tensor, eps: float) -> bool:
    unit = mix / mix.norm(dim=1, keepdim=True).clamp_min(1e-300)
    return bool(mix.numel()) and float(torch.linalg.svdvals(unit)[-1]) < 1e3 * eps


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_duplicate_and_exactly_dependent_rows(dtype: torch.dtype) -> None:
    """Zero rows and copies give no rows: Cholesky-QR would fail on each of these."""
    space = space_of(100, dtype)
    v = space.random("gaussian", 0, 0, 2)
    zero = torch.zeros_like(v[:1])
    for W, rank in [
        (zero, 0),
        (torch.cat([zero, v, zero]), 2),
        (torch.cat([v[:1], v[:1], v[:1]]), 1),
        (torch.cat([v[:1], 1e10 * v[:1], -1e-10 * v[:1], v[1:]]), 2),
        (torch.cat([v, v[:1] + v[1:]]), 2),
    ]:
        found = block_orthogonalize(space, W)
        assert len(found.rows) == rank
        assert worst_overlap(space, found.rows, None) <= 20 * space.eps
        assert found.factor.shape == (len(W), rank)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nearly_dependent_rows_stay_orthogonal_to_the_basis(dtype: torch.dtype) -> None:
    """Rows that leave the basis by 1e3 eps and differ by as little: the few digits left are freed from it again."""
    space = space_of(500, dtype)
    basis = basis_of(space, 10)
    inside = basis.combine(space, torch.randn(3, 10, dtype=F64, generator=torch.Generator().manual_seed(1)))
    W = inside + 1e3 * space.eps * space.random("gaussian", 9, 0, 3)
    found = block_orthogonalize(space, W, basis)
    assert len(found.rows) == 3
    assert worst_overlap(space, found.rows, basis) <= 20 * space.eps


def test_a_given_scale_decides_what_rounding_is() -> None:
    """A direction of 1e-14 |A| is dropped where |A| is the scale, and kept against its own row."""
    space = space_of(50, F64)
    W = torch.eye(2, 50, dtype=F64) * torch.tensor([[1.0], [1e-15]], dtype=F64)
    assert len(block_orthogonalize(space, W, scale=1.0).rows) == 1
    assert len(block_orthogonalize(space, W).rows) == 2


def test_more_rows_than_dimensions_are_refused() -> None:
    space = space_of(2, F64)
    with pytest.raises(ValueError, match="a block of 3 rows in dimension n=2: expected at most n rows"):
        block_orthogonalize(space, torch.ones(3, 2, dtype=F64))


def test_random_rows_fill_a_basis_up_to_n() -> None:
    """Also to the last dimension; the same seed gives the same rows."""
    space = space_of(7, F64)
    bases = [Basis.allocate(space, 7), Basis.allocate(space, 7)]
    for basis in bases:
        append_start(space, basis, torch.ones(7, dtype=F64), 3)
        assert append_random(space, basis, 3, 0, 100) >= 6
        assert basis.size == 7
        assert worst_overlap(space, basis.rows(space, 0, 7), None) <= 20 * space.eps
    assert torch.equal(bases[0].rows(space, 0, 7), bases[1].rows(space, 0, 7))


def test_one_direction_in_a_block_is_split_off_to_rounding() -> None:
    """Four products that leave the same one direction outside the basis: W = C Q + F N to 4 eps a row.

    Singular vectors that a LAPACK gives are off by what is dropped, and C lacked 40 eps.
    """
    A = symmetric_matrix(torch.tensor([1.0, 1.0, -1.0, -1.0, -1.0], dtype=F64), seed=16)
    space = space_of(5, F64)
    for seed in range(20):
        basis = Basis.allocate(space, 5)
        basis.append(block_orthogonalize(space, space.random("gaussian", seed, 0, 4)).rows)
        Q = basis.rows(space, 0, 4)
        W = Q @ A
        found = block_orthogonalize(space, W, basis, scale=1.0)
        gaps = (W - found.coefficients @ Q - found.factor @ found.rows).norm(dim=1)
        assert len(found.rows) == 1
        assert gaps.max() <= 8 * torch.finfo(F64).eps
        assert found.dropped <= 10 * torch.finfo(F64).eps
