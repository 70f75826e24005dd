"""The result types: an estimate, what is known of its error, and what the error covers."""

from __future__ import annotations

from typing import Any

import torch
from attrs import Factory, frozen
from torch import Tensor

__all__ = ["DensityResult", "EigenResult", "ResultInfo", "SolveResult", "TraceResult"]


@frozen(kw_only=True, eq=False)
class ResultInfo:
    """Where a result comes from: enough to repeat it and to judge it.

    Parameters
    ----------
    operator, algorithm : str
        Class names, or the names in the registry where a run file made the result.
    options : dict
        The algorithm's configuration, field by field.
    num_matvecs : int
        Products of the operator with one vector.
    seconds : float
        Wall time of the run, products included.
    seed : int or None
        The seed that was used, also when it was drawn; None where nothing is random.
    dtype, device : str
        Of the vectors.
    n : int
        The operator's size.
    weighting : str
        How the data are averaged: ``"unit"`` or ``"batch-mean"``; empty for an operator without data.
    units : float or None
        What the data's sum is divided by (examples or target tokens); None for an operator without data.
    strategy : str
        How products are made.
    error_covers : str
        In words: what the result's error speaks of, and what it leaves out.
    converged : bool or None
        None where the algorithm has no such notion.
    interrupted : str
        Empty, or what ended the run early: ``"matvecs"``, ``"seconds"`` or ``"keyboard"``.
    parameter_names : tuple of str
        The parameters the operator speaks of.
    findings : tuple of str
        What the checks could not tell, a line each.
    versions : dict
        Package versions.
    """

    operator: str
    algorithm: str
    options: dict[str, Any] = Factory(dict)
    num_matvecs: int
    seconds: float
    seed: int | None = None
    dtype: str
    device: str
    n: int
    weighting: str = ""
    units: float | None = None
    strategy: str = ""
    error_covers: str = ""
    converged: bool | None = None
    interrupted: str = ""
    parameter_names: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    versions: dict[str, str] = Factory(dict)


@frozen(kw_only=True, eq=False)
class EigenResult:
    r"""Eigenpairs :math:`A q_i = \theta_i q_i` of a symmetric operator, and how well each is known.

    Parameters
    ----------
    eigenvalues : Tensor, shape (k,), float64 on the CPU
        In the operator's unit; descending for ``which="LA"``, by descending magnitude for ``"LM"``, ascending for
        ``"SA"`` and ``"BE"``.
    eigenvectors : Tensor, shape (k, n)
        A row each, unit norm, in the operator's dtype and on its device.
    residuals : Tensor, shape (k,), float64 on the CPU
        Bounds on :math:`\|A q_i - \theta_i q_i\|_2`. An eigenvalue of A lies within ``residuals[i]`` of
        ``eigenvalues[i]``.
    converged : Tensor, shape (k,), bool
        Whether the residual came below the tolerance that was asked for.
    num_matvecs : int
        Products used.
    seed : int or None
        Of the start vector; None where it was given.
    which : str
        The end of the spectrum that was asked for.
    error_covers : str
        In words, what ``residuals`` covers.
    info : ResultInfo or None
        Filled in by the driver.
    """

    eigenvalues: Tensor
    eigenvectors: Tensor
    residuals: Tensor
    converged: Tensor
    num_matvecs: int
    seed: int | None = None
    which: str = "LA"
    error_covers: str = (
        "residual norm of each pair: rounding in the products and vectors is included, sampling of the data is not"
    )
    info: ResultInfo | None = None


@frozen(kw_only=True, eq=False)
class TraceResult:
    r"""An estimate of :math:`\operatorname{tr} A` with its standard error.

    Parameters
    ----------
    estimate : float
        In the operator's unit.
    stderr : float
        One standard error over the random probes; 0.0 where the answer is exact.
    bias_bound : float or None
        A bound on the estimator's bias: 0.0 where it is unbiased, None where none is known.
    num_matvecs : int
        Products used.
    method : str
        The estimator that ran.
    seed : int
        Of the probes.
    samples : Tensor, shape (m,), float64 on the CPU
        The independent estimates whose mean is ``estimate`` and whose spread gives ``stderr``.
    error_covers : str
        In words, what ``stderr`` covers.
    info : ResultInfo or None
        Filled in by the driver.
    """

    estimate: float
    stderr: float
    bias_bound: float | None = 0.0
    num_matvecs: int
    method: str
    seed: int
    samples: Tensor = Factory(lambda: torch.empty(0, dtype=torch.float64))
    error_covers: str = "the random probes; rounding in the products and sampling of the data are not included"
    info: ResultInfo | None = None


@frozen(kw_only=True, eq=False)
class DensityResult:
    r"""A spectral density :math:`\phi(t) = \frac1n\sum_i g_\sigma(t-\lambda_i)`, of mass 1, with a band.

    Parameters
    ----------
    grid : Tensor, shape (g,), float64
        Points t.
    density : Tensor, shape (g,), float64
        The estimate at each point, per unit of eigenvalue.
    stderr : Tensor, shape (g,), float64
        One standard error over the probes.
    nodes, weights : Tensor, shape (num_probes, steps), float64
        Each probe's quadrature rule (Ritz values and squared first components): enough to draw the density anew with
        another width, with no further product. Unused places carry weight 0.
    sigma : float
        Width of the Gaussian.
    num_matvecs : int
        Products used.
    seed : int
        Of the probes.
    error_covers : str
        In words, what ``stderr`` covers.
    info : ResultInfo or None
        Filled in by the driver.
    """

    grid: Tensor
    density: Tensor
    stderr: Tensor
    nodes: Tensor
    weights: Tensor
    sigma: float
    num_matvecs: int
    seed: int
    error_covers: str = "the random probes; the width sigma and the finite number of Lanczos steps are not included"
    info: ResultInfo | None = None


@frozen(kw_only=True, eq=False)
class SolveResult:
    r"""Solutions of :math:`(A + \delta I)x_i = b_i`, and how well each solves its system.

    Parameters
    ----------
    solution : Tensor, shape (n,) or (r, n)
        As the right-hand sides were given.
    residuals : Tensor, shape (r,), float64 on the CPU
        :math:`\|b_i - (A + \delta I)x_i\|_2`: computed with a product of x_i where the system converged or stagnated,
        else as the recurrence has it.
    converged : Tensor, shape (r,), bool
        Whether the residual came below the tolerance that was asked for.
    status : tuple of str
        One a right-hand side: ``"converged"``; ``"breakdown"``: a direction of no positive curvature was met, the
        operator (with damping) is not positive definite; ``"stagnated"``: rounding keeps the residual above the
        tolerance; ``"max_matvecs"``: a budget was spent first.
    curvatures : Tensor, shape (r,), float64 on the CPU
        :math:`p^\top(A + \delta I)p / p^\top p` of the direction that showed a breakdown; NaN elsewhere.
    damping : float
        delta.
    num_matvecs : int
        Products used, for all right-hand sides together.
    error_covers : str
        In words, what ``residuals`` covers.
    info : ResultInfo or None
        Filled in by the driver.
    """

    solution: Tensor
    residuals: Tensor
    converged: Tensor
    status: tuple[str, ...]
    curvatures: Tensor = Factory(lambda: torch.empty(0, dtype=torch.float64))
    damping: float = 0.0
    num_matvecs: int
    error_covers: str = (
        "residual norm of each system: the solution's own error is at most that over the smallest eigenvalue; rounding "
        "in the products is included, sampling of the data is not"
    )
    info: ResultInfo | None = None
