"""Solutions of linear systems, and how well each solves its own."""

from __future__ import annotations

import torch
from attrs import Factory, frozen
from torch import Tensor

from curvkit_core.results.info import ResultInfo
from curvkit_core.results.notebook import ShowsItself

__all__ = ["SolveResult"]


@frozen(kw_only=True, eq=False)
class SolveResult(ShowsItself):
    r"""Solutions of :math:`(A + \delta I)x_i = b_i`, and how well each solves its system.

    Parameters
    ----------
    solution : Tensor, shape (n,) or (r, n)
        As the right-hand sides were given.
    residuals : Tensor, shape (r,), float64 on the CPU
        :math:`\|b_i - (A + \delta I)x_i\|_2`: computed with a product of x_i where the system converged, stagnated or
        is incompatible, else as the recurrence has it, widened by what rounding does.
    converged : Tensor, shape (r,), bool
        Whether the residual came below the tolerance that was asked for.
    status : tuple of str
        One a right-hand side: ``"converged"``; ``"breakdown"``: a direction of no positive curvature was met, the
        operator (with damping) is not positive definite, conjugate gradients end; ``"stagnated"``: rounding keeps the
        residual above the tolerance; ``"incompatible"``: MINRES found the system singular to rounding and b outside its
        range: x_i makes the residual smallest (with a preconditioner: in the norm of M^-1); ``"preconditioner"``: the
        preconditioner is not positive definite; ``"max_matvecs"``: a budget was spent first.
    curvatures : Tensor, shape (r,), float64 on the CPU
        :math:`p^\top(A + \delta I)p / p^\top p` of the direction that showed a breakdown; NaN elsewhere.
    damping : float
        delta.
    method : str
        The solver that ran.
    num_matvecs : int
        Products used, for all right-hand sides together.
    seed : int or None
        Of the right-hand side; None where it was given.
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
    method: str = "cg"
    num_matvecs: int
    seed: int | None = None
    error_covers: str = (
        "residual norm of each system: the solution's own error is at most that over the smallest eigenvalue; rounding "
        "in the products is included, sampling of the data is not"
    )
    info: ResultInfo | None = None
