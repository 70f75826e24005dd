r"""Slices of the loss along directions: :math:`L(\theta + t q)` beside :math:`L + t\,g^\top q + t^2 q^\top A q/2`.

Where the curve and the parabola agree, the curvature is what the loss does; where they part, the quadratic model ends.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from curvkit_core.landscape.risk import loss_and_gradient, losses_at
from curvkit_core.operators import HessianOperator
from curvkit_core.problem.problem import Problem
from curvkit_core.results.landscape import SliceResult

__all__ = ["loss_slice"]

FINE = (1.0 / 32.0, 1.0 / 16.0)  # of the radius: the steps of the second differences


def loss_slice(
    problem: Problem,
    directions: Tensor,
    *,
    curvatures: Tensor | None = None,
    radius: float | Tensor | None = None,
    points: int = 21,
) -> SliceResult:
    r"""Compute the loss along directions, and the parabola that the curvature predicts.

    Parameters
    ----------
    problem : Problem
        Not moved: copies stand in the parameters' places.
    directions : Tensor, shape (d, n) or (n,)
        Made unit vectors, for instance ``eig.eigenvectors``.
    curvatures : Tensor, shape (d,), or None
        :math:`q^\top H q` of each unit direction, for instance ``eig.eigenvalues`` of the Hessian. None: d Hessian
        products.
    radius : float, Tensor of shape (d,), or None
        How far to go on either side, in the parameters' unit. None: to where the parabola without its slope has risen
        by the loss itself, :math:`\sqrt{2 L/|q^\top H q|}`; at most the parameters' norm.
    points : int, odd, at least 5
        On each slice; the middle one is t = 0.

    Returns
    -------
    SliceResult
        With, for each direction, the curvature that the losses themselves show at t = 0.

    Raises
    ------
    ValueError
        If a shape does not fit, a direction is zero, or an option is out of range.

    Notes
    -----
    One gradient and d (points + 5) forward passes, in one pass over the data each.
    """
    space = problem.space
    rows = space.check(directions, "directions")
    norms = space.norms(rows)
    if not bool((norms > 0.0).all()) or not len(rows):
        msg = f"directions have norms {norms.tolist()}: expected one or more vectors, none of them zero."
        raise ValueError(msg)
    if points < 5 or points % 2 == 0:
        msg = f"points={points}: expected an odd number, at least 5; the middle one is where the model is."
        raise ValueError(msg)
    rows = rows / norms.to(rows)[:, None]
    here = loss_and_gradient(problem)
    if curvatures is None:
        bend = space.dots(rows, HessianOperator(problem).apply(rows))
    else:
        bend = torch.as_tensor(curvatures, dtype=torch.float64).detach().cpu()
    if bend.shape != (len(rows),):
        msg = f"curvatures have shape {tuple(bend.shape)}: expected ({len(rows)},), one a direction."
        raise ValueError(msg)
    slopes = space.dots(rows, here.gradient[None].expand_as(rows))
    reach = _reach(problem, radius, bend, here.loss)
    steps = reach[:, None] * torch.linspace(-1.0, 1.0, points, dtype=torch.float64)
    steps[:, points // 2] = 0.0
    fine = reach[:, None] * torch.tensor([-FINE[1], -FINE[0], 0.0, FINE[0], FINE[1]], dtype=torch.float64)
    every = torch.cat([steps, fine], dim=1)
    makers = [partial(_step, row, float(t)) for row, ts in zip(rows, every, strict=True) for t in ts]
    losses, near = losses_at(problem, makers).reshape(every.shape).split([points, 5], dim=1)
    parabola = here.loss + steps * slopes[:, None] + 0.5 * steps.square() * bend[:, None]
    seen, error = _seen_curvature(near, fine, float(torch.finfo(space.dtype).eps))
    return SliceResult(
        loss=here.loss,
        steps=steps,
        losses=losses,
        parabola=parabola,
        slopes=slopes,
        curvatures=bend,
        seen_curvatures=seen,
        seen_errors=error,
    )


def _step(row: Tensor, t: float) -> Tensor:
    return row * t


def _reach(problem: Problem, radius: float | Tensor | None, bend: Tensor, loss: float) -> Tensor:
    if radius is not None:
        reach = torch.as_tensor(radius, dtype=torch.float64).expand(len(bend)).clone()
        if not bool((reach > 0.0).all()) or not bool(reach.isfinite().all()):
            msg = f"radius={radius!r}: expected positive numbers, one or one a direction."
            raise ValueError(msg)
        return reach
    own = problem.parameters.flatten([e.value.detach() for e in problem.parameters])
    largest = max(float(problem.space.norms(own[None])[0]), 1e-8)
    rise = max(abs(loss), 1e-8)
    far = [math.sqrt(2.0 * rise / abs(c)) if c else largest for c in bend.tolist()]
    return torch.tensor([min(f, largest) for f in far], dtype=torch.float64)


def _seen_curvature(losses: Tensor, steps: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Second differences at t = 0 with steps h and 2h, extrapolated; the error is their gap, and rounding's share.

    (4 D(h) - D(2h))/3 has an error of order h^4; D(h) - D(2h) over 3 is that of D(h), a bound on its own wherever the
    ladder has begun to converge. A loss is known to eps of its size, which a second difference multiplies by 4/h^2.
    """
    middle = losses.shape[1] // 2
    h = steps[:, middle + 1]

    def second(j: int) -> Tensor:
        return (losses[:, middle + j] - 2.0 * losses[:, middle] + losses[:, middle - j]) / (j * h).square()

    fine, coarse = second(1), second(2)
    rounding = 4.0 * eps * losses[:, middle - 2 : middle + 3].abs().amax(dim=1) / h.square()
    return (4.0 * fine - coarse) / 3.0, (fine - coarse).abs() / 3.0 + rounding
