"""What a researcher wants to read of a run: eigenvalues with residuals, traces with errors, densities in a line."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from curvkit_core.runs.report.names import job_names
from curvkit_core.runs.report.numbers import number, number_column, with_error
from curvkit_core.runs.report.sweep_sections import slice_sections, sweep_sections
from curvkit_core.runs.table import Section

if TYPE_CHECKING:
    from curvkit_core.results.types import DensityResult
    from curvkit_core.runs.outcome import Run, RunResult

__all__ = ["report_sections"]

SIDE_BY_SIDE = 3  # operators in one eigenvalue table: four no longer fit 100 columns


def report_sections(run: Run) -> list[Section]:
    """Return the report of a run, an algorithm a section and the operators side by side.

    Parameters
    ----------
    run : Run
        With its results.

    Returns
    -------
    list of Section
        For :func:`curvkit_core.runs.table.print_sections`.
    """
    from curvkit_core.results.landscape import SliceResult
    from curvkit_core.results.sweeps import SweepResult
    from curvkit_core.results.types import DensityResult, EigenResult, SpectralSumResult, TraceResult

    makers: dict[type, Callable[[Sequence[RunResult]], list[Section]]] = {
        EigenResult: _eigen,
        TraceResult: _trace,
        DensityResult: _density,
        SpectralSumResult: _sums,
        SweepResult: sweep_sections,
        SliceResult: slice_sections,
    }
    sections = [_problem_section(run)]
    for index in sorted({r.algorithm_index for r in run.results}):
        results = [r for r in run.results if r.algorithm_index == index]
        for kind, make in makers.items():
            of_kind = [r for r in results if isinstance(r.result, kind)]
            if of_kind:
                sections += make(of_kind)
        sections += [_other(r) for r in results if not isinstance(r.result, tuple(makers))]
    sections.append(_cost(run))
    return sections


def _problem_section(run: Run) -> Section:
    facts = run.problem
    lines = [facts["description"]] if facts.get("description") else []
    size = f"n = {facts['n']:,} in {facts['parameters']} tensors" if "n" in facts else ""
    infos = [r.result.info for r in run.results if getattr(r.result, "info", None) is not None]
    units = next((info.units for info in infos if info.units), None)
    data = f"averaged over {units:,.0f} units" if units and facts.get("weighting") == "unit" else ""
    if facts.get("weighting") == "batch-mean":
        data = "averaged over batch means"
    where = f"{facts['dtype']} on {facts['device']}" if "dtype" in facts else ""
    model = ", ".join(str(facts[key]) for key in ("model", "loss") if key in facts)
    lines.append("; ".join(part for part in (model, size, data, where) if part))
    kind = run.plan.get("problem", {}).get("kind", "")
    return Section(title=f"problem {kind}".rstrip(), notes=tuple(lines))


def _eigen(results: Sequence[RunResult]) -> list[Section]:
    sections = []
    for start in range(0, len(results), SIDE_BY_SIDE):
        shown = results[start : start + SIDE_BY_SIDE]
        columns = ["#"]
        for r in shown:
            columns += [r.label, "residual", ""]
        depth = max(len(r.result.eigenvalues) for r in shown)
        texts = [number_column(r.result.eigenvalues.tolist()) for r in shown]
        rows = []
        for i in range(depth):
            row = [str(i + 1)]
            for r, text in zip(shown, texts, strict=True):
                row += _eigen_cells(r.result, text, i)
            rows.append(tuple(row))
        first = shown[0]
        notes = []
        missing = [f"{r.label} {int((~r.result.converged).sum())}" for r in shown if not bool(r.result.converged.all())]
        if missing:
            notes.append(f"x: not converged to the tolerance asked for ({', '.join(missing)}).")
        coarse = [r.label for r in shown if r.result.status == "noise"]
        if coarse:
            notes.append(f"The products or the stored basis are too coarse for this tolerance: {', '.join(coarse)}.")
        notes.append(f"An eigenvalue of the operator lies within each residual. Covered: {first.result.error_covers}.")
        sections.append(
            Section(
                title=f"eigenvalues ({first.algorithm}, {_options(first.result, ('k', 'which', 'tol'))})",
                columns=tuple(columns),
                rows=tuple(rows),
                notes=tuple(notes),
            )
        )
    return sections


def _eigen_cells(result: Any, texts: list[str], i: int) -> list[str]:
    if i >= len(texts):
        return ["", "", ""]
    return [texts[i], number(float(result.residuals[i]), 2), "" if bool(result.converged[i]) else "x"]


def _trace(results: Sequence[RunResult]) -> list[Section]:
    rows = []
    for r in results:
        t = r.result
        relative = f"{100 * t.stderr / abs(t.estimate):.2g} %" if t.estimate and math.isfinite(t.stderr) else ""
        bias = "unknown" if t.bias_bound is None else "none" if t.bias_bound == 0 else number(t.bias_bound, 2)
        rows.append((r.label, *with_error(t.estimate, t.stderr), relative, bias))
    first = results[0].result
    notes = [f"+- is one standard error. Covered: {first.error_covers}."]
    indefinite = [r.label for r in results if r.result.status == "indefinite"]
    if indefinite:
        notes.append(
            f"No estimate for {', '.join(indefinite)}: method {first.method} needs a positive semidefinite operator "
            "and met negative curvature. Mend: method xtrace."
        )
    return [
        Section(
            title=f"trace ({results[0].algorithm}, {_options(first, ('method', 'num_matvecs'))})",
            columns=("operator", "trace", "stderr", "relative", "bias bound"),
            rows=tuple(rows),
            notes=tuple(notes),
        )
    ]


def _density(results: Sequence[RunResult]) -> list[Section]:
    rows = [(r.label, f"{r.result.mass:.4f}", *_share_cells(r.result), number(r.result.sigma, 2)) for r in results]
    first = results[0].result
    probes, length = first.nodes.shape
    of = f"{probes} probe{'s' if probes > 1 else ''} of {length} {'moments' if first.method == 'kpm' else 'steps'}"
    near = ("|t| <= resolution", "t < -resolution") if first.scale == "log" else ("|t| <= 3 sigma", "t < -3 sigma")
    ends = "Smallest and largest are ends of the Ritz values; the shares are of all eigenvalues."
    if first.method == "kpm":
        ends = "Smallest and largest are ends of the interval taken; the shares are of all eigenvalues."
    notes = [ends, f"Covered by the band: {first.error_covers}."]
    notes += [_outliers(r) for r in results if len(r.result.outliers)]
    return [
        Section(
            title=f"spectral density ({results[0].algorithm}, {first.method}, {of}, {first.scale} scale)",
            columns=("operator", "mass", "smallest", "largest", *near, "sigma"),
            rows=tuple(rows),
            notes=tuple(notes),
        )
    ]


def _outliers(r: RunResult) -> str:
    values = r.result.outliers.tolist()
    ends = f"{number(min(values), 4)} to {number(max(values), 4)}"
    return f"{r.label}: {len(values)} outlier{'s' if len(values) > 1 else ''} taken out, {ends}."


def _share_cells(d: DensityResult) -> tuple[str, str, str, str]:
    """Return ends, and the shares near zero and below it, from the quadrature rules and the outliers themselves."""
    total = float(d.weights.sum())
    if not total > 0.0:  # stopped before the first probe was through
        return "", "", "", ""
    near, alone = (d.resolution if d.scale == "log" else 3 * d.sigma), (1.0 - d.bulk_share) / max(len(d.outliers), 1)
    values = [*d.nodes[d.weights > 0].tolist(), *d.outliers.tolist()]
    shares = []
    for bulk, known in (
        (d.nodes.abs() <= near, d.outliers.abs() <= near),
        (d.nodes < -near, d.outliers < -near),
    ):
        mass = d.bulk_share * float(d.weights[bulk].sum()) / total + alone * float(known.sum())
        shares.append(100.0 * mass)
    return (number(min(values), 4), number(max(values), 4), f"{shares[0]:.1f} %", f"{shares[1]:.1f} %")


def _sums(results: Sequence[RunResult]) -> list[Section]:
    rows, notes = [], []
    for r in results:
        t = r.result
        relative = f"{100 * t.stderr / abs(t.estimate):.2g} %" if t.estimate and math.isfinite(t.stderr) else ""
        bias = "unknown" if t.bias_bound is None else "none" if t.bias_bound == 0 else number(t.bias_bound, 2)
        rows.append((r.label, *with_error(t.estimate, t.stderr), relative, bias))
        if t.status != "done":
            notes.append(f"{r.label}: {t.status}.")
    first = results[0].result
    options = _options(first, ("damping", "num_probes", "steps"))
    return [
        Section(
            title=f"sum of {first.formula} ({results[0].algorithm}, {options})",
            columns=("operator", "sum", "stderr", "relative", "bias bound"),
            rows=tuple(rows),
            notes=(*notes, f"+- is one standard error. Covered: {first.error_covers}."),
        )
    ]


def _other(r: RunResult) -> Section:
    """A third party's result: its numbers as they are, its tensors by shape, small ones in full."""
    items = (
        dict(r.result)
        if isinstance(r.result, Mapping)
        else (
            {f.name: getattr(r.result, f.name) for f in attrs.fields(type(r.result))}
            if attrs.has(type(r.result))
            else {"result": r.result}
        )
    )
    rows = tuple((name, _shown(value)) for name, value in items.items() if name not in ("info", "error_covers"))
    covers = str(items.get("error_covers", ""))
    notes = (f"Covered by the error: {covers}.",) if covers else ()
    return Section(title=f"{r.algorithm} on {r.label}", columns=("field", "value"), rows=rows, notes=notes)


