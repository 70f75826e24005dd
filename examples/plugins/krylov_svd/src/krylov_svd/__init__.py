"""Randomized block Krylov singular values, as a curvkit plugin. torch is imported when a component is asked for."""

import importlib

__all__ = ["BlockKrylovSVD", "SVDResult"]

_WHERE = {"BlockKrylovSVD": "block_krylov", "SVDResult": "result"}


def __getattr__(name: str) -> object:
    """Import on first use (PEP 562): core imports this package to list the plugin."""
    if name not in _WHERE:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
