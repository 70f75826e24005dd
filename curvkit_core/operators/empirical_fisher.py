r"""The empirical Fisher :math:`\frac1N\sum_u g_u g_u^\top` of the units' gradients."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from curvkit_core.linearize import Linearization
from curvkit_core.losses import ComputesUnitLosses
from curvkit_core.operators.data_operator import DataOperator
from curvkit_core.problem.problem import Problem

__all__ = ["EmpiricalFisherOperator"]


class EmpiricalFisherOperator(DataOperator):
    r"""The uncentred covariance :math:`\frac1N\sum_u g_u g_u^\top` of the units' gradients :math:`g_u = \nabla\ell_u`.

    Positive semidefinite. Not the Fisher: its targets are the data's, not the model's (Kunstner, Balles, Hennig,
    NeurIPS 2019). A product is :math:`J_\ell^\top (J_\ell v)`, J_l the Jacobian of the units' losses: O(n) memory, no
    gradient is formed per unit; 7/3 gradients in time.

    Parameters
    ----------
    problem : Problem
        Its loss must tell its units apart (``unit_losses``).
    """

    def __init__(
        self,
        problem: Problem,
        *,
        strategy: str = "auto",
        cache: str = "auto",
        memory_budget: int | str | None = None,
    ) -> None:
        super().__init__(problem, strategy=strategy, cache=cache, memory_budget=memory_budget)
        if not isinstance(problem.loss, ComputesUnitLosses):
            msg = (
                f"{type(problem.loss).__name__} cannot tell its units apart: the empirical Fisher needs the method "
                "unit_losses(y, batch) -> (units,). Use a loss adapter that has it, or HessianOperator."
            )
            raise TypeError(msg)

    def batch_product(self, lin: Linearization, batch: Any, V: Tensor) -> Tensor:
        """The sum over units of g_u <g_u, v>."""
        return lin.vjp(lin.unit_outer(lin.jvp(V)))
