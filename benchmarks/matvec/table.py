"""The table: plain text, aligned; a row a cell."""

from __future__ import annotations

import statistics
from typing import Any

from matvec.cells import CELLS, Cell
from matvec.memory import FORWARD, GRADIENT, SMALL
from matvec.workloads import Workload

__all__ = ["rows_of", "text_of"]

_MEGA = 2**20
# What rounding leaves in float32 after the network and its derivatives; with kinks, some units' derivatives differ too.
_ROUNDING, _ROUNDING_AND_KINKS = 1e-4, 1e-3


def rows_of(workload: Workload, times: dict[str, Any] | None, memory: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Put one row together for each cell: medians, quartiles, memory as ratios, and which numbers are missed."""
    names = list(times["cells"]) if times else [n for n in (memory or {}) if n in CELLS]
    return [_row(CELLS[name], workload, times, memory) for name in names]


def _row(cell: Cell, workload: Workload, times: dict[str, Any] | None, memory: dict[str, Any] | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "cell": cell.name,
        "tool": cell.tool,
        "matrix": cell.matrix,
        "how": cell.how,
        "exact": cell.exact,
        "limit": cell.forwards / 3,
        "target": None if cell.target is None or workload.checkpointed else cell.target * workload.allowance,
    }
    missed = []
    if times:
        found = times["cells"][cell.name]
        row |= {key: found[key] for key in ("error", "first", "failed", "ratios") if key in found}
        if found["ratios"]:
            low, middle, high = _quartiles(found["ratios"])
            row |= {"ratio": middle, "low": low, "high": high}
            if row["target"] is not None and middle > row["target"]:
                missed.append("time")
        rounding = _ROUNDING if workload.smooth else _ROUNDING_AND_KINKS
        if cell.exact and found["error"] is not None and not found["error"] < rounding:
            missed.append("inexact")
    if memory:
        row |= _memory_of(cell, workload, memory, missed)
    row["missed"] = missed
    return row


def _memory_of(cell: Cell, workload: Workload, memory: dict[str, Any], missed: list[str]) -> dict[str, Any]:
    mine, gradient, forward = (memory.get(name, {}) for name in (cell.name, GRADIENT, FORWARD))
    if "failed" in mine:
        return {"failed": mine["failed"]}
    if "peak" not in mine or gradient.get("peak", 0) < SMALL:
        return {}
    out = {"peak": mine["peak"] / gradient["peak"], "first_peak": mine["first"] / gradient["peak"]}
    target = cell.checkpointed_peak_target if workload.checkpointed else cell.peak_target
    out["peak_target"] = target
    if target is not None and out["peak"] > target:
        missed.append("peak")
    if cell.kept and forward.get("held"):
        out["held"] = mine["held"] / forward["held"]
        if cell.held_target is not None and not workload.checkpointed:
            out["held_target"] = cell.held_target
            if out["held"] > cell.held_target:
                missed.append("held")
    return out


def text_of(
    workload: Workload, rows: list[dict[str, Any]], times: dict[str, Any] | None, memory: dict[str, Any] | None
) -> str:
    """Return the workload's table as text."""
    lines = [f"{workload.name}: {workload.text}; n = {workload.num_parameters:,}, float32"]
    if times:
        low, middle, high = _quartiles(times["gradient_seconds"])
        lines.append(f"a gradient takes {1e3 * middle:.1f} ms ({1e3 * low:.1f} .. {1e3 * high:.1f})")
    if memory:
        sizes = {name: memory.get(name, {}) for name in (GRADIENT, FORWARD)}
        if sizes[GRADIENT].get("peak", 0) < SMALL:
            lines.append("memory: too little to be told from the libraries' own")
        else:
            peak, held = sizes[GRADIENT]["peak"] / _MEGA, sizes[FORWARD].get("held", 0) / _MEGA
            lines.append(f"a gradient's peak is {peak:,.0f} MiB, a forward's graph holds {held:,.0f} MiB")
    head = ["matrix", "tool", "how", "limit", "goal", "time", "quartiles", "first", "rel. error"]
    head += ["peak", "held", ""]
    cells = [head]
    for row in rows:
        if "failed" in row:
            cells.append([row["matrix"], row["tool"], row["how"], _number(row["limit"]), "", "-", row["failed"]])
            continue
        cells.append(
            [
                row["matrix"],
                row["tool"],
                row["how"],
                _number(row["limit"]),
                _number(row.get("target")),
                _number(row.get("ratio")),
                f"{row['low']:.2f} .. {row['high']:.2f}" if "low" in row else "",
                _number(row.get("first"), 1),
                "" if row.get("error") is None else f"{row['error']:.0e}",
                _number(row.get("peak")),
                _number(row.get("held")),
                f"above: {', '.join(row['missed'])}" if row["missed"] else "",
            ]
        )
    widths = [max(len(line[i]) for line in cells if len(line) == len(head)) for i in range(len(head))]
    words = {0, 1, 2, 11}
    for line in cells:
        short = len(line) < len(head)  # its last entry is a reason, as long as it likes
        padded = [
            text.ljust(width) if i in words or (short and i == len(line) - 1) else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=False))
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high
