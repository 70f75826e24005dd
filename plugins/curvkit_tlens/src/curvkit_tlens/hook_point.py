r"""Curvature in the activation at a hook point: :math:`\nabla_a^2 L`, whole, or a small part or projection of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from curvkit_core import CurvatureOperator, Problem
from curvkit_core.backends import Segment, VectorSpace
from curvkit_core.operators import ActivationOperator
from curvkit_tlens.activation_part import ActivationPart, pos_dim_of
from curvkit_tlens.config import HookPointConfig
from curvkit_tlens.directions import read_directions
from curvkit_tlens.hook_names import find_hook
from curvkit_tlens.hooks import added_hooks
from curvkit_tlens.shown_layout import ShownLayout, shown_layout

__all__ = ["HookPointOperator", "build"]


class HookPointOperator(CurvatureOperator):
    r"""The curvature :math:`\nabla_a^2 L` of the risk in the activation a at a hook point, after the hooks there.

    Without options the vectors are the whole activation over all the data, each batch's flattened in C order as hooks
    see it, the batches one after another. `position` and `head` cut it down to one position or head of every example: a
    principal submatrix. `directions` D (m, features) give the m x m matrix of the risk's curvature along shared
    steering vectors,

    .. math:: L(c) = L(a + \textstyle\sum_j c_j D_j),\qquad \nabla_c^2 L = E^\top \nabla_a^2 L\, E,

    each added at every position of every example, or at the chosen one: small, whatever the data, and ``to_dense()``
    costs m products. An entry (i, j) is how the effect of feature i on the loss changes with feature j.

    A product is one of :class:`curvkit_core.operators.ActivationOperator`: only what follows the hook point is
    differentiated, at most three gradients.

    Parameters
    ----------
    problem : Problem
        Of a TransformerLens model. Its parameters are constants here.
    hook : str
        A hook point's name or alias, ``"blocks.5.hook_resid_post"``.
    kind : {"hessian", "ggn", "fisher", "empirical-fisher"}
    position : int or None
        Of every example; negative ones count from the end. Of attention scores and patterns: the query's.
    head : int or None
        Where the activation has an axis of heads, as ``hook_z`` and ``hook_q`` have, and patterns.
    directions : Tensor, shape (m, features), or None
        As rows: of the model's width at the residual stream, of a head's width where `head` is given.
    num_samples : int, at least 1
    seed : int
        Of ``kind="fisher"``.

    Raises
    ------
    TypeError
        If the model is none of TransformerLens's, or the loss lacks what the kind needs.
    ValueError
        If there is no such hook point (near names are listed), position or head, the hook point does not run, or the
        directions are of another width.
    """

    def __init__(
        self,
        problem: Problem,
        hook: str,
        *,
        kind: str = "hessian",
        position: int | None = None,
        head: int | None = None,
        directions: Tensor | None = None,
        num_samples: int = 1,
        seed: int = 0,
    ) -> None:
        if not isinstance(problem, Problem):
            msg = f"problem is a {type(problem).__name__}: expected a curvkit_core.Problem(model, batches, loss)."
            raise TypeError(msg)
        for what, value in (("position", position), ("head", head)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                msg = f"{what}={value!r} is a {type(value).__name__}: expected an int, or None for all of them."
                raise TypeError(msg)
        module, self._point = find_hook(problem.model, hook)
        self.hook, self.kind = hook, kind
        with self._watched():
            self._whole = ActivationOperator(problem, module, kind=kind, num_samples=num_samples, seed=seed)
        self.part = ActivationPart(hook=hook, pos_dim=pos_dim_of(self._point), position=position, head=head)
        found = {shape: shown_layout(hook, self._point, shape) for shape in self._whole.shapes}
        self._layouts = [found[shape] for shape in self._whole.shapes]
        self.directions: Tensor | None = None
        name, size = hook, sum(map(self.part.numel, self._layouts))
        if directions is not None:
            widths = {self.part.numel(layout) // math.prod(self.part.tokens(layout)) for layout in self._layouts}
            self.directions = _checked(directions, widths, hook).to(self._whole.space.zeros(0))
            name, size = f"{hook}: directions", len(self.directions)
        space = VectorSpace([Segment(name=name, numel=size)], dtype=self._whole.dtype, device=self._whole.device)
        super().__init__(space, symmetric=True, problem=problem)

    def rows_product(self, V: Tensor) -> Tensor:
        """Spread over the whole activation, multiply, gather: one pass over the data."""
        if self.directions is not None:
            return self._gathered(self._product(self._steered(V)))
        if self.part.position is self.part.head is None and not any(layout.order for layout in self._layouts):
            return self._product(V)
        whole = self._whole.space.zeros(len(V))
        start = 0
        for rows, layout in self._microbatches(whole):
            view = self.part.of(rows, layout)
            size = math.prod(view.shape[1:])
            view.copy_(V[:, start : start + size].reshape(view.shape))
            start += size
        product = self._product(whole)
        parts = [self.part.of(rows, layout) for rows, layout in self._microbatches(product)]
        return torch.cat([part.reshape(len(V), -1) for part in parts], dim=1)

    def _product(self, whole: Tensor) -> Tensor:
        with self._watched():
            return self._whole.rows_product(whole)

    def _watched(self) -> AbstractContextManager[None]:
        """A hook that only looks: where a hook point has none, a bridge computes some activations without a graph."""
        return added_hooks([(self._point, _look_on)])

    def _steered(self, V: Tensor) -> Tensor:
        """E c: the same sum of directions at every token."""
        assert self.directions is not None
        steered = V @ self.directions
        whole = self._whole.space.zeros(len(V))
        for rows, layout in self._microbatches(whole):
            view, tokens = self.part.by_token(rows, layout), len(self.part.tokens(layout))
            view.copy_(steered.view(len(V), *(1,) * tokens, *view.shape[1 + tokens :]))
        return whole

    def _gathered(self, product: Tensor) -> Tensor:
        """E^T r: the directions' inner products with the sum over tokens."""
        assert self.directions is not None
        total = product.new_zeros((len(product), self.directions.shape[1]))
        for rows, layout in self._microbatches(product):
            view, tokens = self.part.by_token(rows, layout), len(self.part.tokens(layout))
            total += view.sum(tuple(range(1, 1 + tokens))).reshape(total.shape)
        return total @ self.directions.mT

    def _microbatches(self, rows: Tensor) -> Iterator[tuple[Tensor, ShownLayout]]:
        """Each microbatch's part of the whole's rows, as a view, with its layout."""
        start = 0
        for layout in self._layouts:
            yield rows[:, start : start + layout.numel], layout
            start += layout.numel


