"""The strict converter: plain values from TOML become attrs classes, exactly or with every mistake named."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar, get_origin

import attrs
from cattrs import Converter

from curvkit_core.config import scalars
from curvkit_core.config.classes import attrs_class
from curvkit_core.config.containers import mapping, sequence, union
from curvkit_core.config.errors import ConfigError
from curvkit_core.config.mistakes import StructureError, mistake, mistakes_of, placed
from curvkit_core.config.type_words import (
    bare_type,
    is_enum,
    is_mapping,
    is_path,
    is_sequence,
    is_union,
    type_words,
    value_words,
)

T = TypeVar("T")


def make_converter() -> Converter:
    """Return a strict converter of one's own, to which hooks for further types may be added.

    Ours are registered first: a hook registered later for a class is asked before them, and cattrs'
    strategies (tagged unions and the like) see the strict ones.
    """
    converter = Converter(forbid_extra_keys=True)

    def strict(value: Any, tp: Any) -> Any:
        return _strict(value, tp, converter)

    for scalar in (bool, int, float, str, bytes, Path, Enum):  # cattrs' own hooks for these beat any predicate
        converter.register_structure_hook(scalar, strict)
    # cattrs keeps hooks of unions in a table that it asks after all predicates; one that covers all would hide them
    unions: Mapping[Any, Any] = getattr(converter, "_union_struct_registry", {})
    converter.register_structure_hook_func(lambda tp: not (is_union(tp) and tp in unions), strict)
    return converter


@functools.cache
def default_converter() -> Converter:
    """Return the converter of curvkit itself."""
    return make_converter()


def structure(
    cls: type[T],
    data: Any,
    path: str = "$",
    *,
    source: str = "",
    extra_keys: Collection[str] = (),
    converter: Converter | None = None,
) -> T:
    """Return an instance of `cls` from plain values, strictly.

    Parameters
    ----------
    cls : type
        An attrs class, or any type that a field may have.
    data : object
        What TOML gives: tables, lists, str, int, float, bool.
    path : str
        Where `data` stands, for the errors.
    source : str
        The file's name, for the errors.
    extra_keys : collection of str
        Keys taken out of the table before, for a did-you-mean.
    converter : Converter, optional
        One of :func:`make_converter`; by default curvkit's own.

    Returns
    -------
    object
        Of type `cls`.

    Raises
    ------
    ConfigError
        With all mistakes, each with its path.

    Notes
    -----
    An int is a float where a float holds it exactly; nothing else is converted. NaN and infinities are
    refused. A string is no list. ``None`` is taken where the type allows it, though TOML has none.
    """
    used = converter or default_converter()
    try:
        if extra_keys and attrs.has(cls):
            return attrs_class(data, cls, used.structure, extra_keys)  # type: ignore[no-any-return]
        return used.structure(data, cls)
    except Exception as error:
        raise ConfigError(placed(path, error), source) from error


def _strict(value: Any, tp: Any, converter: Converter) -> Any:
    tp = bare_type(tp)
    if tp in (bool, int, str):
        return scalars.exactly(value, tp)
    if tp is float:
        return scalars.finite_float(value)
    if tp is Any or tp is object:
        return value
    if tp is None or tp is type(None):
        return scalars.exactly(value, type(None))
    if get_origin(tp) is Literal:
        return scalars.literal(value, tp)
    if is_enum(tp):
        return scalars.member(value, tp)
    if is_path(tp):
        return scalars.path(value, tp)
    return _strict_container(value, tp, converter)


def _strict_container(value: Any, tp: Any, converter: Converter) -> Any:
    def inner(item: Any, item_type: Any) -> Any:
        try:
            return converter.structure(item, item_type)
        except StructureError:
            raise
        except Exception as error:  # a foreign hook's: unions and lists above read our kind only
            raise StructureError(mistakes_of(error)) from error

    if is_union(tp):
        return union(value, tp, inner)
    if is_sequence(tp):
        return sequence(value, tp, inner)
    if is_mapping(tp):
        return mapping(value, tp, inner)
    if isinstance(tp, type) and attrs.has(tp):
        return attrs_class(value, tp, inner)
    if isinstance(tp, type) and isinstance(value, tp) and not isinstance(value, Mapping):
        return value  # a date or a time, which TOML has too
    msg = f"expected {type_words(tp)}, which a run file cannot give, got {value_words(value)}"
    raise mistake(msg)
