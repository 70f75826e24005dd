r"""When to orthogonalise again: Simon's recurrence [1]_ for the overlaps of a Lanczos basis, over a thick restart too.

With :math:`A Q^\top = Q^\top T + \beta q_{j+1} e_j^\top` and :math:`W = Q Q^\top`, symmetry of A gives the overlaps of
the next row with the rows before the newest,

.. math:: \beta\, q_{j+1} Q^\top = e_j^\top (W T - T W) + \text{rounding},

which costs a product of matrices of the basis's size and no vector. T need not be tridiagonal: after a restart it is an
arrowhead, and the same formula holds.

What a product's rounding adds is measured on the first rows. The estimate is then above the overlaps, five to ten times
at n = 300,000 in float32, as its entries add up with one sign. It can be below them as well (15 times, after a restart
that leaves out the largest eigenvalues), so it is compared with the overlaps whenever those are computed; past a nearly
invariant subspace it says nothing, and every row is due.

As long as no overlap is above :math:`\sqrt\varepsilon`, T is the projection of A to rounding [1]_: eigenvalues are as
good as with full orthogonality. Residuals are better, as what a reorthogonalisation takes away is not forgotten: see
:mod:`curvkit_core.algorithms.eigenpairs.ritz_pairs`.

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
_LIMIT = 0.5  # of an overlap, as a power of eps
# Rows that are orthogonalised in any case: overlaps grow fastest while the first Ritz values converge, and the estimate
# does not follow (eigenvalues 1/i, float32: 2e-3 seen for 3e-5 at the seventh row). And they show the products'
# rounding, of which the estimate is made.
_FIRST = 8
_SAFE = 2.0  # times the largest rounding seen
_LEFT = 0.75  # of an overlap, as a power of eps, that a row may have after it was orthogonalised
_MOST = 0.4  # overlaps are no larger than this power of eps: a row above the limit is freed at once


@define(kw_only=True)
class Overlaps:
    """The estimate W (capacity, capacity), float64, ones on its diagonal.

    `noise` is what one product has in one direction of the basis by its rounding, as a share of the product's norm.
    """

    W: Tensor
    noise: float = 0.0

    @classmethod
    def empty(cls, capacity: int) -> Overlaps:
        """Nothing known of no rows."""
        return cls(W=torch.eye(capacity, dtype=torch.float64))

    def due(self, T: Tensor, beta: float, norm: float, eps: float) -> bool:
        """Estimate the overlaps of row j + 1; whether to orthogonalise it is the answer.

        Parameters
        ----------
        T : Tensor, shape (j + 1, j + 1), float64
        beta, norm : float
            Of what the j-th product leaves beside its neighbours in the basis, and of the product.
        eps : float
            Unit roundoff of the vectors.
        """
        j = len(T) - 1
        W = self.W[: j + 1, : j + 1]
        grown = (T @ W[:, j] - W @ T[:, j]) / beta
        noise = max(eps, self.noise * norm / beta)
        grown = grown + torch.where(grown < 0, -noise, noise)
        grown[j] = noise
        self.W[j + 1, : j + 1] = self.W[: j + 1, j + 1] = grown
        return self.first(j + 1) or bool(grown.abs().max() > eps**_LIMIT)

    def largest(self, m: int, eps: float) -> float:
        """The largest overlap of two of the first m rows; so much at most, if the estimate is above that."""
        apart = self.W[:m, :m] - torch.eye(m, dtype=self.W.dtype)
        return min(float(apart.abs().max()), eps**_MOST) if m else 0.0

    def first(self, row: int) -> bool:
        """Whether the row of that number is one of those whose reorthogonalisation shows rounding alone."""
        return row <= _FIRST

    def measured(self, taken: Tensor, norm: float) -> None:
        """What was taken away of one of the first rows, and the product's norm."""
        if norm > 0.0:
            self.noise = max(self.noise, _SAFE * float(taken.abs().max()) / norm)

    def distrust(self) -> None:
        """From here on every row is due: past a nearly invariant subspace rounding is all that a row begins with."""
        self.noise = 1.0

    def seen(self, row: int, true: Tensor, eps: float) -> bool:
        """The overlaps of a row with those before it were looked at; whether they were above the limit, unforeseen.

        Then all that was estimated since rows were orthogonalised is that much larger, and so is the noise.
        """
        largest, estimated = float(true.abs().max()), float(self.W[row, : len(true)].abs().max())
        if largest <= max(estimated, eps**_LIMIT):
            return False
        factor = largest / max(estimated, eps)
        self.noise = min(1.0, self.noise * factor)
        own = torch.eye(len(self.W), dtype=torch.bool)
        self.W = torch.where(own | (self.W.abs() <= eps), self.W, (self.W * factor).clamp(-1.0, 1.0))
        return True

    def is_cleared(self, j: int, eps: float) -> bool:
        """Whether row j was orthogonalised."""
        return bool((self.W[j, :j].abs() <= eps).all())

    def cleared(self, j: int, taken: float, eps: float) -> bool:
        """Row j was orthogonalised against all before it; whether it has to be once more.

        `taken` is the largest part of a row that was taken away: times the overlaps of those rows with one another it
        comes back.
        """
        left = max(eps, taken * self.largest(j, eps))
        self.W[j, :j] = self.W[:j, j] = left
        return bool(left > eps**_LEFT)

    def rotate(self, S: Tensor) -> None:
        """The first rows became S^T Q, S (m, keep), and row m follows them."""
        m, keep = S.shape
        W = self.W
        kept, last = S.mT @ W[:m, :m] @ S, W[m, :m] @ S
        W.copy_(torch.eye(len(W), dtype=W.dtype))
        W[:keep, :keep] = kept
        W[keep, :keep] = W[:keep, keep] = last
