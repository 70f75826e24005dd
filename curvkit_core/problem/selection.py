"""Which parameters, or parts of them: by glob, by regular expression, or by any function of name and parameter."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

__all__ = ["ReadsModel", "Selector", "as_selector", "match_names", "match_regex"]

#: ``(canonical name, parameter) -> bool``, or a mask of the parameter's shape for part of it.
Selector = Callable[[str, nn.Parameter], bool | Tensor]


@runtime_checkable
class ReadsModel(Protocol):
    """A selector that has to see the model before it can tell: what its heads are, for instance."""

    def for_model(self, model: nn.Module) -> Selector:
        """What it selects in this model."""
        ...


def match_names(*patterns: str) -> Selector:
    """Select the parameters whose canonical name fits any of the shell-style `patterns` (``blocks.*.attn.*``).

    A pattern without wildcard that names a module selects everything below it: ``match_names("blocks.3")``.
    """
    if not patterns or not all(isinstance(p, str) for p in patterns):
        msg = f"match_names{patterns!r}: expected one or more patterns such as 'blocks.*.attn.*'."
        raise TypeError(msg)
    return _Globs(patterns)


def match_regex(pattern: str) -> Selector:
    """Select the parameters in whose canonical name :func:`re.search` finds `pattern`."""
    return _Regex(pattern)


def as_selector(params: str | Iterable[str] | Selector | ReadsModel | None, model: nn.Module | None = None) -> Selector:
    """Read what a user passes as ``params``: None is every parameter that requires grad; `model` is shown to it."""
    if params is None:
        return _requires_grad
    if isinstance(params, str):
        return match_names(params)
    if isinstance(params, ReadsModel):
        if model is None:
            msg = f"params={params!r} selects in one model: pass it to Problem, or to problem.restrict."
            raise TypeError(msg)
        return params.for_model(model)
    if callable(params):
        return params
    return match_names(*params)


def _requires_grad(name: str, parameter: nn.Parameter) -> bool:
    return parameter.requires_grad


class _Globs:
    def __init__(self, patterns: tuple[str, ...]) -> None:
        self.patterns = patterns

    def __call__(self, name: str, parameter: nn.Parameter) -> bool:
        return any(fnmatch.fnmatchcase(name, p) or name.startswith(p + ".") for p in self.patterns)

    def __repr__(self) -> str:
        return f"match_names({', '.join(map(repr, self.patterns))})"


class _Regex:
    def __init__(self, pattern: str) -> None:
        self.pattern = re.compile(pattern)

    def __call__(self, name: str, parameter: nn.Parameter) -> bool:
        return self.pattern.search(name) is not None

    def __repr__(self) -> str:
        return f"match_regex({self.pattern.pattern!r})"
