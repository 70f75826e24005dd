r"""What core's result types claim, held against a dense matrix: residuals, error bars, factorisations, intervals.

An algorithm that returns one of these types is held to its claims with no further word; one with a type of its own
hands in a truth (:class:`curvkit_core.testing.Case`). Each function here is ``truth(matrix, algorithm, inputs, result,
record)`` and holds at any moment of a run: a claim is right also before convergence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from curvkit_core.results.spectral_sums import FUNCTIONS
from curvkit_core.results.types import (
    ConditionResult,
    DensityResult,
    DiagonalResult,
    EigenResult,
    FunctionResult,
    LanczosResult,
    NormResult,
    NystromResult,
    SolveResult,
    SpectralNormResult,
    SpectralSumResult,
    SweepResult,
    TraceResult,
)
from curvkit_core.testing.check import Record

__all__ = ["TRUTHS", "Truth", "truth_of"]

Truth = Callable[[Tensor, Any, Mapping[str, Any], Any, Record], None]
_SIGMAS = 4.5  # one in 150,000 for a Gaussian; seeds are fixed, so a run that passes passes again
_EPS = torch.finfo(torch.float64).eps


def truth_of(result: Any) -> Truth | None:
    """The claims of this result's type, None for a type that is not core's."""
    return next((truth for kind, truth in TRUTHS.items() if isinstance(result, kind)), None)


def _slack(matrix: Tensor) -> float:
    """Rounding of a few hundred n-term products, in the matrix's unit."""
    return 100 * len(matrix) * _EPS * max(float(torch.linalg.matrix_norm(matrix, 2)), 1e-300)


def eigenpairs(matrix: Tensor, algorithm: Any, inputs: Mapping[str, Any], result: EigenResult, record: Record) -> None:
    """Unit vectors, the residuals those of A q - theta q, an eigenvalue of A within each, in the order of `which`."""
    slack = _slack(matrix)
    theta, Q = result.eigenvalues.double(), result.eigenvectors.double()
    record.note("pairs given", len(theta))
    if not len(theta):
        return
    record.at_most("a vector's norm less 1", float((Q.norm(dim=1) - 1).abs().max()), 1e-8)
    actual = (Q @ matrix.mT - theta[:, None] * Q).norm(dim=1)
    claimed = result.residuals.double()
    record.at_most("a residual beyond the one that is claimed", float((actual - claimed).max()), slack)
    spectrum = torch.linalg.eigvalsh(matrix)
    away = (theta[:, None] - spectrum).abs().min(dim=1).values
    record.at_most("an eigenvalue's distance beyond its residual", float((away - claimed).max()), slack)
    if bool(result.converged.all()):
        order = {
            "LA": spectrum.flip(0),
            "SA": spectrum,
            "LM": spectrum[spectrum.abs().argsort(descending=True)],
        }.get(result.which)
        if order is not None:
            short = float((order[: len(theta)] - theta).abs().max())
            record.at_most(f"the distance to the wanted end ({result.which})", short, float(claimed.max()) + slack)


def _estimate(
    what: str, found: float, truth: float, stderr: float, bias: float | None, slack: float, record: Record
) -> None:
    """|found - truth| within 4.5 standard errors and the bias bound; without a number there is no claim."""
    if not math.isfinite(found) or math.isinf(stderr) or (bias is not None and math.isinf(bias)):
        return
    record.note(f"{what}: standard error", stderr)
    allowed = _SIGMAS * stderr + (bias or 0.0) + slack
    record.at_most(f"{what}: distance from the truth {truth:.4g}", abs(found - truth), allowed)


def trace(matrix: Tensor, algorithm: Any, inputs: Mapping[str, Any], result: TraceResult, record: Record) -> None:
    """The trace within 4.5 standard errors, which are at most those of one sign probe."""
    n = len(matrix)
    one = math.sqrt(2.0) * float(matrix.norm())
    if result.num_matvecs > 1 and math.isfinite(result.stderr):
        record.at_most("the standard error against one probe's", result.stderr, one * math.sqrt(n))
    _estimate(
        "trace", result.estimate, float(matrix.trace()), result.stderr, result.bias_bound, _slack(matrix) * n, record
    )


