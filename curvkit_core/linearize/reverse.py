r"""Strategy `reverse`: everything by reverse mode on one forward graph.

:math:`J^\top u` is a backward pass; :math:`J v` differentiates :math:`J^\top u`, which is linear in u, in u; the
Hessian's product differentiates the gradient (Pearlmutter, Neural Computation 6(1), 1994). Cost in forwards F:
hvp 9F with its forward, J v and J^T u together 7F.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from curvkit_core.backends import HoldsShards
from curvkit_core.linearize.forward import Forward
from curvkit_core.linearize.graph_size import graph_bytes
from curvkit_core.linearize.linearization import Linearization
from curvkit_core.linearize.rows import RowPolicy
from curvkit_core.losses.batch_tree import tensors
from curvkit_core.losses.protocol import Outputs
from curvkit_core.losses.stacking import stacked
from curvkit_core.problem.parameters import ParameterSpace
from curvkit_core.problem.problem import Problem

__all__ = ["ForwardGraph", "ReverseLinearization"]


class ForwardGraph:
    """The autograd graph of one microbatch's forward, and the graphs of its first derivatives once they were asked for.

    It may be kept and used again for as long as nothing that it has read has changed; and by a linearization over some
    of its parameters only.

    Parameters
    ----------
    problem : Problem
        Over whose parameters.
    batch : object
        The microbatch.
    besides : iterable of Parameter
        Others of the model that it shall reach as well.
    offload : bool
        Keep what the graphs save in host memory, and bring it back when it is used.
    loss_weight : float or Tensor
        What the loss is multiplied by where it is differentiated; of a linearization, its J^T u and Hessian products.
    """

    def __init__(
        self,
        problem: Problem,
        batch: Any,
        *,
        besides: Iterable[nn.Parameter] = (),
        offload: bool = False,
        loss_weight: float | Tensor = 1.0,
    ) -> None:
        self.offload = offload and problem.parameters.device.type != "cpu"
        self.loss = problem.loss
        self.batch = batch
        self.loss_weight = loss_weight
        reached: dict[nn.Parameter, Tensor] = {p: p for p in besides}
        reached |= {e.parameter: e.value for e in problem.parameters}
        self.leaves: Mapping[nn.Parameter, Tensor] = {p: t.detach().requires_grad_() for p, t in reached.items()}
        self._forward = Forward(problem, self.leaves)
        with torch.enable_grad(), self._forward.opened(), self._saving():
            self.outputs = self._forward.run(batch)
        # a backward of sharded weights talks to other ranks: rows go one after the other, and no saved tensor is
        # looked at, which would gather it
        self._sharded = isinstance(problem.backend, HoldsShards)
        batched = False if self._sharded else None
        self.rows = {name: RowPolicy(batched=batched) for name in ("jvp", "vjp", "hvp")}
        self._transposed: tuple[dict[nn.Parameter, Tensor], Outputs] | None = None
        self._gradient: dict[nn.Parameter, Tensor] | None = None

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Surround every use: checkpointed parts of the model are run again in a backward."""
        with torch.enable_grad(), self._forward.opened():
            yield

    def transposed(self) -> tuple[dict[nn.Parameter, Tensor], Outputs]:
        """J^T u as a graph in u: a tensor for each parameter it depends on, and u."""
        if self._transposed is None:
            dummies = tuple(torch.zeros_like(t, requires_grad=True) for t in self.outputs)
            live = [i for i, t in enumerate(self.outputs) if t.requires_grad]
            slopes = self._slopes([self.outputs[i] for i in live], [dummies[i] for i in live])
            self._transposed = (slopes, dummies)
        return self._transposed

    def gradient(self) -> dict[nn.Parameter, Tensor]:
        """The loss sum's gradient as a graph in the parameters, for those on which it depends.

        A parameter that is unused, or in which the loss is linear, is not there: its derivatives are zero.
        """
        if self._gradient is None:
            loss = self.loss.loss_sum(self.outputs, self.batch)
            loss = loss if _is_one(self.loss_weight) else loss * self.loss_weight
            self._gradient = self._slopes([loss] if loss.requires_grad else [], None)
        return self._gradient

    def nbytes(self) -> int:
        """Memory that the graphs hold, without parameters and batch."""
        roots = [*self.outputs]
        if self._transposed is not None:
            roots += self._transposed[0].values()
        if self._gradient is not None:
            roots += self._gradient.values()
        return graph_bytes(roots, besides=[*self.leaves.values(), *tensors(self.batch)])

    @property
    def held(self) -> int:
        """The forward graph's memory, where it matters: not on a CPU, where rows go one after the other."""
        return 0 if self._sharded or self.outputs[0].device.type == "cpu" else graph_bytes(self.outputs)

    @property
    def stages(self) -> int:
        """How many derivative graphs have been built: memory has to be counted again when it grows."""
        return (self._transposed is not None) + (self._gradient is not None)

    def _saving(self) -> AbstractContextManager[object]:
        return torch.autograd.graph.save_on_cpu(pin_memory=True) if self.offload else nullcontext()

    def _slopes(self, roots: list[Tensor], along: list[Tensor] | None) -> dict[nn.Parameter, Tensor]:
        if not roots:
            return {}
        leaves = list(self.leaves.values())
        with self._saving():
            parts = torch.autograd.grad(roots, leaves, along, create_graph=True, allow_unused=True)
        found = zip(self.leaves, parts, strict=True)
        return {parameter: part for parameter, part in found if part is not None and part.requires_grad}


