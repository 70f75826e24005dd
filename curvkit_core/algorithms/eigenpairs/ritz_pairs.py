r"""Ritz pairs of a Lanczos basis that is half orthogonal, to :math:`\sqrt\varepsilon`, as good as of a whole one.

What a reorthogonalisation takes away of a product belongs to it: with T the symmetric coefficients of the recurrence
and N what was taken (column j by the j-th product),

.. math:: A Q^\top = Q^\top (T + N) + \beta\, q\, e_m^\top

holds to rounding whatever the overlaps of the rows of Q are. An eigenvector s of T leaves :math:`Q^\top N s` in the
residual, overlaps times |A|: 1e-4 |A| in float32. An eigenvector of T + N leaves nothing. N is small, so a few steps of
first-order perturbation find it:

.. math:: S \leftarrow S (I + X), \quad X_{ik} = (S^{-1} N S)_{ik} / (\theta_k - \theta_i).

As A is symmetric, :math:`X \approx -S^\top (Q Q^\top - I) S / 2` up to a rotation: where N comes from lost
orthogonality the correction takes the overlaps out of the Ritz vectors, and has no small divisors. Entries that are
rounding alone, and those that would need a larger step than overlaps explain, stay; what stays is told.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ritz_pairs"]

_STEPS = 3  # each squares what is left
_LARGEST = 4.0  # times sqrt(eps): no overlap is larger
_ROUNDING = 4.0  # times eps |A|: entries below that are a product's rounding


def ritz_pairs(T: Tensor, N: Tensor, *, eps: float, scale: float, correct: bool) -> tuple[Tensor, Tensor, Tensor]:
    r"""Eigenpairs of T + N, as far as N comes from lost orthogonality.

    Parameters
    ----------
    T, N : Tensor, shape (m, m), float64
        Symmetric; and small beside it.
    eps, scale : float
        Unit roundoff of the vectors; |A|.
    correct : bool
        False: the eigenvectors of T, as they are for an orthogonal basis, where N is rounding.

    Returns
    -------
    theta : Tensor, shape (m,)
        Ascending.
    S : Tensor, shape (m, m)
        Coordinates, one pair a column.
    left : Tensor, shape (m, m)
        What :math:`S^{-1} (T + N) S` is beside theta: its column i, in norm, is part of the i-th residual.
    """
    theta, S = torch.linalg.eigh(T)
    left = S.mT @ N @ S
    for _ in range(_STEPS if correct else 0):
        theta, left = _split(theta, left)
        gaps = theta - theta[:, None]
        large = left.abs() > _ROUNDING * eps * scale
        step = torch.where(large & (left.abs() <= _LARGEST * eps**0.5 * gaps.abs()), left / gaps, 0.0)
        step.fill_diagonal_(0.0)
        if not bool(step.any()):
            break
        change = torch.eye(len(T), dtype=T.dtype) + step
        S = S @ change
        left = torch.linalg.solve(change, (theta.diag() + left) @ change) - theta.diag()
    theta, left = _split(theta, left)
    order = theta.argsort()
    return theta[order], S[:, order], left[order][:, order]


def _split(theta: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
    """The diagonal of what is left belongs to the values."""
    own = left.diagonal()
    return theta + own, left - own.diag()
