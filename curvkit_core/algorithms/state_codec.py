"""An algorithm's state as JSON values and tensors, field by field, and back bit for bit.

A basis is told apart: its rows are written once and pointed at from then on, so that a checkpoint costs what was
appended since the last one. Nothing is pickled, and no module is imported to read a state: its classes are core's, and
those of the packages that the algorithm and its parts come from.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from typing import Any

import attrs
import torch
from attrs import define, field, frozen
from torch import Tensor

from curvkit_core.algorithms.basis import Basis
from curvkit_core.backends import VectorSpace

__all__ = ["Encoded", "StateError", "decode_state", "encode_state"]

_TYPE, _TENSOR, _BASIS, _FLOAT = "$type", "$tensor", "$basis", "$float"
_ROWS = "rows"  # of a tensor: that it holds vectors, which a sharded space has in parts
_SCALARS = (bool, int, str, type(None))


class StateError(ValueError):
    """A state that cannot be written, or does not fit the algorithm."""


@define(eq=False)
class Encoded:
    """A state taken apart.

    Parameters
    ----------
    document : object
        JSON values.
    tensors : dict
        By path: what the document points at.
    rows : set of str
        The paths of those that hold vectors.
    bases : dict
        By path.
    """

    document: Any = None
    tensors: dict[str, Tensor] = field(factory=dict)
    bases: dict[str, Basis] = field(factory=dict)
    rows: set[str] = field(factory=set)


def encode_state(state: Any, space: VectorSpace | None = None) -> Encoded:
    """Take a state apart; `space` tells which of its tensors hold vectors.

    Raises
    ------
    StateError
        If a field holds anything but tensors, bases, numbers, strings, None, tuples of these and attrs classes.
    """
    found = Encoded()
    found.document = _encode(state, "state", found, space)
    return found


def decode_state(
    document: Any,
    algorithm: Any,
    space: VectorSpace,
    tensor: Callable[[str], Tensor],
    basis_rows: Callable[[str], Iterable[Tensor]],
    vectors: Callable[[str], Tensor] | None = None,
) -> Any:
    """Put a state together.

    Parameters
    ----------
    document : object
        From JSON.
    algorithm : object
        Whose state it is.
    space : VectorSpace
        For the bases' room.
    tensor : callable
        ``tensor(path)``: a stored tensor; KeyError where it is not there.
    basis_rows : callable
        ``basis_rows(path)``: the stored rows of a basis, as this rank has them, in order, in one or more tensors.
    vectors : callable or None
        ``vectors(path)``: a stored tensor of vectors, as this rank has them; None: `tensor`, where they are whole.

    Raises
    ------
    StateError
        If a class is not there, or its fields are not those that were written.
    """
    packages = {"curvkit_core"} | {type(part).__module__.partition(".")[0] for part in _parts(algorithm)}
    return _Decoder(packages, space, tensor, basis_rows, tensor if vectors is None else vectors).decode(document)


def _parts(algorithm: Any) -> list[Any]:
    """The algorithm and those that it is made of."""
    found = [algorithm]
    values = [getattr(algorithm, f.name) for f in attrs.fields(type(algorithm))] if attrs.has(type(algorithm)) else []
    for value in values:
        for item in value if isinstance(value, tuple) else (value,):
            if attrs.has(type(item)):
                found += _parts(item)
    return found


def _encode(value: Any, path: str, found: Encoded, space: VectorSpace | None) -> Any:
    if isinstance(value, _SCALARS):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {_FLOAT: str(value)}
    if isinstance(value, Tensor):
        found.tensors[path] = value.detach().cpu().contiguous()
        # strides, since sums over another layout may round otherwise
        strides = list(value.stride()) if not value.is_contiguous() and 0 not in value.stride() else None
        told: dict[str, Any] = {_TENSOR: path, "device": str(value.device), "strides": strides}
        if space is not None and space.is_rows(value):
            found.rows.add(path)
            told[_ROWS] = True
            told["strides"] = strides if space.n_local == space.n else None
        return told
    if isinstance(value, Basis):
        found.bases[path] = value
        heights = [len(block) for block in value.blocks]
        kind = str(value.blocks[0].dtype).removeprefix("torch.") if value.blocks else None
        return {_BASIS: path, "storage": value.storage, "heights": heights, "dtype": kind, "size": value.size}
    if isinstance(value, tuple):
        return [_encode(item, f"{path}.{i}", found, space) for i, item in enumerate(value)]
    if attrs.has(type(value)):
        cls = type(value)
        fields = {f.name: _encode(getattr(value, f.name), f"{path}.{f.name}", found, space) for f in attrs.fields(cls)}
        return {_TYPE: f"{cls.__module__}:{cls.__qualname__}", **fields}
    msg = (
        f"{path} holds a {type(value).__name__}, which a checkpoint cannot keep: expected tensors, a Basis, numbers, "
        "strings, None, tuples of these, or attrs classes."
    )
    raise StateError(msg)


@frozen(eq=False)
class _Decoder:
    packages: set[str]
    space: VectorSpace
    tensor: Callable[[str], Tensor]
    basis_rows: Callable[[str], Iterable[Tensor]]
    vectors: Callable[[str], Tensor]

    def decode(self, value: Any) -> Any:
        if isinstance(value, list):
            return tuple(self.decode(item) for item in value)
        if not isinstance(value, dict):
            return value
        if _FLOAT in value:
            return float(value[_FLOAT])
        if _TENSOR in value:
            return self._tensor(value)
        if _BASIS in value:
            return self._basis(value)
        return self._instance(value)

    def _tensor(self, value: dict[str, Any]) -> Tensor:
        stored = (self.vectors if value.get(_ROWS) else self.tensor)(value[_TENSOR])
        device = torch.device(value["device"])
        if value["strides"] is None:
            # a copy, which is aligned as torch aligns: a file's bytes are not, and a BLAS may round otherwise there
            return stored.to(device, copy=True)
        laid = torch.empty_strided(tuple(stored.shape), tuple(value["strides"]), dtype=stored.dtype, device=device)
        return laid.copy_(stored)

    def _basis(self, value: dict[str, Any]) -> Basis:
        heights = value["heights"]
        leading = heights[0] if heights else 0
        basis = Basis.allocate(
            self.space, sum(heights), leading=leading, storage=value["storage"], dtype=value["dtype"]
        )
        for rows in self.basis_rows(value[_BASIS]):
            basis.append(rows)
        if basis.size != value["size"]:
            raise KeyError(value[_BASIS])
        return basis

    def _instance(self, value: dict[str, Any]) -> Any:
        module, _, name = str(value[_TYPE]).partition(":")
        cls: Any = sys.modules.get(module) if module.partition(".")[0] in self.packages else None
        for part in name.split("."):
            cls = getattr(cls, part, None)
        fields = {k: self.decode(v) for k, v in value.items() if k != _TYPE}
        if cls is None or not attrs.has(cls) or {f.name for f in attrs.fields(cls)} != set(fields):
            what = "is not known here" if cls is None or not attrs.has(cls) else "has other fields here"
            msg = f"the state's class {value[_TYPE]} {what}: the checkpoint is of another version of the algorithm."
            raise StateError(msg)
        made = cls(**{f.alias: fields[f.name] for f in attrs.fields(cls) if f.init})
        for f in attrs.fields(cls):
            if not f.init:
                object.__setattr__(made, f.name, fields[f.name])
        return made
