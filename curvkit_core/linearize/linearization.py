r"""The linearization of one microbatch: outputs y, Jacobian J = dy/dtheta, loss-sum :math:`\ell(y)`.

What an operator needs of the network is here; what it needs of the loss is asked of the adapter at y, without theta.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from curvkit_core.losses.protocol import ComputesUnitLosses, GivesGGN, GivesUnitOuter, LossAdapter, Outputs
from curvkit_core.losses.stacking import stacked
from curvkit_core.losses.unit_gradients import has_closed_outer, outer_by_autograd
from curvkit_core.problem.parameters import ParameterSpace

__all__ = ["Linearization"]


class Linearization(ABC):
    """The model on one microbatch, linearized at its parameters. Rows in, rows out: V is (k, n), dy has a leading k.

    Attributes
    ----------
    y : tuple of Tensor
        The outputs' values, detached.
    batch : object
        The microbatch.
    loss : LossAdapter
        Whose functions of y are used.
    parameters : ParameterSpace
        What is differentiated with respect to.
    """

    y: Outputs
    batch: Any
    loss: LossAdapter
    parameters: ParameterSpace
    #: Memory (k, n) that the next vectors over the parameters may be laid out in; whoever takes it takes it once.
    room: Tensor | None = None

    def taken_room(self, rows: int) -> Tensor | None:
        """The room, if there is one of so many rows; the next who asks finds none."""
        room, self.room = self.room, None
        return room if room is not None and len(room) == rows else None

    @abstractmethod
    def jvp(self, V: Tensor) -> Outputs:
        """J v for each row v: one tensor an output, (k, *y.shape)."""

    @abstractmethod
    def vjp(self, u: Outputs) -> Tensor:
        """J^T u for each leading entry of u: (k, n)."""

    @abstractmethod
    def hvp(self, V: Tensor) -> Tensor:
        """The Hessian of the microbatch's loss SUM times each row: (k, n)."""

    def loss_value(self) -> Tensor:
        """The microbatch's loss sum, a scalar."""
        with torch.no_grad():
            return self.loss.loss_sum(self.y, self.batch).detach()

    def gradient(self) -> Tensor:
        """The gradient of the microbatch's loss sum: (n,)."""
        with torch.enable_grad():
            y = _leaves(self.y)
            du = torch.autograd.grad(self.loss.loss_sum(y, self.batch), y, allow_unused=True)
        return self.vjp(tuple(_filled(d, like)[None] for d, like in zip(du, y, strict=True)))[0]

    def loss_curvature(self, dy: Outputs) -> Outputs:
        """The loss's own curvature at y times dy: in closed form where the loss has one, else by autograd.

        Autograd needs y = (z,): for several tensors the Hessian in y is not the Gauss-Newton matrix, and a closed form
        is required.
        """
        if isinstance(self.loss, GivesGGN):
            return self.loss.ggn(self.y, self.batch, dy)
        if len(self.y) != 1:
            msg = (
                f"{type(self.loss).__name__} hands over {len(self.y)} tensors and has no ggn(y, batch, dy): the "
                "Hessian in "
                "several outputs is not the Gauss-Newton matrix. Add the method ggn to the loss adapter."
            )
            raise TypeError(msg)
        with torch.enable_grad():
            y = _leaves(self.y)
            (slope,) = torch.autograd.grad(self.loss.loss_sum(y, self.batch), y, create_graph=True, allow_unused=True)
            if slope is None or not slope.requires_grad:
                return (torch.zeros_like(dy[0]),)
            rows = [torch.autograd.grad(slope, y, d, retain_graph=True, allow_unused=True)[0] for d in dy[0]]
        return (stacked([_filled(row, self.y[0]) for row in rows]),)

    def unit_outer(self, dy: Outputs) -> Outputs:
        r"""The sum over units u of :math:`r_u \langle r_u, dy\rangle`, :math:`r_u` the gradient of unit u's loss in y.

        In closed form where the loss has one, else by two reverse passes through the loss alone; no gradient per unit
        is formed.
        """
        loss = self.loss
        if isinstance(loss, GivesUnitOuter) and has_closed_outer(loss, "unit_losses"):
            return loss.unit_outer(self.y, self.batch, dy)
        if not isinstance(loss, ComputesUnitLosses):
            msg = (
                f"{type(self.loss).__name__} has no unit_losses(y, batch), so its units cannot be told apart. "
                "Add the method to the loss adapter: the Fishers need it."
            )
            raise TypeError(msg)
        return outer_by_autograd(lambda y: loss.unit_losses(y, self.batch), self.y, dy)


def _leaves(y: Outputs) -> Outputs:
    return tuple(t.detach().requires_grad_() for t in y)


def _filled(tensor: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if tensor is None else tensor.detach()
