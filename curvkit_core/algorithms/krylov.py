"""The step that Krylov methods share: orthogonalise a product against the basis, and go on after a breakdown."""

from __future__ import annotations

import torch
from torch import Tensor

from curvkit_core.backends import VectorSpace

__all__ = ["orthogonalize", "start_row", "unit_random"]

_DROP = 0.717  # Daniel, Gragg, Kaufman, Stewart, Math. Comp. 30 (1976): below 1/sqrt(2), orthogonalise again


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
        if after > _DROP * before:
            break
        before = after
    return coefficients, first, after


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
