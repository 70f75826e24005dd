"""Damped linear systems, by conjugate gradients."""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor

from curvkit_core.algorithms.cg import ConjugateGradients
from curvkit_core.algorithms.driver import DriverOptions, run
from curvkit_core.operators import CurvatureOperator
from curvkit_core.results.types import SolveResult

__all__ = ["solve"]


def solve(
    op: CurvatureOperator,
    b: Tensor,
    *,
    damping: float = 0.0,
    tol: float = 1e-6,
    max_matvecs: int = 1000,
    start: Tensor | None = None,
    **driver: Unpack[DriverOptions],
) -> SolveResult:
    r"""Solve :math:`(A + \delta I)x = b` by conjugate gradients [1]_, for one or several right-hand sides.

    Parameters
    ----------
    op : CurvatureOperator, shape (n, n)
        Symmetric; with the damping positive definite: a direction that shows otherwise ends its system with the status
        ``"breakdown"``.
    b : Tensor, shape (n,) or (r, n)
        Right-hand sides, a row each. Four times its memory is held.
    damping : float, at least 0
        delta.
    tol : float, above 0
        A system is solved when its residual's norm is at most `tol` times that of b.
    max_matvecs : int, at least 1
        Products after which it stops, those for all right-hand sides together.
    start : Tensor, shaped as `b`, or None
        Where to begin; None: at zero. Costs one product a right-hand side.
    **driver
        Budgets, progress and checkpoints: the options of :func:`curvkit_core.algorithms.run`.

    Returns
    -------
    SolveResult
        ``solution`` shaped as `b`; a residual, a status and a flag for each right-hand side. One that is "converged"
        was verified by a product.

    Raises
    ------
    ValueError
        If the operator is not symmetric, an option is out of range, or a shape does not fit.

    Notes
    -----
    The error falls per product by :math:`(\sqrt\kappa - 1)/(\sqrt\kappa + 1)`, kappa the condition number of
    :math:`A + \delta I`, or faster where eigenvalues cluster.

    References
    ----------
    .. [1] Hestenes, Stiefel, J. Res. Natl. Bur. Stand. 49(6), 1952, 409-436.
    """
    algorithm = ConjugateGradients(tol=tol, max_matvecs=max_matvecs, damping=damping)
    inputs: dict[str, Any] = {"b": b} if start is None else {"b": b, "start": start}
    result: SolveResult = run(algorithm, op, inputs=inputs, **driver)
    return result
