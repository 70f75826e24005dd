"""A basis: the same rows and products wherever it lies and however it is cut; rounding where its dtype is lower."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from cases import F64
from torch import Tensor

from curvkit_core.algorithms import Basis
from curvkit_core.backends import Segment, VectorSpace

N = 300


def space(dtype: torch.dtype = F64) -> VectorSpace:
    return VectorSpace([Segment(name="x", numel=N)], dtype=dtype)


def filled(where: VectorSpace, **options: object) -> tuple[Basis, Tensor]:
    """A basis of 7 rows appended in blocks of 1, 2 and 4 into room for 9, and the rows."""
    rows = where.random("gaussian", 0, 0, 7)
    basis = Basis.allocate(where, 9, **options)
    for low, high in ((0, 1), (1, 3), (3, 7)):
        basis.append(rows[low:high])
    return basis, rows


LAYOUTS = [{}, {"leading": 2}, {"leading": 9}, {"storage": "host", "leading": 2}, {"storage": "disk", "leading": 2}]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_products_are_those_of_the_plain_rows(layout: dict[str, object]) -> None:
    """gram, combine and subtract, of all rows and of the first five: to rounding."""
    where = space()
    basis, rows = filled(where, **layout)
    W = where.random("gaussian", 1, 0, 3)
    C = torch.randn(4, 5, dtype=F64, generator=torch.Generator().manual_seed(0))
    tol = 100 * where.eps * N  # sums of N products of size one
    assert basis.size == 7 and basis.capacity == 9
    assert torch.equal(basis.rows(where, 2, 6), rows[2:6]) and torch.equal(basis.rows(where, 0, 1), rows[:1])
    assert (basis.gram(where, W) - W @ rows.mT).abs().max() <= tol
    assert (basis.gram(where, W, 5) - W @ rows[:5].mT).abs().max() <= tol
    assert (basis.combine(where, C) - C @ rows[:5]).abs().max() <= tol
    expected = W - C[:3] @ rows[:5]
    basis.subtract(where, C[:3], W)
    assert (W - expected).abs().max() <= tol
    assert (basis.combine(where, 1.001 * C) - C @ rows[:5]).abs().max() > tol


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_rotation_in_place_begins_a_generation(layout: dict[str, object]) -> None:
    """Q <- C Q with fewer rows; appending does not count as a change, truncating does."""
    where = space()
    basis, rows = filled(where, **layout)
    C = torch.randn(3, 6, dtype=F64, generator=torch.Generator().manual_seed(0))
    assert basis.generation == 0
    basis.rotate(where, C)
    assert (basis.size, basis.generation) == (3, 1)
    assert (basis.rows(where, 0, 3) - C @ rows[:6]).abs().max() <= 100 * where.eps * N
    basis.append(rows[:1])
    assert torch.equal(basis.rows(where, 3, 4), rows[:1]) and basis.generation == 1
    basis.truncate(2)
    basis.truncate(2)
    assert (basis.size, basis.generation) == (2, 2)


def test_the_leading_block_is_given_without_a_copy() -> None:
    """release(k) of a basis whose first block has k rows: the same memory, the rest is gone; else a copy."""
    where = space()
    basis, rows = filled(where, leading=3)
    place, rest = basis.blocks[0].data_ptr(), basis.blocks[1]
    kept = basis.release(where, 3)
    assert kept.data_ptr() == place and torch.equal(kept, rows[:3])
    assert all(block is not rest for block in basis.blocks)
    for options, count in (({"leading": 3}, 2), ({"storage": "disk", "leading": 3}, 3)):
        basis, rows = filled(where, **options)
        place = basis.blocks[0].data_ptr()
        kept = basis.release(where, count)
        assert kept.data_ptr() != place and torch.equal(kept, rows[:count])


@pytest.mark.parametrize(("dtype", "eps"), [("float32", 2.0**-23), ("bfloat16", 2.0**-7), ("float16", 2.0**-10)])
def test_a_lower_dtype_rounds_the_rows_and_says_so(dtype: str, eps: float) -> None:
    """Rows differ by eps / 2 at most, and do differ; products are made in the vectors' own dtype."""
    where = space()
    basis, rows = filled(where, dtype=dtype)
    assert basis.eps(where) == eps
    found = basis.rows(where, 0, 7)
    assert found.dtype == F64
    assert 0 < ((found - rows) / rows).abs().max() <= eps / 2
    W = where.random("gaussian", 1, 0, 2)
    assert (basis.gram(where, W) - W @ found.mT).abs().max() <= 100 * where.eps * N
    assert basis.blocks[0].element_size() * 8 == int(dtype.removeprefix("bfloat").removeprefix("float"))


