"""Estimates by random probes, with their standard errors: a trace, a norm, a diagonal."""

from __future__ import annotations

import torch
from attrs import Factory, frozen
from torch import Tensor

from curvkit_core.results.info import ResultInfo
from curvkit_core.results.notebook import ShowsItself

__all__ = ["DiagonalResult", "NormResult", "TraceResult"]

_COVERS = "the random probes; rounding in the products and sampling of the data are not included"


@frozen(kw_only=True, eq=False)
class TraceResult(ShowsItself):
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
        The estimates whose mean is ``estimate`` and whose spread gives ``stderr``: independent ones, or each with one
        test vector left out.
    converged : bool or None
        Whether the standard error came below the tolerance that was asked for; None where none was.
    status : str
        ``"estimated"``; ``"exact"`` where the basis spans everything; ``"indefinite"`` where the method needs a
        positive semidefinite operator and met negative curvature: there is no estimate then (NaN).
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
    converged: bool | None = None
    status: str = "estimated"
    error_covers: str = _COVERS
    info: ResultInfo | None = None


@frozen(kw_only=True, eq=False)
class DiagonalResult(ShowsItself):
    r"""An estimate of :math:`\operatorname{diag} A`, each element with its standard error.

    Parameters
    ----------
    estimate : Tensor, shape (n,)
        In the operator's unit, dtype and order, on its device.
    stderr : Tensor, shape (n,)
        One standard error of each element; 0.0 where the answer is exact.
    total_stderr : float
        The root of the squared errors' sum: one standard error of the whole, :math:`|\hat d - d|_2`.
    bias_bound : float or None
        A bound on the bias of any element: 0.0 where the estimator is unbiased.
    num_matvecs : int
        Products used.
    method : str
        The estimator that ran.
    seed : int
        Of the probes.
    converged : bool or None
        Whether ``total_stderr`` came below the tolerance times :math:`|\hat d|_2`; None where none was asked for.
    status : str
        As :class:`TraceResult` has it.
    error_covers : str
        In words, what the errors cover.
    info : ResultInfo or None
        Filled in by the driver.
    """

    estimate: Tensor
    stderr: Tensor
    total_stderr: float
    bias_bound: float | None = 0.0
    num_matvecs: int
    method: str
    seed: int
    converged: bool | None = None
    status: str = "estimated"
    error_covers: str = _COVERS
    info: ResultInfo | None = None


@frozen(kw_only=True, eq=False)
class NormResult(ShowsItself):
    r"""An estimate of a norm with its standard error.

    Parameters
    ----------
    estimate : float
        In the operator's unit.
    stderr : float
        One standard error over the random probes.
    bias_bound : float or None
        A bound on the estimator's bias, from the probes' spread; None where none is known.
    num_matvecs : int
        Products used.
    seed : int
        Of the probes.
    samples : Tensor, shape (m,), float64 on the CPU
        Independent estimates of the norm's square.
    converged : bool or None
        Whether the standard error came below the tolerance that was asked for; None where none was.
    error_covers : str
        In words, what ``stderr`` covers.
    info : ResultInfo or None
        Filled in by the driver.
    """

    estimate: float
    stderr: float
    bias_bound: float | None
    num_matvecs: int
    seed: int
    samples: Tensor = Factory(lambda: torch.empty(0, dtype=torch.float64))
    converged: bool | None = None
    error_covers: str = _COVERS
    info: ResultInfo | None = None
