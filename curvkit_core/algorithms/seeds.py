"""Seeds: an integer, or one drawn from the system's entropy and recorded."""

from __future__ import annotations

import secrets
from typing import Any

from attrs import Attribute

__all__ = ["fresh_seed", "is_seed"]


def fresh_seed(seed: int | None) -> int:
    """Give `seed`, or draw one where it is None; torch's generators are neither read nor moved."""
    return secrets.randbits(31) if seed is None else seed


def is_seed(instance: Any, attribute: Attribute[int | None], value: int | None) -> None:
    """Check a field that holds a seed: attrs validator."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63):
        msg = f"{attribute.name}={value!r} is no seed: expected None or an integer from 0 to 2^63 - 1."
        raise ValueError(msg)
