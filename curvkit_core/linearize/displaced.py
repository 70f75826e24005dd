"""The model at displaced parameters, theta + step: what finite differences are made of.

The user's parameters are not moved: copies stand in their place. Models of fewer bits than float32 are computed in
float32, since a small step would vanish in their rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from curvkit_core.linearize.forward import Forward
from curvkit_core.losses.protocol import Outputs
from curvkit_core.problem.problem import Piece, Problem

__all__ = ["gradient_at", "loss_at", "outputs_at"]


def gradient_at(problem: Problem, piece: Piece, step: Tensor) -> Tensor:
    """The gradient of the microbatch's loss SUM at theta + step: (n,). One gradient."""
    values = {p: value.requires_grad_() for p, value in _displaced(problem, step).items()}
    forward = Forward(problem, values, second_order=False, dtype=torch.float32)
    with torch.enable_grad(), forward.opened():
        loss = problem.loss.loss_sum(forward.run(piece.batch), piece.batch)
        if not loss.requires_grad:
            return torch.zeros_like(step)
        slopes = torch.autograd.grad(loss, list(values.values()), allow_unused=True)
    return problem.parameters.flatten(slopes)


def outputs_at(problem: Problem, piece: Piece, step: Tensor) -> Outputs:
    """The outputs y at theta + step. One forward."""
    forward = Forward(problem, _displaced(problem, step), second_order=False, dtype=torch.float32)
    with torch.no_grad(), forward.opened():
        return tuple(t.detach() for t in forward.run(piece.batch))


def loss_at(problem: Problem, piece: Piece, step: Tensor) -> Tensor:
    """The microbatch's loss SUM at theta + step, a scalar. One forward."""
    with torch.no_grad():
        return problem.loss.loss_sum(outputs_at(problem, piece, step), piece.batch).detach()


def _displaced(problem: Problem, step: Tensor) -> dict[nn.Parameter, Tensor]:
    values = {}
    for entry in problem.parameters:
        own = entry.value.detach()
        wide = torch.promote_types(own.dtype, torch.float32)
        piece = entry.spread(step[entry.place]).to(device=own.device, dtype=wide)
        values[entry.parameter] = own.to(wide) + piece
    return values
