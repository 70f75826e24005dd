"""The Krylov step against dense algebra, and the estimate of lost orthogonality against the overlaps themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import F64, symmetric_matrix
from torch import Tensor

from curvkit_core import LambdaOperator
from curvkit_core.algorithms import Basis, Eigsh
from curvkit_core.algorithms.eigenpairs.krylov import free_from, fresh_row, orthogonalize, three_term, unit_random
from curvkit_core.algorithms.eigenpairs.reorthogonalization import Overlaps
from curvkit_core.backends import Segment, VectorSpace

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def orthonormal(rows: int, n: int, dtype: torch.dtype) -> tuple[VectorSpace, Basis]:
    space = VectorSpace([Segment(name="", numel=n)], dtype=dtype)
    Q, _ = space.orthonormalize(space.random("gaussian", 0, 0, rows))
    basis = Basis.allocate(space, rows + 2)
    basis.append(Q)
    return space, basis


@DTYPES
@pytest.mark.parametrize("known", [[0.0, 0.0, 0.0, 2.0], [1.0, -2.0, 0.5, 3.0], [0.0] * 4])
def test_three_term_subtracts_what_is_known(known: list[float], dtype: torch.dtype) -> None:
    """w = A q - c Q - alpha q and alpha = q (A q - c Q), in float64, in the product's own memory."""
    space, basis = orthonormal(4, 50, dtype)
    c = torch.tensor(known, dtype=F64)
    row, product = space.random("gaussian", 1, 0, 1) / 50**0.5, space.random("gaussian", 2, 0, 1)
    before = product.clone()
    w, alpha = three_term(space, basis, c, row, product)
    Q, q = basis.rows(space, 0, 4).double(), row.double()
    rest = before.double() - c @ Q
    expected = float(q @ rest.mT)
    tol = 50 * torch.finfo(dtype).eps * float(before.norm())
    assert abs(alpha - expected) <= tol
    assert (w.double() - (rest - expected * q)).norm() <= tol
    assert (w.double() - (rest - 1.001 * (expected + 1.0) * q)).norm() > tol
    assert w.data_ptr() == product.data_ptr()


@DTYPES
@pytest.mark.parametrize("outside", [1.0, 1e-3, 1e-6])
def test_free_from_leaves_nothing_of_the_basis(outside: float, dtype: torch.dtype) -> None:
    """A row that lies in the basis but for a part of 1e-6: |Q w| <= 10 eps |w|, where one pass leaves eps / 1e-6."""
    space, basis = orthonormal(6, 80, dtype)
    inside = basis.combine(space, torch.ones((1, 6), dtype=F64))
    rest = fresh_row(space, 3, 0, basis)
    w = inside + outside * rest
    once = w.clone()
    basis.subtract(space, basis.gram(space, once), once)
    taken, norm = free_from(space, basis, w)
    eps = torch.finfo(dtype).eps
    assert float(taken.norm()) == pytest.approx(6**0.5, rel=1e-3)
    assert norm == pytest.approx(outside, rel=1e3 * eps / outside)
    assert float(basis.gram(space, w).abs().max()) <= 10 * eps * norm
    if outside == 1e-6:
        assert float(basis.gram(space, once).abs().max()) > 10 * eps * norm


@DTYPES
def test_fresh_rows_are_unit_orthogonal_and_by_number(dtype: torch.dtype) -> None:
    """One dimension left: a unit row all the same; numbers give different rows, the same number the same bits."""
    space, basis = orthonormal(9, 10, dtype)
    row = fresh_row(space, 5, 1, basis)
    tol = 100 * torch.finfo(dtype).eps
    assert float(basis.gram(space, row).abs().max()) <= tol
    assert abs(float(space.norms(row)[0]) - 1.0) <= tol
    assert torch.equal(row, fresh_row(space, 5, 1, basis))
    space, basis = orthonormal(2, 10, dtype)
    assert not torch.equal(fresh_row(space, 5, 1, basis), fresh_row(space, 5, 2, basis))
    older = unit_random(space, 5, 1, basis.rows(space, 0, 2))
    assert torch.allclose(older, fresh_row(space, 5, 1, basis), atol=tol)


