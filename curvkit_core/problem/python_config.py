"""Configuration of the problem core/python; imports no torch."""

from __future__ import annotations

import re
from typing import Any

from attrs import Attribute, Factory, field, frozen

__all__ = ["PythonProblemConfig"]

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def _is_factory(instance: object, attribute: Attribute[str], value: str) -> None:
    if not _FACTORY.fullmatch(value):
        msg = f"factory={value!r}: expected 'module:function', for instance 'my_problem:build'."
        raise ValueError(msg)


@frozen(kw_only=True)
class PythonProblemConfig:
    """A problem made by a function of yours. Running the file runs your code.

    Parameters
    ----------
    factory : str
        ``module:function``; the function returns a curvkit_core.Problem.
    path : str
        Folder in which the module is looked for first, seen from where the command is run.
    options : table of str, int, float or bool
        Keyword arguments of the function.
    """

    factory: str = field(validator=_is_factory)
    path: str = "."
    options: dict[str, Any] = Factory(dict)
