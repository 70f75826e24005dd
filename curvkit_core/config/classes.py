"""A table as an attrs class: unknown keys, missing keys, wrong values and validators' words, all at once."""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

import attrs

from curvkit_core.config.mistakes import Keys, StructureError, message_of, mistake, under
from curvkit_core.config.near_names import near_or_known
from curvkit_core.config.type_words import type_words, value_words

Structure = Callable[[Any, Any], Any]


def attrs_class(value: Any, cls: type, structure: Structure, extra_keys: Collection[str] = ()) -> Any:
    """Return an instance of an attrs class from a table.

    Parameters
    ----------
    value : mapping or instance of `cls`
        An instance passes as it is.
    cls : type
        The attrs class.
    structure : callable
        ``structure(value, type)`` for the fields.
    extra_keys : collection of str
        Keys that somebody else has taken out of the table, named in a did-you-mean.

    Raises
    ------
    StructureError
        With every mistake in the table.
    """
    if isinstance(value, cls):
        return value
    if not isinstance(value, Mapping):
        msg = f"expected a table, got {value_words(value)}"
        raise mistake(msg)
    fields = {key_of(field): field for field in settable_fields(cls)}
    types = field_types(cls)
    mistakes: list[tuple[Keys, str]] = []
    for key in value:
        if key not in fields:
            hint = near_or_known(str(key), [*fields, *extra_keys])
            mistakes.append(((), f"unknown key {key!r}" + (f"; {hint}" if hint else ": no key is known")))
    given: dict[str, Any] = {}
    for key, field in fields.items():
        if key in value:
            try:
                given[key] = structure(value[key], types[field.name])
            except Exception as error:  # noqa: BLE001 - a plugin's hook may raise anything; all are shown
                mistakes += under((key,), error)
        elif field.default is attrs.NOTHING:
            mistakes.append(((key,), f"missing: expected {type_words(types[field.name])}"))
    if mistakes:
        raise StructureError(mistakes + _refused_values(cls, given))
    try:
        return cls(**given)
    except Exception as error:
        raise StructureError(_refused_values(cls, given) or [((), message_of(error))]) from error


def settable_fields(cls: type) -> list[attrs.Attribute[Any]]:
    """Return the fields that a caller may give."""
    return [field for field in attrs.fields(cls) if field.init]


def key_of(field: attrs.Attribute[Any]) -> str:
    """Return the name a caller gives a field by: attrs drops a leading underscore."""
    return field.alias or field.name


@functools.cache
def field_types(cls: type) -> dict[str, Any]:
    """Return each field's type, with annotations that are strings evaluated; Any where there is none."""
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except NameError as error:
        msg = (
            f"the types of {cls.__module__}.{cls.__qualname__} cannot be read: {error}. Define the class at "
            "the top of a module and import its fields' types there, outside TYPE_CHECKING."
        )
        raise TypeError(msg) from error
    return {field.name: hints.get(field.name, field.type or Any) for field in attrs.fields(cls)}


def _refused_values(cls: type, given: Mapping[str, Any]) -> list[tuple[Keys, str]]:
    """Return what each field's converter and validator say of the values given, a field at a time.

    attrs stops at its first validator; here the others speak too. They see a bare instance that holds the
    values known so far, so one that reads a field still missing keeps silent.
    """
    bare: Any = object.__new__(cls)
    mistakes: list[tuple[Keys, str]] = []
    held: list[tuple[attrs.Attribute[Any], Any]] = []
    for field in settable_fields(cls):
        key = key_of(field)
        if key not in given and field.default is attrs.NOTHING:
            continue
        try:
            value = given[key] if key in given else _default(field, bare)
            if field.converter is not None:
                value = _converted(field, value, bare)
        except AttributeError:
            continue
        except Exception as error:  # noqa: BLE001 - a converter may raise anything; all are shown
            mistakes.append(((key,), message_of(error)))
            continue
        object.__setattr__(bare, field.name, value)
        held.append((field, value))
    for field, value in held:
        if field.validator is None or key_of(field) not in given:
            continue
        try:
            field.validator(bare, field, value)
        except AttributeError:
            continue
        except Exception as error:  # noqa: BLE001 - a validator may raise anything; all are shown
            mistakes.append(((key_of(field),), message_of(error)))
    return mistakes


def _default(field: attrs.Attribute[Any], instance: Any) -> Any:
    default: Any = field.default
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        return default.factory(instance) if default.takes_self else default.factory()
    return default


def _converted(field: attrs.Attribute[Any], value: Any, instance: Any) -> Any:
    converter: Any = field.converter
    if not isinstance(converter, attrs.Converter):
        return converter(value)
    whole: Any = converter  # attrs' stubs leave out what a Converter holds
    extra = ([instance] if whole.takes_self else []) + ([field] if whole.takes_field else [])
    return whole.converter(value, *extra)
