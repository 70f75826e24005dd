"""Numbers as people read them: as many digits as are known."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["fixed", "number", "number_column", "with_error"]


def number(value: float, digits: int) -> str:
    """Return a float with so many significant digits, in plain notation where that is short."""
    if not math.isfinite(value) or value == 0.0:
        return f"{value:g}"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    return f"{value:#.{digits}g}".rstrip(".")


def number_column(values: Sequence[float]) -> list[str]:
    """Return numbers with one count of decimals, six digits for the largest; by powers of ten where they differ."""
    sizes = [abs(v) for v in values if v and math.isfinite(v)]
    if not sizes:
        return [f"{v:g}" for v in values]
    if not 1e-4 <= max(sizes) < 1e6 or min(sizes) < 1e-3 * max(sizes):
        return [f"{v:.5e}" if math.isfinite(v) else f"{v:g}" for v in values]
    decimals = max(0, 5 - math.floor(math.log10(max(sizes))))
    return [f"{v:.{decimals}f}" for v in values]


def with_error(value: float, error: float) -> tuple[str, str]:
    """Return a value to the second digit of its error, and the error: ``8.225``, ``+- 0.058``.

    By powers of ten, to the third digit of the error, six at most.
    """
    if not (math.isfinite(value) and math.isfinite(error) and 1e-4 <= error < 1e6 and abs(value) < 1e6):
        return number(value, _known_digits(value, error)), f"+- {number(error, 2)}"
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return fixed(value, decimals), f"+- {error:.{decimals}f}"


def fixed(value: float, decimals: int) -> str:
    """Return a number with so many decimals, and no sign where they are all zero."""
    text = f"{value:.{decimals}f}"
    return text.removeprefix("-") if not text.strip("-0.") else text


def _known_digits(value: float, error: float) -> int:
    if not (value and math.isfinite(value) and math.isfinite(error) and error > 0.0):
        return 6
    return min(6, max(1, math.floor(math.log10(abs(value))) - math.floor(math.log10(error)) + 3))
