r"""Runs side by side: differences with errors, overlaps of eigenspaces, overlaid densities.

Two independent estimates differ by :math:`b - a \pm \sqrt{s_a^2 + s_b^2}`. Two eigenspaces with orthonormal bases Q and
P of k vectors have the overlap :math:`\|Q P^\top\|_F^2/k`: 1 where they are the same, about k/n where they are random.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from curvkit_core.runs.outcome import Run, RunResult
from curvkit_core.runs.quantities import Quantity, quantities
from curvkit_core.runs.report.axis import Axis, axis_over
from curvkit_core.runs.report.chart import Mark, chart
from curvkit_core.runs.report.names import distinctions
from curvkit_core.runs.report.numbers import number, with_error
from curvkit_core.runs.report.page import page, tables
from curvkit_core.runs.table import Section

__all__ = ["compare_runs", "comparison_html", "eigenspace_overlap"]

COLOURS = ("a", "b", "c")
EIGENVALUES = 5  # of a result that are compared


def eigenspace_overlap(first: Any, second: Any) -> float | None:
    r"""Return :math:`\|Q P^\top\|_F^2/k` of two results' eigenvectors, k the smaller count; None where sizes differ.

    Parameters
    ----------
    first, second : EigenResult
        Of operators over the same parameters.

    Returns
    -------
    float or None
        Between 0 and 1; None also where vectors have no elements here, as in a run on shards before it is loaded.
    """
    import torch

    Q, P = first.eigenvectors, second.eigenvectors
    k = min(len(Q), len(P))
    if k == 0 or Q.shape[1] != P.shape[1] or Q.is_meta or P.is_meta:
        return None
    Q, P = (torch.linalg.qr(rows[:k].double().cpu().mT)[0] for rows in (Q, P))
    return float((Q.mT @ P).square().sum()) / k


def compare_runs(runs: Sequence[Run]) -> list[Section]:
    """Return tables of what two or more runs have in common, the first of them being the base.

    Parameters
    ----------
    runs : sequence of Run
        Two at least.

    Returns
    -------
    list of Section
        The runs; numbers with errors, and their differences from the base; overlaps of eigenspaces. Results are matched
        by algorithm and operator, in their order; those left over by what they are and the operator: the eigenvalues of
        one algorithm with those of another.
    """
    names = _names(runs)
    sections = [Section(title="runs", notes=tuple(_run_line(n, r) for n, r in zip(names, runs, strict=True)))]
    numbers, overlaps = [], []
    marks = {id(r): mark for r, mark in zip(runs[0].results, distinctions(runs[0].results), strict=True)}
    for found in _matched(runs):
        subject = f"{_subject(found)}{marks[id(found[0])]}"
        numbers += _number_rows(subject, found, names)
        overlaps += _overlap_rows(subject, found, names)
    if numbers:
        sections.append(
            Section(
                title=f"numbers, and differences from {names[0]}",
                columns=("", "run", "value", "error", "difference", "error", "in errors"),
                rows=tuple(numbers),
                notes=(
                    "An eigenvalue's error is its residual. A difference has the error of both, as if they were "
                    "independent: estimates with the same seed share their probes, and differ by less than that.",
                    "Beyond 3 errors a difference is hardly chance.",
                ),
            )
        )
    if overlaps:
        note = "1: the same space of eigenvectors; k/n: no more than random ones have."
        columns = ("", "run", "vectors", "overlap", "k/n")
        sections.append(
            Section(
                title=f"overlap of eigenspaces with {names[0]}", columns=columns, rows=tuple(overlaps), notes=(note,)
            )
        )
    if len(sections) == 1:
        sections.append(
            Section(title="nothing to compare", notes=("Nothing of one kind was computed on one operator in all.",))
        )
    return sections


def comparison_html(runs: Sequence[Run], sections: Sequence[Section]) -> str:
    """Return a page: the tables, and the densities of all runs in one chart an operator."""
    names = _names(runs)
    charts = []
    for matched in _matched(runs):
        found = [r.result for r in matched]
        label = matched[0].label
        charts += [_overlaid(label, found, names, scale) for scale in ("linear", "log") if _are_densities(found)]
    parts = [("numbers", "Side by side", tables(sections))]
    if charts:
        parts.append(("densities", "Spectral densities", f'<div class="figures">{"".join(charts)}</div>'))
    lead = f'<p class="lead">{escape(", ".join(names))}</p>'
    return page("Curvature compared", lead, parts)


def _matched(runs: Sequence[Run]) -> list[list[RunResult]]:
    """One result of each run, for all that the runs have in common, in the base's order."""
    left = [list(run.results) for run in runs]
    found = []
    for key_of in (_by_algorithm, _by_kind):
        keyed = [_keyed(results, key_of) for results in left]
        rows = [[each[key] for each in keyed] for key in keyed[0] if all(key in other for other in keyed[1:])]
        found += rows
        left = [[r for r in results if not any(r is row[i] for row in rows)] for i, results in enumerate(left)]
    places = {id(r): i for i, r in enumerate(runs[0].results)}
    return sorted(found, key=lambda row: places[id(row[0])])


