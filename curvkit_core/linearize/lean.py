r"""Strategy `lean`: the Gauss-Newton kind of product in one training step's memory.

:math:`J v` is the tangent of a forward with dual numbers, run without a graph (2F); :math:`J^\top u` is a forward and a
backward (3F). Only a layer's own activations are alive during the first, only a plain gradient's graph during the
second. A Hessian product needs the gradient's graph, and is that of strategy `reverse`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

from curvkit_core.linearize.forward import Forward
from curvkit_core.linearize.linearization import Linearization
from curvkit_core.linearize.reverse import ForwardGraph, ReverseLinearization, backward_rows
from curvkit_core.losses.protocol import Outputs
from curvkit_core.losses.stacking import stacked_columns
from curvkit_core.problem.problem import Piece, Problem

__all__ = ["LeanLinearization", "NoForwardDerivativeError"]


class NoForwardDerivativeError(TypeError):
    """An operation of the model has no forward-mode derivative."""


class LeanLinearization(Linearization):
    """See the module. Forwards are run as they are asked for, and nothing is held between them but y.

    Parameters
    ----------
    problem : Problem
    piece : Piece
        The microbatch.
    """

    def __init__(self, problem: Problem, piece: Piece) -> None:
        self.problem = problem
        self.piece = piece
        self.parameters = problem.parameters
        self.loss = problem.loss
        self.batch = piece.batch
        self._y: Outputs | None = None

    @property
    def y(self) -> Outputs:  # type: ignore[override]  # known only once a forward has run
        """The outputs' values: those of the last forward, else of one without a graph."""
        if self._y is None:
            forward = Forward(self.problem, {}, second_order=False)
            with torch.no_grad(), forward.opened():
                self._y = tuple(t.detach() for t in forward.run(self.batch))
        return self._y

    def jvp(self, V: Tensor) -> Outputs:
        """J v for each row: one dual forward a row."""
        if not len(V):
            return tuple(t.new_zeros((0, *t.shape)) for t in self.y)
        return stacked_columns([self._tangents(v) for v in V])

    def vjp(self, u: Outputs) -> Tensor:
        """J^T u for each leading entry: one forward, and a backward a row."""
        leaves = {e.parameter: e.parameter.detach().requires_grad_() for e in self.parameters}
        forward = Forward(self.problem, leaves, second_order=False)
        self._y = None  # this forward's outputs take its place: at a language model's head each copy is large
        with torch.enable_grad(), forward.opened():
            outputs = forward.run(self.batch)
            self._y = tuple(t.detach() for t in outputs)
            # a plain gradient's memory: the graph goes while the slopes come
            return backward_rows(outputs, u, list(leaves.values()), self.parameters, keep_graph=False)

    def hvp(self, V: Tensor) -> Tensor:
        """The loss sum's Hessian times each row, by double backward on a graph that lasts for this call."""
        graph = ForwardGraph(self.problem, self.batch)
        with graph.opened():
            lin = ReverseLinearization(graph, self.parameters)
            self._y = lin.y
            return lin.hvp(V)

    def _tangents(self, v: Tensor) -> tuple[Tensor, ...]:
        directions = self.parameters.unflatten(v)
        with torch.no_grad(), forward_ad.dual_level():
            duals = {
                e.parameter: forward_ad.make_dual(e.parameter.detach(), d)
                for e, d in zip(self.parameters, directions, strict=True)
            }
            forward = Forward(self.problem, duals)
            try:
                with forward.opened():
                    pairs = [forward_ad.unpack_dual(t) for t in forward.run(self.batch)]
            except (NotImplementedError, RuntimeError) as error:
                if "forward AD" not in str(error) and "jvp" not in str(error):
                    raise
                reason = str(error).splitlines()[0].split(" Please")[0]
                msg = f"strategy='lean' needs forward-mode derivatives: {reason} Use strategy='reverse'."
                raise NoForwardDerivativeError(msg) from error
            self._y = tuple(p.primal.detach() for p in pairs)
            return tuple(torch.zeros_like(p.primal) if p.tangent is None else p.tangent.detach() for p in pairs)
