"""Curvature under interventions: hooks for the length of a context, none left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from curvkit_tlens.activation_part import axes_of, pos_dim_of
from curvkit_tlens.hook_names import find_hook, hook_points

__all__ = ["ablated", "added_hooks", "interventions", "patched"]

#: What TransformerLens takes as a hook: ``hook(activation, hook=HookPoint)`` -> another activation, or None.
Hook = Callable[..., Tensor | None]


@contextmanager
def interventions(model: nn.Module, fwd_hooks: Iterable[tuple[str | Callable[[str], bool], Hook]]) -> Iterator[None]:
    """Run with these hooks; afterwards, whatever happened, exactly they are gone and the user's own are still there.

    TransformerLens's own ``model.hooks(...)`` takes away every hook at the same points when it ends, those that were
    there before included. Contexts may be nested, also with ``run_with_hooks``.

    Parameters
    ----------
    model : TransformerBridge or HookedTransformer
    fwd_hooks : iterable of (name or filter of names, hook)
        As in ``run_with_hooks``. The hooks run in every forward that a product makes, recomputed ones included: one
        that draws random numbers, or writes to its activation in place, is no function that has derivatives.

    Raises
    ------
    ValueError
        If a name is no hook point (near names are listed) or a filter fits none: before any hook is added.

    Examples
    --------
    .. code-block:: python

        with interventions(model, [("blocks.0.attn.hook_z", ablated(head=3))]):
            without_head = trace(GGNOperator(problem), seed=0)
    """
    with added_hooks([(point, hook) for name, hook in fwd_hooks for point in _points(model, name)]):
        yield


@contextmanager
def added_hooks(wanted: Iterable[tuple[Any, Hook]]) -> Iterator[None]:
    """Have these hooks on these hook points; afterwards take away them and no others."""
    added: list[tuple[Any, list[Any]]] = []
    try:
        for point, hook in wanted:
            before = {id(handle) for handle in point.fwd_hooks}
            point.add_hook(hook)
            added.append((point, [handle for handle in point.fwd_hooks if id(handle) not in before]))
        yield
    finally:
        for point, handles in reversed(added):
            ours = {id(handle) for handle in handles}
            for handle in handles:
                handle.hook.remove()
            point.fwd_hooks = [handle for handle in point.fwd_hooks if id(handle) not in ours]


def ablated(*, head: int | Sequence[int] | None = None, position: int | None = None) -> Hook:
    """A hook that sets an activation to zero: all of it, some heads of (batch, position, head, ...), one position."""

    def ablate(activation: Tensor, hook: Any = None) -> Tensor:
        return activation * _mask(activation, hook, head, position).logical_not()

    return ablate


def patched(value: Tensor, *, head: int | Sequence[int] | None = None, position: int | None = None) -> Hook:
    """A hook that puts `value` in an activation's place: all of it, or where :func:`ablated` would put zeros.

    Parameters
    ----------
    value : Tensor
        Of a shape that broadcasts to the activation's: another run's activation, or a mean over many.
    head, position
        As in `ablated`.
    """

    def patch(activation: Tensor, hook: Any = None) -> Tensor:
        return torch.where(_mask(activation, hook, head, position), value.to(activation), activation)

    return patch


def _points(model: nn.Module, name: str | Callable[[str], bool]) -> list[Any]:
    if isinstance(name, str):
        return [find_hook(model, name)[1]]
    found = {id(point): point for known, point in hook_points(model).items() if name(known)}
    if not found:
        msg = f"{name!r} fits no name of a hook point of this {type(model).__name__}: expected at least one."
        raise ValueError(msg)
    return list(found.values())


def _mask(activation: Tensor, hook: Any, head: int | Sequence[int] | None, position: int | None) -> Tensor:
    """True where the hook acts; broadcasts to the activation."""
    shape = [1] * activation.ndim
    mask = torch.ones(shape, dtype=torch.bool, device=activation.device)
    name = str(getattr(hook, "name", "a hook point"))
    position_axis, head_axis = axes_of(name, activation.ndim, pos_dim_of(hook))
    for axis, what, index in ((head_axis, "head", head), (position_axis, "position", position)):
        if index is None:
            continue
        if axis is None:
            msg = f"{what}={index!r} at {name!r}: the activation has shape {tuple(activation.shape)}, without {what}s."
            raise ValueError(msg)
        along = torch.zeros(activation.shape[axis], dtype=torch.bool, device=activation.device)
        along[torch.as_tensor(index)] = True
        mask = mask & along.view(*shape[:axis], -1, *shape[axis + 1 :])
    return mask
