"""A fresh batch at each product: another matrix each time, whose mean over the data is the batches' mean matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from torch import Tensor

from curvkit_core.operators.base import CurvatureOperator
from curvkit_core.operators.data_operator import DataOperator
from curvkit_core.problem.problem import Problem

__all__ = ["StochasticOperator"]


class StochasticOperator(CurvatureOperator):
    r"""One batch's operator at each product: :math:`A_b v`, b running through the data again and again.

    Not one matrix: :attr:`deterministic` is False, and the driver gives it only to algorithms that can bear it. Its
    mean over the data averages the batches alike, whatever their sizes (``weighting="batch-mean"``). A product costs
    one batch.

    Parameters
    ----------
    kind : callable
        ``kind(problem)`` -> operator: ``HessianOperator``, ``GGNOperator``, or a function of yours. A class is called
        with ``cache="rebuild"``, since no graph is used twice.
    problem : Problem
        Its data are read on from batch to batch.
    """

    deterministic = False

    def __init__(self, kind: Callable[..., CurvatureOperator], problem: Problem) -> None:
        super().__init__(problem.space, symmetric=True, problem=problem)
        self.kind = kind
        self._problem = problem
        self._stream: Iterator[Any] = iter(())

    def rows_product(self, V: Tensor) -> Tensor:
        """The next batch's operator times each row: rows of one call share the batch."""
        alone = self._problem.on_batches([self._next_batch()])
        rebuilt = isinstance(self.kind, type) and issubclass(self.kind, DataOperator)
        operator = self.kind(alone, cache="rebuild") if rebuilt else self.kind(alone)
        return operator.rows_product(V)

    def _next_batch(self) -> Any:
        for _ in range(2):
            for batch in self._stream:
                return batch
            self._stream = iter(islice(self._problem.batches, self._problem.num_batches))
        msg = f"the data ({type(self._problem.batches).__name__}) gave no batches."
        raise ValueError(msg)
