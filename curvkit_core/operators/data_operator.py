r"""Operators over a problem's data: :math:`A v = \sum_b A_b v / \sum_b N_b`, one method to write.

Everything that is the same for all of them is here: batches, microbatches, weights, ranks, the checks, the model left
as it was.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from curvkit_core.checks import preflight
from curvkit_core.linearize import Linearization, linearized
from curvkit_core.operators.base import CurvatureOperator
from curvkit_core.problem.problem import Problem

__all__ = ["DataOperator"]


class DataOperator(CurvatureOperator):
    """A sum over the data's units, divided once by their number.

    Parameters
    ----------
    problem : Problem
        Model, data, loss and parameters.
    """

    def __init__(self, problem: Problem) -> None:
        if not isinstance(problem, Problem):
            msg = f"problem is a {type(problem).__name__}: expected a curvkit_core.Problem(model, batches, loss)."
            raise TypeError(msg)
        super().__init__(problem.space, symmetric=True, problem=problem)
        self._problem = problem

    @abstractmethod
    def batch_product(self, lin: Linearization, batch: Any, V: Tensor) -> Tensor:
        """The microbatch's SUM over units of A_u times each row of V: (k, n) in, (k, n) out. Never a mean."""

    def rows_product(self, V: Tensor) -> Tensor:
        """One pass over the data: sums and counts per microbatch, reduced over ranks, divided in one place."""
        problem = self._problem
        checking = problem.preflight != "off" and not problem.history.checked
        total = torch.zeros_like(V)
        count = torch.zeros((), dtype=torch.float64, device=V.device)
        batches = 0
        with problem.opened():
            for piece in problem.pieces():
                with linearized(problem, piece.batch) as lin:
                    if checking:
                        preflight(problem, piece, lin)
                    product = self.batch_product(lin, piece.batch, V)
                total += product if piece.weight == 1.0 else product * piece.weight
                count += piece.count
                batches = piece.number + 1
        problem.history.batches_seen = batches
        product = problem.average(total, count)
        problem.history.checked = True
        return product
