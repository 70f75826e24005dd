"""The first gradient of a probe: outputs and gradient at theta, and what the graph tells on the way."""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor

from curvkit_core.checks.graph_facts import GraphFacts, graph_facts
from curvkit_core.linearize.forward import Forward
from curvkit_core.losses.protocol import Outputs
from curvkit_core.problem.problem import Piece, Problem

__all__ = ["BasePoint", "base_point"]


@frozen(kw_only=True, eq=False)
class BasePoint:
    """What is known at theta.

    Parameters
    ----------
    y : tuple of Tensor
        Outputs, detached.
    gradient, theta : Tensor, shape (n,)
        Of the loss sum, and the parameters.
    facts : GraphFacts
        Of the loss's graph.
    jump : str
        A node on the way to the outputs whose value jumps; empty if there is none.
    behind : Tensor, shape (n,), bool
        Elements that enter behind the last kink.
    reaches : bool
        Whether the loss depends on any of the parameters.
    """

    y: Outputs
    gradient: Tensor
    theta: Tensor
    facts: GraphFacts
    jump: str
    behind: Tensor
    reaches: bool

    @property
    def eps(self) -> float:
        """Of the narrowest dtype in the graph; of TF32 where matrix products or convolutions may use it."""
        eps = float(torch.finfo(self.facts.dtype).eps)
        return max(eps, 2.0**-10) if self.gradient.is_cuda and _tf32(self.facts.convolves) else eps

    @property
    def low_precision(self) -> bool:
        """Whether a derivative passes through bfloat16 or float16: a right product may then be far from the truth."""
        return torch.finfo(self.facts.dtype).bits < 32

    @property
    def tolerance(self) -> float:
        """Up to where two ways to one number count as equal: ten times the root of eps, 3e-3 in float32."""
        return 10.0 * float(self.eps**0.5)


def base_point(problem: Problem, piece: Piece) -> BasePoint:
    """One gradient of the microbatch's loss sum."""
    parameters = problem.parameters
    leaves = [e.parameter.detach().requires_grad_() for e in parameters]
    values = {e.parameter: leaf for e, leaf in zip(parameters, leaves, strict=True)}
    forward = Forward(problem, values, second_order=False)
    with torch.enable_grad(), forward.opened():
        outputs = forward.run(piece.batch)
        loss = problem.loss.loss_sum(outputs, piece.batch)
        facts = graph_facts([loss], parameters.dtype)
        jump = graph_facts(outputs, parameters.dtype).jump
        slopes = torch.autograd.grad(loss, leaves, allow_unused=True) if loss.requires_grad else [None] * len(leaves)
    behind = torch.zeros(parameters.n, dtype=torch.bool, device=parameters.device)
    for entry, leaf in zip(parameters, leaves, strict=True):
        behind[entry.place] = id(leaf) in facts.behind
    return BasePoint(
        y=tuple(t.detach() for t in outputs),
        gradient=parameters.flatten(slopes),
        theta=parameters.flatten([leaf.detach() for leaf in leaves]),
        facts=facts,
        jump=jump,
        behind=behind,
        reaches=any(slope is not None for slope in slopes),
    )


def _tf32(convolves: bool) -> bool:
    try:
        return torch.get_float32_matmul_precision() != "highest" or (convolves and torch.backends.cudnn.allow_tf32)
    except RuntimeError:  # the two ways to set it were mixed, and torch refuses to answer
        return True
