"""A Lanczos factorisation: tridiagonal matrix, basis and what is left outside."""

from __future__ import annotations

from attrs import frozen
from torch import Tensor

from curvkit_core.results.info import ResultInfo
from curvkit_core.results.notebook import ShowsItself

__all__ = ["LanczosResult"]


@frozen(kw_only=True, eq=False)
class LanczosResult(ShowsItself):
    r"""The factorisation :math:`A Q^\top = Q^\top T + r e_m^\top` of a symmetric operator, a basis vector a row of Q.

    Parameters
    ----------
    alpha : Tensor, shape (m,), float64 on the CPU
        Diagonal of T.
    beta : Tensor, shape (m - 1,), float64 on the CPU
        Off-diagonal of T, positive.
    basis : Tensor, shape (m, n)
        Q: unit rows, in the operator's dtype and on its device.
    residual : Tensor, shape (n,)
        r, orthogonal to Q.
    residual_norm : float
        |r|. Every eigenvalue of T is within this of one of A.
    breakdown : bool
        Whether r is nothing but rounding: Q spans an invariant subspace, and m may be smaller than asked for.
    num_matvecs : int
        Products used: m.
    seed : int or None
        Of the start vector; None where it was given.
    error_covers : str
        In words, what ``residual`` covers.
    bias_bound : float or None
        None: nothing is estimated.
    info : ResultInfo or None
        Filled in by the driver.
    """

    alpha: Tensor
    beta: Tensor
    basis: Tensor
    residual: Tensor
    residual_norm: float
    breakdown: bool
    num_matvecs: int
    seed: int | None = None
    error_covers: str = (
        "what the factorisation leaves outside the basis; rounding in products and vectors comes on top, and without "
        "reorthogonalisation the basis loses its orthogonality as eigenvalues of T converge"
    )
    bias_bound: float | None = None
    info: ResultInfo | None = None
