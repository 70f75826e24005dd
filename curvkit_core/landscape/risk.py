r"""The risk :math:`L(\theta) = \sum_b \ell_b(\theta)/\sum_b N_b`: here, displaced, and its gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from attrs import frozen
from torch import Tensor

from curvkit_core.linearize import Engine, EngineOptions, loss_at
from curvkit_core.problem.problem import Piece, Problem

__all__ = ["LossAndGradient", "loss_and_gradient", "losses_at"]


@frozen(kw_only=True, eq=False)
class LossAndGradient:
    """The risk and its gradient at the model's parameters.

    Parameters
    ----------
    loss : float
        Averaged as the problem's weighting says.
    gradient : Tensor, shape (n,)
        In the problem's order.
    """

    loss: float
    gradient: Tensor


def loss_and_gradient(problem: Problem) -> LossAndGradient:
    """Compute the risk and its gradient: one pass over the data, on kept graphs where there are any.

    Parameters
    ----------
    problem : Problem
        Its operators' kept graphs are used, and left for them: what is measured next costs no further forward pass.

    Returns
    -------
    LossAndGradient
        The model, its ``.grad`` and the random state are as they were.
    """
    engine = Engine(problem, EngineOptions())
    total, loss, count = problem.space.zeros(1), _zeros(1), _zeros(())
    with problem.together(total), problem.opened():
        engine.begin_pass()
        for piece in problem.pieces_in_step():
            with engine.linearized(piece) as lin:
                total += lin.gradient() * piece.weight
                loss += _counted(lin.loss_value(), piece)
            count += float(piece.count)
            problem.history.batches_seen = piece.number + 1
        engine.end_pass()
    gradient = problem.average(total, count.clone())[0]
    return LossAndGradient(loss=float(_averaged(problem, loss, count)[0]), gradient=gradient)


def losses_at(
    problem: Problem, steps: Iterable[Callable[[], Tensor]], *, on_progress: Callable[[int], None] | None = None
) -> Tensor:
    """Compute the risk at displaced parameters, in one pass over the data.

    Parameters
    ----------
    problem : Problem
        Not moved: copies stand in the parameters' places.
    steps : iterable of callables
        Each gives a displacement (n,): made when it is needed, since many of them would be many vectors.
    on_progress : callable or None
        Called with the number of microbatches done.

    Returns
    -------
    Tensor, shape (m,), float64 on the CPU
        One forward pass a step and microbatch.
    """
    makers = list(steps)
    totals, count = _zeros(len(makers)), _zeros(())
    with problem.together(totals), problem.opened():
        for number, piece in enumerate(problem.pieces_in_step(), start=1):
            for i, make in enumerate(makers):
                totals[i] += _counted(loss_at(problem, piece, make()), piece)
            count += float(piece.count)
            problem.history.batches_seen = piece.number + 1
            if on_progress is not None:
                on_progress(number)
    return _averaged(problem, totals, count)


def _counted(loss: Tensor, piece: Piece) -> float:
    """What a microbatch adds to the sum: nothing where it is there only to keep step with other ranks."""
    weight = float(piece.weight) * float(piece.loss_weight)
    return float(loss) * weight if weight else 0.0


def _averaged(problem: Problem, losses: Tensor, count: Tensor) -> Tensor:
    """Losses over all data. A backward pass adds vectors over the shards that share the data; here it is to be done."""
    return problem.average(problem.space.sum_over_shards(losses), count)


def _zeros(shape: int | tuple[int, ...]) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)
