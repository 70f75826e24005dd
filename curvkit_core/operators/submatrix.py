"""A principal submatrix by indices; by parameters it is ``problem.restrict``, which costs less."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from curvkit_core.backends import Segment, VectorSpace
from curvkit_core.operators.base import CurvatureOperator

__all__ = ["SubmatrixOperator"]


class SubmatrixOperator(CurvatureOperator):
    r""":math:`P A P^\top`, P picking `indices`: one product of A with a vector that is zero elsewhere.

    Parameters
    ----------
    base : CurvatureOperator
        A, shape (n, n).
    indices : Tensor or sequence of int, shape (m,)
        From 0 to n - 1, each once, in the order wanted.

    Raises
    ------
    ValueError
        If the indices are none, not integers, out of range or repeated; or the vectors are spread over ranks.
    """

    def __init__(self, base: CurvatureOperator, indices: Any) -> None:
        chosen = torch.as_tensor(indices)
        _check(chosen, base)
        self.indices = chosen.to(device=base.device, dtype=torch.int64)
        self.base = base
        space = VectorSpace(
            [Segment(name="submatrix", numel=len(chosen))], dtype=base.space.dtype, device=base.space.device
        )
        super().__init__(space, symmetric=base.symmetric, problem=base.problem)
        self.deterministic = base.deterministic

    def rows_product(self, V: Tensor) -> Tensor:
        """Scatter, multiply, gather."""
        whole = self.base.space.zeros(V.shape[0])
        whole[:, self.indices] = V
        return self.base.rows_product(whole)[:, self.indices]

    def transposed(self) -> CurvatureOperator | None:
        """The same submatrix of A^T."""
        flipped = self.base.transposed()
        return self if self.symmetric else None if flipped is None else SubmatrixOperator(flipped, self.indices)


def _check(indices: Tensor, base: CurvatureOperator) -> None:
    n = base.n
    if base.space.n_local != n:
        msg = f"a submatrix of {base!r}: its vectors are spread over ranks. Use problem.restrict(names)."
        raise ValueError(msg)
    if indices.dtype == torch.bool or indices.is_floating_point() or indices.ndim != 1 or not len(indices):
        msg = (
            f"indices are {indices.dtype} of shape {tuple(indices.shape)}: expected one or more integers, shape (m,). "
            "For a mask write mask.nonzero()[:, 0]."
        )
        raise ValueError(msg)
    low, high = int(indices.min()), int(indices.max())
    if low < 0 or high >= n:
        msg = f"indices run from {low} to {high}: expected 0 to {n - 1}, the operator's size being {n}."
        raise ValueError(msg)
    if len(indices.unique()) != len(indices):
        values, counts = indices.unique(return_counts=True)
        msg = f"index {int(values[counts > 1][0])} is there {int(counts.max())} times: expected each index once."
        raise ValueError(msg)
