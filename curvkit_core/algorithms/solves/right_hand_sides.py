"""What solvers share: right-hand sides and where they begin, the words for how a system ended, what rounding does."""

from __future__ import annotations

import torch
from torch import Tensor

from curvkit_core.algorithms.seeds import fresh_seed
from curvkit_core.algorithms.solves.preconditioner import Preconditioner
from curvkit_core.backends import VectorSpace

__all__ = [
    "BREAKDOWN",
    "CONVERGED",
    "INCOMPATIBLE",
    "NOT_DEFINITE",
    "RIGHT_HAND_SIDES",
    "RUNNING",
    "STAGNATED",
    "WORDS",
    "begin",
    "drawn",
    "inverse_rows",
    "with_rounding",
]

RUNNING, CONVERGED, BREAKDOWN, STAGNATED, INCOMPATIBLE, NOT_DEFINITE = range(6)
RIGHT_HAND_SIDES = ("random",)
WORDS = ("max_matvecs", "converged", "breakdown", "stagnated", "incompatible", "preconditioner")

_ROUNDING = 3.0  # of eps |A| |x|: seen are 0.1 to 1.5 for residuals that no product has verified


def begin(space: VectorSpace, b: Tensor, start: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Right-hand sides (r, n_local), where their solutions begin, and the norms of the former, all of them finite.

    A solution begins at zero where `start` is None or its right-hand side is zero.
    """
    rows = space.check(b, "b").clone()
    x = torch.zeros_like(rows) if start is None else space.check(start, "start").clone()
    if x.shape != rows.shape:
        msg = f"start has shape {tuple(x.shape)}: expected {tuple(rows.shape)}, a row for each right-hand side."
        raise ValueError(msg)
    for name, norms in (("start", space.norms(x)), ("right-hand side", space.norms(rows))):
        if not bool(torch.isfinite(norms).all()):
            number = int((~torch.isfinite(norms)).nonzero()[0])
            msg = f"{name} {number} has norm {float(norms[number])}: expected finite numbers."
            raise ValueError(msg)
    x[(norms == 0).to(x.device)] = 0.0
    return rows, x, norms


def inverse_rows(space: VectorSpace, preconditioner: Preconditioner | None, R: Tensor) -> Tensor:
    """M^-1 R, or R itself where there is no preconditioner."""
    return R if preconditioner is None else preconditioner.inverse_rows(space, R)


def with_rounding(space: VectorSpace, residuals: Tensor, scales: Tensor, x: Tensor) -> Tensor:
    """Residuals as a recurrence has them, and what rounding does to the true ones: a small multiple of eps |A| |x|.

    `scales` are lower bounds on |A| as the rows have seen it.
    """
    return residuals + _ROUNDING * space.eps * scales * space.norms(x)


def drawn(space: VectorSpace, b: Tensor | None, rhs: str, seed: int | None) -> tuple[Tensor, int | None]:
    """The right-hand side and no seed; or, where there is none, the one that `rhs` names, with its seed."""
    if b is not None:
        return b, None
    assert rhs in RIGHT_HAND_SIDES
    seed = fresh_seed(seed)
    return space.random("gaussian", seed, 0, 1)[0], seed
