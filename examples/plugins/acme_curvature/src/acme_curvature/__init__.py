"""Acme's curvature: the Jacobian's Gram matrix, and randomized subspace iteration, as a curvkit plugin."""

import importlib

__all__ = ["JacobianGramOperator", "SubspaceIteration"]

_WHERE = {"JacobianGramOperator": "jacobian_gram", "SubspaceIteration": "subspace_iteration"}


def __getattr__(name: str) -> object:
    """Import torch only when a component is asked for (PEP 562): core imports this package to list it."""
    if name not in _WHERE:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