class ReverseLinearization(Linearization):
    """See the module. Works on a graph that it does not own; lives inside ``graph.opened()``.

    Parameters
    ----------
    graph : ForwardGraph
    parameters : ParameterSpace
        Some or all of the graph's, in the vectors' order.
    """

    def __init__(self, graph: ForwardGraph, parameters: ParameterSpace) -> None:
        self.graph = graph
        self.parameters = parameters
        self.loss = graph.loss
        self.batch = graph.batch
        self.y = tuple(t.detach() for t in graph.outputs)
        self._leaves = tuple(graph.leaves[e.parameter] for e in parameters)

    def jvp(self, V: Tensor) -> Outputs:
        """J v for each row: one reverse pass a row through the graph of J^T u, which is built once."""
        slopes, dummies = self.graph.transposed()
        where = [i for i, e in enumerate(self.parameters) if e.parameter in slopes]
        if not where or not len(V):
            return tuple(t.new_zeros((len(V), *t.shape)) for t in self.y)
        roots = [slopes[self.parameters.entries[i].parameter] for i in where]
        along = self.parameters.unflatten_rows(V)
        policy, nbytes = self.graph.rows["jvp"], self.graph.held
        rows = policy.gradients(roots, dummies, [along[i] for i in where], nbytes=nbytes)
        return tuple(
            stacked([torch.zeros_like(t) if (found := row[i]) is None else found for row in rows])
            for i, t in enumerate(self.y)
        )

    def vjp(self, u: Outputs) -> Tensor:
        """J^T u for each leading entry: one backward pass a row."""
        weight = self.graph.loss_weight
        u = u if _is_one(weight) else tuple(t * weight for t in u)
        return backward_rows(
            self.graph.outputs,
            u,
            self._leaves,
            self.parameters,
            policy=self.graph.rows["vjp"],
            nbytes=self.graph.held,
            out=self.taken_room(len(u[0])),
        )

    def hvp(self, V: Tensor) -> Tensor:
        """The loss sum's Hessian times each row: one reverse pass a row through the gradient's graph, built once."""
        slopes = self.graph.gradient()
        where = [i for i, e in enumerate(self.parameters) if e.parameter in slopes]
        if not where or not len(V):
            return torch.zeros_like(V)
        roots = [slopes[self.parameters.entries[i].parameter] for i in where]
        along = self.parameters.unflatten_rows(V)
        policy, nbytes = self.graph.rows["hvp"], self.graph.held
        rows = policy.gradients(roots, self._leaves, [along[i] for i in where], nbytes=nbytes)
        return self.parameters.flatten_rows(rows, out=self.taken_room(len(V)))


def _is_one(weight: float | Tensor) -> bool:
    return not isinstance(weight, Tensor) and weight == 1.0


def backward_rows(
    outputs: Outputs,
    u: Outputs,
    leaves: Sequence[Tensor],
    parameters: ParameterSpace,
    *,
    policy: RowPolicy | None = None,
    nbytes: int = 0,
    keep_graph: bool = True,
    out: Tensor | None = None,
) -> Tensor:
    """J^T u for each leading entry of u through the graph of `outputs`: (k, n), in `out` where it is given.

    The graph stays, unless told otherwise.
    """
    live = [i for i, t in enumerate(outputs) if t.requires_grad]
    rows = u[0].shape[0]
    if not live or not rows:
        return torch.zeros((rows, parameters.n_local), dtype=parameters.dtype, device=parameters.device)
    along = [u[i].to(outputs[i].dtype) for i in live]
    policy = policy or RowPolicy()
    slopes = policy.gradients([outputs[i] for i in live], leaves, along, nbytes=nbytes, keep_graph=keep_graph)
    rows_of_slopes = [list(row) for row in slopes]
    del slopes
    return parameters.flatten_rows([_handed_over(row) for row in rows_of_slopes], out=out)


def _handed_over(tensors: list[Tensor | None]) -> Iterator[Tensor | None]:
    """Each tensor, let go of once the next is asked for: a vector's slopes are not held beside the whole vector."""
    tensors.reverse()
    while tensors:
        yield tensors.pop()
