"""The headline numbers of a run in plain words, each with what is known of its error."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from curvkit_core.runs.report.names import distinctions
from curvkit_core.runs.report.numbers import number, with_error

if TYPE_CHECKING:
    from curvkit_core.runs.outcome import Run, RunResult

__all__ = ["Headline", "headlines"]

NOTED = 0.01  # a bias below this times the standard error is not worth a sentence
Headline = tuple[str, str, str]  # what, the number, what it means


def headlines(run: Run) -> list[Headline]:
    """Return a run's headline numbers.

    Parameters
    ----------
    run : Run
        With its results.

    Returns
    -------
    list of (str, str, str)
        What it is of; the number with its error; a sentence on how well it is known.
    """
    marked = zip(run.results, distinctions(run.results), strict=True)
    return [(f"{what}{mark}", value, meaning) for r, mark in marked for what, value, meaning in _of(r)]


def _of(r: RunResult) -> list[Headline]:
    from curvkit_core.results.sweeps import SweepResult
    from curvkit_core.results.types import DensityResult, EigenResult, SpectralSumResult, TraceResult

    result = r.result
    if isinstance(result, EigenResult):
        return _eigen(result, r.label)
    if isinstance(result, TraceResult):
        return [_estimate(f"Trace of {r.label}", result)]
    if isinstance(result, SpectralSumResult):
        return [_estimate(f"Sum of {result.formula} over {r.label}", result)]
    if isinstance(result, DensityResult):
        return _density(result, r.label)
    if isinstance(result, SweepResult):
        return [_coupling(result, r.label)]
    return []


def _eigen(result: Any, label: str) -> list[Headline]:
    if not len(result.eigenvalues):
        return []
    first = 0 if result.which != "BE" else len(result.eigenvalues) - 1
    value, residual = float(result.eigenvalues[first]), float(result.residuals[first])
    end = {"LA": "Largest eigenvalue", "BE": "Largest eigenvalue", "SA": "Smallest eigenvalue"}
    what = end.get(result.which, "Eigenvalue of largest magnitude")
    text = f"An eigenvalue lies within {number(residual, 2)} of it: that is its residual."
    if not bool(result.converged[first]):
        text += " It has not converged to the tolerance that was asked for."
    return [(f"{what} of {label}", number(value, 6), text)]


def _estimate(what: str, result: Any) -> Headline:
    value, error = with_error(result.estimate, result.stderr)
    if not math.isfinite(result.estimate):
        return (what, "none", f"There is no estimate: {result.status}.")
    if result.stderr == 0.0:
        return (what, value, "Exact, up to rounding.")
    if not math.isfinite(result.stderr):
        return (what, value, "One sample only, so nothing is known of its error.")
    relative = f", {100.0 * result.stderr / abs(result.estimate):.2g} % of it" if result.estimate else ""
    text = f"The error is one standard error{relative}: about two times in three the truth is within it."
    if result.bias_bound and result.bias_bound > NOTED * result.stderr:
        text += f" A bias of up to {number(result.bias_bound, 2)} comes on top."
    return (what, f"{value} {error.replace('+-', '±')}", text)


def _density(result: Any, label: str) -> list[Headline]:
    mass = result.weights.sum()
    if not float(mass) > 0.0 or result.scale != "linear":
        return []
    below = result.nodes < -3 * result.sigma
    outside = sum(1.0 for v in result.outliers.tolist() if v < -3 * result.sigma)
    share = result.bulk_share * float(result.weights[below].sum() / mass)
    share += outside * (1.0 - result.bulk_share) / max(len(result.outliers), 1)
    text = "Of all eigenvalues, by the density's quadrature: those below minus three times its smoothing width."
    return [(f"Clearly negative eigenvalues of {label}", f"{100.0 * share:.1f} %", text)]


def _coupling(result: Any, label: str) -> Headline:
    value, error = with_error(100.0 * result.coupling, 100.0 * result.coupling_stderr)
    shown = f"{value} {error.replace('+-', '±')} %"
    groups = len(result.rows)
    text = f"What a block-diagonal approximation over these {groups} groups leaves out of the squared Frobenius norm."
    return (f"Coupling between groups of {label}", shown, text)
