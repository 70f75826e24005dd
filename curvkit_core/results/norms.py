"""The spectral norm, and how well it is known."""

from __future__ import annotations

from attrs import frozen
from torch import Tensor

from curvkit_core.results.info import ResultInfo
from curvkit_core.results.notebook import ShowsItself

__all__ = ["SpectralNormResult"]


@frozen(kw_only=True, eq=False)
class SpectralNormResult(ShowsItself):
    r"""An estimate of :math:`\|A\|_2`, the largest singular value.

    Parameters
    ----------
    estimate : float
        In the operator's unit. Never above the norm but for rounding.
    residual : float
        A singular value lies within this of ``estimate``.
    vector : Tensor, shape (n,)
        Of unit norm; A stretches it by ``estimate``. On the operator's device.
    eigenvalue : float or None
        The eigenvalue with its sign, for a symmetric operator.
    bias_bound : float or None
        None: no bound is known on what a larger singular value would add that the start vector hardly touches.
    converged : bool
        Whether the residual came below the tolerance that was asked for.
    status : str
        As :class:`EigenResult` has it.
    num_matvecs : int
        Products used, those with the transpose included.
    seed : int or None
        Of the start vector; None where it was given.
    error_covers : str
        In words, what ``residual`` covers.
    info : ResultInfo or None
        Filled in by the driver.
    """

    estimate: float
    residual: float
    vector: Tensor
    eigenvalue: float | None = None
    bias_bound: float | None = None
    converged: bool
    status: str = ""
    num_matvecs: int
    seed: int | None = None
    error_covers: str = (
        "the residual of the singular pair found: rounding is included, a larger singular value that the start vector "
        "hardly touches and sampling of the data are not"
    )
    info: ResultInfo | None = None
