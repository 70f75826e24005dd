r"""The generalized Gauss-Newton matrix :math:`G = \frac1N\sum_u J_u^\top H_u J_u`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from curvkit_core.linearize import Linearization
from curvkit_core.operators.data_operator import DataOperator
from curvkit_core.problem.problem import Problem

__all__ = ["GGNOperator"]


class GGNOperator(DataOperator):
    r"""The generalized Gauss-Newton matrix :math:`G = \frac1N\sum_u J_u^\top H_u J_u`: exact, no finite differences.

    J is the outputs' Jacobian, H the loss's own Hessian in the outputs (Schraudolph, Neural Computation 14(7), 2002).
    Positive semidefinite for losses convex in the outputs; there it equals the Fisher for softmax, sigmoid and Gaussian
    likelihoods (Martens, JMLR 21(146), 2020). A product costs 4/3 gradients in
    time on a kept graph, whose memory is about 2.2 forward graphs; else two gradients in one gradient's memory.

    Parameters
    ----------
    problem : Problem
        Its loss must tell where the model ends: CallableLoss is refused.
    strategy : {"auto", "reverse", "lean", "finite-difference"}
    cache : {"auto", "keep", "rebuild", "offload"}
    memory_budget : int, str or None
    compile : bool
        How products are made: cost, never meaning (finite differences excepted). See
        :class:`curvkit_core.linearize.EngineOptions`.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        strategy: str = "auto",
        cache: str = "auto",
        memory_budget: int | str | None = None,
        compile: bool = False,  # noqa: A002 - torch's own word for it
    ) -> None:
        super().__init__(problem, strategy=strategy, cache=cache, memory_budget=memory_budget, compile=compile)
        if getattr(problem.loss, "hessian_only", False):
            msg = (
                f"{type(problem.loss).__name__} does not tell where the model ends and the loss begins, so there is no "
                "Gauss-Newton split. Use a loss adapter with outputs and loss_sum, or HessianOperator."
            )
            raise TypeError(msg)

    lays_out_last = True

    def batch_product(self, lin: Linearization, batch: Any, V: Tensor) -> Tensor:
        """J^T H J V."""
        return lin.vjp(lin.loss_curvature(lin.jvp(V)))
