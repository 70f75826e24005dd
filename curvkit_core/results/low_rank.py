"""A low-rank approximation of an operator, and how far it is from it."""

from __future__ import annotations

from attrs import frozen
from torch import Tensor

from curvkit_core.results.info import ResultInfo
from curvkit_core.results.notebook import ShowsItself

__all__ = ["NystromResult"]


@frozen(kw_only=True, eq=False)
class NystromResult(ShowsItself):
    r"""A Nystrom approximation :math:`\hat A = U^\top \operatorname{diag}(\lambda)\, U` of a psd operator A.

    Parameters
    ----------
    eigenvalues : Tensor, shape (r,), float64 on the CPU
        lambda, descending, at least 0, in the operator's unit; none where the operator is indefinite.
    eigenvectors : Tensor, shape (r, n)
        U: orthonormal rows, in the operator's dtype and on its device.
    shift : float
        The multiple of the identity that was added for stability and taken from the eigenvalues again: they are right
        to a few times this at best.
    status : str
        ``"done"``; ``"max_matvecs"``: a budget ended the sketch, of a lower rank therefore; ``"indefinite"``: the
        sketch shows a negative eigenvalue, of magnitude above rounding, and there is no such approximation. One that
        the sketch does not show is in the errors only.
    curvature : float
        The smallest Rayleigh quotient seen in the sketch.
    frobenius_error : float
        The root mean square of :math:`\|(A - \hat A)z\|` over Gaussian z, whose square is an unbiased estimate of
        :math:`\|A - \hat A\|_F^2`; NaN where no product was spent on it.
    stderr : float
        One standard error of ``frobenius_error`` over those z; inf for fewer than two.
    error_bound : float
        A bound on :math:`\|A - \hat A\|_2` that fails with probability ``failure``; inf where no product was spent.
    failure : float
        :math:`10^{-q}` for q products.
    bias_bound : float or None
        None: the root of an unbiased estimate is biased.
    num_matvecs : int
        Products used.
    seed : int
        Of the sketch and of the z.
    error_covers : str
        In words, what the errors cover.
    info : ResultInfo or None
        Filled in by the driver.
    """

    eigenvalues: Tensor
    eigenvectors: Tensor
    shift: float
    status: str
    curvature: float
    frobenius_error: float = float("nan")
    stderr: float = float("inf")
    error_bound: float = float("inf")
    failure: float = 1.0
    bias_bound: float | None = None
    num_matvecs: int
    seed: int
    error_covers: str = (
        "the whole difference between the operator's products and the approximation's, rounding included; "
        "sampling of the data is not"
    )
    info: ResultInfo | None = None
