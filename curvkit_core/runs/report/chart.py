"""Charts as inline SVG, coloured by the page's own style: light, dark and on paper, with no script and no library.

The drawing is small, as wide as a phone: it is never shrunk below the size at which its letters can be read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from attrs import frozen

from curvkit_core.runs.report.axis import Axis, tick_text

__all__ = ["Mark", "chart"]

WIDTH, HEIGHT = 360, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 10, 40
CAP = 3.0  # half the width of an error bar's ends


@frozen(kw_only=True)
class Mark:
    """Something drawn in a chart.

    Parameters
    ----------
    kind : {"line", "dashes", "band", "points", "open", "bars", "stems"}
        ``"band"`` lies between `low` and `high`; ``"points"`` and ``"open"`` have error bars where these are given;
        ``"stems"`` stand on the axis.
    x, y : sequence of float
        As long as one another.
    low, high : sequence of float
        Ends of error bars or of a band; empty for none.
    colour : {"a", "b", "c"}
        One of the page's.
    label : str
        In the legend; empty for none.
    """

    kind: str
    x: Sequence[float]
    y: Sequence[float] = ()
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    colour: str = "a"
    label: str = ""


def chart(marks: Sequence[Mark], x: Axis, y: Axis, *, title: str, summary: str = "") -> str:
    """Return a figure element: the drawing, its title above it, and a legend below.

    Parameters
    ----------
    marks : sequence of Mark
        Drawn in order.
    x, y : Axis
        What lies beyond them is drawn at their ends; a line that leaves them at the top is broken.
    title : str
        Above the drawing.
    summary : str
        What it shows in words, for those who cannot see it.

    Returns
    -------
    str
        HTML, escaped.
    """
    parts = [_frame(x, y)]
    for mark in marks:
        parts.append(f'<g class="{mark.colour}">{_DRAW[mark.kind](mark, x, y)}</g>')
    legend = "".join(f'<span class="key {m.colour} {m.kind}">{escape(m.label)}</span>' for m in marks if m.label)
    drawing = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(summary or title)}">{"".join(parts)}</svg>'
    )
    below = f'<div class="legend">{legend}</div>' if legend else ""
    return f"<figure><figcaption>{escape(title)}</figcaption>{drawing}{below}</figure>"


def _px(axis: Axis, value: float) -> float:
    return LEFT + axis.at(value) * (WIDTH - LEFT - RIGHT)


def _py(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - axis.at(value) * (HEIGHT - TOP - BOTTOM)


def _frame(x: Axis, y: Axis) -> str:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for value in x.ticks():
        at = f"{_px(x, value):.1f}"
        parts.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(f'<text x="{at}" y="{bottom + 14}" text-anchor="middle">{tick_text(value, x.scale)}</text>')
    for value in y.ticks():
        at = f"{_py(y, value):.1f}"
        parts.append(f'<line class="grid" y1="{at}" y2="{at}" x1="{LEFT}" x2="{right}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{at}" dy="0.32em" text-anchor="end">{tick_text(value, y.scale)}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>')
    middle = (LEFT + right) / 2
    parts.append(f'<text class="label" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x.label)}</text>')
    if y.label:
        centre = (TOP + bottom) / 2
        turn = f'transform="rotate(-90 11 {centre})"'
        parts.append(f'<text class="label" x="11" y="{centre}" text-anchor="middle" {turn}>{escape(y.label)}</text>')
    return "".join(parts)


def _path(mark: Mark, x: Axis, y: Axis) -> str:
    pieces, pen = [], "M"
    for at, value in zip(mark.x, mark.y, strict=True):
        if math.isnan(value) or math.isnan(at) or value > y.high:  # a curve that leaves the frame ends there
            pen = "M"
            continue
        pieces.append(f"{pen}{_px(x, at):.1f} {_py(y, value):.1f}")
        pen = "L"
    return "".join(pieces)


def _line(mark: Mark, x: Axis, y: Axis) -> str:
    return f'<path class="{mark.kind}" d="{_path(mark, x, y)}"/>'


def _band(mark: Mark, x: Axis, y: Axis) -> str:
    known = [
        (at, low, high)
        for at, low, high in zip(mark.x, mark.low, mark.high, strict=True)
        if not (math.isnan(low) or math.isnan(high))
    ]
    if len(known) < 2:
        return ""
    ahead = "L".join(f"{_px(x, at):.1f} {_py(y, high):.1f}" for at, _, high in known)
    back = "L".join(f"{_px(x, at):.1f} {_py(y, low):.1f}" for at, low, _ in reversed(known))
    return f'<path class="band" d="M{ahead}L{back}Z"/>'


def _points(mark: Mark, x: Axis, y: Axis) -> str:
    parts = []
    for i, (at, value) in enumerate(zip(mark.x, mark.y, strict=True)):
        if math.isnan(value):
            continue
        px = _px(x, at)
        if len(mark.low):
            top, foot = _py(y, mark.high[i]), _py(y, mark.low[i])
            ends = "".join(f"M{px - CAP:.1f} {end:.1f}H{px + CAP:.1f}" for end in (top, foot))
            parts.append(f'<path class="line" d="M{px:.1f} {top:.1f}V{foot:.1f}{ends}"/>')
        parts.append(f'<circle class="{mark.kind}" cx="{px:.1f}" cy="{_py(y, value):.1f}" r="3"/>')
    return "".join(parts)


def _stems(mark: Mark, x: Axis, y: Axis) -> str:
    foot = HEIGHT - BOTTOM
    lines = "".join(f"M{_px(x, at):.1f} {foot}V{_py(y, v):.1f}" for at, v in zip(mark.x, mark.y, strict=True))
    return f'<path class="line" d="{lines}"/>'


def _bars(mark: Mark, x: Axis, y: Axis) -> str:
    foot = _py(y, max(y.low, 0.0))
    half = 0.4 * (WIDTH - LEFT - RIGHT) / max(x.high - x.low, 1.0)
    parts = []
    for at, value in zip(mark.x, mark.y, strict=True):
        top, bottom = sorted((_py(y, value), foot))
        parts.append(
            f'<rect class="bar" x="{_px(x, at) - half:.1f}" width="{2 * half:.1f}" y="{top:.1f}" '
            f'height="{bottom - top:.1f}"/>'
        )
    return "".join(parts)


_DRAW = {
    "line": _line,
    "dashes": _line,
    "band": _band,
    "points": _points,
    "open": _points,
    "stems": _stems,
    "bars": _bars,
}
