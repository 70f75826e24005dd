"""Hook points by the names TransformerLens gives them, aliases included, and the modules they are."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from torch import nn

from curvkit_core.problem.parameters import canonical_name

__all__ = ["find_hook", "hook_points"]


def hook_points(model: nn.Module) -> Mapping[str, nn.Module]:
    """Every hook point of the model under every name it answers to.

    Raises
    ------
    TypeError
        If the model is none of TransformerLens's.
    """
    points = getattr(model, "hook_dict", None)
    if not isinstance(points, Mapping):
        msg = (
            f"{type(model).__name__} has no hook_dict: expected a TransformerLens model, a TransformerBridge or a "
            "HookedTransformer. For a module of another model use curvkit_core.ActivationOperator."
        )
        raise TypeError(msg)
    return points


def find_hook(model: nn.Module, name: str) -> tuple[str, nn.Module]:
    """The hook point called `name`, and its canonical name as a module of the model.

    Raises
    ------
    ValueError
        If there is none; near names are listed.
    """
    points = hook_points(model)
    if name not in points:
        near = difflib.get_close_matches(str(name), points, n=3, cutoff=0.5)
        hint = f" Near names: {', '.join(near)}." if near else ""
        first = ", ".join(list(points)[:5])
        msg = f"hook={name!r} is no hook point of this {type(model).__name__}.{hint} It has {len(points)}: {first}, ..."
        raise ValueError(msg)
    point = points[name]
    for module_name, module in model.named_modules():
        if module is point:
            return canonical_name(module_name), point
    msg = f"hook={name!r} is listed in hook_dict but is no module of the {type(model).__name__}: it cannot be reached."
    raise ValueError(msg)
