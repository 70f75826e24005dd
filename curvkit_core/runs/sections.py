"""The run file's sections, and the keys that belong to the planner and not to a component."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from attrs import field, frozen, validators

from curvkit_core.config import Mistake, structure
from curvkit_core.config.errors import ConfigError
from curvkit_core.config.near_names import near_or_known
from curvkit_core.config.type_words import type_words, value_words

SCHEMA = 1
AUTO = "auto"
TABLES = ("sweep", "landscape", "backend", AUTO, "budget", "checkpoint")
SECTIONS = ("schema", "problem", "operator", "algorithm", *TABLES)
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
class Budget:
    """What a run may cost; it stops in time, keeps what was found, and can be resumed with another budget.

    Parameters
    ----------
    products : int, at least 1, or none
        Products of all algorithms together, those before a resumption included.
    seconds : float, above 0, or none
        From the first product of this call on. No product is begun that would, at the pace so far, end after it.
    """

    products: int | None = field(default=None, validator=validators.optional(validators.ge(1)))
    seconds: float | None = field(default=None, validator=validators.optional(validators.gt(0.0)))


@frozen(kw_only=True)
class CheckpointOptions:
    """How often the state of the algorithm at work is saved; finished ones are kept always.

    Parameters
    ----------
    seconds : float, above 0
        Save after so many seconds ...
    products : int, at least 1, or none
        ... or so many products, whichever comes first.
    """

    seconds: float = field(default=60.0, validator=validators.gt(0.0))
    products: int | None = field(default=None, validator=validators.optional(validators.ge(1)))


@frozen(kw_only=True)
class Landscape:
    """Slices of the loss along the eigenvectors that an algorithm found, on each operator of which some were.

    Parameters
    ----------
    directions : int, at least 1
        Eigenvectors, from the first on.
    points : int, odd, at least 5
        On each slice: a forward pass over the data each.
    """

    directions: int = field(default=2, validator=validators.ge(1))
    points: int = field(default=21, validator=validators.ge(5))

    @points.validator
    def _odd(self, attribute: Any, value: int) -> None:
        if value % 2 == 0:
            msg = f"points={value}: expected an odd number; the middle one is where the model is."
            raise ValueError(msg)


@frozen(kw_only=True)
class NoOptions:
    """The options of a component that takes none."""


def check_sections(data: Mapping[str, Any]) -> list[Mistake]:
    """Return what is wrong with the file's outline: unknown, missing and misshapen sections, the schema."""
    mistakes = [
        Mistake("$", f"unknown key {key!r}; {near_or_known(key, SECTIONS)}") for key in data if key not in SECTIONS
    ]
    mistakes += _check_schema(data)
    if isinstance(data.get("sweep"), Mapping) and "kind" in data["sweep"]:
        mistakes.append(Mistake("$.sweep.kind", "unknown key 'kind': [sweep] is core/sweep, others are [[algorithm]]"))
    for name, example in _EXAMPLES.items():
        if name not in data:
            if name == "algorithm" and "sweep" in data:
                continue
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
    for name in TABLES:
        if name in data and not isinstance(data[name], Mapping):
            mistakes.append(Mistake(f"$.{name}", f"expected a table, got {value_words(data[name])}"))
    return mistakes


def component_tables(data: Mapping[str, Any], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield path and table of each component in a section; what is misshapen is passed over, being said already."""
    section = data.get(name)
    if name == "sweep":
        if isinstance(section, Mapping):
            yield "$.sweep", {**section, "kind": "core/sweep"}
        return
    if isinstance(section, Mapping):
        if name == "problem":
            yield "$.problem", dict(section)
    elif isinstance(section, list) and name != "problem":
        for i, item in enumerate(section):
            if isinstance(item, Mapping):
                yield f"$.{name}[{i}]", dict(item)


def algorithm_tables(data: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every ``[[algorithm]]``, and ``[sweep]``, which is one that has a section of its own."""
    yield from component_tables(data, "algorithm")
    yield from component_tables(data, "sweep")


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
