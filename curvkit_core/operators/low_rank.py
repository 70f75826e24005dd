r"""An operator plus a few outer products: :math:`A + U^\top \operatorname{diag}(c)\, U`."""

from __future__ import annotations

import torch
from torch import Tensor

from curvkit_core.operators.base import CurvatureOperator

__all__ = ["LowRankUpdate"]


class LowRankUpdate(CurvatureOperator):
    r"""A + U^T diag(c) U: one product of A and 2 r n multiplications. Holds U.

    With found eigenpairs, ``A.low_rank_update(Q, -theta)`` deflates them.

    Parameters
    ----------
    base : CurvatureOperator
        A, shape (n, n).
    U : Tensor, shape (r, n) or (n,)
        Rows are vectors of A's space; need be neither normalised nor independent.
    c : Tensor, shape (r,), or None
        The rows' coefficients, of either sign; None: all ones.

    Raises
    ------
    ValueError
        If a shape does not fit.
    """

    def __init__(self, base: CurvatureOperator, U: Tensor, c: Tensor | None = None) -> None:
        super().__init__(base.space, symmetric=base.symmetric, problem=base.problem)
        self.base = base
        self.deterministic = base.deterministic
        self.U = base.space.check(U, "U")
        rows = len(self.U)
        self.c = torch.ones(rows, dtype=torch.float64) if c is None else torch.as_tensor(c).detach().double().cpu()
        if self.c.shape != (rows,):
            msg = f"c has shape {tuple(self.c.shape)}: expected ({rows},), a coefficient for each row of U."
            raise ValueError(msg)

    def rows_product(self, V: Tensor) -> Tensor:
        """A v + U^T (c * U v)."""
        update = self.space.combine(self.space.gram(V, self.U) * self.c, self.U)
        return update.add_(self.base.rows_product(V))

    def transposed(self) -> CurvatureOperator | None:
        """A^T + U^T diag(c) U."""
        flipped = self.base.transposed()
        return self if self.symmetric else None if flipped is None else LowRankUpdate(flipped, self.U, self.c)
