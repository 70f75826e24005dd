"""The precision of a Laplace posterior, as a curvkit plugin. torch is imported when a component is asked for."""

import importlib

__all__ = ["LowRankPrior", "PrecisionOperator"]

_WHERE = {"LowRankPrior": "prior", "PrecisionOperator": "precision"}


def __getattr__(name: str) -> object:
    """Import on first use (PEP 562): core imports this package to list the plugin."""
    if name not in _WHERE:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
