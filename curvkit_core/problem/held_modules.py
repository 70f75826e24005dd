"""Every module that a model's forward may run: those it has registered, and those that a wrapper only holds."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

__all__ = ["held_modules"]


def held_modules(model: nn.Module) -> Iterator[nn.Module]:
    """Each module once: ``model.modules()``, and those of the modules that are plain attributes of the model.

    Wrappers hold the model behind them so, to keep its parameters from being counted twice; its dropout, which no part
    of the wrapper is made of, runs all the same.
    """
    seen: set[nn.Module] = set()
    for root in (model, *(value for value in vars(model).values() if isinstance(value, nn.Module))):
        for module in root.modules():
            if module not in seen:
                seen.add(module)
                yield module