def diagonal(matrix: Tensor, algorithm: Any, inputs: Mapping[str, Any], result: DiagonalResult, record: Record) -> None:
    """The diagonal within its total standard error."""
    estimate = result.estimate.double()
    distance = float((estimate - matrix.diagonal()).norm())
    _estimate("diagonal", distance, 0.0, result.total_stderr, result.bias_bound, _slack(matrix) * len(matrix), record)


def frobenius(matrix: Tensor, algorithm: Any, inputs: Mapping[str, Any], result: NormResult, record: Record) -> None:
    """The Frobenius norm within 4.5 standard errors; the root's bias is below one of them."""
    truth = float(matrix.norm())
    slack = _slack(matrix) + result.stderr if math.isfinite(result.stderr) else 0.0
    _estimate("Frobenius norm", result.estimate, truth, result.stderr, result.bias_bound, slack, record)


def spectral_norm(
    matrix: Tensor, algorithm: Any, inputs: Mapping[str, Any], result: SpectralNormResult, record: Record
) -> None:
    """An eigenvalue's magnitude within the residual; the largest one where it says that it has converged."""
    if not math.isfinite(result.estimate):
        return
    magnitudes = torch.linalg.eigvalsh(matrix).abs()
    allowed = result.residual + _slack(matrix)
    record.at_most("distance to an eigenvalue's magnitude", float((magnitudes - result.estimate).abs().min()), allowed)
    if result.converged:
        record.at_most("distance to the norm", abs(float(magnitudes.max()) - result.estimate), allowed)


def spectral_sum(
    matrix: Tensor, algorithm: Any, inputs: Mapping[str, Any], result: SpectralSumResult, record: Record
) -> None:
    """The sum of the function over the spectrum, within 4.5 standard errors and the bias bound."""
    spectrum = torch.linalg.eigvalsh(matrix)
    function = FUNCTIONS[result.function].value
    truth = float(function(spectrum, result.damping).sum())
    size = float(function(spectrum, result.damping).abs().sum())
    _estimate("sum", result.estimate, truth, result.stderr, result.bias_bound, 1e-8 * size, record)


def density(matrix: Tensor, algorithm: Any, inputs: Mapping[str, Any], result: DensityResult, record: Record) -> None:
    """Each probe's weights sum to 1, and their mean node is tr A / n within what the probes can vary."""
    if not result.nodes.numel():
        return
    weights, nodes = result.weights.double(), result.nodes.double()
    if result.method == "slq":
        record.at_most("a probe's weights' sum less 1", float((weights.sum(1) - 1).abs().max()), 1e-6)
    spread = float(matrix.norm()) * math.sqrt(2.0 / max(len(nodes), 1)) / len(matrix)
    found = float((weights * nodes).sum()) / float(weights.sum())
    record.at_most("the mean's distance from tr A / n", abs(found - float(matrix.trace()) / len(matrix)), 6 * spread)
    if result.density.numel():
        mass = float(torch.trapezoid(result.density.double(), result.grid.double()))
        record.at_most("the density's integral less the share it is of", abs(mass - result.bulk_share), 0.05)


def solution(matrix: Tensor, algorithm: Any, inputs: Mapping[str, Any], result: SolveResult, record: Record) -> None:
    """The residuals are those of (A + delta I) x - b."""
    if "b" not in inputs:
        return
    b, x = torch.atleast_2d(inputs["b"]).double(), torch.atleast_2d(result.solution).double()
    actual = (b - x @ matrix.mT - result.damping * x).norm(dim=1)
    slack = _slack(matrix) * (1 + float(x.norm()))
    record.at_most("a residual beyond the one that is claimed", float((actual - result.residuals).max()), slack)
    done = result.converged
    if bool(done.any()):
        record.at_most("a converged residual, relative", float((actual / b.norm(dim=1))[done].max()), 1e-2)


def function(matrix: Tensor, algorithm: Any, inputs: Mapping[str, Any], result: FunctionResult, record: Record) -> None:
    """f(A + delta I) b within the errors that are claimed, for functions known by name."""
    known = {
        "sqrt": torch.sqrt,
        "inverse": torch.reciprocal,
        "log": torch.log,
        "exp": torch.exp,
        "inverse-sqrt": torch.rsqrt,
    }
    if "b" not in inputs or result.function not in known:
        return
    values, vectors = torch.linalg.eigh(matrix)
    b, found = torch.atleast_2d(inputs["b"]).double(), torch.atleast_2d(result.value).double()
    truth = (b @ vectors * known[result.function](values + result.damping)) @ vectors.mT
    errors = (found - truth).norm(dim=1)
    said = result.errors.isfinite() & errors.isfinite()
    if bool(said.any()):
        slack = 1e-8 * float(truth.norm())
        record.at_most("an error beyond the one that is claimed", float((errors - result.errors)[said].max()), slack)


