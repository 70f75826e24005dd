r"""The loss on a plane, :math:`L(\theta + s q_1 + t q_2)`: across two eigenvectors."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from curvkit_core.landscape.risk import losses_at
from curvkit_core.problem.problem import Problem
from curvkit_core.results.landscape import PlaneResult

__all__ = ["loss_plane"]


def loss_plane(
    problem: Problem, first: Tensor, second: Tensor, *, radii: tuple[float, float], points: int = 15
) -> PlaneResult:
    """Compute the loss on a grid of the plane through the model that two directions span.

    Parameters
    ----------
    problem : Problem
        Not moved.
    first, second : Tensor, shape (n,)
        Made unit vectors; orthogonal ones keep angles and distances.
    radii : (float, float)
        How far to go on either side along each.
    points : int, odd, at least 3
        Along each; the middle is where the model is.

    Returns
    -------
    PlaneResult
        ``points`` squared forward passes over the data.

    Raises
    ------
    ValueError
        If a direction is zero or an option is out of range.
    """
    if points < 3 or points % 2 == 0 or not all(r > 0.0 for r in radii):
        msg = f"points={points}, radii={radii}: expected an odd number, at least 3, and two positive radii."
        raise ValueError(msg)
    rows = problem.space.check(torch.stack([first, second]), "directions")
    norms = problem.space.norms(rows)
    if not bool((norms > 0.0).all()):
        msg = f"directions have norms {norms.tolist()}: expected two vectors, none of them zero."
        raise ValueError(msg)
    rows = rows / norms.to(rows)[:, None]
    axes = [r * torch.linspace(-1.0, 1.0, points, dtype=torch.float64) for r in radii]
    makers = [partial(_step, rows, float(s), float(t)) for s in axes[0] for t in axes[1]]
    losses = losses_at(problem, makers).reshape(points, points)
    return PlaneResult(first_steps=axes[0], second_steps=axes[1], losses=losses)


def _step(rows: Tensor, s: float, t: float) -> Tensor:
    return s * rows[0] + t * rows[1]
