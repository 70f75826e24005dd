"""The problem core/python: the user's own function, named in the run file, builds the problem."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from curvkit_core.problem.problem import Problem
from curvkit_core.problem.python_config import PythonProblemConfig

__all__ = ["build"]


def build(config: PythonProblemConfig) -> Problem:
    """Import the module, call the function with the options, check what it returns.

    Raises
    ------
    ValueError
        If the module or function is not found, or the function returns something else.
    """
    module_name, _, attribute = config.factory.partition(":")
    folder = str(Path(config.path).resolve())
    sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise
        msg = (
            f"factory={config.factory!r}: no module {module_name!r} in {folder} "
            "or the environment. Set path= to its folder."
        )
        raise ValueError(msg) from error
    finally:
        sys.path.remove(folder)
    function = module
    for part in attribute.split("."):
        if not hasattr(function, part):
            msg = (
                f"factory={config.factory!r}: module {module_name!r} was imported "
                f"from {module.__file__}, and has no {attribute!r}."
            )
            raise ValueError(msg)
        function = getattr(function, part)
    if not callable(function):
        msg = f"factory={config.factory!r} is a {type(function).__name__}: expected a function that returns a Problem."
        raise ValueError(msg)
    problem = function(**config.options)
    if not isinstance(problem, Problem):
        msg = f"factory={config.factory!r} returned a {type(problem).__name__}: expected a curvkit_core.Problem."
        raise ValueError(msg)
    return problem
