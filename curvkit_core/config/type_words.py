"""Types and values in the words of a run file's reader: ``list of str``, ``float 5.9``."""

from __future__ import annotations

import datetime
import enum
import types
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import PurePath
from reprlib import Repr
from typing import Annotated, Any, Final, Literal, NewType, Union, get_args, get_origin

import attrs

SEQUENCE_ORIGINS = (list, tuple, set, frozenset)
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 60
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 4
_WORDS = {bool: "bool", int: "int", float: "float", str: "str", type(None): "none", Any: "any value"}


def bare_type(tp: Any) -> Any:
    """Strip what says nothing about the values: Annotated, Final, NewType, aliases."""
    while True:
        if get_origin(tp) in (Annotated, Final):
            tp = get_args(tp)[0]
        elif isinstance(tp, NewType):
            tp = tp.__supertype__
        elif type(tp).__name__ == "TypeAliasType":  # `type X = ...`, Python 3.12
            tp = tp.__value__
        else:
            return tp


def is_union(tp: Any) -> bool:
    """Tell ``Union[A, B]`` and ``A | B``."""
    return get_origin(tp) in (Union, types.UnionType)


def is_sequence(tp: Any) -> bool:
    """Tell a type that a TOML array gives: list, tuple, set, frozenset, ``Sequence``."""
    origin = get_origin(tp) or tp
    return origin in (*SEQUENCE_ORIGINS, Sequence, Collection, Iterable)


def is_mapping(tp: Any) -> bool:
    """Tell a type that a TOML table with free keys gives: dict, ``Mapping``."""
    origin = get_origin(tp) or tp
    return isinstance(origin, type) and issubclass(origin, Mapping)


def is_enum(tp: Any) -> bool:
    """Tell an Enum class."""
    return isinstance(tp, type) and issubclass(tp, enum.Enum)


def is_path(tp: Any) -> bool:
    """Tell Path and its relatives."""
    return isinstance(tp, type) and issubclass(tp, PurePath)


def item_types(tp: Any) -> tuple[Any, ...] | Any:
    """Return a fixed tuple's types as a tuple, else the one type of every item."""
    args = get_args(tp)
    if (get_origin(tp) or tp) is tuple and args and args[-1] is not Ellipsis:
        return () if args == ((),) else args
    return args[0] if args else Any


def type_words(tp: Any) -> str:
    """Say what a value of the type looks like in a run file."""
    tp = bare_type(tp)
    if tp in _WORDS:
        return _WORDS[tp]
    if get_origin(tp) is Literal:
        return " or ".join(_toml_like(value) for value in get_args(tp))
    if is_enum(tp):
        return " or ".join(_toml_like(member.value) for member in tp)
    if is_union(tp):
        return " or ".join(type_words(part) for part in get_args(tp) if part is not type(None))
    if is_path(tp):
        return "str (a path)"
    if is_sequence(tp):
        items = item_types(tp)
        if isinstance(items, tuple):
            return f"list [{', '.join(type_words(item) for item in items)}]"
        return "list" if items is Any else f"list of {type_words(items)}"
    if is_mapping(tp):
        args = get_args(tp)
        return f"table of {type_words(args[1])}" if len(args) == 2 and args[1] is not Any else "table"
    if isinstance(tp, type) and attrs.has(tp):
        return "table"
    return getattr(tp, "__name__", str(tp))


def value_words(value: Any) -> str:
    """Name a value with its type, shortened: ``str 'false'``, ``table with keys a, b``."""
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return f"table with keys {_SHORT.repr(sorted(map(str, value)))[1:-1]}" if value else "an empty table"
    if isinstance(value, (datetime.date, datetime.time)):
        return f"{type(value).__name__} {value.isoformat()}"
    return f"{type(value).__name__} {_SHORT.repr(value)}"


def _toml_like(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
