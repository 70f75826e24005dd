r"""Dense Hessian, GGN and empirical Fisher of a small problem, by textbook double backward: slow, and another path.

Nothing of curvkit's own differentiation is used: parameters are swapped by ``torch.func.functional_call``, and each row
is one backward pass through the gradient of the risk. What the loss adapter says is taken as it is; the adapter's own
checks hold that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from curvkit_core.losses import ComputesUnitLosses
from curvkit_core.problem import Problem

__all__ = ["dense_empirical_fisher", "dense_ggn", "dense_hessian"]


def dense_hessian(problem: Problem) -> Tensor:
    r"""The Hessian of :math:`\sum_b \ell_b / \sum_b N_b`, (n, n) in the parameters' order; n backward passes."""
    forward = _Forward(problem)
    loss: Any = problem.loss
    total = torch.stack([loss.loss_sum(forward(batch), batch) for batch in problem.batches]).sum()
    return _rows(_gradient(total, forward.leaves), forward.leaves) / forward.units


def dense_ggn(problem: Problem) -> Tensor:
    r"""The GGN :math:`\frac1N\sum_b J_b^\top H_b J_b`, for losses of one output tensor; H by double backward in y."""
    forward = _Forward(problem)
    loss: Any = problem.loss
    total = torch.zeros(forward.n, forward.n, dtype=forward.dtype)
    for batch in problem.batches:
        (y,) = forward(batch)
        jacobian = _rows(y.reshape(-1), forward.leaves)
        leaf = y.detach().requires_grad_()
        slope = _gradient(loss.loss_sum((leaf,), batch), [leaf])
        total += jacobian.mT @ _rows(slope, [leaf]) @ jacobian
    return total / forward.units


def dense_empirical_fisher(problem: Problem) -> Tensor:
    r""":math:`\frac1N\sum_u g_u g_u^\top` of the units' gradients, for losses that tell their units apart."""
    forward = _Forward(problem)
    loss: Any = problem.loss
    if not isinstance(loss, ComputesUnitLosses):
        msg = f"{type(loss).__name__} has no unit_losses: expected a loss that tells its units apart."
        raise TypeError(msg)
    gradients = torch.cat([_rows(loss.unit_losses(forward(b), b), forward.leaves) for b in problem.batches])
    return gradients.mT @ gradients / forward.units


class _Forward:
    """The problem's outputs as a function of leaves that stand for its parameters."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.leaves = [e.parameter.detach().clone().requires_grad_() for e in problem.parameters.entries]
        self.values = dict(_slots(problem, self.leaves))
        self.n, self.dtype = problem.parameters.n, problem.parameters.dtype
        self.units = sum(float(problem.loss.num_units(batch)) for batch in problem.batches)

    def __call__(self, batch: Any) -> tuple[Tensor, ...]:
        problem = self.problem
        host = _Host(problem.model, problem.loss.outputs)
        flags = [(module, module.training) for module in problem.model.modules()]
        try:
            for module, _ in flags:
                module.training = False
            with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
                found: tuple[Tensor, ...] = torch.func.functional_call(host, self.values, (batch,), tie_weights=False)
        finally:
            for module, training in flags:
                module.training = training
        return found


def _slots(problem: Problem, leaves: list[Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Every place in the model that holds a parameter, once.

    A module used under two names is one place with two: given both, ``functional_call`` puts back a leaf, not the
    parameter (torch 2.13), and so it does with ``tie_weights=True``.
    """
    seen: set[tuple[int, str]] = set()
    for entry, leaf in zip(problem.parameters.entries, leaves, strict=True):
        for name in entry.raw_names:
            path, _, attribute = name.rpartition(".")
            place = (id(problem.model.get_submodule(path)), attribute)
            if place not in seen:
                seen.add(place)
                yield f"model.{name}", leaf


class _Host(nn.Module):
    """A module whose call gives the loss's outputs, so that ``functional_call`` can swap the model's parameters."""

    def __init__(self, model: nn.Module, outputs: Callable[[nn.Module, Any], tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.model, self._outputs = model, outputs

    def forward(self, batch: Any) -> tuple[Tensor, ...]:
        return self._outputs(self.model, batch)


def _gradient(scalar: Tensor, leaves: list[Tensor]) -> Tensor:
    """The gradient in all leaves as one vector, with its graph."""
    parts = torch.autograd.grad(scalar, leaves, create_graph=True, materialize_grads=True)
    return torch.cat([part.reshape(-1) for part in parts])


def _rows(vector: Tensor, leaves: list[Tensor]) -> Tensor:
    """The Jacobian of a vector in all leaves, a backward pass a row."""
    rows = []
    for entry in vector:
        if not entry.requires_grad:
            rows.append(torch.zeros(sum(leaf.numel() for leaf in leaves), dtype=entry.dtype))
            continue
        parts = torch.autograd.grad(entry, leaves, retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([part.reshape(-1) for part in parts]).detach())
    return torch.stack(rows)
