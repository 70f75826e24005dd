"""How TransformerLens shows an activation to hooks: as it is, its last axis split, or its axes in another order."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

__all__ = ["ShownLayout", "shown_layout"]


@frozen(kw_only=True)
class ShownLayout:
    """The raw shape and what becomes of it.

    Parameters
    ----------
    raw : tuple of int
        The tensor's own shape.
    tail : tuple of int
        What the last axis is split into; () leaves it.
    order : tuple of int
        The raw axes in the order in which hooks see them; () leaves it.
    """

    raw: tuple[int, ...]
    tail: tuple[int, ...] = ()
    order: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """As hooks see it."""
        if self.order:
            return tuple(self.raw[axis] for axis in self.order)
        return (*self.raw[:-1], *self.tail) if self.tail else self.raw

    @property
    def numel(self) -> int:
        """Elements."""
        return math.prod(self.raw)

    def view(self, rows: Tensor) -> Tensor:
        """Rows (k, numel) of the raw tensor as hooks would see them, (k, *shape): a view."""
        if self.order:
            return rows.view(len(rows), *self.raw).permute(0, *(1 + axis for axis in self.order))
        return rows.view(len(rows), *self.shape)


def shown_layout(hook: str, point: Any, raw: tuple[int, ...]) -> ShownLayout:
    """What a hook point's conversion does to a tensor of this shape, seen on the numbers of its elements.

    Raises
    ------
    ValueError
        If it neither splits the last axis nor changes the axes' order.
    """
    raw = tuple(raw)
    conversion = getattr(point, "hook_conversion", None)
    if conversion is None:
        return ShownLayout(raw=raw)
    numbers = torch.arange(math.prod(raw)).view(raw)
    try:
        shown = conversion.convert(numbers)
    except Exception as error:
        raise ValueError(_unknown(hook, raw, f"that cannot be made of one of shape {raw} alone ({error})")) from error
    if shown.shape == numbers.shape and torch.equal(shown, numbers):
        return ShownLayout(raw=raw)
    if shown.shape[: len(raw) - 1] == raw[:-1] and torch.equal(shown.reshape(raw), numbers):
        return ShownLayout(raw=raw, tail=tuple(shown.shape[len(raw) - 1 :]))
    for order in permutations(range(len(raw))):
        turned = numbers.permute(order)
        if turned.shape == shown.shape and torch.equal(turned, shown):
            return ShownLayout(raw=raw, order=order)
    raise ValueError(_unknown(hook, raw, f"of shape {tuple(shown.shape)} for one of shape {raw}"))


def _unknown(hook: str, raw: tuple[int, ...], what: str) -> str:
    return (
        f"{hook!r}: TransformerLens shows hooks a tensor {what}, neither its last axis split nor its axes in another "
        "order. Name another hook point, or use curvkit_core.ActivationOperator on the module."
    )