@DTYPES
def test_one_full_pass_after_three_terms_is_as_good_as_two_full_passes(dtype: torch.dtype) -> None:
    """The rows that follow from 30 Lanczos steps: orthogonal to 10 eps either way; three terms alone are not."""
    A = symmetric_matrix(torch.cat([torch.linspace(0, 1, 95), torch.tensor([2.0, 4.0, 8.0, 16.0, 40.0])]).to(F64))
    A = A.to(dtype)
    space = VectorSpace([Segment(name="", numel=100)], dtype=dtype)

    def worst(way: str) -> float:
        basis = Basis.allocate(space, 31)
        row, beta = fresh_row(space, 0, 0, basis), 0.0
        for _ in range(30):
            known = torch.zeros(basis.size, dtype=F64)
            if basis.size:
                known[-1] = beta
            product = row @ A
            if way == "two full":
                basis.append(row)
                w = product.clone()
                _, _, beta = orthogonalize(space, w, basis.rows(space, 0, basis.size))
            else:
                w, _ = three_term(space, basis, known, row, product)
                basis.append(row)
                beta = free_from(space, basis, w)[1] if way == "one full" else float(space.norms(w)[0])
            row = w / beta
        Q = basis.rows(space, 0, 30).double()
        return float((Q @ Q.mT - torch.eye(30)).abs().max())

    tol = 10 * torch.finfo(dtype).eps
    assert worst("one full") <= tol
    assert worst("two full") <= tol
    assert worst("none") > 1e-3


def overlaps_of(state: Any, space: VectorSpace) -> Tensor:
    rows = torch.cat([basis_rows(state, space), state.row]).double()
    return rows @ rows.mT


def basis_rows(state: Any, space: VectorSpace) -> Tensor:
    return state.basis.rows(space, 0, state.basis.size)


@DTYPES
def test_the_estimate_follows_the_overlaps_across_restarts(dtype: torch.dtype) -> None:
    """Never below a tenth of the largest overlap once that is above 10 eps, at any step; in float64 it spans 1e5."""
    A = symmetric_matrix(torch.linspace(0, 2, 150, dtype=F64) ** 3).to(dtype)
    op = LambdaOperator(lambda v: A @ v, 150, dtype=dtype)
    algorithm = Eigsh(k=4, ncv=14, tol=0.0, max_matvecs=80, seed=0, reorthogonalize="partial")
    state, eps, grown, loose = algorithm.init(op.space), torch.finfo(dtype).eps, [], 0
    while (V := algorithm.ask(state, 1)) is not None:
        state = algorithm.tell(op.space, state, V, op.apply(V))
        true = overlaps_of(state, op.space)
        size = len(true) - 1
        largest = float(true[size, :size].abs().max()) if size else 0.0
        estimate = float(state.overlaps.W[size, :size].abs().max()) if size else 0.0
        grown.append(largest)
        assert largest <= max(10 * eps, 10 * estimate)
        loose += estimate > 1e4 * max(largest, eps)
    assert 10 * eps < max(grown) <= 10 * eps**0.5
    assert loose <= len(grown) // 4


