r"""The empirical Fisher :math:`\frac1N\sum_u g_u g_u^\top` of the units' gradients, and their centred covariance."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from curvkit_core.linearize import Linearization
from curvkit_core.losses import ComputesUnitLosses, UnitGradients
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
    centered : bool
        The covariance about the mean instead, :math:`\frac1N\sum_u g_u g_u^\top - \bar g\bar g^\top`. The mean gradient
        is found anew in every product's own pass, for one more backward pass, so it is never of other parameters. Its
        rounding is eps |mean|^2: where the gradients differ by less than a millionth of their mean, use float64.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        centered: bool = False,
        strategy: str = "auto",
        cache: str = "auto",
        memory_budget: int | str | None = None,
        compile: bool = False,  # noqa: A002 - torch's own word for it
    ) -> None:
        super().__init__(problem, strategy=strategy, cache=cache, memory_budget=memory_budget, compile=compile)
        if not isinstance(problem.loss, ComputesUnitLosses):
            msg = (
                f"{type(problem.loss).__name__} cannot tell its units apart: the empirical Fisher needs the method "
                "unit_losses(y, batch) -> (units,). Use a loss adapter that has it, or HessianOperator."
            )
            raise TypeError(msg)
        self.centered = centered
        self._loss: ComputesUnitLosses = problem.loss
        self._with_mean: Tensor | None = None

    def rows_product(self, V: Tensor) -> Tensor:
        """One pass; where it is centred, with a row more, in whose place the mean gradient comes back."""
        if not self.centered:
            return super().rows_product(V)
        self._with_mean = torch.cat([V, torch.zeros_like(V[:1])])
        try:
            sums = super().rows_product(self._with_mean)
        finally:
            self._with_mean = None
        product, mean = sums[:-1], sums[-1:]
        return product - self.space.combine(self.space.gram(V, mean), mean)

    def batch_product(self, lin: Linearization, batch: Any, V: Tensor) -> Tensor:
        """The sum over units of g_u <g_u, v>; of a centred one's own pass, with the sum of g_u in the last row."""
        if V is not self._with_mean:  # a check's product, too, is of the uncentred sum
            return lin.vjp(lin.unit_outer(lin.jvp(V)))
        dy = lin.jvp(V[:-1])
        R = UnitGradients(lambda y: self._loss.unit_losses(y, batch), lin.y)
        self._check_count(R.num_units, batch)
        inner = R.inner(dy)
        return lin.vjp(R.combined(torch.cat([inner, torch.ones_like(inner[:1])])))

    def _check_count(self, losses: int, batch: Any) -> None:
        """Units that count differently (class weights) have no covariance: their second moment is weighed otherwise."""
        assert self.problem is not None
        units = float(self.problem.loss.num_units(batch))
        if units != losses:
            msg = (
                f"{type(self.problem.loss).__name__} gives {losses} unit losses and counts them as {units:g}: "
                "centered=True needs units that count alike. Leave out class weights, or use centered=False."
            )
            raise ValueError(msg)
