"""Tables of a sweep over groups of parameters, and of slices of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from curvkit_core.runs.report.numbers import fixed, number, with_error
from curvkit_core.runs.table import Section

if TYPE_CHECKING:
    from curvkit_core.runs.outcome import RunResult

__all__ = ["slice_sections", "sweep_sections"]


def sweep_sections(results: Sequence[RunResult]) -> list[Section]:
    """Return a table an operator: a row a group."""
    return [_sweep(r.result, r.label) for r in results]


def slice_sections(results: Sequence[RunResult]) -> list[Section]:
    """Return a table an operator: what the loss itself says of each eigenvalue."""
    return [_slices(r.result, r.label) for r in results]


def _sweep(result: Any, label: str) -> Section:
    most = max((len(row.eigenvalues) for row in result.rows), default=0)
    heads = ("largest eigenvalue", *(f"number {i + 1}" for i in range(1, most)))[:most]
    rows = []
    for row in result.rows:
        values = [number(value, 6) for value in row.eigenvalues] + [""] * (most - len(row.eigenvalues))
        trace, error = with_error(row.trace, row.trace_stderr)
        norm, norm_error = with_error(row.frobenius_norm, row.frobenius_stderr)
        share = f"{fixed(100.0 * row.share, 1)} %"
        rows.append((row.group, f"{row.n:,}", *values, trace, error, share, norm, norm_error))
    total, total_error = with_error(result.trace, result.trace_stderr)
    coupling, coupling_error = with_error(100.0 * result.coupling, 100.0 * result.coupling_stderr)
    open_ = [row.group for row in result.rows if not row.converged]
    notes = [
        f"Traces add up to {total} {total_error}. +- is one standard error over {result.probes} probes a group.",
        f"Coupling: {coupling} {coupling_error} % of the squared Frobenius norm lies between the groups.",
    ]
    if open_:
        notes.append(f"Eigenvalues not converged to the tolerance asked for: {', '.join(open_)}.")
    by = result.by if isinstance(result.by, str) else ", ".join(result.by)
    return Section(
        title=f"sweep of {label} by {by}",
        columns=("group", "n", *heads, "trace", "stderr", "share", "Frobenius norm", "stderr"),
        rows=tuple(rows),
        notes=tuple(notes),
    )


def _slices(result: Any, label: str) -> Section:
    rows = []
    for i, curvature in enumerate(result.curvatures.tolist()):
        seen, error = float(result.seen_curvatures[i]), float(result.seen_errors[i])
        rows.append((str(i + 1), number(curvature, 6), *with_error(seen, error), number(float(result.slopes[i]), 3)))
    return Section(
        title=f"loss along eigenvectors of {label}",
        columns=("#", "eigenvalue", "seen in the loss", "error", "slope"),
        rows=tuple(rows),
        notes=(
            "Seen in the loss: its second differences, forward passes alone. They are the Hessian's; the eigenvalue of "
            "another operator, as the GGN, leaves out what that one leaves out.",
        ),
    )
