"""The run file's sections, and the keys that belong to the planner and not to a component."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from attrs import frozen

from curvkit_core.config import Mistake, structure
from curvkit_core.config.errors import ConfigError
from curvkit_core.config.near_names import near_or_known
from curvkit_core.config.type_words import type_words, value_words

SCHEMA = 1
AUTO = "auto"
SECTIONS = ("schema", "problem", "operator", "algorithm", "backend", AUTO)
GENERIC_KEYS = {
    "problem": ("kind",),
    "operator": ("kind", "params"),
    "algorithm": ("kind", "on"),
    "backend": ("kind",),
}
_EXAMPLES = {
    "problem": '[problem] with kind = "core/digits-mlp"',
    "operator": '[[operator]] with kind = "core/ggn"',
    "algorithm": '[[algorithm]] with kind = "core/eigsh"',
}


@frozen(kw_only=True)
class Auto:
    """What ``kind = "auto"`` may take.

    Parameters
    ----------
    prefer : list of str
        Components that win a tie.
    allow_experimental : bool
        Whether experimental components may be taken.
    """

    prefer: tuple[str, ...] = ()
    allow_experimental: bool = False


@frozen(kw_only=True)
class NoOptions:
    """The options of a component that takes none."""


def check_sections(data: Mapping[str, Any]) -> list[Mistake]:
    """Return what is wrong with the file's outline: unknown, missing and misshapen sections, the schema."""
    mistakes = [
        Mistake("$", f"unknown key {key!r}; {near_or_known(key, SECTIONS)}") for key in data if key not in SECTIONS
    ]
    mistakes += _check_schema(data)
    for name, example in _EXAMPLES.items():
        if name not in data:
            mistakes.append(Mistake(f"$.{name}", f"missing: expected {example}"))
            continue
        value = data[name]
        if name == "problem" and not isinstance(value, Mapping):
            double = isinstance(value, list) and len(value) == 1
            seen = "[[problem]] with double brackets" if double else value_words(value)
            mistakes.append(Mistake(f"$.{name}", f"expected one table, {example}, got {seen}"))
        elif name != "problem" and isinstance(value, Mapping):
            mistakes.append(Mistake(f"$.{name}", f"expected {example}, got [{name}]: write double brackets"))
        elif name != "problem" and not isinstance(value, list):
            mistakes.append(Mistake(f"$.{name}", f"expected {example}, got {value_words(value)}"))
        elif name != "problem" and not value:
            mistakes.append(Mistake(f"$.{name}", f"expected at least one {example}, got an empty list"))
        elif name != "problem":
            mistakes += [
                Mistake(f"$.{name}[{i}]", f"expected a table, {example}, got {value_words(item)}")
                for i, item in enumerate(value)
                if not isinstance(item, Mapping)
            ]
    if "backend" in data and not isinstance(data["backend"], Mapping):
        mistakes.append(Mistake("$.backend", f"expected a table, got {value_words(data['backend'])}"))
    return mistakes


def component_tables(data: Mapping[str, Any], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield path and table of each component in a section; what is misshapen is passed over, being said already."""
    section = data.get(name)
    if isinstance(section, Mapping):
        if name == "problem":
            yield "$.problem", dict(section)
    elif isinstance(section, list) and name != "problem":
        for i, item in enumerate(section):
            if isinstance(item, Mapping):
                yield f"$.{name}[{i}]", dict(item)


def take(table: dict[str, Any], key: str, tp: Any, path: str, **default: Any) -> Any:
    """Remove one key from a table and return its value, structured; `default` where it is not there.

    Raises
    ------
    ConfigError
        If it is of another type, or missing with no default.
    """
    if key not in table:
        if "default" in default:
            return default["default"]
        raise ConfigError([Mistake(f"{path}.{key}", f"missing: expected {type_words(tp)}")])
    return structure(tp, table.pop(key), f"{path}.{key}")


def near_hint(name: str, known: list[str]) -> str:
    """Return ``; did you mean 'core/ggn'?`` or what there is."""
    hint = near_or_known(name, known)
    return f"; {hint}" if hint else ""


def _check_schema(data: Mapping[str, Any]) -> list[Mistake]:
    if "schema" not in data:
        return [Mistake("$.schema", f"missing: expected schema = {SCHEMA} at the top of the file")]
    value = data["schema"]
    if type(value) is int and value == SCHEMA:
        return []
    later = "; this file needs a later curvkit-core" if type(value) is int and value > SCHEMA else ""
    return [Mistake("$.schema", f"expected {SCHEMA}, got {value_words(value)}{later}")]
