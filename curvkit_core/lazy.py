"""Lazy packages (PEP 562): names are imported on first use, so a config module beside a heavy one stays light."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["lazy_names"]


def lazy_names(package: str, where: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Give a package's ``__getattr__`` and ``__dir__``.

    Parameters
    ----------
    package : str
        The package's ``__name__``.
    where : mapping of str to str
        Public name -> the module that defines it.

    Returns
    -------
    (callable, callable)
        To be bound to ``__getattr__`` and ``__dir__`` in the package's ``__init__``.
    """

    def getattr_(name: str) -> Any:
        if name not in where:
            import difflib  # here, since light plugin packages import this module to be listed

            near = difflib.get_close_matches(name, where, n=1)
            hint = f"; did you mean {near[0]!r}?" if near and not name.startswith("_") else ""
            msg = f"module {package!r} has no attribute {name!r}{hint}"
            raise AttributeError(msg)
        return getattr(importlib.import_module(where[name]), name)

    return getattr_, lambda: sorted(where)
