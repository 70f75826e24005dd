r"""A Lanczos step: a product's column of T, what reorthogonalisation takes away of it, and what is left.

.. math:: A Q^\top = Q^\top (T + N) + \beta\, q\, e_j^\top

holds after every step to rounding, whether rows are orthogonalised against the whole basis each time or only where the
estimate of lost orthogonality asks for it: T has the symmetric coefficients of the recurrence, N what was taken away
beside it.

Lost orthogonality is in two rows, the newest and the one that follows from its product, and goes on growing from
either. They are freed together, in one pass over the basis [1]_: the newest row :math:`q = \nu \hat q + Q^\top c` is
replaced by :math:`\hat q`, and A q, which has been computed, gives that of its replacement,

.. math:: \nu A \hat q = A q - A Q^\top c,

without another product, as the columns of :math:`A Q^\top` are known.

References
----------
.. [1] Simon, Math. Comp. 42(165), 1984, 115-142, section 5: two rows in turn; here at once.
"""

from __future__ import annotations

import math

import torch
from attrs import frozen
from torch import Tensor

from curvkit_core.algorithms.basis import Basis
from curvkit_core.algorithms.eigenpairs.krylov import BREAKDOWN, DROP, free_from, three_term
from curvkit_core.algorithms.eigenpairs.reorthogonalization import Overlaps
from curvkit_core.backends import VectorSpace

__all__ = ["Step", "lanczos_step"]


@frozen(kw_only=True, eq=False)
class Step:
    """What a product has outside of the basis.

    Parameters
    ----------
    rest : Tensor, shape (1, n_local)
        The next row, not normalised.
    beta, norm : float
        Norms of that and of the product.
    rounding : float or None
        The norm of what the basis took of the product, where that is the product's rounding and nothing else.
    """

    rest: Tensor
    beta: float
    norm: float
    rounding: float | None


def lanczos_step(
    space: VectorSpace,
    basis: Basis,
    T: Tensor,
    N: Tensor,
    row: Tensor,
    product: Tensor,
    *,
    overlaps: Overlaps | None,
    scale: float,
) -> Step:
    """Append `row` to the basis and orthogonalise its product; T and N get their next columns.

    Parameters
    ----------
    space : VectorSpace
    basis : Basis
        j rows, all multiplied.
    T, N : Tensor, shape (ncv, ncv), float64
        Of j rows; T[:j, j] is the row's coupling to them. Changed in place.
    row, product : Tensor, shape (1, n_local)
        q_j and A q_j, in whose places q_j and the rest are afterwards.
    overlaps : Overlaps or None
        The estimate that says when to orthogonalise; None: always.
    scale : float
        |A|, as far as it is known.

    Costs
    -----
    Five passes over a row; and two over the basis if it is orthogonalised.
    """
    j = basis.size
    w, alpha = three_term(space, basis, T[:j, j], row, product)
    T[j, j] = alpha
    row, w = basis.placed(row), basis.placed(w, ahead=1)
    column = math.hypot(alpha, float(T[:j, j].norm()))
    beta = 0.0
    if overlaps is not None:
        beta = float(space.norms(w)[0])
        norm = math.hypot(column, beta)
        broken = beta <= BREAKDOWN * space.eps * max(scale, norm)
        if beta <= space.eps**0.5 * max(scale, norm):
            overlaps.distrust()
        if not broken and not overlaps.due(T[: j + 1, : j + 1], beta, norm, space.eps):
            basis.append(row)
            return Step(rest=w, beta=beta, norm=norm, rounding=None)
        both = None if broken or overlaps.is_cleared(j, space.eps) else basis.pair(row, w)
        if both is not None:
            again, floor = True, BREAKDOWN * space.eps * max(scale, norm)
            for _ in range(2):
                if again and beta > floor:
                    beta, again = _free_both(space, basis, T, N, both, beta, overlaps)
            row, w = both[:1], both[1:]
            basis.append(row)
            if again:
                taken, beta = free_from(space, basis, w, placed=basis.room(w) is not None)
                N[: j + 1, j] += taken
            return Step(rest=w, beta=beta, norm=norm, rounding=None)
    basis.append(row)
    taken, beta = free_from(space, basis, w, placed=basis.room(w) is not None)
    if overlaps is not None and beta and overlaps.cleared(j + 1, float(taken.abs().max()) / beta, space.eps):
        more, beta = free_from(space, basis, w, placed=basis.room(w) is not None)
        overlaps.cleared(j + 1, float(more.abs().max()) / beta if beta else 0.0, space.eps)
        taken += more
    N[: j + 1, j] = taken
    norm = math.hypot(column, beta)
    # not of the first product, which is orthogonal to the one row there is by its alpha
    rounding = None if j == 0 else float(taken.norm())
    if overlaps is not None:
        if not overlaps.first(j + 1):
            rounding = None  # it is lost orthogonality
        elif j:
            overlaps.measured(taken, norm)
    return Step(rest=w, beta=beta, norm=norm, rounding=rounding)


def _free_both(
    space: VectorSpace, basis: Basis, T: Tensor, N: Tensor, both: Tensor, before: float, overlaps: Overlaps
) -> tuple[float, bool]:
    """Free q_j and the rest of its product, of norm `before`, from the basis and one another; T and N follow.

    Gives the norm of the rest, and whether so much was taken away that it has to be done again.
    """
    j = basis.size
    G = basis.gram_following(space, both)
    c, h, cross = G[0, :j], G[1, :j], float(G[1, j])
    nu = math.sqrt(max(float(G[0, j] - c @ c), space.eps**2))
    own = (cross - float(c @ h)) / nu
    after = math.sqrt(max(before**2 - float(h @ h) - own**2, 0.0))
    again = overlaps.seen(j, c, space.eps) or after <= DROP * before
    again = overlaps.seen(j + 1, h / before, space.eps) or again
    again = overlaps.cleared(j, float(c.abs().max()), space.eps) or again
    again = overlaps.cleared(j + 1, float(h.abs().max()) / max(after, space.eps * before), space.eps) or again
    basis.subtract(space, G[:, :j], both)
    row, w = both[:1], both[1:]
    if abs(own) > space.eps * after:
        w.add_(row, alpha=-own / nu)
    if abs(nu - 1.0) > space.eps:
        both.div_(nu)
    # A q_j = w + a q_j + Q^T b and A Q^T = Q^T (T + N) + q_j known^T, with q_j and w written in what they are now
    known, a, b = T[:j, j].clone(), float(T[j, j] + N[j, j]), T[:j, j] + N[:j, j]
    N[:j, :j] += torch.outer(c, known)
    N[:j, j] = (h + a * c + b - (T + N)[:j, :j] @ c) / nu - nu * known
    N[j, j] = own / nu + a - float(known @ c) - float(T[j, j])
    T[:j, j] = T[j, :j] = nu * known
    return after / nu, again
