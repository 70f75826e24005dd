r"""Recorded products against differences: of the outputs, of the gradient, of the loss's slope in the outputs.

What is differentiated is computed in float32 at least, at displaced copies of the parameters. Costs two forwards, two
gradients or two slopes of the loss a step of the ladder.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from attrs import evolve
from torch import Tensor

from curvkit_core.checks.base_point import BasePoint
from curvkit_core.checks.difference_ladder import Judgement, judge, ladder, norm
from curvkit_core.checks.graph_facts import graph_facts
from curvkit_core.checks.recorded import Call
from curvkit_core.linearize import gradient_at, outputs_at
from curvkit_core.losses.protocol import Outputs
from curvkit_core.problem.problem import Piece, Problem

__all__ = ["judge_hvp", "judge_jvp", "judge_loss_curvature"]

_ROUNDINGS = 10.0  # of a sum, in units of eps times its norm


def judge_jvp(problem: Problem, piece: Piece, base: BasePoint, call: Call) -> Judgement:
    """J v against differences of the outputs. Kinks do no harm here: the outputs are continuous, if nothing jumps."""
    direction, product = call.given[0][0], _flat(tuple(t[0] for t in call.got))
    judged = _judge(
        base,
        direction,
        product,
        lambda step: _flat(outputs_at(problem, piece, step)),
        size=norm(_finite(_flat(base.y))),
        steps=ladder(base.facts.dtype),
    )
    return _softened(judged, base.jump)


def judge_hvp(problem: Problem, piece: Piece, base: BasePoint, call: Call) -> Judgement:
    """The Hessian's product against differences of the gradient.

    Across kinks only a single small step is tried, which may show a product right; along parameters behind the last
    kink the ladder is used as for a smooth function.
    """
    direction, product = call.given[0][0], call.got[0][0]
    smooth = not base.facts.kink or not bool(direction[~base.behind].any())
    steps = ladder(base.facts.dtype)
    if base.facts.kink:
        steps = steps[:2] if smooth else (min(steps),)
    judged = _judge(
        base,
        direction,
        product,
        lambda step: gradient_at(problem, piece, step),
        size=norm(base.gradient),
        steps=steps,
    )
    return judged if smooth else _softened(judged, base.facts.kink)


def judge_loss_curvature(problem: Problem, piece: Piece, call: Call, y: Outputs) -> Judgement:
    """The loss's own curvature times dy against differences of d loss/dy, y a single tensor. No pass of the network."""
    wide = torch.promote_types(y[0].dtype, torch.float32)
    at, along, product = y[0].to(wide), call.given[0][0].to(wide), call.got[0][0].to(wide)
    finite = torch.isfinite(at) & torch.isfinite(along)  # ignored rows may hold anything
    along = torch.where(finite, along, 0.0)
    kinks = []

    def slope(z: Tensor) -> Tensor:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            loss = problem.loss.loss_sum((z,), piece.batch)
            kinks.append(graph_facts([loss], wide).kink)
            if not loss.requires_grad:
                return torch.zeros_like(z)
            (found,) = torch.autograd.grad(loss, z, allow_unused=True)
        return torch.zeros_like(z) if found is None else found

    length = norm(along)
    if length == 0.0:
        return Judgement(verdict="right", seen="")
    reach = norm(torch.where(finite, at, 0.0)) or 1.0
    along = along / length

    def difference(step: float) -> Tensor:
        ahead, behind = slope(at + along * (step * reach)), slope(at - along * (step * reach))
        return _finite((ahead - behind) / (2.0 * step * reach))

    size = norm(_finite(slope(at)))
    rounding = _ROUNDINGS * float(torch.finfo(wide).eps) * size / reach
    judged = judge(_finite(product / length), difference, ladder(wide), rounding)
    return _softened(judged, kinks[0] or ("rounding" if torch.finfo(y[0].dtype).bits < 32 else ""))


def _judge(
    base: BasePoint,
    direction: Tensor,
    product: Tensor,
    value: Callable[[Tensor], Tensor],
    *,
    size: float,
    steps: tuple[float, ...],
) -> Judgement:
    """Judge a derivative along `direction`; steps are in units of theta's norm where the direction is not zero."""
    length = norm(direction)
    if length == 0.0:
        return Judgement(verdict="right", seen="")
    reach = norm(base.theta[direction != 0]) or norm(base.theta) or 1.0
    unit = direction / length

    def difference(step: float) -> Tensor:
        away = unit * (step * reach)
        return _finite((value(away) - value(-away)) / (2.0 * step * reach))

    eps = float(torch.finfo(torch.promote_types(base.facts.dtype, torch.float32)).eps)
    judged = judge(_finite(product / length), difference, steps, _ROUNDINGS * eps * size / reach)
    return _softened(judged, "rounding" if base.low_precision else "")


def _softened(judged: Judgement, reason: str) -> Judgement:
    """With a reason for differences to mislead, what looks wrong cannot be told."""
    if not reason or judged.verdict == "right":
        return judged
    why = f"through {reason}" if reason != "rounding" else "in 16 bits, where a right product may do so"
    return evolve(judged, verdict="inconclusive", seen=f"{judged.seen.split(', where')[0]}, {why}")


def _flat(tensors: Outputs) -> Tensor:
    wide = torch.promote_types(tensors[0].dtype, torch.float32)
    return torch.cat([t.detach().reshape(-1).to(wide) for t in tensors])


def _finite(tensor: Tensor) -> Tensor:
    """Ignored outputs may be inf or NaN, and differ from themselves: they count as zeros."""
    return torch.nan_to_num(tensor, nan=0.0, posinf=0.0, neginf=0.0)
