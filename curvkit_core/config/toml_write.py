"""Plain values as TOML."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from curvkit_core.config.toml_strings import quoted, show_key
from curvkit_core.config.type_words import value_words


def toml_value(value: Any) -> str:
    """Return a value as TOML writes it on one line.

    Raises
    ------
    TypeError
        If TOML has no such value; it has no None.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return repr(float(value)) if math.isfinite(value) else str(float(value))
    if isinstance(value, (str, PurePath)):
        return quoted(str(value))
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value) if isinstance(value, (set, frozenset)) else value
        return f"[{', '.join(map(toml_value, items))}]"
    if isinstance(value, Mapping):
        inner = ", ".join(f"{show_key(str(k))} = {toml_value(v)}" for k, v in value.items() if v is not None)
        return f"{{ {inner} }}" if inner else "{}"
    msg = f"TOML has no {value_words(value)}"
    raise TypeError(msg)


def to_toml(data: Mapping[str, Any], header: str = "") -> str:
    """Return tables as TOML text: values first, then tables and lists of tables; None is left out.

    Parameters
    ----------
    data : mapping
        Keys to values, tables, or lists of tables.
    header : str
        The dotted name of the table the data stand in.

    Returns
    -------
    str
        Ends with a newline; :mod:`tomllib` reads it back.
    """
    lines, tables = [], []
    for key, value in data.items():
        name = show_key(str(key))
        full = f"{header}.{name}" if header else name
        if isinstance(value, Mapping):
            tables.append(f"[{full}]\n{to_toml(value, full)}")
        elif isinstance(value, (list, tuple)) and value and all(isinstance(item, Mapping) for item in value):
            tables += [f"[[{full}]]\n{to_toml(item, full)}" for item in value]
        elif value is not None:
            lines.append(f"{name} = {toml_value(value)}\n")
    return "".join(lines) + "".join(("\n" if i or lines else "") + table for i, table in enumerate(tables))