def build(problem: Problem, config: HookPointConfig) -> HookPointOperator:
    """Make the operator of a run file."""
    return HookPointOperator(
        problem,
        config.hook,
        kind=config.of,
        position=config.position,
        head=config.head,
        directions=None if config.directions is None else read_directions(config.directions),
        num_samples=config.num_samples,
        seed=config.seed,
    )


def _look_on(activation: Tensor, **_: Any) -> None:
    """Do nothing."""


def _checked(directions: Tensor, widths: set[int], hook: str) -> Tensor:
    if not isinstance(directions, Tensor):
        msg = f"directions is a {type(directions).__name__}: expected a tensor, a direction a row."
        raise TypeError(msg)
    if directions.ndim != 2 or {directions.shape[1]} != widths or not len(directions):
        width = " or ".join(map(str, sorted(widths)))
        msg = (
            f"directions have shape {tuple(directions.shape)}: expected (m, {width}), a row a direction, {width} being "
            f"the numbers of a position at {hook!r}. One direction is (1, {width}): directions[None]."
        )
        raise ValueError(msg)
    if not directions.is_floating_point() or not bool(torch.isfinite(directions).all()):
        msg = f"directions of dtype {directions.dtype}: expected finite floating-point numbers."
        raise ValueError(msg)
    return directions.detach()