def test_a_basis_on_disk_has_no_name_and_goes_with_its_owner(tmp_path: Path) -> None:
    """Nothing is left in the folder, not even while it is used: a killed process leaves nothing behind."""
    where = space()
    basis, rows = filled(where, storage="disk", folder=str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(tmp_path) in maps.read_text()
        del basis
        gc.collect()
        assert str(tmp_path) not in maps.read_text()
    assert list(tmp_path.iterdir()) == [] and len(rows) == 7


def test_a_full_basis_takes_no_more() -> None:
    where = space()
    basis, rows = filled(where)
    with pytest.raises(AssertionError, match="full"):
        basis.append(rows[:3])


@pytest.mark.parametrize("storage", ["device", "host"])
@pytest.mark.parametrize("n", [3 << 14, (5 << 14) + 7, 100])
def test_long_rows_go_in_chunks_of_columns(n: int, storage: str) -> None:
    """Rotation and subtraction of whole groups of chunks, a part of a group, and what is left of a chunk."""
    where = VectorSpace([Segment(name="x", numel=n)], dtype=F64)
    rows = where.random("gaussian", 0, 0, 7)
    basis = Basis.allocate(where, 9, leading=3, storage=storage)
    basis.append(rows)
    generator = torch.Generator().manual_seed(0)
    C, H = (torch.randn(4, 6, dtype=F64, generator=generator) for _ in range(2))
    W = where.random("gaussian", 1, 0, 4)
    expected = W - H @ rows[:6]
    basis.subtract(where, H, W)
    assert (W - expected).abs().max() <= 100 * where.eps
    basis.rotate(where, C)
    assert (basis.rows(where, 0, 4) - C @ rows[:6]).abs().max() <= 100 * where.eps


@pytest.mark.parametrize(("layout", "placed"), [({}, True), ({"leading": 8}, None), ({"storage": "host"}, False)])
def test_the_two_rows_that_follow_are_one_tensor(layout: dict[str, object], placed: bool | None) -> None:
    """Where they lie, with products of both in one pass; a copy off the device; none across two blocks."""
    where = space()
    basis, rows = filled(where, **layout)
    both = where.random("gaussian", 1, 0, 2)
    one, other = basis.placed(both[:1]), basis.placed(both[1:], ahead=1)
    pair = basis.pair(one, other)
    if placed is None:
        assert pair is None
        return
    assert pair is not None and torch.equal(pair, both)
    assert (pair.data_ptr() == one.data_ptr()) is placed
    G = basis.gram_following(where, pair)
    assert (G - both @ torch.cat([rows, both[:1]]).mT).abs().max() <= 100 * where.eps * N
    basis.append(pair)
    assert torch.equal(basis.rows(where, 7, 9), both)


@pytest.mark.parametrize("scale", [1e-17, 1e-20, 1e-25])
def test_a_norm_beside_products_is_right_where_its_squares_are_not(scale: float) -> None:
    """float32 has no squares of entries below 1e-19; their products with unit rows it has."""
    where = VectorSpace([Segment(name="x", numel=100_000)], dtype=torch.float32)
    basis = Basis.allocate(where, 4)
    basis.append(where.orthonormalize(where.random("gaussian", 0, 0, 2))[0])
    w = basis.placed((where.random("gaussian", 1, 0, 1) + 30.0 * basis.rows(where, 0, 1)) * scale)
    products, norm = basis.gram_and_norm(where, w, placed=True)
    exact = w[0].double()
    assert norm == pytest.approx(float(exact.norm()), rel=1e-6)
    assert torch.allclose(products[0], basis.rows(where, 0, 2).double() @ exact, rtol=1e-4, atol=1e-6 * norm)
