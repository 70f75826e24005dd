r"""Ritz vectors as they are given: orthonormal.

Those of a basis that is orthogonal to :math:`\sqrt\varepsilon` have overlaps, of their residuals over the gap of their
values. Gram-Schmidt takes them out, the best pair first: a worse one loses what it has of a better one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from curvkit_core.algorithms.basis import Basis
from curvkit_core.backends import VectorSpace

__all__ = ["orthonormalize_ritz_vectors"]

_CLOSE = 8.0  # times eps: overlaps that rounding explains
_UNIT = 2.0  # times eps: norms that it explains
_APART = 0.1  # rows with larger overlaps are no eigenvectors yet, and stay as they are


def orthonormalize_ritz_vectors(
    space: VectorSpace, rows: Tensor, theta: Tensor, left: Tensor, residuals: Tensor
) -> Tensor:
    r"""Make `rows` (k, n_local) orthonormal, in place, and give what they leave then.

    With :math:`A V^\top = V^\top (\Theta + L) + R` and the factor of :math:`G = V V^\top = C C^\top`, its rows in the
    order of residuals, the new rows :math:`V' = C^{-1} V` leave :math:`C^\top (\Theta + L) C^{-\top} - \Theta`.

    Parameters
    ----------
    space : VectorSpace
    rows : Tensor, shape (k, n_local)
        Ritz vectors, of any norms but 0.
    theta : Tensor, shape (k,), float64
        Their values.
    left : Tensor, shape (k, k), float64
        L: column i is what the i-th vector's product has of the others.
    residuals : Tensor, shape (k,), float64
        Norms of the columns of R.

    Returns
    -------
    Tensor, shape (k, k), float64

    Costs
    -----
    One pass over the rows, and one that rewrites them; scratch of a few thousand columns.
    """
    G = space.gram(rows, rows)
    norms = G.diagonal().clamp_min(torch.finfo(torch.float64).tiny).sqrt()
    overlap = float((G / torch.outer(norms, norms)).fill_diagonal_(0.0).abs().max()) if len(rows) else 0.0
    if not _CLOSE * space.eps < overlap < _APART:
        if bool(((norms - 1.0).abs() > _UNIT * space.eps).any()):
            rows /= norms.to(rows)[:, None]
        return left
    order = residuals.hypot(left.norm(dim=0)).argsort()
    back = order.argsort()
    C = torch.linalg.cholesky(G[order][:, order])[back][:, back]
    inverse = torch.linalg.inv(C)
    Basis([rows], size=len(rows)).rotate(space, inverse)
    mixed: Tensor = C.mT @ (theta.diag() + left) @ inverse.mT - theta.diag()
    return mixed