def test_overlaps_of_an_arrowhead_by_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    """beta q_{j+1} Q^T = e_j (W T - T W), against the three-term recurrence written out entry by entry."""
    monkeypatch.setattr("curvkit_core.algorithms.eigenpairs.reorthogonalization._FIRST", 0)
    alpha, beta = [2.0, 1.0, 3.0, 0.5], [0.7, 0.4, 0.9]
    T = torch.diag(torch.tensor(alpha, dtype=F64))
    T += torch.diag(torch.tensor(beta, dtype=F64), 1) + torch.diag(torch.tensor(beta, dtype=F64), -1)
    overlaps = Overlaps.empty(5)
    W = torch.full((4, 4), 1e-9, dtype=F64)
    W.fill_diagonal_(1.0)
    W[3, 0] = W[0, 3] = 4e-9
    overlaps.W[:4, :4] = W
    assert not overlaps.due(T, 0.3, 0.0, 1e-10)
    expected = [
        (
            (alpha[i] - alpha[3]) * W[3, i]
            + beta[i] * W[3, i + 1]
            + (beta[i - 1] * W[3, i - 1] if i else 0.0)
            - beta[2] * W[2, i]
        )
        / 0.3
        for i in range(3)
    ]
    found = torch.stack(expected) + 1e-10  # what every row has by rounding
    assert torch.allclose(overlaps.W[4, :3], found, rtol=1e-6, atol=0.0)
    assert not torch.allclose(1.001 * overlaps.W[4, :3], found, rtol=1e-6, atol=0.0)
    overlaps.W[3, 0] = overlaps.W[0, 3] = 1e-3
    assert overlaps.due(T, 0.3, 0.0, 1e-10)
    assert not overlaps.cleared(4, 0.0, 1e-10)
    assert float(overlaps.W[4, :4].max()) == 1e-10


@DTYPES
def test_rounding_that_was_seen_goes_into_the_estimate(dtype: torch.dtype) -> None:
    """As a share of the product's norm, twice; the first rows are due in any case."""
    eps = torch.finfo(dtype).eps
    overlaps = Overlaps.empty(20)
    T = torch.eye(12, dtype=F64)
    assert overlaps.due(T[:3, :3], 0.5, 2.0, eps)
    overlaps.measured(torch.tensor([3.0, -5.0]) * eps, 2.0)
    overlaps.measured(torch.tensor([1.0, 1.0]) * eps, 2.0)
    assert not overlaps.due(T, 0.25, 8.0, eps)
    assert float(overlaps.W[12, 11]) == pytest.approx(2 * 5 * eps / 2.0 * 8.0 / 0.25)
    overlaps.measured(torch.ones(1), 1.0)  # a product in half precision and less
    assert overlaps.due(T, 0.25, 8.0, eps)


@DTYPES
def test_overlaps_that_are_seen_above_the_limit_correct_the_estimate(dtype: torch.dtype) -> None:
    """All of it by what one row shows, but for rows that were orthogonalised; below the limit nothing changes."""
    eps = torch.finfo(dtype).eps
    overlaps = Overlaps.empty(6)
    overlaps.noise = 1e-3 * eps**0.5
    overlaps.W[2, :2] = overlaps.W[:2, 2] = torch.tensor([-3.0, 1.0], dtype=F64) * eps**0.75
    overlaps.W[3, :3] = overlaps.W[:3, 3] = torch.tensor([-5.0, 4.0, 2.0], dtype=F64) * eps**0.75
    assert not overlaps.cleared(4, 1e-3 * eps**0.25, eps)
    before = overlaps.W.clone()
    assert not overlaps.is_cleared(3, eps) and overlaps.is_cleared(4, eps)
    assert not overlaps.seen(3, torch.tensor([0.0, 0.9, 0.0], dtype=F64) * eps**0.5, eps)
    assert torch.equal(overlaps.W, before)
    assert overlaps.largest(4, eps) == pytest.approx(5 * eps**0.75)
    assert overlaps.seen(3, torch.tensor([0.0, -10.0, 0.0], dtype=F64) * eps**0.5, eps)
    factor = 10 * eps**0.5 / (5 * eps**0.75)
    assert torch.allclose(overlaps.W[3, :3], factor * before[3, :3])
    assert torch.allclose(overlaps.W[:2, 2], factor * before[:2, 2])
    assert torch.equal(overlaps.W[4], before[4]) and torch.equal(overlaps.W.diagonal(), before.diagonal())
    assert overlaps.noise == pytest.approx(1e-3 * eps**0.5 * factor)
    overlaps.W[3, 0] = 0.5
    assert overlaps.largest(4, eps) == eps**0.4
    overlaps.W[3, :3] = -overlaps.W[3, :3].abs() - 2 * eps
    assert not overlaps.is_cleared(3, eps)
