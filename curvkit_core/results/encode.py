"""Frozen attrs results as JSON values and tensors, field by field, and back.

A tensor goes to a table of tensors under its dotted name; its place in the JSON holds either a copy to read
(one axis, at most 256 numbers: eigenvalues, residuals) or a note of its shape. The table is read back. Of vectors that
lie in parts beside the table, and are not in memory, there is the note alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

__all__ = ["StoredResult", "decode", "encode", "type_name"]

MAX_INLINE = 256
TYPE = "$type"
TENSOR = "$tensor"
FLOAT = "$float"


class StoredResult(Mapping[str, Any]):
    """A stored result whose class is not known here: its fields, to read only.

    Parameters
    ----------
    type_name : str
        What the result called its class.
    fields : mapping
        Its fields by name.
    """

    __slots__ = ("_fields", "type_name")

    def __init__(self, type_name: str, fields: Mapping[str, Any]) -> None:
        self.type_name = type_name
        self._fields = dict(fields)

    def __getitem__(self, name: str) -> Any:
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __repr__(self) -> str:
        return f"StoredResult({self.type_name!r}, fields {', '.join(self._fields)})"


def type_name(cls: type) -> str:
    """Return the name a class is stored under: core's own by their plain names, so that files may move."""
    if cls.__module__.startswith("curvkit_core."):
        return cls.__qualname__
    return f"{cls.__module__}:{cls.__qualname__}"


def encode(value: Any, name: str, tensors: dict[str, Tensor], parts: Mapping[str, str] | None = None) -> Any:
    """Return a value as JSON has it, its tensors put into `tensors`.

    Parameters
    ----------
    value : object
        An attrs instance, tensor, number, string, None, or tuple, list or mapping of these.
    name : str
        The dotted name, which tensors get and errors tell.
    tensors : dict
        Filled.
    parts : mapping of str to str, optional
        The folders of those vectors that are tensors without elements here, by dotted name.

    Raises
    ------
    TypeError
        If a field holds anything else; nothing is pickled. If a tensor has no elements here and is not in `parts`.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {FLOAT: str(float(value))}
    if isinstance(value, Tensor):
        return _encode_tensor(value, name, tensors, parts or {})
    if isinstance(value, StoredResult):
        return {TYPE: value.type_name, **encode(dict(value), name, tensors, parts)}
    if attrs.has(type(value)):
        fields = {f.name: getattr(value, f.name) for f in attrs.fields(type(value))}
        return {TYPE: type_name(type(value)), **encode(fields, name, tensors, parts)}
    if isinstance(value, (tuple, list)):
        return [encode(item, f"{name}.{i}", tensors, parts) for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {_key(key, name): encode(item, f"{name}.{key}", tensors, parts) for key, item in value.items()}
    msg = (
        f"{name} holds a {type(value).__module__}.{type(value).__qualname__}, which cannot be stored: "
        "expected tensors, numbers, strings, None, tuples and mappings of these, or attrs classes."
    )
    raise TypeError(msg)


def decode(value: Any, name: str, tensors: Mapping[str, Tensor], types: Mapping[str, type]) -> Any:
    """Return what :func:`encode` was given, lists as tuples and results of unknown class as `StoredResult`.

    A field that an earlier version did not write is None, where None is its class's word for not known.

    Parameters
    ----------
    value : object
        From JSON.
    name : str
        The dotted name it was encoded under.
    tensors : mapping
        The stored tensors.
    types : mapping of str to type
        The classes that may be built, by :func:`type_name`. No other code runs.

    Raises
    ------
    ValueError
        If a tensor is missing or a class refuses its fields.
    """
    if name in tensors:
        return tensors[name]
    if isinstance(value, list):
        return tuple(decode(item, f"{name}.{i}", tensors, types) for i, item in enumerate(value))
    if not isinstance(value, dict):
        return value
    if set(value) == {FLOAT}:
        return float(value[FLOAT])
    if TENSOR in value:
        msg = f"tensor {name!r} is missing from the safetensors file. The two files do not belong together."
        raise ValueError(msg)
    fields = {k: decode(v, f"{name}.{k}", tensors, types) for k, v in value.items() if k != TYPE}
    if TYPE not in value:
        return fields
    cls = types.get(str(value[TYPE]))
    if cls is None or not _fits(cls, fields):
        return StoredResult(str(value[TYPE]), fields)
    return _build(cls, fields, name)


def _fits(cls: type, fields: Mapping[str, Any]) -> bool:
    """Whether the class has these fields, and lacks none but those that None says are not known."""
    known = attrs.fields(cls)
    lacking = [f for f in known if f.name not in fields]
    return set(fields) <= {f.name for f in known} and all(f.default is None and f.init for f in lacking)


def _build(cls: type, fields: dict[str, Any], name: str) -> Any:
    given = {f.alias: fields[f.name] for f in attrs.fields(cls) if f.init and f.name in fields}
    try:
        return cls(**given)
    except Exception as error:
        msg = f"{name} is no {cls.__name__}: {error}"
        raise ValueError(msg) from error


def _encode_tensor(value: Tensor, name: str, tensors: dict[str, Tensor], parts: Mapping[str, str]) -> Any:
    if value.is_meta:
        if name not in parts:
            msg = f"{name} has no elements in this process (device meta), and there are no files of them."
            raise TypeError(msg)
        return {**_note(value, name), "parts": parts[name]}
    if value.layout is not torch.strided:
        msg = f"{name} has layout {value.layout}, which cannot be stored: expected a dense one: to_dense()."
        raise TypeError(msg)
    kept = value.detach().resolve_conj().resolve_neg().to("cpu").contiguous().clone()
    if name in tensors:
        msg = f"two tensors are called {name!r}: field names with dots cannot be told apart"
        raise ValueError(msg)
    tensors[name] = kept
    if kept.ndim == 1 and kept.numel() <= MAX_INLINE and not kept.is_complex():
        return [encode(item, name, tensors) for item in kept.tolist()]
    return _note(kept, name)


def _note(tensor: Tensor, name: str) -> dict[str, Any]:
    return {TENSOR: name, "shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}


def _key(key: Any, name: str) -> str:
    if not isinstance(key, str) or key.startswith("$"):
        msg = f"{name} has the key {key!r}: expected str that do not begin with '$'."
        raise TypeError(msg)
    return key
