"""One position or one head of an activation, in the layout that TransformerLens shows to hooks."""

from __future__ import annotations

import math
from typing import Any

from attrs import frozen
from torch import Tensor

from curvkit_tlens.shown_layout import ShownLayout

__all__ = ["ActivationPart", "axes_of", "pos_dim_of"]

#: Hook points over pairs of positions: (batch, head, query, key).
_OVER_PAIRS = ("hook_pattern", "hook_attn_scores")


def axes_of(hook: str, ndim: int, pos_dim: int | None = None) -> tuple[int | None, int | None]:
    """The axes of positions and of heads, None where there is none.

    (batch, position, features), or (batch, position, head, features); TransformerLens says `pos_dim` where it has heads
    first. Over pairs of positions: (batch, head, query, key), a position being a query's.
    """
    if ndim < 3:
        return None, None
    if hook.endswith(_OVER_PAIRS):
        return 2, 1
    position = 1 if pos_dim is None else pos_dim % ndim
    return position, (3 - position if ndim > 3 else None)


def pos_dim_of(point: Any) -> int | None:
    """What a hook point of TransformerLens 4 says of its axis of positions; earlier ones say nothing."""
    found = getattr(point, "pos_dim", None)
    return found if isinstance(found, int) else None


@frozen(kw_only=True)
class ActivationPart:
    """One position, one head, both or neither.

    Parameters
    ----------
    hook : str
        The hook point's name.
    pos_dim : int or None
        What the hook point says of its axis of positions.
    position : int or None
        Negative ones count from the end.
    head : int or None
    """

    hook: str
    pos_dim: int | None = None
    position: int | None = None
    head: int | None = None

    def of(self, rows: Tensor, layout: ShownLayout) -> Tensor:
        """The part of rows (k, numel) of the whole, as hooks see it without the axes that were chosen: a view."""
        return layout.view(rows)[(slice(None), *self._index(layout.shape))]

    def by_token(self, rows: Tensor, layout: ShownLayout) -> Tensor:
        """The same with the positions next to the examples: (k, *tokens, ...)."""
        index = list(self._index(layout.shape))
        position, _ = self._axes(layout.shape)
        index.insert(1, index.pop(position))
        return layout.view(rows).movedim(1 + position, 2)[(slice(None), *index)]

    def numel(self, layout: ShownLayout) -> int:
        """How many numbers the part has.

        Raises
        ------
        ValueError
            If there is no such axis, or the position or head is out of range.
        """
        kept = zip(layout.shape, self._index(layout.shape), strict=True)
        return math.prod(size for size, chosen in kept if isinstance(chosen, slice))

    def tokens(self, layout: ShownLayout) -> tuple[int, ...]:
        """(batch, positions) of the part, or (batch,) where one position was chosen.

        Raises
        ------
        ValueError
            If the activation has no positions at which something can be added, or is over pairs of them.
        """
        shape = layout.shape
        self._index(shape)
        position, _ = self._axes(shape)
        return (shape[0], shape[position]) if self.position is None else (shape[0],)

    def _axes(self, shape: tuple[int, ...]) -> tuple[int, int | None]:
        position, head = axes_of(self.hook, len(shape), self.pos_dim)
        if position is None or self.hook.endswith(_OVER_PAIRS):
            msg = (
                f"directions at {self.hook!r}: the activation has shape {shape}; expected (batch, position, features), "
                "so that a direction can be added at every position."
            )
            raise ValueError(msg)
        return position, head

    def _index(self, shape: tuple[int, ...]) -> tuple[int | slice, ...]:
        index: list[int | slice] = [slice(None)] * len(shape)
        axes = axes_of(self.hook, len(shape), self.pos_dim)
        for what, chosen, axis in (("position", self.position, axes[0]), ("head", self.head, axes[1])):
            if chosen is None:
                continue
            if axis is None:
                other = ", such as 'blocks.0.attn.hook_z'." if what == "head" else "."
                msg = (
                    f"{what}={chosen} at {self.hook!r}: the activation has shape {shape}, which has no axis of "
                    f"{what}s. Leave {what} out, or name another hook point{other}"
                )
                raise ValueError(msg)
            size = shape[axis]
            if not -size <= chosen < size:
                msg = f"{what}={chosen} at {self.hook!r} is out of range: expected {-size} to {size - 1}, of {shape}."
                raise ValueError(msg)
            index[axis] = chosen
        return tuple(index)
