"""A linearization that remembers what it was asked and what it gave: so a check tests what an operator uses."""

from __future__ import annotations

from attrs import frozen
from torch import Tensor

from curvkit_core.linearize import LeanLinearization, Linearization
from curvkit_core.linearize.reverse import ForwardGraph, ReverseLinearization
from curvkit_core.losses.protocol import Outputs

__all__ = ["Call", "RecordedLinearization"]


@frozen(kw_only=True, eq=False)
class Call:
    """One call: which method, what went in, what came out; each a tuple of tensors with a leading k."""

    name: str
    given: Outputs
    got: Outputs


class RecordedLinearization(Linearization):
    """The same linearization; every product is kept in :attr:`calls`.

    Parameters
    ----------
    inner : Linearization
        Its Hessian products by double backward share one graph here, where a lean one builds a graph each time.
    """

    def __init__(self, inner: Linearization) -> None:
        self.inner = inner
        self.batch = inner.batch
        self.loss = inner.loss
        self.parameters = inner.parameters
        self.calls: list[Call] = []
        self._graph: ForwardGraph | None = None

    @property
    def y(self) -> Outputs:  # type: ignore[override]  # a lean one knows it once a forward has run
        """The outputs' values."""
        return self.inner.y if self._graph is None else tuple(t.detach() for t in self._graph.outputs)

    def jvp(self, V: Tensor) -> Outputs:
        """J v for each row."""
        return self._kept("jvp", (V,), self.inner.jvp(V))

    def vjp(self, u: Outputs) -> Tensor:
        """J^T u for each leading entry."""
        return self._kept("vjp", u, (self.inner.vjp(u),))[0]

    def hvp(self, V: Tensor) -> Tensor:
        """The Hessian of the loss sum times each row."""
        return self._kept("hvp", (V,), (self._hvp(V),))[0]

    def loss_value(self) -> Tensor:
        """The loss sum."""
        return self.inner.loss_value()

    def gradient(self) -> Tensor:
        """The gradient of the loss sum."""
        return self.inner.gradient()

    def loss_curvature(self, dy: Outputs) -> Outputs:
        """The loss's own curvature times dy."""
        return self._kept("loss_curvature", dy, self.inner.loss_curvature(dy))

    def unit_outer(self, dy: Outputs) -> Outputs:
        """The units' gradients in y: their outer products' sum times dy."""
        return self.inner.unit_outer(dy)

    def first(self, name: str) -> Call | None:
        """The first call of this method, if there was one."""
        return next((call for call in self.calls if call.name == name), None)

    def _kept(self, name: str, given: Outputs, got: Outputs) -> Outputs:
        self.calls.append(Call(name=name, given=given, got=got))
        return got

    def _hvp(self, V: Tensor) -> Tensor:
        inner = self.inner
        if not isinstance(inner, LeanLinearization) or type(inner).hvp is not LeanLinearization.hvp:
            return inner.hvp(V)
        if self._graph is None:
            self._graph = ForwardGraph(inner.problem, inner.batch)
        with self._graph.opened():
            return ReverseLinearization(self._graph, inner.parameters).hvp(V)
