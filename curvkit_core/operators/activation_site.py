"""A place in a model's run whose value can be made a leaf: a module's output, or an entry of the batch."""

from __future__ import annotations

import copy
import dataclasses
import difflib
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

import attrs
from torch import Tensor, nn

from curvkit_core.problem.parameters import canonical_name

__all__ = ["Tap"]

_ENTRY = "batch:"


class Tap:
    """Cut one run of the model at a place: what comes before is a constant, what follows a function of :attr:`leaf`.

    Parameters
    ----------
    model : torch.nn.Module
    at : str
        A module's name, ``"blocks.3"``: its output, or the first tensor of a tuple. ``"batch:x"`` or ``"batch:0"``: the
        entry of the batch under that key, attribute or position.

    Raises
    ------
    ValueError
        If no module has the name; near names are listed.
    """

    def __init__(self, model: nn.Module, at: str) -> None:
        if not isinstance(at, str) or not at:
            msg = f"at={at!r}: expected a module's name, such as 'blocks.3', or an entry of the batch, 'batch:x'."
            raise TypeError(msg)
        self.at = at
        self.module = None if at.startswith(_ENTRY) else _module(model, at)
        self.leaf: Tensor | None = None
        self._finished = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Surround the run, and the backward passes after it, which may recompute; the module is as it was then."""
        if self.module is None:
            yield
            return
        handle = self.module.register_forward_hook(self._hook)
        try:
            yield
        finally:
            handle.remove()

    def enter(self, batch: Any) -> Any:
        """The batch to run with: itself, or with the leaf in its place."""
        if self.module is not None:
            return batch
        key = self.at.removeprefix(_ENTRY)
        value = _entry(batch, key)
        self._make_leaf(value)
        return _replaced(batch, key, self.leaf)

    def finish(self) -> Tensor:
        """Say that the run has ended: the leaf."""
        self._finished = True
        if self.leaf is None:
            msg = f"module {self.at!r} did not run in the model's forward: there is no such activation. Name another."
            raise ValueError(msg)
        return self.leaf

    def _hook(self, module: nn.Module, arguments: Any, output: Any) -> Any:
        if self._finished:  # a checkpointed part is run again in the backward
            return _first_replaced(output, self._passed_on())
        if self.leaf is not None:
            msg = (
                f"module {self.at!r} runs more than once in a forward: its activation is not one tensor. Name a module "
                "that runs once."
            )
            raise ValueError(msg)
        value = output[0] if isinstance(output, tuple | list) and output else output
        self._make_leaf(value)
        return _first_replaced(output, self._passed_on())

    def _make_leaf(self, value: Any) -> None:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            got = f"of dtype {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            msg = (
                f"{self.at!r} is {got}: expected a tensor of floating-point numbers. For tokens name the embedding's "
                "module; for an object, a module that returns a tensor."
            )
            raise TypeError(msg)
        self.leaf = value.detach().requires_grad_()

    def _passed_on(self) -> Tensor:
        assert self.leaf is not None
        return self.leaf.clone()  # what follows may work in place, which a leaf does not bear


def _module(model: nn.Module, name: str) -> nn.Module:
    named = {canonical_name(raw): module for raw, module in model.named_modules(remove_duplicate=False) if raw}
    if name not in named:
        near = difflib.get_close_matches(name, named, n=3, cutoff=0.5)
        hint = f" Near names: {', '.join(near)}." if near else ""
        first = ", ".join(list(named)[:5]) + (", ..." if len(named) > 5 else "")
        msg = f"at={name!r} is no module of {type(model).__name__}.{hint} It has: {first}. An input is 'batch:its key'."
        raise ValueError(msg)
    found: nn.Module = named[name]
    return found


def _first_replaced(output: Any, value: Tensor) -> Any:
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return type(output)(value, *output[1:])
    if isinstance(output, tuple | list):
        return type(output)([value, *output[1:]])
    return value


def _entry(batch: Any, key: str) -> Any:
    try:
        if isinstance(batch, Mapping):
            return batch[key]
        if isinstance(batch, tuple | list) and key not in getattr(batch, "_fields", ()):
            return batch[int(key)]
        return getattr(batch, key)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        if isinstance(batch, Mapping):
            has = f"the keys {', '.join(map(str, batch))}"
        elif isinstance(batch, tuple | list):
            has = f"the positions 0 to {len(batch) - 1}"
        else:
            has = f"no attribute {key!r}"
        msg = f"at='batch:{key}': the batch, a {type(batch).__name__}, has {has}. Name one of its entries."
        raise ValueError(msg) from error


def _replaced(batch: Any, key: str, value: Any) -> Any:
    if isinstance(batch, MutableMapping) and type(batch) is not dict:
        twin = copy.copy(batch)
        twin[key] = value
        return twin
    if isinstance(batch, Mapping):
        return {**batch, key: value}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        names = batch._fields
        return type(batch)(*(value if key in (name, str(i)) else batch[i] for i, name in enumerate(names)))
    if isinstance(batch, tuple | list):
        items = list(batch)
        items[int(key)] = value
        return type(batch)(items)
    if attrs.has(type(batch)):
        return attrs.evolve(batch, **{key: value})
    return dataclasses.replace(batch, **{key: value})
