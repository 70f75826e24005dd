r"""The step that block methods share: free a block of rows from a basis and make it orthonormal, dropping what depends.

.. math:: W = C Q + F N, \quad N Q^\top = 0, \quad N N^\top = I,

Q the rows of the basis, N as many new rows as the block has directions above rounding. Two passes of classical
Gram-Schmidt as matrix products; inside the block SVQB [1]_ where its Gram matrix is well conditioned, Householder QR
(TSQR over shards) where it is not. Cholesky-QR would fail as soon as the block's rank is below its size.

References
----------
.. [1] Stathopoulos, Wu, SIAM J. Sci. Comput. 23(6), 2002, 2165-2182.
"""

from __future__ import annotations

import math

import torch
from attrs import frozen
from torch import Tensor

from curvkit_core.algorithms.basis import Basis
from curvkit_core.backends import VectorSpace

__all__ = ["OrthogonalBlock", "block_orthogonalize"]

_ROUNDING = 10.0  # a direction of size below this times eps times the scale cannot be told from rounding
_KEPT = 0.5  # a pass that leaves at least this of every direction adds at most twice its rounding: no other is needed
_PASSES = 5


@frozen(kw_only=True, eq=False)
class OrthogonalBlock:
    """W = C Q + F N, but for directions of rounding's size.

    Parameters
    ----------
    rows : Tensor, shape (r, n_local)
        N: orthonormal, orthogonal to the basis; r <= k.
    coefficients : Tensor, shape (k, size), float64 on the CPU
        C: what of W lies in the basis.
    factor : Tensor, shape (k, r), float64 on the CPU
        F.
    dropped : float
        A bound of the norm of W - C Q - F N, beside rounding: directions that cannot be told from it.
    """

    rows: Tensor
    coefficients: Tensor
    factor: Tensor
    dropped: float = 0.0


def block_orthogonalize(
    space: VectorSpace, W: Tensor, basis: Basis | None = None, *, scale: float | None = None
) -> OrthogonalBlock:
    """Split rows W (k, n_local) into what lies in `basis` and new orthonormal rows.

    Parameters
    ----------
    space : VectorSpace
    W : Tensor, shape (k, n_local)
        Not changed. k <= n.
    basis : Basis or None
        Orthonormal rows.
    scale : float or None
        The size against which rounding is measured, no row's norm being above it: directions below 10 eps times it are
        dropped. None: each row's own norm, so that rows may differ in size by any factor.

    Returns
    -------
    OrthogonalBlock
        With fewer rows than W has where directions depend on the basis or on one another; none for zeros.
    """
    if len(W) > space.n:
        msg = f"a block of {len(W)} rows in dimension n={space.n}: expected at most n rows. Pass fewer."
        raise ValueError(msg)
    k = len(W)
    unit = _row_norms(space, W) if scale is None else torch.full((k,), float(scale), dtype=torch.float64)
    factor = torch.eye(k, dtype=torch.float64)[:, unit > 0.0]
    coefficients = torch.zeros((k, basis.size if basis is not None else 0), dtype=torch.float64)
    rows = W[(unit > 0.0).to(W.device)]
    rows = rows / unit[unit > 0.0].to(rows)[:, None]
    level = _ROUNDING * space.eps
    dropped = 0.0
    for _ in range(_PASSES):
        if not len(rows):
            break
        if basis is not None and basis.size:
            h = basis.gram(space, rows)
            basis.subtract(space, h, rows)
            coefficients += factor @ h
        rows, f, lost = _orthonormal(space, rows, level)
        dropped = math.hypot(dropped, lost * float(factor.norm()))
        factor = factor @ f
        least = float(torch.linalg.svdvals(f)[-1]) if f.numel() else 1.0
        rows, factor, lost = _without_rounding(space, rows, factor, level)
        dropped = math.hypot(dropped, lost)
        if least >= _KEPT:
            break
    return OrthogonalBlock(
        rows=rows,
        coefficients=unit[:, None] * coefficients,
        factor=unit[:, None] * factor,
        dropped=dropped * float(unit.max()) if k else 0.0,
    )


def _orthonormal(space: VectorSpace, W: Tensor, level: float) -> tuple[Tensor, Tensor, float]:
    """N (r, n) and F (k, r) with W = F N, but for rows of rounding's size, and the norm of those.

    N is orthonormal to eps times the condition of W's scaled rows at worst.
    """
    norms = _row_norms(space, W)
    there = norms > level
    k, lost = len(W), float(norms[~there].norm())
    norms = norms[there]
    if not len(norms):
        return W[:0], torch.zeros((k, 0), dtype=torch.float64), lost
    scaled = (W if bool(there.all()) else W[there.to(W.device)]) / norms.to(W)[:, None]
    squares, U = torch.linalg.eigh(space.gram(scaled, scaled))
    if float(squares[0]) > space.eps**0.5 * float(squares[-1]):  # the next pass mends what sqrt(eps) leaves
        N = space.combine((U / squares.sqrt()).mT, scaled)
        f = norms[:, None] * U * squares.sqrt()
    else:
        N, R = space.orthonormalize(scaled)
        f = norms[:, None] * R.mT
    F = torch.zeros((k, len(N)), dtype=torch.float64)
    F[there] = f
    return N, F, lost


def _without_rounding(space: VectorSpace, rows: Tensor, factor: Tensor, level: float) -> tuple[Tensor, Tensor, float]:
    """Drop the directions that the whole factor gives no more than rounding, and tell their norm."""
    if not factor.numel():
        return rows, factor, 0.0
    U, sizes, _ = torch.linalg.svd(factor, full_matrices=False)
    kept = int((sizes > level).sum())
    if kept == factor.shape[1]:
        return rows, factor, 0.0
    # the right singular vectors themselves may lack what is 40 eps of the factor, and that is more than is dropped
    V, _ = torch.linalg.qr(factor.mT @ U[:, :kept])
    onto = factor @ V
    return space.combine(V.mT, rows), onto, float((factor - onto @ V.mT).norm())


def _row_norms(space: VectorSpace, W: Tensor) -> Tensor:
    """Norms of rows, of very different sizes also: float32 squares of the small ones vanish beside the large ones."""
    norms = space.norms(W)
    if len(W) > 1 and float(norms.min()) < 1e-8 * float(norms.max()):
        return torch.cat([space.norms(row[None]) for row in W])
    return norms
