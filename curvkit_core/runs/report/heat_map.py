"""A heat map as a table: every cell has its number, so it is read without colours as well."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

__all__ = ["LONG", "LONG_NAME", "heat_map"]

LONG_NAME = 18  # letters; longer ones are broken where the page is narrow, so that numbers stand beside them
LONG = ' class="long"'
DECADES = 3.0  # below the largest, where the colour ends


def heat_map(values: Sequence[Sequence[float]], names: Sequence[str], *, title: str, most: int = 24) -> str:
    """Return a figure element with a table of square cells, dark for large magnitudes on a logarithmic scale.

    Parameters
    ----------
    values : sequence of sequence of float
        A row each, magnitudes.
    names : sequence of str
        Of rows and columns.
    title : str
        Above it.
    most : int
        Names shown; of more, those with the largest diagonal.

    Returns
    -------
    str
        HTML, escaped.
    """
    order = sorted(sorted(range(len(names)), key=lambda i: -_finite(values[i][i]))[:most])
    largest = max((_finite(values[i][j]) for i in order for j in order), default=0.0)
    head = "".join(f'<th scope="col" title="{escape(names[j])}">{j + 1}</th>' for j in order)
    rows = []
    for i in order:
        long = LONG if len(names[i]) > LONG_NAME else ""
        cells = "".join(_cell(values[i][j], largest, f"{names[i]}, {names[j]}") for j in order)
        rows.append(f'<tr><th scope="row"{long}>{i + 1}: {escape(names[i])}</th>{cells}</tr>')
    left_out = len(names) - len(order)
    note = f"<p class='note'>The {left_out} groups with the smallest norms are left out.</p>" if left_out else ""
    table = f'<table class="heat"><thead><tr><td></td>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return (
        f'<figure class="wide"><figcaption>{escape(title)}</figcaption><div class="scroll">{table}</div>{note}</figure>'
    )


def _cell(value: float, largest: float, where: str) -> str:
    shade = 0.0
    if largest > 0.0 and _finite(value) > 0.0:
        shade = max(0.0, 1.0 + math.log10(value / largest) / DECADES)
    text = f"{value:.2g}" if math.isfinite(value) else "?"
    dark = ' class="dark"' if shade > 0.55 else ""
    return f'<td{dark} style="--s:{shade:.2f}" title="{escape(where)}: {value:.4g}">{text}</td>'


def _finite(value: float) -> float:
    return abs(value) if math.isfinite(value) else 0.0
