"""Walk over a batch of any make: tensors in tuples, lists, named tuples, mappings, attrs classes and dataclasses.

Everything that moves, splits, counts or fingerprints a batch goes through :func:`map_tensors` or :func:`tensors`.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import attrs
from torch import Tensor

__all__ = ["map_tensors", "tensors"]


def map_tensors(fn: Callable[[Tensor], Tensor], batch: Any) -> Any:
    """Give a batch of the same make with `fn` applied to every tensor; what is no tensor is kept as it is."""
    if isinstance(batch, Tensor):
        return fn(batch)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(map_tensors(fn, item) for item in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(map_tensors(fn, item) for item in batch)
    if type(batch) is dict:
        return {key: map_tensors(fn, value) for key, value in batch.items()}
    if isinstance(batch, MutableMapping):
        # UserDict, BatchEncoding, OrderedDict: a shallow copy keeps their class and its other attributes
        twin = copy.copy(batch)
        for key, value in batch.items():
            twin[key] = map_tensors(fn, value)
        return twin
    if isinstance(batch, Mapping):
        return {key: map_tensors(fn, value) for key, value in batch.items()}
    if attrs.has(type(batch)):
        return attrs.evolve(batch, **{f.alias: map_tensors(fn, getattr(batch, f.name)) for f in _init_fields(batch)})
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        changes = {f.name: map_tensors(fn, getattr(batch, f.name)) for f in dataclasses.fields(batch) if f.init}
        return dataclasses.replace(batch, **changes)
    return batch


def tensors(batch: Any) -> Iterator[Tensor]:
    """Every tensor of `batch`, in order."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, tuple | list):
        for item in batch:
            yield from tensors(item)
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from tensors(value)
    elif attrs.has(type(batch)):
        for f in _init_fields(batch):
            yield from tensors(getattr(batch, f.name))
    elif dataclasses.is_dataclass(batch):
        for entry in dataclasses.fields(batch):
            yield from tensors(getattr(batch, entry.name))


def _init_fields(batch: Any) -> list[Any]:
    return [f for f in attrs.fields(type(batch)) if f.init]
