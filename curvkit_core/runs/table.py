"""Tables of numbers, as rich draws them on a terminal or as plain lines in a pipe."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TextIO

from attrs import frozen

__all__ = ["Section", "plain_text", "print_sections"]

WIDTH = 110  # of notes in a pipe; tables are as wide as they are


@frozen(kw_only=True)
class Section:
    """One table of a report.

    Parameters
    ----------
    title : str
        Above it.
    columns : tuple of str
        Heads; the first column is text, the others are numbers. Empty for a section of notes alone.
    rows : tuple of tuple of str
        As long as `columns`.
    notes : tuple of str
        Lines below.
    """

    title: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()


def plain_text(sections: Sequence[Section]) -> str:
    """Return sections as aligned lines, with no colour and no frames."""
    blocks = []
    for section in sections:
        lines = [section.title, *(f"  {line}" for line in _aligned(section))]
        for note in section.notes:
            lines += textwrap.wrap(note, WIDTH, initial_indent="  ", subsequent_indent="    ")
        blocks.append("\n".join(line.rstrip() for line in lines))
    return "\n\n".join(blocks) + "\n"


def print_sections(sections: Sequence[Section], stream: TextIO) -> None:
    """Print sections: rich tables on a terminal, plain lines on anything else."""
    if not stream.isatty():
        stream.write(plain_text(sections))
        return
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    console = Console(file=stream, highlight=False)
    for i, section in enumerate(sections):
        if i:
            console.print()
        console.print(Text(section.title, style="bold"))
        if section.columns:
            table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
            for number, head in enumerate(section.columns):
                table.add_column(head, justify="left" if number == 0 else "right", no_wrap=True)
            for row in section.rows:
                table.add_row(*(Text(cell) for cell in row))
            if console.measure(table).maximum + 2 <= console.width:
                console.print(Padding(table, (0, 0, 0, 2)))
            else:  # rich would cut digits off
                console.print(Text("\n".join(f"  {line}" for line in _aligned(section))), soft_wrap=True)
        for note in section.notes:
            console.print(Padding(Text(note, style="dim"), (0, 0, 0, 2)))


def _aligned(section: Section) -> list[str]:
    if not section.columns:
        return []
    rows = [section.columns, *section.rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(section.columns))]
    out = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        out.append("  ".join([first.ljust(widths[0]), *cells]))
    return out
