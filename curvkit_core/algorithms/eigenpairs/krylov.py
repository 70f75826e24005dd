"""The step that Krylov methods share: free a product from the basis, and go on after a breakdown.

Symmetry says what a product has in common with the basis: :func:`three_term` takes that away at the cost of two rows,
and one pass over the whole basis (:func:`free_from`) then takes away what rounding left. Two passes over the whole
basis, as :func:`orthogonalize` makes them, cost twice that.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from curvkit_core.algorithms.basis import Basis
from curvkit_core.backends import VectorSpace

__all__ = [
    "BREAKDOWN",
    "DROP",
    "free_from",
    "fresh_row",
    "orthogonalize",
    "start_row",
    "start_sum",
    "three_term",
    "unit_random",
]

BREAKDOWN = 10.0  # a remainder below this times eps |A| cannot be told from rounding: the Krylov space is exhausted

DROP = 0.717  # Daniel, Gragg, Kaufman, Stewart, Math. Comp. 30 (1976): below 1/sqrt(2), orthogonalise again


def orthogonalize(space: VectorSpace, w: Tensor, basis: Tensor) -> tuple[Tensor, float, float]:
    """Free the row `w` (1, n), in place, from the orthonormal rows of `basis`.

    Classical Gram-Schmidt as matrix products, again whenever a pass took so much away that rounding is felt.

    Returns
    -------
    (Tensor, float, float)
        Coefficients (j,) float64; the norm before; the norm after.
    """
    first = before = float(space.norms(w)[0])
    coefficients = torch.zeros(len(basis), dtype=torch.float64)
    for _ in range(4):
        h = space.gram(w, basis)
        w -= space.combine(h, basis)
        coefficients += h[0]
        after = float(space.norms(w)[0])
        if after > DROP * before:
            break
        before = after
    return coefficients, first, after


def three_term(space: VectorSpace, basis: Basis, known: Tensor, row: Tensor, product: Tensor) -> tuple[Tensor, float]:
    r"""Give :math:`w = A q - \sum_i c_i q_i - \alpha q` with :math:`\alpha = q^\top A q`, and alpha.

    Parameters
    ----------
    space : VectorSpace
    basis : Basis
        The rows q_i before q.
    known : Tensor, shape (basis.size,), float64
        c_i = q_i A q by symmetry: zero but for the last one, or a whole column right after a restart.
    row, product : Tensor, shape (1, n_local)
        q and A q, in whose place the result is computed: on a CPU fresh memory of this size costs more than the step.
    """
    coupled = known.nonzero()
    if len(coupled) == 1:
        i = int(coupled)
        product.add_(basis.rows(space, i, i + 1), alpha=-float(known[i]))
    elif len(coupled):
        basis.subtract(space, known[None], product)
    alpha = float(space.dots(row, product)[0])
    return product.add_(row, alpha=-alpha), alpha


def free_from(space: VectorSpace, basis: Basis, w: Tensor, *, placed: bool = False) -> tuple[Tensor, float]:
    """Free the row `w` (1, n_local), in place, from all rows of `basis`; again if that took much of it away.

    `placed` says that it lies in the basis's :meth:`Basis.room`, from where its norm costs no pass of its own.

    Returns
    -------
    taken : Tensor, shape (basis.size,), float64
        The coefficients of what was taken away.
    norm : float
        Of what is left: by Pythagoras, where that is most of it.
    """
    taken = torch.zeros(basis.size, dtype=torch.float64)
    for left in (3, 2, 1, 0):
        h, before = basis.gram_and_norm(space, w, placed=placed)
        taken += h[0]
        inside = float(h.norm())
        after = math.sqrt(max(before**2 - inside**2, 0.0))
        basis.subtract(space, h, w)
        if after > DROP * before:
            break
        if not left:
            after = float(space.norms(w)[0])
    return taken, after


def fresh_row(space: VectorSpace, seed: int, index: int, basis: Basis) -> Tensor:
    """Random unit row number `index` of the stream `seed`, orthogonal to `basis`, which does not span everything."""
    row = space.random("gaussian", seed, index, 1)
    row.div_(float(space.norms(row)[0]))
    _, norm = free_from(space, basis, row)
    return row.div_(norm)


def unit_random(space: VectorSpace, seed: int, index: int, basis: Tensor) -> Tensor:
    """Random unit row number `index` of the stream `seed`, orthogonal to `basis`; zero if that spans everything."""
    row = space.random("gaussian", seed, index, 1)
    if len(basis) >= space.n:
        return row.zero_()
    _, _, norm = orthogonalize(space, row, basis)
    return row.div_(norm)


def start_row(space: VectorSpace, start: Tensor | None, seed: int) -> Tensor:
    """The unit start row: `start` normalised, or random number 0 of the stream `seed`."""
    if start is None:
        return unit_random(space, seed, 0, space.zeros(0))
    row = space.check(start, "start").clone()
    norm = float(space.norms(row)[0])
    if len(row) != 1 or not 0.0 < norm < float("inf"):
        msg = (
            f"start has shape {tuple(start.shape)} and norm {norm}: expected one finite vector ({space.n},), not zero."
        )
        raise ValueError(msg)
    return row.div_(norm)


def start_sum(space: VectorSpace, start: Tensor | None, seed: int) -> Tensor:
    """The unit start row where several may be given: the sum of them, each at norm 1; otherwise :func:`start_row`."""
    if start is None or start.ndim < 2 or len(start) == 1:
        return start_row(space, start, seed)
    rows = space.check(start, "start")
    norms = space.norms(rows)
    if not bool(((norms > 0) & (norms < math.inf)).all()):
        msg = f"start has rows of norm {norms.tolist()}: expected finite vectors, none of them zero."
        raise ValueError(msg)
    return start_row(space, space.combine(norms.reciprocal()[None], rows), seed)