def _by_algorithm(r: RunResult) -> tuple[str, ...]:
    return (r.algorithm, r.label, _end(r))


def _by_kind(r: RunResult) -> tuple[str, ...]:
    return (type(r.result).__name__, r.label, _end(r))


def _end(r: RunResult) -> str:
    """Of eigenvalues, which: the largest are not compared with the smallest."""
    return str(getattr(r.result, "which", ""))


def _keyed(
    results: Sequence[RunResult], key_of: Callable[[RunResult], tuple[str, ...]]
) -> dict[tuple[tuple[str, ...], int], RunResult]:
    """By key; results of one key are numbered."""
    keyed: dict[tuple[tuple[str, ...], int], RunResult] = {}
    for r in results:
        key = key_of(r)
        keyed[key, sum(other == key for other, _ in keyed)] = r
    return keyed


def _subject(found: Sequence[RunResult]) -> str:
    """``eigsh on core/ggn``; ``eigsh, lobpcg on core/ggn``."""
    algorithms = dict.fromkeys(r.algorithm.removeprefix("core/") for r in found)
    return f"{', '.join(algorithms)} on {found[0].label}"


def _names(runs: Sequence[Run]) -> list[str]:
    """The folders' own names, where these tell the runs apart; else the paths."""
    short = [Path(run.folder).name or str(run.folder) for run in runs]
    return short if len(set(short)) == len(short) else [str(run.folder) for run in runs]


def _run_line(name: str, run: Run) -> str:
    facts = run.problem
    size = f", n = {facts['n']:,}" if isinstance(facts.get("n"), int) else ""
    return f"{name}: {run.plan.get('problem', {}).get('kind', '?')}{size}. {facts.get('description', '')}".strip()


def _number_rows(subject: str, found: Sequence[RunResult], names: Sequence[str]) -> list[tuple[str, ...]]:
    tables_ = [{name: (value, error) for name, value, error in _compared(r.result)} for r in found]
    rows: list[tuple[str, ...]] = []
    for name, (base, base_error) in tables_[0].items():
        if not all(name in table for table in tables_):
            continue
        rows.append((f"{subject}: {name}", names[0], *with_error(base, base_error), "", "", ""))
        for other, table in zip(names[1:], tables_[1:], strict=True):
            value, error = table[name]
            spread = math.hypot(error, base_error)
            far = f"{abs(value - base) / spread:.1f}" if spread > 0.0 and math.isfinite(spread) else ""
            rows.append(("", other, *with_error(value, error), *with_error(value - base, spread), far))
    return rows


def _compared(result: Any) -> list[Quantity]:
    """All numbers of a result, of eigenvalues the first."""
    from curvkit_core.results.types import EigenResult

    found = quantities(result)
    return found[:EIGENVALUES] if isinstance(result, EigenResult) else found


def _overlap_rows(subject: str, found: Sequence[RunResult], names: Sequence[str]) -> list[tuple[str, ...]]:
    from curvkit_core.results.types import EigenResult

    rows: list[tuple[str, ...]] = []
    base = found[0].result
    if not isinstance(base, EigenResult):
        return []
    for name, other in zip(names[1:], found[1:], strict=True):
        if not isinstance(other.result, EigenResult):
            continue
        overlap = eigenspace_overlap(base, other.result)
        k, n = min(len(base.eigenvalues), len(other.result.eigenvalues)), base.eigenvectors.shape[1]
        left = base.eigenvectors.is_meta or other.result.eigenvectors.is_meta
        shown = f"{overlap:.3f}" if overlap is not None else "left on disk" if left else "other parameters"
        rows.append((subject, name, str(k), shown, number(k / n, 2)))
    return rows


def _are_densities(results: Sequence[Any]) -> bool:
    from curvkit_core.results.types import DensityResult

    return all(isinstance(r, DensityResult) and r.scale == "linear" and len(r.grid) > 1 for r in results)


def _overlaid(label: str, results: Sequence[Any], names: Sequence[str], scale: str) -> str:
    marks, ends, tops, floors = [], [], [], []
    for i, (result, name) in enumerate(zip(results, names, strict=True)):
        step = max(1, len(result.grid) // 400)
        grid, density = result.grid[::step].tolist(), result.density[::step].tolist()
        marks.append(Mark(kind="dashes" if i >= 3 else "line", x=grid, y=density, colour=COLOURS[i % 3], label=name))
        ends += [grid[0], grid[-1]]
        tops.append(max(density))
        floors.append(1e-5 * max(density))
    x = axis_over(ends, label="eigenvalue", margin=0.02)
    top = max(*tops, 1e-300)
    y = Axis(low=0.0, high=1.05 * top, label="density (mass 1)")
    if scale == "log":
        y = Axis(low=max(min(floors), 1e-12 * top), high=3.0 * top, scale="log", label="density (mass 1)")
    suffix = ", logarithmic" if scale == "log" else ""
    return chart(marks, x, y, title=f"Spectral density of {label}{suffix}")
