r"""Ritz pairs of a Lanczos basis that is half orthogonal, to :math:`\sqrt\varepsilon`, as good as of a whole one.

What a reorthogonalisation takes away of a product belongs to it: with T the symmetric coefficients of the recurrence
and N what was taken (column j by the j-th product),

.. math:: A Q^\top = Q^\top (T + N) + \beta\, q\, e_m^\top

holds to rounding whatever the overlaps of the rows of Q are. An eigenvector s of T leaves :math:`Q^\top N s` in the
residual, overlaps times |A|: 1e-4 |A| in float32. An eigenvector of T + N leaves nothing. N is small, so a few steps of
first-order perturbation find it:

.. math:: S \leftarrow S (I + X), \quad X_{ik} = (S^{-1} N S)_{ik} / (\theta_k - \theta_i).

As A is symmetric, :math:`X \approx -S^\top (Q Q^\top - I) S / 2` up to a rotation: where N comes from lost
orthogonality the correction takes the overlaps out of the Ritz vectors, and has no small divisors. But N is rounding,
too, and noise where products have it, which over a small gap would turn a vector anywhere and spoil the basis at a
restart. So a step is no larger than the overlaps of the rows explain, and takes out what may be rounding only where it
turns a vector by as little. What stays is told.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ritz_pairs"]

_STEPS = 3  # each squares what is left
_LARGEST = 4.0  # times the overlap of two rows
_ROUNDING = 4.0  # times eps |A|: what is below may be a product's rounding
_HARMLESS = 64.0  # times eps: by so much that may turn a vector


def ritz_pairs(T: Tensor, N: Tensor, *, overlap: float, eps: float, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    r"""Eigenpairs of T + N, as far as N comes from lost orthogonality.

    Parameters
    ----------
    T, N : Tensor, shape (m, m), float64
        Symmetric; and small beside it.
    overlap : float
        The largest overlap of two rows. 0: the eigenvectors of T, as they are for an orthogonal basis, where N is
        rounding.
    eps, scale : float
        Unit roundoff of the vectors; |A|.

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
    for _ in range(_STEPS if overlap else 0):
        theta, left = _split(theta, left)
        gaps = theta - theta[:, None]
        step = left / gaps
        lost = (left.abs() > _ROUNDING * eps * scale) & (step.abs() <= _LARGEST * overlap)
        step = torch.where(lost | (step.abs() <= _HARMLESS * eps), step, 0.0)
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