def _shown(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "tolist"):
        on_disk = getattr(value, "is_meta", False)
        if value.ndim == 0 and not on_disk:
            return _shown(value.tolist())
        if value.ndim == 1 and len(value) <= 6 and not on_disk:
            return ", ".join(_shown(item) for item in value.tolist())
        return f"tensor {tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return number(value, 6) if isinstance(value, float) else str(value)


def _cost(run: Run) -> Section:
    rows = []
    for r, name in zip(run.results, job_names(run.results), strict=True):
        info = getattr(r.result, "info", None)
        products = getattr(r.result, "num_matvecs", getattr(info, "num_matvecs", ""))
        each = f"{1e3 * r.seconds / products:.1f}" if isinstance(products, int) and products else ""
        rows.append((name, str(products), f"{r.seconds:.2f}", each, _status(r.result)))
    notes = list(dict.fromkeys(f"cannot tell: {finding}" for r in run.results for finding in _findings(r.result)))
    return Section(
        title="cost",
        columns=("", "products", "seconds", "ms each", "status"),
        rows=tuple(rows),
        notes=tuple(notes),
    )


def _status(result: Any) -> str:
    info = getattr(result, "info", None)
    stopped = getattr(info, "interrupted", "")
    if stopped:
        return "stopped by Ctrl-C" if stopped == "keyboard" else f"stopped: budget of {stopped}"
    converged = getattr(info, "converged", None)
    return "done" if converged is None else "converged" if converged else "not converged"


def _findings(result: Any) -> Iterable[str]:
    return getattr(getattr(result, "info", None), "findings", ()) or ()


def _options(result: Any, names: Sequence[str]) -> str:
    options = getattr(getattr(result, "info", None), "options", {}) or {}
    return ", ".join(f"{name} = {options[name]}" for name in names if name in options) or type(result).__name__
