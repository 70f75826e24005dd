r"""Products compiled whole by ``torch.compile``: :math:`\nabla^2\ell\,v` as jvp of grad, J v as jvp, J^T u as vjp.

Compiling takes tens of seconds a model and shape; a product is then nearer to a gradient. The first of each kind is
held against the eager one. Where compiling fails or the two differ, the eager one goes on and the reason is kept.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from attrs import define, field
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vjp

from curvkit_core.linearize.embedding_tables import plain_tables
from curvkit_core.linearize.lean import LeanLinearization
from curvkit_core.linearize.second_order_mode import second_order_mode
from curvkit_core.linearize.twice_differentiable import twice_differentiable
from curvkit_core.losses.protocol import LossAdapter, Outputs
from curvkit_core.problem.problem import Piece, Problem

__all__ = ["CompiledLinearization", "CompiledProducts"]

Values = dict[str, Tensor]


class _Outputs(nn.Module):
    """The loss adapter's outputs as a module's forward, which functional_call can give other parameters."""

    def __init__(self, model: nn.Module, loss: LossAdapter) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, batch: Any) -> Outputs:
        return self.loss.outputs(self.model, batch)


@define(eq=False)
class CompiledProducts:
    """The compiled functions of one operator, which of them were found right, and why they are not used if not."""

    problem: Problem
    reason: str = ""
    checked: set[str] = field(factory=set)
    functions: dict[str, Callable[..., Any]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Wrap the three functions; they are compiled on first use."""
        loss = self.problem.loss
        module = _Outputs(self.problem.model, loss)

        def outputs(values: Values, batch: Any) -> Outputs:
            found: Outputs = functional_call(module, values, (batch,))
            return found

        def hvp_fn(values: Values, along: Values, batch: Any) -> Outputs:
            slope = grad(lambda theta: loss.loss_sum(outputs(theta, batch), batch))
            return tuple(jvp(slope, (values,), (along,))[1].values())

        def jvp_fn(values: Values, along: Values, batch: Any) -> Outputs:
            return tuple(jvp(lambda theta: outputs(theta, batch), (values,), (along,))[1])

        def vjp_fn(values: Values, u: Outputs, batch: Any) -> Outputs:
            return tuple(vjp(lambda theta: outputs(theta, batch), values)[1](u)[0].values())

        # static shapes: forward mode fails on symbolic sizes (torch 2.13); a ragged last batch is compiled once more
        functions = (("hvp", hvp_fn), ("jvp", jvp_fn), ("vjp", vjp_fn))
        self.functions = {name: torch.compile(f, dynamic=False, fullgraph=True) for name, f in functions}

    def call(self, name: str, eager: Callable[[], Outputs], *args: Any) -> Outputs:
        """Give the compiled result, or the eager one where there is none or it is the first of its kind."""
        if self.reason:
            return eager()
        try:
            with (
                warnings.catch_warnings(),
                torch.no_grad(),
                second_order_mode(self.problem.model, self.problem.loss),
                plain_tables(self.problem.model),
                twice_differentiable(self.problem.model),
            ):
                warnings.simplefilter("ignore")  # the compiler's own, about code that is not the user's
                found: Outputs = self.functions[name](*args)
        except Exception as error:  # noqa: BLE001 - a compiler may fail in any way; the eager product is right
            first = str(error).strip().splitlines() or [""]
            self.reason = f"{type(error).__name__}: {first[0][:160]}"
            return eager()
        return found if name in self.checked else self._check(name, found, eager())

    def _check(self, name: str, found: Outputs, expected: Outputs) -> Outputs:
        """Accept the first compiled result of a kind if it agrees with the eager one to half of its digits."""
        pairs = list(zip(found, expected, strict=True))
        size = sum(float(e.double().square().sum()) for _, e in pairs) ** 0.5
        gap = sum(float((f.double() - e.double()).square().sum()) for f, e in pairs) ** 0.5
        eps = max(torch.finfo(e.dtype).eps for e in expected)
        if gap <= eps**0.5 * size:
            self.checked.add(name)
        else:
            self.reason = f"the compiled {name} differs from the eager one by {gap / max(size, 1e-300):.1e}"
        return expected


class CompiledLinearization(LeanLinearization):
    """See the module. Row by row; costs as the eager products, less what fusing saves.

    Parameters
    ----------
    problem : Problem
    piece : Piece
        The microbatch.
    products : CompiledProducts
        Of the operator.
    """

    def __init__(self, problem: Problem, piece: Piece, products: CompiledProducts) -> None:
        super().__init__(problem, piece)
        self._products = products
        self._values = {f"model.{e.raw_names[0]}": e.parameter.detach() for e in problem.parameters}

    def jvp(self, V: Tensor) -> Outputs:
        """J v for each row."""
        rows = [self._call("jvp", partial(self._eager_jvp, v), self._named(v)) for v in V]
        return tuple(torch.stack(column) for column in zip(*rows, strict=True))

    def vjp(self, u: Outputs) -> Tensor:
        """J^T u for each leading entry."""
        rows = []
        for k in range(u[0].shape[0]):
            row = tuple(t[k].detach().to(y.dtype) for t, y in zip(u, self.y, strict=True))
            rows.append(self.parameters.flatten(self._call("vjp", partial(self._eager_vjp, row), row)))
        return torch.stack(rows)

    def hvp(self, V: Tensor) -> Tensor:
        """The loss sum's Hessian times each row."""
        rows = [self._call("hvp", partial(self._eager_hvp, v), self._named(v)) for v in V]
        return torch.stack([self.parameters.flatten(row) for row in rows])

    def _call(self, name: str, eager: Callable[[], Outputs], along: Any) -> Outputs:
        return self._products.call(name, eager, self._values, along, self.batch)

    def _eager_jvp(self, v: Tensor) -> Outputs:
        return tuple(t[0] for t in super().jvp(v[None]))

    def _eager_vjp(self, row: Outputs) -> Outputs:
        return self.parameters.unflatten(super().vjp(tuple(t[None] for t in row))[0])

    def _eager_hvp(self, v: Tensor) -> Outputs:
        return self.parameters.unflatten(super().hvp(v[None])[0])

    def _named(self, v: Tensor) -> Values:
        return dict(zip(self._values, self.parameters.unflatten(v), strict=True))