def nystrom(matrix: Tensor, algorithm: Any, inputs: Mapping[str, Any], result: NystromResult, record: Record) -> None:
    """Orthonormal rows, eigenvalues not negative, and the error within what is claimed."""
    U, values = result.eigenvectors.double(), result.eigenvalues.double()
    if not len(values):
        return
    record.at_most("U U^T less I", float((U @ U.mT - torch.eye(len(U), dtype=torch.float64)).abs().max()), 1e-8)
    record.at_most("minus the least eigenvalue", -float(values.min()), 0.0)
    left = matrix - U.mT @ (values[:, None] * U)
    slack = _slack(matrix) + 10 * result.shift
    record.at_most("the spectral error", float(torch.linalg.matrix_norm(left, 2)), result.error_bound + slack)
    if math.isfinite(result.frobenius_error) and math.isfinite(result.stderr):
        _estimate("error", result.frobenius_error, float(left.norm()), 2 * result.stderr, None, slack, record)


def lanczos(matrix: Tensor, algorithm: Any, inputs: Mapping[str, Any], result: LanczosResult, record: Record) -> None:
    """Q A = T Q + e_m r^T, and Q's rows are orthonormal."""
    Q = result.basis.double()
    if not len(Q):
        return
    T = torch.diag(result.alpha) + torch.diag(result.beta[: len(Q) - 1], 1) + torch.diag(result.beta[: len(Q) - 1], -1)
    left = Q @ matrix.mT - T @ Q
    left[-1] -= result.residual.double()
    record.at_most("the recurrence's gap", float(left.norm()), 10 * _slack(matrix))
    record.at_most("Q Q^T less I", float((Q @ Q.mT - torch.eye(len(Q), dtype=torch.float64)).abs().max()), 1e-8)


def condition(
    matrix: Tensor, algorithm: Any, inputs: Mapping[str, Any], result: ConditionResult, record: Record
) -> None:
    """The condition number lies in the interval that is claimed."""
    magnitudes = (torch.linalg.eigvalsh(matrix) + result.damping).abs()
    if float(magnitudes.max()) == 0.0:
        return  # 0 / 0 is no number
    truth = float(magnitudes.max() / magnitudes.min())
    if math.isfinite(result.lower):
        record.at_most("the interval's lower end against the truth", result.lower, truth * (1 + 1e-6))
    if math.isfinite(result.upper) and result.converged:
        record.at_most("the truth against the interval's upper end", truth, result.upper * (1 + 1e-6))


def sweep(matrix: Tensor, algorithm: Any, inputs: Mapping[str, Any], result: SweepResult, record: Record) -> None:
    """Of an operator without parameters, which is one group: its trace, norm and eigenvalues within their errors."""
    slack = _slack(matrix)
    spectrum = torch.linalg.eigvalsh(matrix)
    for row in result.rows:
        record.equal("a group's size", row.n, len(matrix))
        _estimate("trace", row.trace, float(matrix.trace()), row.trace_stderr, None, slack * row.n, record)
        away = slack + (row.frobenius_stderr if math.isfinite(row.frobenius_stderr) else 0.0)  # the root's bias
        _estimate("norm", row.frobenius_norm, float(matrix.norm()), row.frobenius_stderr, None, away, record)
        for value, residual in zip(row.eigenvalues, row.residuals, strict=True):
            gap = float((spectrum - value).abs().min())
            record.at_most("an eigenvalue's distance beyond its residual", gap - residual, slack)


TRUTHS: dict[type, Truth] = {
    EigenResult: eigenpairs,
    TraceResult: trace,
    DiagonalResult: diagonal,
    NormResult: frobenius,
    SpectralNormResult: spectral_norm,
    SpectralSumResult: spectral_sum,
    DensityResult: density,
    SolveResult: solution,
    FunctionResult: function,
    NystromResult: nystrom,
    LanczosResult: lanczos,
    ConditionResult: condition,
    SweepResult: sweep,
}
