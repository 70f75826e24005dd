r"""A Gaussian prior whose precision is a diagonal and a few directions: :math:`P = D + U^\top C\,U`."""

import torch
from attrs import frozen
from torch import Tensor

from curvkit_core.backends import VectorSpace


@frozen(kw_only=True, eq=False)
class LowRankPrior:
    r"""Precision :math:`P = D + U^\top C\,U`, and its inverse by Woodbury's identity [1]_.

    It is a preconditioner of :func:`curvkit_core.solve`; the inverse takes 4 r n multiplications a vector.

    Parameters
    ----------
    diagonal : Tensor, shape (n,)
        D, not negative.
    U : Tensor, shape (r, n)
        A direction a row.
    c : Tensor, shape (r,), float64
        C, not negative.

    References
    ----------
    .. [1] Woodbury, Inverting modified matrices, Memorandum Report 42, Princeton, 1950.
    """

    diagonal: Tensor
    U: Tensor
    c: Tensor

    def times(self, space: VectorSpace, V: Tensor) -> Tensor:
        """P times each row of V."""
        product = V * self.diagonal
        if len(self.U):
            product += space.combine(space.gram(V, self.U) * self.c, self.U)
        return product

    def inverse_rows(self, space: VectorSpace, R: Tensor) -> Tensor:
        r"""Give :math:`P^{-1}` times each row: :math:`D^{-1} - D^{-1}U^\top(C^{-1} + U D^{-1}U^\top)^{-1}U D^{-1}`.

        Raises
        ------
        ValueError
            If D is not positive: P has no inverse outside the span of U.
        """
        if not bool((self.diagonal > 0).all()):
            msg = "the prior has no inverse: some parameters have no weight decay. Pass weight_decay > 0 for all."
            raise ValueError(msg)
        inner = R / self.diagonal
        kept = self.c > 0
        U, c = self.U[kept], self.c[kept]
        if not len(U):
            return inner
        scaled = U / self.diagonal
        small = torch.diag(1.0 / c) + space.gram(scaled, U)
        weights = torch.linalg.solve(small, space.gram(inner, U).mT).mT
        return inner - space.combine(weights, scaled)
