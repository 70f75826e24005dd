r"""Strategy `reverse`: everything by reverse mode on one forward graph.

:math:`J^\top u` is a backward pass; :math:`J v` differentiates :math:`J^\top u`, which is linear in u, in u; the
Hessian's product differentiates the gradient (Pearlmutter, Neural Computation 6(1), 1994). Cost in forwards F:
hvp 9F with its forward, J v and J^T u together 7F.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from curvkit_core.linearize.linearization import Linearization
from curvkit_core.linearize.second_order_mode import second_order_mode
from curvkit_core.losses.protocol import Outputs
from curvkit_core.problem.problem import Problem
from curvkit_core.problem.swap import swapped

__all__ = ["ReverseLinearization", "linearized"]


@contextmanager
def linearized(problem: Problem, batch: Any) -> Iterator[ReverseLinearization]:
    """Linearize `problem` on one microbatch; the values stay swapped in until the last backward is done."""
    leaves = {e.parameter: e.parameter.detach().requires_grad_() for e in problem.parameters}
    context = problem.forward_context if problem.forward_context is not None else nullcontext
    with (
        torch.enable_grad(),
        second_order_mode(problem.model, problem.loss),
        swapped(problem.model, leaves),
    ):
        with context():
            outputs = problem.loss.outputs(problem.model, batch)
        yield ReverseLinearization(problem, batch, outputs, list(leaves.values()))


class ReverseLinearization(Linearization):
    """See the module. Holds the forward graph; lives inside :func:`linearized`.

    Parameters
    ----------
    problem : Problem
    batch : object
        The microbatch.
    outputs : tuple of Tensor
        y as graph tensors.
    leaves : sequence of Tensor
        What stands in the model for the parameters, in the parameter space's order.
    """

    def __init__(self, problem: Problem, batch: Any, outputs: Outputs, leaves: Sequence[Tensor]) -> None:
        if not isinstance(outputs, tuple):
            msg = f"{type(problem.loss).__name__}.outputs gave a {type(outputs).__name__}: expected a tuple of tensors."
            raise TypeError(msg)
        self.parameters = problem.parameters
        self.loss = problem.loss
        self.batch = batch
        self.y = tuple(t.detach() for t in outputs)
        self._outputs = outputs
        self._leaves = tuple(leaves)
        self._transposed: tuple[list[Tensor], list[int], Outputs] | None = None
        self._slope: list[Tensor | None] | None = None

    def jvp(self, V: Tensor) -> Outputs:
        """J v for each row: one reverse pass a row through the graph of J^T u, which is built once."""
        slopes, where, dummies = self._transposed_graph()
        rows: list[tuple[Tensor, ...]] = []
        for v in V:
            if not slopes:
                rows.append(tuple(torch.zeros_like(t) for t in self.y))
                continue
            directions = self.parameters.unflatten(v)
            out = torch.autograd.grad(
                slopes, dummies, [directions[i] for i in where], retain_graph=True, allow_unused=True
            )
            rows.append(tuple(torch.zeros_like(t) if o is None else o for o, t in zip(out, self.y, strict=True)))
        return tuple(torch.stack(column) for column in zip(*rows, strict=True))

    def vjp(self, u: Outputs) -> Tensor:
        """J^T u for each leading entry: one backward pass a row."""
        live = [i for i, t in enumerate(self._outputs) if t.requires_grad]
        rows = u[0].shape[0]
        if not live:
            return torch.zeros((rows, self.parameters.n), dtype=self.parameters.dtype, device=self.parameters.device)
        outputs = [self._outputs[i] for i in live]
        return torch.stack(
            [
                self.parameters.flatten(
                    torch.autograd.grad(
                        outputs,
                        self._leaves,
                        [u[i][k].to(self.y[i].dtype) for i in live],
                        retain_graph=True,
                        allow_unused=True,
                    )
                )
                for k in range(rows)
            ]
        )

    def hvp(self, V: Tensor) -> Tensor:
        """The loss sum's Hessian times each row: one reverse pass a row through the gradient's graph, built once."""
        slope = self._gradient_graph()
        # a parameter that the gradient does not depend on (unused, or the loss is linear in it) has no graph: zeros
        where = [i for i, s in enumerate(slope) if s is not None and s.requires_grad]
        rows: list[Tensor] = []
        for v in V:
            directions = self.parameters.unflatten(v)
            parts: Sequence[Tensor | None] = [None] * len(self._leaves)
            if where:
                parts = torch.autograd.grad(
                    [s for s in (slope[i] for i in where) if s is not None],
                    self._leaves,
                    [directions[i] for i in where],
                    retain_graph=True,
                    allow_unused=True,
                )
            rows.append(self.parameters.flatten(parts))
        return torch.stack(rows)

    def _transposed_graph(self) -> tuple[list[Tensor], list[int], Outputs]:
        """The graph of J^T u in u: its outputs, which parameters they belong to, and u."""
        if self._transposed is None:
            dummies = tuple(torch.zeros_like(t, requires_grad=True) for t in self.y)
            live = [i for i, t in enumerate(self._outputs) if t.requires_grad]
            products: Sequence[Tensor | None] = []
            if live:
                products = torch.autograd.grad(
                    [self._outputs[i] for i in live],
                    self._leaves,
                    [dummies[i] for i in live],
                    create_graph=True,
                    allow_unused=True,
                )
            where = [i for i, p in enumerate(products) if p is not None and p.requires_grad]
            self._transposed = ([p for p in (products[i] for i in where) if p is not None], where, dummies)
        return self._transposed

    def _gradient_graph(self) -> list[Tensor | None]:
        if self._slope is None:
            loss = self.loss.loss_sum(self._outputs, self.batch)
            if loss.requires_grad:
                self._slope = list(torch.autograd.grad(loss, self._leaves, create_graph=True, allow_unused=True))
            else:
                self._slope = [None] * len(self._leaves)
        return self._slope
