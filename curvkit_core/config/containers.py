"""Lists, tables with free keys, and unions: every item's mistakes are gathered before anything is raised."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, get_args, get_origin

import attrs

from curvkit_core.config.mistakes import Keys, StructureError, mistake, under
from curvkit_core.config.type_words import (
    SEQUENCE_ORIGINS,
    bare_type,
    is_mapping,
    is_sequence,
    item_types,
    type_words,
    value_words,
)

Structure = Callable[[Any, Any], Any]


def sequence(value: Any, tp: Any, structure: Structure) -> Any:
    """Return a list, tuple, set or frozenset of structured items; a string is no list of characters."""
    if not isinstance(value, (list, tuple, set, frozenset)):
        msg = f"expected {type_words(tp)}, got {value_words(value)}"
        raise mistake(msg)
    origin = get_origin(tp) or tp
    target = origin if origin in SEQUENCE_ORIGINS else tuple
    items = item_types(tp)
    if isinstance(items, tuple):
        if len(items) != len(value):
            msg = f"expected {type_words(tp)}, {len(items)} items, got {value_words(value)}"
            raise mistake(msg)
        return target(_structured(zip(range(len(items)), value, items, strict=True), structure))
    found = _structured(((i, item, items) for i, item in enumerate(value)), structure)
    return target(found)


def mapping(value: Any, tp: Any, structure: Structure) -> dict[str, Any]:
    """Return a dict of structured values; keys are strings, as TOML's are."""
    if not isinstance(value, Mapping):
        msg = f"expected {type_words(tp)}, got {value_words(value)}"
        raise mistake(msg)
    args = get_args(tp)
    item_type = args[1] if len(args) == 2 else Any
    if any(type(key) is not str for key in value):
        msg = f"expected a table whose keys are str, got {value_words(value)}"
        raise mistake(msg)
    items = _structured(((k, v, item_type) for k, v in value.items()), structure)
    return dict(zip(value, items, strict=True))


def union(value: Any, tp: Any, structure: Structure) -> Any:
    """Return the value as the first alternative that takes it; an int is an int before it is a float.

    Where none does and the value's shape (table, list) singles one out, that one's mistakes are shown.
    """
    alternatives = sorted((bare_type(part) for part in get_args(tp)), key=lambda part: part is float)
    if value is None and type(None) in alternatives:
        return None
    failures: list[tuple[Any, StructureError]] = []
    for alternative in alternatives:
        try:
            return structure(value, alternative)
        except StructureError as error:
            failures.append((alternative, error))
    shaped = [error for alternative, error in failures if _has_shape(value, alternative)]
    if len(shaped) == 1:
        raise shaped[0]
    if len(alternatives) == 2 and type(None) in alternatives:  # Optional: the one type gives its reason
        raise next(error for alternative, error in failures if alternative is not type(None))
    msg = f"expected {type_words(tp)}, got {value_words(value)}"
    raise mistake(msg)


def _structured(items: Any, structure: Structure) -> list[Any]:
    done, mistakes = [], list[tuple[Keys, str]]()
    for key, item, tp in items:
        try:
            done.append(structure(item, tp))
        except Exception as error:  # noqa: BLE001 - a plugin's hook may raise anything; all are shown
            mistakes += under((key,), error)
    if mistakes:
        raise StructureError(mistakes)
    return done


def _has_shape(value: Any, tp: Any) -> bool:
    if isinstance(value, Mapping):
        return is_mapping(tp) or (isinstance(tp, type) and attrs.has(tp))
    return isinstance(value, (list, tuple)) and is_sequence(tp)
