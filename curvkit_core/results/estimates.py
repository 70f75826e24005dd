"""Estimates of one number by random probes, with their standard errors."""

from __future__ import annotations

import torch
from attrs import Factory, frozen
from torch import Tensor

from curvkit_core.results.info import ResultInfo

__all__ = ["TraceResult"]


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
