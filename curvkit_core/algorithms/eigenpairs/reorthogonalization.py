r"""When to orthogonalise again: Simon's recurrence [1]_ for the overlaps of a Lanczos basis, over a thick restart too.

With :math:`A Q^\top = Q^\top T + \beta q_{j+1} e_j^\top` and :math:`W = Q Q^\top`, symmetry of A gives the overlaps of
the next row with the rows before the newest,

.. math:: \beta\, q_{j+1} Q^\top = e_j^\top (W T - T W) + \text{rounding},

which costs a product of matrices of the basis's size and no vector. T need not be tridiagonal: after a restart it is an
arrowhead, and the same formula holds.

As long as no overlap is above :math:`\sqrt\varepsilon`, T is the projection of A to rounding [1]_: eigenvalues are as
good as with full orthogonality. Residuals are so, too, where what a reorthogonalisation takes away is not forgotten:
see :mod:`curvkit_core.algorithms.eigenpairs.ritz_pairs`.

References
----------
.. [1] Simon, Math. Comp. 42(165), 1984, 115-142.
"""

from __future__ import annotations

import torch
from attrs import define
from torch import Tensor

__all__ = ["REORTHOGONALIZE", "Overlaps"]

REORTHOGONALIZE = ("full", "partial")
_LIMIT = 0.6  # of an overlap, as a power of eps


@define(kw_only=True)
class Overlaps:
    """The estimate W (capacity, capacity), float64, ones on its diagonal; `again`: the next row is due, too.

    One row's overlaps go into those of the next two: a reorthogonalisation takes two rows one after another.
    """

    W: Tensor
    again: bool = False

    @classmethod
    def empty(cls, capacity: int) -> Overlaps:
        """Nothing known of no rows."""
        return cls(W=torch.eye(capacity, dtype=torch.float64))

    def due(self, T: Tensor, beta: float, scale: float, eps: float) -> bool:
        """Estimate the overlaps of row j + 1 with T (j + 1, j + 1); whether to orthogonalise it is the answer.

        `scale` is a bound of |A|: a product's rounding, eps times that, is what every overlap starts from.
        """
        j = len(T) - 1
        W = self.W[: j + 1, : j + 1]
        grown = (T @ W[:, j] - W @ T[:, j]) / beta
        noise = eps * scale / beta
        grown = grown + torch.where(grown < 0, -noise, noise)
        grown[j] = noise
        self.W[j + 1, : j + 1] = self.W[: j + 1, j + 1] = grown
        lost = bool(grown.abs().max() > eps**_LIMIT)
        due, self.again = lost or self.again, lost and not self.again
        return due

    def cleared(self, j: int, eps: float) -> None:
        """Row j was orthogonalised against all before it."""
        self.W[j, :j] = self.W[:j, j] = eps

    def rotate(self, S: Tensor) -> None:
        """The first rows became S^T Q, S (m, keep), and row m follows them."""
        m, keep = S.shape
        W = self.W
        kept, last = S.mT @ W[:m, :m] @ S, W[m, :m] @ S
        W.copy_(torch.eye(len(W), dtype=W.dtype))
        W[:keep, :keep] = kept
        W[keep, :keep] = W[:keep, keep] = last
