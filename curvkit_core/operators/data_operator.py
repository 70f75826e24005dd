r"""Operators over a problem's data: :math:`A v = \sum_b A_b v / \sum_b N_b`, one method to write.

Everything that is the same for all of them is here: batches, microbatches, weights, ranks, the engine that linearizes,
the checks, the model left as it was.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from curvkit_core import checks
from curvkit_core.linearize import Engine, EngineOptions, Linearization
from curvkit_core.operators.base import CurvatureOperator
from curvkit_core.problem.problem import Problem

__all__ = ["DataOperator"]


class DataOperator(CurvatureOperator):
    """A sum over the data's units, divided once by their number.

    Parameters
    ----------
    problem : Problem
        Model, data, loss and parameters.
    strategy : {"auto", "reverse", "lean", "finite-difference"}
    cache : {"auto", "keep", "rebuild", "offload"}
    memory_budget : int, str or None
    compile : bool
        How products are made: cost, never meaning. See :class:`curvkit_core.linearize.EngineOptions`.
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
        if not isinstance(problem, Problem):
            msg = f"problem is a {type(problem).__name__}: expected a curvkit_core.Problem(model, batches, loss)."
            raise TypeError(msg)
        super().__init__(problem.space, symmetric=True, problem=problem)
        self._problem = problem
        options = EngineOptions(strategy=strategy, cache=cache, memory_budget=memory_budget, compile=compile)
        self._engine = Engine(problem, options)
        self._out: Tensor | None = None  # for the next pass

    #: Whether `batch_product` gives what its one call of the linearization's ``vjp`` or ``hvp`` gave, and keeps
    #: nothing of it: then that may be computed in memory that the caller has.
    lays_out_last: bool = False

    @abstractmethod
    def batch_product(self, lin: Linearization, batch: Any, V: Tensor) -> Tensor:
        """The microbatch's SUM over units of A_u times each row of V: (k, n) in, (k, n) out. Never a mean.

        The result is added to and scaled in place: give a tensor of its own, as the linearization's methods do.
        """

    def begin_pass(self) -> None:
        """Called before each pass over the data: an operator that counts through a pass starts anew."""

    def end_pass(self) -> None:
        """Called after each pass over this rank's data, before the ranks' sums meet: counts can be checked here."""

    @property
    def strategy(self) -> str:
        """How the last product was made, in words."""
        return self._engine.describe()

    def rows_product(self, V: Tensor) -> Tensor:
        """One pass over the data: sums and counts per microbatch, reduced over ranks, divided in one place."""
        out, self._out = self._out, None
        problem = self._problem
        watch = checks.begin(problem, self, self._engine.options)
        self.begin_pass()
        with problem.together(V):
            total, count = self._sums(V, watch, out)
        product = problem.average(torch.zeros_like(V) if total is None else total, count)
        if watch is not None:
            watch.end(problem.num_units)
        return product

    def rows_product_into(self, V: Tensor, out: Tensor) -> None:
        """The same; where `lays_out_last` says so, the first microbatch's product is computed in `out` itself."""
        self._out = out if self.lays_out_last else None
        try:
            product = self.rows_product(V)
        finally:
            self._out = None
        if product.data_ptr() != out.data_ptr():  # on ranks, or where it was computed otherwise
            out.copy_(product)

    def _sums(self, V: Tensor, watch: checks.Watch | None, out: Tensor | None) -> tuple[Tensor | None, Tensor]:
        """This rank's sum of products, None where it has no data, and its count."""
        problem, engine = self._problem, self._engine
        total: Tensor | None = None
        count = torch.zeros((), dtype=torch.float64, device=V.device)
        batches = 0
        with problem.opened():
            engine.begin_pass()
            for piece in problem.pieces_in_step():
                with engine.linearized(piece) as lin:
                    lin.room = out if total is None else None
                    product = self.batch_product(lin, piece.batch, V)
                    lin.room = None
                if watch is not None:
                    watch.after(piece, lin, V, product)
                if piece.weight != 1.0:
                    product = product * piece.weight
                # no zeros to add to: at a language model's size each pass over n is felt
                total = _own(product, V, out) if total is None else total.add_(product)
                count += piece.count
                batches = piece.number + 1
            engine.end_pass()
        problem.history.batches_seen = batches
        self.end_pass()
        return total, count


def _own(product: Tensor, V: Tensor, out: Tensor | None) -> Tensor:
    """The product itself, or a copy where it is the vectors that were given; `out` may lie beside those."""
    if out is not None and product.data_ptr() == out.data_ptr():
        return product
    return product.clone() if product.untyped_storage().data_ptr() == V.untyped_storage().data_ptr() else product
