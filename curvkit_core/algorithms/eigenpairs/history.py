"""How eigenpairs settle, for the reports: Ritz values and residual bounds after some of the products.

A look is taken where an algorithm computes Ritz pairs anyway. Between two of them a few sizes of the basis are looked
at afterwards: with the columns of T known to the m-th, :math:`A Q_m = Q_M T_{:, m}` holds for every smaller size, too,
so that no product and no vector is needed. Of many looks every second is dropped: 64 are kept at most, however long it
took.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from curvkit_core.results.types import EigenHistory

__all__ = ["look", "look_back"]

MOST = 64  # looks that are kept
FIRST, LATER = 8, 2  # sizes looked at before the first restart, where most happens, and from one to the next


def look(
    history: EigenHistory | None, num_matvecs: int, theta: Tensor, residuals: Tensor, *, k: int, which: str
) -> EigenHistory | None:
    """Add the first k of these pairs, the most wanted first; a look after the same number of products is replaced.

    Parameters
    ----------
    history : EigenHistory or None
        None before the first look.
    num_matvecs : int
        Products so far.
    theta, residuals : Tensor, shape (m,), float64
        Ritz values and the bounds of their residuals. Fewer than k are no look.
    k : int
        Pairs wanted.
    which : str
        As in :func:`wanted_first`: ``"BE"`` is shown ascending.

    Returns
    -------
    EigenHistory or None
        A new one; the one given is left as it is.
    """
    if len(theta) < k:
        return history
    order = theta[:k].argsort() if which == "BE" else torch.arange(k)
    at, values, bounds = torch.tensor([num_matvecs]), theta[order][None], residuals[order][None]
    if history is not None:
        old = history.num_matvecs < num_matvecs
        at = torch.cat([history.num_matvecs[old], at])
        values = torch.cat([history.eigenvalues[old], values])
        bounds = torch.cat([history.residuals[old], bounds])
    if len(at) > MOST:  # the newest stays
        kept = torch.arange(len(at) - 1, -1, -2).flip(0)
        at, values, bounds = at[kept], values[kept], bounds[kept]
    return EigenHistory(num_matvecs=at, eigenvalues=values, residuals=bounds)


def look_back(
    history: EigenHistory | None,
    T: Tensor,
    *,
    start: int,
    end: int,
    num_matvecs: int,
    pairs: Callable[[int], tuple[Tensor, Tensor, Tensor]],
    honest: Callable[[Tensor, Tensor], Tensor],
    k: int,
    which: str,
) -> EigenHistory | None:
    r"""Look at a few sizes m of the basis, `start` < m < `end`: eigenpairs of :math:`T_{mm}` and their residuals.

    Parameters
    ----------
    history : EigenHistory or None
        So far.
    T : Tensor, shape (M, end), float64
        The products in the basis; a column has no entries but in rows that were there when it was made.
    start, end : int
        Sizes at which pairs were, and will be, looked at anyway; from one to the other each product adds one column.
    num_matvecs : int
        Products so far, at the size `end`.
    pairs : callable
        ``pairs(m)``: eigenpairs of :math:`T_{mm}`, most wanted first, and what they leave beside T, as
        :func:`curvkit_core.algorithms.eigenpairs.ritz_pairs.ritz_pairs` says.
    honest : callable
        Of the recurrence's bounds, and what is left, the bounds with all that it does not see.
    k, which
        As in :func:`look`.
    """
    step = max(1, -(-(end - start) // (LATER if start else FIRST)))
    for m in range(end - step * ((end - start - 1) // step), end, step):
        theta, S, left = pairs(m)
        outside = (T[m:, :m] @ S).norm(dim=0)
        history = look(history, num_matvecs - (end - m), theta, honest(outside, left), k=k, which=which)
    return history
