"""Where second derivatives exist: eager attention and experts in the place of fused ones, for as long as it lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

__all__ = ["twice_differentiable"]

#: What of each choice can be differentiated twice. scaled_dot_product_attention can: core runs its math form.
_KEPT = {"_attn_implementation": ("eager", "sdpa"), "_experts_implementation": ("eager",)}


@contextmanager
def twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Choose implementations that have second and forward-mode derivatives; afterwards the model has its own again.

    FlashAttention and flex attention have no second derivative, grouped and batched expert products no forward mode.
    The choice stands in the configurations that the modules share, and is read by them at each forward.
    """
    configs = {id(config): config for module in model.modules() if (config := vars(module).get("config")) is not None}
    # all are read before any is set: setting one sets those it holds, so on the way back the outer ones come first
    before = [(config, name, getattr(config, name, None)) for config in configs.values() for name in _KEPT]
    fused = [(config, name) for config, name, value in before if not (value is None or value in _KEPT[name])]
    try:
        for config, name in fused:
            setattr(config, name, "eager")
        yield
    finally:
        if fused:
            _put_back(before)


def _put_back(before: list[tuple[Any, str, Any]]) -> None:
    for config, name, value in before:
        if value is not None:
            setattr(config, name, value)
