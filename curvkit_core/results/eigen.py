"""Eigenpairs, how well each is known, and how they settled."""

from __future__ import annotations

import torch
from attrs import cmp_using, field, frozen
from torch import Tensor

from curvkit_core.results.info import ResultInfo
from curvkit_core.results.notebook import ShowsItself

__all__ = ["EigenHistory", "EigenResult"]

_same = cmp_using(eq=torch.equal)


@frozen(kw_only=True)
class EigenHistory:
    """How eigenpairs settled: what was known of them after some of the products.

    Parameters
    ----------
    num_matvecs : Tensor, shape (r,), int64 on the CPU
        Products at each of r looks, ascending; the last look is the result itself.
    eigenvalues : Tensor, shape (r, k), float64 on the CPU
        The k most wanted Ritz values at each, in the result's order. A column is a place in that order: the pair that
        stands there may change from look to look.
    residuals : Tensor, shape (r, k), float64 on the CPU
        Bounds on their residuals, as far as they could be told then: what products and storage add is measured once.
    """

    num_matvecs: Tensor = field(eq=_same)
    eigenvalues: Tensor = field(eq=_same)
    residuals: Tensor = field(eq=_same)


@frozen(kw_only=True, eq=False)
class EigenResult(ShowsItself):
    r"""Eigenpairs :math:`A q_i = \theta_i q_i` of a symmetric operator, and how well each is known.

    Parameters
    ----------
    eigenvalues : Tensor, shape (k,), float64 on the CPU
        In the operator's unit; descending for ``which="LA"``, by descending magnitude for ``"LM"``, ascending for
        ``"SA"`` and ``"BE"``.
    eigenvectors : Tensor, shape (k, n)
        A row each, unit norm, in the operator's dtype and on its device.
    residuals : Tensor, shape (k,), float64 on the CPU
        Bounds on :math:`\|A q_i - \theta_i q_i\|_2`. An eigenvalue of A lies within ``residuals[i]`` of
        ``eigenvalues[i]``.
    converged : Tensor, shape (k,), bool
        Whether the residual came below the tolerance that was asked for.
    num_matvecs : int
        Products used.
    seed : int or None
        Of the start vector; None where it was given.
    which : str
        The end of the spectrum that was asked for.
    status : {"converged", "noise", "stopped", ""}
        Why it ended: all pairs have converged; the products or the basis are too coarse for the tolerance, so that
        going on would be of no use; or a budget was spent. Empty where an algorithm does not say.
    stderr : Tensor, shape (k,), or None
        One standard error of each eigenvalue over the batches of a stochastic operator; None where the operator is one
        matrix.
    history : EigenHistory or None
        How the pairs settled; None where an algorithm does not keep it, or there was nothing to look at yet.
    error_covers : str
        In words, what ``residuals`` covers.
    info : ResultInfo or None
        Filled in by the driver.
    """

    eigenvalues: Tensor
    eigenvectors: Tensor
    residuals: Tensor
    converged: Tensor
    num_matvecs: int
    seed: int | None = None
    which: str = "LA"
    status: str = ""
    stderr: Tensor | None = None
    history: EigenHistory | None = None
    error_covers: str = (
        "residual norm of each pair: rounding in the products and vectors is included, sampling of the data is not; "
        "a repeated eigenvalue may be given fewer times than it is there"
    )
    info: ResultInfo | None = None
