"""Configuration as plain values, for records: what JSON and TOML can hold."""

from __future__ import annotations

import datetime
import enum
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import attrs


def plain(value: Any) -> Any:
    """Return tables, lists, numbers, strings and None for attrs instances, enums, paths and containers.

    Parameters
    ----------
    value : object
        A configuration, or a value of one. What is nothing of the kind becomes its ``repr``; so does a float
        that JSON has no number for.

    Returns
    -------
    object
        What :mod:`json` writes as it stands.
    """
    if isinstance(value, enum.Enum):  # first: a StrEnum's member is a str as well
        return plain(value.value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, (PurePath, datetime.date, datetime.time)):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return [plain(item) for item in sorted(value, key=repr)]
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if attrs.has(type(value)):
        return {field.name: plain(getattr(value, field.name)) for field in attrs.fields(type(value))}
    return repr(value)
