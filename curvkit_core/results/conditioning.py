"""A condition number, and between what bounds it lies."""

from __future__ import annotations

from attrs import frozen
from torch import Tensor

from curvkit_core.results.info import ResultInfo
from curvkit_core.results.notebook import ShowsItself

__all__ = ["ConditionResult"]


@frozen(kw_only=True, eq=False)
class ConditionResult(ShowsItself):
    r"""The condition number :math:`\kappa = \max_i|\lambda_i| / \min_i|\lambda_i|` of :math:`A + \delta I`.

    Parameters
    ----------
    estimate : float
        From the Ritz values at both ends; where ``status`` says so only a lower bound.
    lower, upper : float
        kappa lies between them, by the residuals of the ends; inf where nothing bounds it from above.
    status : str
        ``"converged"``; ``"lower-bound"``: the end of least magnitude has not converged, so its eigenvalue is only an
        upper bound and kappa may be anything above ``lower``; ``"singular"``: that eigenvalue is zero to rounding;
        ``"indefinite"``: eigenvalues of both signs, the least in magnitude is inside the spectrum and not looked for.
    converged : bool
        Whether both ends came below the tolerance that was asked for.
    ends : Tensor, shape (2,), float64 on the CPU
        Smallest and largest Ritz value, damping included: the smallest eigenvalue lies below the one (or at it), the
        largest above the other.
    residuals : Tensor, shape (2,), float64 on the CPU
        Bounds on their residuals: an eigenvalue lies within each.
    damping : float
        delta.
    bias_bound : float or None
        None: the interval holds what is known.
    num_matvecs : int
        Products used.
    seed : int or None
        Of the start vector; None where it was given.
    error_covers : str
        In words, what the interval covers.
    info : ResultInfo or None
        Filled in by the driver.
    """

    estimate: float
    lower: float
    upper: float
    status: str
    converged: bool
    ends: Tensor
    residuals: Tensor
    damping: float = 0.0
    bias_bound: float | None = None
    num_matvecs: int
    seed: int | None
    error_covers: str = (
        "residuals of both ends, rounding included, taking the eigenvalues next to them to be the outermost, which "
        "Lanczos finds unless the start vector hardly touches them; sampling of the data is not included"
    )
    info: ResultInfo | None = None
