"""Attention with second derivatives, for the length of a context."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from curvkit_core.problem.held_modules import held_modules

__all__ = ["eager_attention"]

#: ``sdpa`` has them in its math form, which core turns on.
_TWICE_DIFFERENTIABLE = ("eager", "sdpa")


@contextmanager
def eager_attention(model: nn.Module) -> Iterator[None]:
    """Run the transformers model behind a bridge with eager attention where it has flash or flex attention.

    A HookedTransformer's attention, and a bridge's own, are eager as they are.
    """
    configs = {id(c): c for module in held_modules(model) if (c := getattr(module, "config", None)) is not None}
    # all are read before any is set: setting one sets those it holds, so on the way back the outer ones come first
    before = [(config, getattr(config, "_attn_implementation", None)) for config in configs.values()]
    fused = [config for config, kind in before if isinstance(kind, str) and kind not in _TWICE_DIFFERENTIABLE]
    try:
        for config in fused:
            config._attn_implementation = "eager"
        yield
    finally:
        if fused:
            _put_back(before)


def _put_back(before: list[tuple[Any, Any]]) -> None:
    for config, kind in before:
        if isinstance(kind, str):
            config._attn_implementation = kind
