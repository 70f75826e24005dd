r"""The gradients :math:`r_u = \nabla_y\ell_u` of the units' losses in the outputs, as a linear map; none is formed.

:math:`R` has a row :math:`r_u` a unit. The Fishers are sums of :math:`J^\top R^\top R J`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from curvkit_core.losses.protocol import GivesUnitOuter, Outputs
from curvkit_core.losses.stacking import stacked, stacked_columns

__all__ = ["UnitGradients", "has_closed_outer", "outer_by_autograd"]


class UnitGradients:
    """R at given outputs, by reverse passes through the loss alone.

    Parameters
    ----------
    losses_of : callable
        ``losses_of(y)`` -> (U,), the units' losses as a function of the outputs.
    y : tuple of Tensor
        Where.
    """

    def __init__(self, losses_of: Callable[[Outputs], Tensor], y: Outputs) -> None:
        with torch.enable_grad():
            self._y = tuple(t.detach().requires_grad_() for t in y)
            self._losses = losses_of(self._y)
            self._ones = torch.ones_like(self._losses, requires_grad=True)
            slopes: tuple[Tensor | None, ...] = (None,) * len(self._y)
            if self._losses.requires_grad:
                slopes = torch.autograd.grad(self._losses, self._y, self._ones, create_graph=True, allow_unused=True)
        self._slopes = {i: s for i, s in enumerate(slopes) if s is not None and s.requires_grad}

    @property
    def num_units(self) -> int:
        """U."""
        return len(self._losses)

    def inner(self, dy: Outputs) -> Tensor:
        """R dy: each unit's <r_u, dy>, shape (k, U). R^T c is linear in c, and its derivative in c is R."""
        rows = []
        for k in range(dy[0].shape[0]):
            if not self._slopes:
                rows.append(torch.zeros_like(self._losses))
                continue
            along = [dy[i][k].to(s.dtype) for i, s in self._slopes.items()]
            picked = list(self._slopes.values())
            rows.append(torch.autograd.grad(picked, self._ones, along, retain_graph=True)[0])
        return stacked(rows).detach()

    def combined(self, weights: Tensor) -> Outputs:
        """R^T c for each row c of `weights` (k, U): one tensor an output, (k, *y.shape)."""
        rows = []
        for c in weights:
            found: tuple[Tensor | None, ...] = (None,) * len(self._y)
            if self._losses.requires_grad:
                found = torch.autograd.grad(
                    self._losses, self._y, c.to(self._losses), retain_graph=True, allow_unused=True
                )
            rows.append([torch.zeros_like(t) if f is None else f for f, t in zip(found, self._y, strict=True)])
        return tuple(t.detach() for t in stacked_columns(rows))


def has_closed_outer(loss: object, losses: str) -> bool:
    """Whether `loss` has a ``unit_outer`` that belongs to its method `losses`.

    Not where a subclass has changed the losses and inherits the closed form of those before.
    """
    order = type(loss).__mro__
    own = [next((i for i, cls in enumerate(order) if name in vars(cls)), len(order)) for name in ("unit_outer", losses)]
    return isinstance(loss, GivesUnitOuter) and own[0] <= own[1]


def outer_by_autograd(losses_of: Callable[[Outputs], Tensor], y: Outputs, dy: Outputs) -> Outputs:
    r"""The sum over units of :math:`r_u\langle r_u, dy\rangle`: R^T R dy, for each leading entry of dy."""
    R = UnitGradients(losses_of, y)
    return R.combined(R.inner(dy))
