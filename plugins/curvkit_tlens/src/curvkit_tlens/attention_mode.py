"""Attention with second derivatives, for the length of a context."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from curvkit_core.problem.held_modules import held_modules

__all__ = ["eager_attention"]

#: ``sdpa`` has them in its math form, which core turns on.
_TWICE_DIFFERENTIABLE = (None, "eager", "sdpa")


@contextmanager
def eager_attention(model: nn.Module) -> Iterator[None]:
    """Run the transformers model behind a bridge with eager attention where it has flash or flex attention.

    A HookedTransformer's attention, and a bridge's own, are eager as they are.
    """
    configs = {id(c): c for module in held_modules(model) if (c := _config(module)) is not None}
    saved: list[tuple[Any, str]] = []
    try:
        for config in configs.values():
            saved.append((config, config._attn_implementation))
            config._attn_implementation = "eager"
        yield
    finally:
        for config, implementation in reversed(saved):
            config._attn_implementation = implementation


def _config(module: nn.Module) -> Any:
    config = getattr(module, "config", None)
    kind = getattr(config, "_attn_implementation", None)
    return config if isinstance(kind, str) and kind not in _TWICE_DIFFERENTIABLE else None
