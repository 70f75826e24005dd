"""Axes of the report's charts: where a number lies, and which numbers are written beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable

from attrs import frozen

__all__ = ["Axis", "axis_over", "tick_text"]

TICKS = 5  # about so many on a linear axis
DECADES = 6  # of a logarithmic one that are labelled; beyond, every second, third, ...


@frozen(kw_only=True)
class Axis:
    """One axis.

    Parameters
    ----------
    low, high : float
        Its ends, low < high; both positive on a logarithmic axis.
    scale : {"linear", "log"}
        How numbers are laid out.
    label : str
        Beside it.
    whole : bool
        Whether it counts: then only whole numbers are written.
    """

    low: float
    high: float
    scale: str = "linear"
    label: str = ""
    whole: bool = False

    def at(self, value: float) -> float:
        """Return where a number lies, 0 at the low end and 1 at the high one; beyond the ends it is at the end."""
        if not math.isfinite(value):
            return 0.0 if value < 0 else 1.0
        low, high = self.low, self.high
        if self.scale == "log":
            value = max(value, low)
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return min(max((value - low) / (high - low), 0.0), 1.0)

    def ticks(self) -> list[float]:
        """Return the numbers to be written: 1, 2 or 5 times a power of ten apart; on a log axis powers of ten."""
        if self.scale == "log":
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            step = max(1, math.ceil((last - first) / DECADES))
            powers = [10.0**e for e in range(first, last + 1) if (e - last) % step == 0]
            return powers if len(powers) > 1 else [self.low, self.high]
        rough = (self.high - self.low) / TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        apart = next(m * power for m in (1.0, 2.0, 5.0, 10.0) if m * power >= rough * 0.999)
        apart = max(apart, 1.0) if self.whole else apart
        start = math.ceil(self.low / apart - 1e-9)
        count = math.floor(self.high / apart + 1e-9) - start + 1
        return [round((start + i) * apart, 12 - math.floor(math.log10(apart))) for i in range(count)]


def axis_over(values: Iterable[float], *, scale: str = "linear", label: str = "", margin: float = 0.05) -> Axis:
    """Return an axis that holds all finite numbers given, with a margin; the positive ones on a log axis."""
    known = [v for v in values if math.isfinite(v) and (scale == "linear" or v > 0.0)]
    if not known:
        return Axis(low=0.1 if scale == "log" else 0.0, high=1.0, scale=scale, label=label)
    low, high = min(known), max(known)
    if scale == "log":
        if high / low < 10.0:
            low, high = low / 3.0, high * 3.0
        room = (high / low) ** margin
        return Axis(low=max(low / room, 1e-300), high=min(high * room, 1e300), scale=scale, label=label)
    width = high - low
    if width <= 1e-12 * max(abs(low), abs(high)):
        width = abs(high) or 1.0
    return Axis(low=low - margin * width, high=high + margin * width, scale=scale, label=label)


def tick_text(value: float, scale: str) -> str:
    """Return a tick's number: ``0.25``, ``1e-4``."""
    if scale == "log" and value > 0.0 and not 1e-2 <= value <= 999.0:
        power = round(math.log10(value))
        if abs(value / 10.0**power - 1.0) < 1e-6:
            return f"1e{power}"
    text = f"{value:.4g}"
    return "0" if text == "-0" else text.replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")
