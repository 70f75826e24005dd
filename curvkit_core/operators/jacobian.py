r"""The Jacobian :math:`J = \partial y/\partial\theta` of all outputs over the data, and its transpose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from curvkit_core import checks
from curvkit_core.backends import Segment, VectorSpace
from curvkit_core.linearize import Engine, EngineOptions, LeanLinearization, Linearization
from curvkit_core.operators.data_layout import DataLayout
from curvkit_core.operators.linear_map import LinearMap
from curvkit_core.problem.problem import Problem

__all__ = ["JacobianOperator", "TransposedJacobian"]


class JacobianOperator(LinearMap):
    r"""The Jacobian of the model's outputs, shape (m, n): a row for every element of y over all the data.

    The outputs are what the loss adapter takes for its y (logits, as a rule), each batch's flattened in C order, the
    batches one after another: with the data on the leading axis no cut into batches changes it. Outputs whose targets
    are ignored have rows as well, and nothing is averaged: the GGN is ``J.T @ H @ J`` over the number of units. ``J.T``
    is the transpose, ``J.T @ J`` a symmetric CurvatureOperator, ``J @ J.T`` the (unscaled) tangent kernel.

    A product costs a pass over the data: :math:`J v` two thirds of a gradient, :math:`J^\top u` one gradient. One
    forward pass on construction counts the outputs.

    Parameters
    ----------
    problem : Problem
        Its loss must hand over one tensor, with the data on the leading axis.
    strategy : {"auto", "reverse", "lean", "finite-difference"}
    cache : {"auto", "keep", "rebuild", "offload"}
    memory_budget : int, str or None
    compile : bool
        How products are made: cost, never meaning (finite differences excepted). See
        :class:`curvkit_core.linearize.EngineOptions`.

    Raises
    ------
    TypeError
        If the loss does not tell where the model ends, or hands over several tensors.
    ValueError
        If there is no data, or it is spread over ranks.
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
        if getattr(problem.loss, "hessian_only", False):
            msg = (
                f"{type(problem.loss).__name__} does not tell where the model ends and the loss begins, so there are "
                "no outputs to differentiate. Use a loss adapter with outputs and loss_sum."
            )
            raise TypeError(msg)
        self._problem = problem
        self._layout = DataLayout(problem, "outputs")
        with problem.opened():
            for piece in problem.pieces():
                self._layout.add(piece, _length(LeanLinearization(problem, piece), problem))
        if not self._layout.total:
            msg = f"the data ({type(problem.batches).__name__}) gave no outputs: pass at least one batch."
            raise ValueError(msg)
        codomain = VectorSpace(
            [Segment(name="outputs", numel=self._layout.total)], dtype=problem.space.dtype, device=problem.space.device
        )
        super().__init__(problem.space, codomain, problem=problem)
        options = EngineOptions(strategy=strategy, cache=cache, memory_budget=memory_budget, compile=compile)
        self._engine = Engine(problem, options)
        self._flipped = TransposedJacobian(self)

    @property
    def strategy(self) -> str:
        """How the last product was made, in words."""
        return self._engine.describe()

    def rows_product(self, V: Tensor) -> Tensor:
        """J v for each row: the microbatches' outputs one after another."""
        out = self.codomain.zeros(V.shape[0])

        def put(lin: Linearization, place: slice) -> tuple[Tensor, Tensor]:
            out[:, place] = lin.jvp(V)[0].flatten(1).to(out)
            return V, out[:, place]

        self._pass(put)
        return out

    def transposed_rows_product(self, U: Tensor) -> Tensor:
        """J^T u for each row: the sum of the microbatches' parts."""
        total = self.domain.zeros(U.shape[0])

        def add(lin: Linearization, place: slice) -> tuple[Tensor, Tensor]:
            product = lin.vjp((U[:, place].reshape(-1, *lin.y[0].shape),))
            total.add_(product)
            return U[:, place], product

        self._pass(add)
        return total

    def transposed(self) -> TransposedJacobian:
        """J^T."""
        return self._flipped

    def _pass(self, visit: Callable[[Linearization, slice], tuple[Tensor, Tensor]]) -> None:
        """Go through the data; `visit` gives what it multiplied and the product, for the checks."""
        problem, engine = self._problem, self._engine
        watch = checks.begin(problem, _Gram(), engine.options)
        index, units = -1, 0.0
        with problem.opened():
            engine.begin_pass()
            for index, piece in enumerate(problem.pieces()):
                with engine.linearized(piece) as lin:
                    V, product = visit(lin, self._layout.place(index, piece, _length(lin, problem)))
                if watch is not None:
                    watch.after(piece, lin, V, product)
                    units += float(piece.count)
            engine.end_pass()
        self._layout.check_complete(index + 1)
        if watch is not None:
            watch.end(units)


class TransposedJacobian(LinearMap):
    """J^T, shape (n, m): made by ``J.T``.

    Parameters
    ----------
    base : JacobianOperator
        J.
    """

    def __init__(self, base: JacobianOperator) -> None:
        super().__init__(base.codomain, base.domain, problem=base.problem)
        self.base = base

    def rows_product(self, V: Tensor) -> Tensor:
        """J^T u for each row."""
        return self.base.transposed_rows_product(V)

    def transposed(self) -> JacobianOperator:
        """J."""
        return self.base


class _Gram:
    """J^T J of a microbatch: what the checks multiply with."""

    symmetric = True

    def batch_product(self, lin: Linearization, batch: Any, V: Tensor) -> Tensor:
        return lin.vjp(lin.jvp(V))


def _length(lin: Linearization, problem: Problem) -> int:
    if len(lin.y) != 1 or not isinstance(lin.y[0], torch.Tensor):
        msg = (
            f"{type(problem.loss).__name__} hands over {len(lin.y)} tensors: the Jacobian's rows are the elements of "
            "one, with the data on its leading axis. Use a loss adapter whose outputs are (logits,)."
        )
        raise TypeError(msg)
    return lin.y[0].numel()
