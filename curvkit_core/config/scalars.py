"""Exact scalars: what is not already of the type is refused, never converted.

cattrs' own hooks turn 5.9 into 5, "false" into True and "nan" into nan without a word.
"""

from __future__ import annotations

import enum
import math
from typing import Any, get_args

from curvkit_core.config.mistakes import mistake
from curvkit_core.config.type_words import type_words, value_words


def exactly(value: Any, tp: type) -> Any:
    """Return a value whose class is `tp` itself: True is no int, 5.0 is no int, "5" is neither."""
    if type(value) is not tp:
        msg = f"expected {type_words(tp)}, got {value_words(value)}"
        raise mistake(msg)
    return value


def finite_float(value: Any) -> float:
    """Return a finite float; an int that a float holds exactly will do, a bool will not."""
    if type(value) not in (int, float):
        msg = f"expected float, got {value_words(value)}"
        raise mistake(msg)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        msg = f"expected a finite float, got {value_words(value)}"
        raise mistake(msg)
    if number != value:
        msg = f"expected float, got {value_words(value)}, which no float holds exactly"
        raise mistake(msg)
    return number


def path(value: Any, tp: Any) -> Any:
    """Return a path from a string that is not empty; a path passes."""
    if isinstance(value, tp):
        return value
    if type(value) is not str or not value or "\0" in value:
        msg = f"expected {type_words(tp)}, got {value_words(value)}"
        raise mistake(msg)
    return tp(value)


def literal(value: Any, tp: Any) -> Any:
    """Return one of a Literal's values, its type included: 1 is not True."""
    for choice in get_args(tp):
        if type(choice) is type(value) and choice == value:
            return choice
    msg = f"expected {type_words(tp)}, got {value_words(value)}"
    raise mistake(msg)


def member(value: Any, tp: type[enum.Enum]) -> enum.Enum:
    """Return an Enum's member, named by its value, or the member itself."""
    for choice in tp:
        if choice is value or (type(choice.value) is type(value) and choice.value == value):
            return choice
    msg = f"expected {type_words(tp)}, got {value_words(value)}"
    raise mistake(msg)
