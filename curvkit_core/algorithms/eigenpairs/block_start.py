"""Where block methods begin, and where they go on from an invariant basis: rows given, and random ones."""

from __future__ import annotations

from torch import Tensor

from curvkit_core.algorithms.basis import Basis
from curvkit_core.algorithms.eigenpairs.block_orthogonalize import block_orthogonalize
from curvkit_core.backends import VectorSpace

__all__ = ["append_random", "append_start"]


def append_random(space: VectorSpace, basis: Basis, seed: int, drawn: int, size: int) -> int:
    """Random rows, orthogonal to the basis, until it has `size` of them, or n; give the count of rows drawn so far."""
    size = min(size, space.n)
    while basis.size < size:
        rows = size - basis.size
        block = block_orthogonalize(space, space.random("gaussian", seed, drawn, rows), basis)
        drawn += rows
        basis.append(block.rows)
    return drawn


def append_start(space: VectorSpace, basis: Basis, start: Tensor, most: int) -> None:
    """Rows of `start`, made orthonormal; dependent ones are left out.

    Raises
    ------
    ValueError
        If there are more than `most`, or one is zero or not finite.
    """
    rows = space.check(start, "start")
    norms = space.norms(rows)
    if not 1 <= len(rows) <= most or not bool(((norms > 0.0) & (norms < float("inf"))).all()):
        msg = (
            f"start has shape {tuple(start.shape)} and norms {norms.tolist()}: expected 1 to {most} finite vectors, "
            f"none of them zero. A larger block_size takes more."
        )
        raise ValueError(msg)
    basis.append(block_orthogonalize(space, rows).rows)
