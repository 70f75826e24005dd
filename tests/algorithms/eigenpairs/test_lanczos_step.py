"""A Lanczos step: A Q = Q (T + N) + beta q e_j to rounding whatever was freed when, and two rows freed at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import F64, symmetric_matrix
from torch import Tensor

from curvkit_core import LambdaOperator
from curvkit_core.algorithms import Basis, Eigsh
from curvkit_core.algorithms.eigenpairs import lanczos_step as module
from curvkit_core.algorithms.eigenpairs.lanczos_step import lanczos_step
from curvkit_core.algorithms.eigenpairs.reorthogonalization import Overlaps
from curvkit_core.backends import Segment, VectorSpace

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def broken_relation(state: Any, A: Tensor, space: VectorSpace, N: Tensor) -> float:
    """The largest row of A Q - Q (T + N) - beta q e_j, in float64."""
    m = state.basis.size
    Q = state.basis.rows(space, 0, m).double()
    gap = Q @ A - (state.projected[:m, :m] + N[:m, :m]).mT @ Q
    if m == state.kept:
        gap -= torch.outer(state.projected[:m, m] if m < len(state.projected) else 0.0 * Q[:, 0], state.row[0].double())
    else:
        gap[-1] -= state.coupling * state.row[0].double()
    return float(gap.norm(dim=1).max())


@DTYPES
@pytest.mark.parametrize("storage", ["device", "host"])
@pytest.mark.parametrize("which", ["LA", "SA"])
def test_the_relation_holds_at_every_step(
    which: str, storage: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over restarts, where pairs of rows are freed and where the estimate is wrong by orders; not without N.

    SA: a restart leaves out the largest values, which come back at once and make overlaps the estimate is below of.
    """
    A = symmetric_matrix(
        torch.cat([torch.linspace(0.0, 1.0, 195, dtype=F64), torch.tensor([10.0, 9.99, 5.0, 4.0, 3.0], dtype=F64)])
    )
    A = A.to(dtype)
    op = LambdaOperator(lambda v: A @ v, 200, dtype=dtype)
    freed: list[float] = []
    plain = module._free_both

    def counted(space: VectorSpace, basis: Basis, *args: Any) -> Any:
        both = args[2]
        units = both.double() / both.double().norm(dim=1, keepdim=True)
        freed.append(float((units @ basis.rows(space, 0, basis.size).double().mT).abs().max()))
        return plain(space, basis, *args)

    monkeypatch.setattr(module, "_free_both", counted)
    monkeypatch.setattr("curvkit_core.algorithms.eigenpairs.reorthogonalization._SAFE", 1e-3)
    monkeypatch.setattr("curvkit_core.algorithms.eigenpairs.reorthogonalization._LIMIT", 0.2)
    eps = torch.finfo(dtype).eps
    algorithm = Eigsh(k=4, ncv=18, which=which, tol=0.0, max_matvecs=90, seed=0, basis_storage=storage)
    state, worst, without = algorithm.init(op.space), 0.0, 0.0
    while (V := algorithm.ask(state, 1)) is not None:
        state = algorithm.tell(op.space, state, V, op.apply(V))
        worst = max(worst, broken_relation(state, A.double(), op.space, state.beside))
        without = max(without, broken_relation(state, A.double(), op.space, torch.zeros_like(state.beside)))
    tol = 6 * eps * 10.0  # rounding of a product of norm 10: sums of 200 terms
    assert worst <= tol
    assert without > 10 * tol
    assert max(freed) > eps**0.5


@DTYPES
def test_two_rows_are_freed_at_once_as_by_dense_algebra(dtype: torch.dtype) -> None:
    """The row from the basis, its product's rest from both; T and N are what the new row's product has in them."""
    n, j, eps = 400, 6, torch.finfo(dtype).eps
    space = VectorSpace([Segment(name="", numel=n)], dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    Q, _ = space.orthonormalize(torch.randn(j + 1, n, dtype=dtype, generator=generator))
    dirt = 1e-3 * torch.randn(j, dtype=dtype, generator=generator)
    q = Q[j:] + dirt @ Q[:j]
    q /= q.norm()
    M = torch.randn(j, j, dtype=F64, generator=generator)
    known = torch.randn(j, dtype=F64, generator=generator)
    # any product of q, and products of the rows that T and N say
    product = torch.randn(1, n, dtype=dtype, generator=generator) + q + (known.to(dtype) @ Q[:j])
    of_rows = M.mT @ Q[:j].double() + torch.outer(known, q[0].double())
    T, N = torch.zeros(j + 2, j + 2, dtype=F64), torch.zeros(j + 2, j + 2, dtype=F64)
    T[:j, :j] = (M + M.mT) / 2
    N[:j, :j] = M - T[:j, :j]
    T[:j, j] = T[j, :j] = known
    basis = Basis.allocate(space, j + 2)
    basis.append(Q[:j])
    overlaps = Overlaps.empty(j + 2)
    overlaps.W[j, :j] = overlaps.W[:j, j] = 1e-2
    old = q.double().clone()
    step = lanczos_step(space, basis, T, N, q.clone(), product.clone(), overlaps=overlaps, scale=10.0)
    rows, rest = basis.rows(space, 0, j + 1).double(), step.rest[0].double()
    tol = 30 * eps
    assert (rows @ rows.mT - torch.eye(j + 1, dtype=F64)).abs().max() <= tol
    assert (rows @ rest).abs().max() <= tol * step.beta
    assert step.beta == pytest.approx(float(rest.norm()), rel=tol)
    assert step.rounding is None
    assert (old @ rows[:j].mT).abs().max() > 1e-4  # it was not free
    # the new row is a combination of the old one and the basis, and so is its product
    c = old[0] @ rows[:j].mT
    nu = float((old[0] - c @ rows[:j]).norm())
    exact = (product[0].double() - c @ of_rows) / nu
    found = (T + N)[: j + 1, j] @ rows + rest
    assert (found - exact).norm() <= tol * exact.norm()
    assert ((T[: j + 1, j] @ rows + rest) - exact).norm() > 10 * tol * exact.norm()
    products = (T + N)[: j + 1, :j].mT @ rows
    assert (products - of_rows).norm() <= tol * of_rows.norm()
    assert torch.equal(T, T.mT)
    assert overlaps.is_cleared(j, eps) and overlaps.is_cleared(j + 1, eps)
