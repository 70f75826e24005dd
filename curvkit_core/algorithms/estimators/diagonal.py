"""The diagonal, by the estimator that is named."""

from __future__ import annotations

from typing import Unpack

from attrs import field, frozen, validators

from curvkit_core.algorithms.delegating import Delegating
from curvkit_core.algorithms.driver import DriverOptions, run
from curvkit_core.algorithms.estimators.hutchinson_diagonal import HutchinsonDiagonal
from curvkit_core.algorithms.estimators.samples import PROBE_KINDS
from curvkit_core.algorithms.estimators.xdiag import XDiag
from curvkit_core.algorithms.estimators.xnysdiag import XNysDiag
from curvkit_core.algorithms.seeds import is_seed
from curvkit_core.operators import CurvatureOperator
from curvkit_core.results.types import DiagonalResult

__all__ = ["Diagonal", "diagonal"]

_Estimator = HutchinsonDiagonal | XDiag | XNysDiag
_METHODS: dict[str, type[_Estimator]] = {
    "hutchinson": HutchinsonDiagonal,
    "xdiag": XDiag,
    "xnysdiag": XNysDiag,
}


@frozen(kw_only=True)
class Diagonal(Delegating):
    """The diagonal of an operator, each element with its standard error.

    Parameters
    ----------
    method : {"hutchinson", "xdiag", "xnysdiag"}
        The estimator.
    num_matvecs : int, at least 2
        Products; an upper bound that is never passed.
    tol : float or None
        Stop when the error of the whole is at most `tol` times the estimate's norm.
    probes : {"rademacher", "gaussian", "sphere"}
        Distribution of the probes.
    seed : int or None
        None draws one and records it.
    """

    method: str = field(default="hutchinson", validator=validators.in_(tuple(_METHODS)))
    num_matvecs: int = field(default=99, validator=validators.ge(2))
    tol: float | None = field(default=None, validator=validators.optional(validators.gt(0.0)))
    probes: str = field(default="rademacher", validator=validators.in_(PROBE_KINDS))
    seed: int | None = field(default=None, validator=is_seed)

    @property
    def accepts_stochastic(self) -> bool:
        """Whether the estimator may multiply another matrix each time: Hutchinson's may."""
        return getattr(self._engine, "accepts_stochastic", False)

    @property
    def needs_symmetric(self) -> bool:
        """Whether the estimator needs a symmetric operator: Hutchinson's does not."""
        return getattr(self._engine, "needs_symmetric", False)

    @property
    def _engine(self) -> _Estimator:
        return _METHODS[self.method](num_matvecs=self.num_matvecs, tol=self.tol, probes=self.probes, seed=self.seed)


def diagonal(
    op: CurvatureOperator,
    *,
    method: str = "hutchinson",
    num_matvecs: int = 99,
    tol: float | None = None,
    probes: str = "rademacher",
    seed: int | None = None,
    **driver: Unpack[DriverOptions],
) -> DiagonalResult:
    r"""Estimate :math:`\operatorname{diag} A`, each element with its standard error.

    Parameters
    ----------
    op : CurvatureOperator, shape (n, n)
        Never materialised. Symmetric, but for ``method="hutchinson"``; positive semidefinite for ``"xnysdiag"``.
    method : {"hutchinson", "xdiag", "xnysdiag"}
        Hutchinson's [1]_ holds two vectors and one block of probes. XDiag [2]_ and XNysDiag hold `num_matvecs` vectors
        (XDiag half as many more for a moment) and are far better where the spectrum decays; from n products on they
        are exact, with no `tol`.
    num_matvecs : int, at least 2
        Products; an upper bound that is never passed.
    tol : float or None
        Stop as soon as ``total_stderr`` is at most `tol` times the estimate's norm, never past `num_matvecs`; no error
        from fewer than 20 probes is believed. ``converged`` says whether it came to that.
    probes : {"rademacher", "gaussian", "sphere"}
        Distribution of the probes. Signs are best here: the others add the variance of their squares.
    seed : int or None
        None draws one and records it in the result.
    **driver
        Budgets, progress and checkpoints: the options of :func:`curvkit_core.algorithms.run`.

    Returns
    -------
    DiagonalResult
        ``estimate`` and ``stderr`` are (n,), in the operator's unit; ``problem.parameters.to_named`` cuts them up.
        XNysDiag of an operator with negative curvature: NaN, and ``status="indefinite"``.

    Raises
    ------
    ValueError
        If an option is out of range, or the method needs a symmetric operator and `op` is none.

    Notes
    -----
    Unbiased. The errors of XDiag and XNysDiag are right on average over the elements, not for each.

    References
    ----------
    .. [1] Bekas, Kokiopoulou, Saad, Appl. Numer. Math. 57(11-12), 2007, 1214-1229.
    .. [2] Epperly, Tropp, Webber, SIAM J. Matrix Anal. Appl. 45(1), 2024, 1-23.
    """
    algorithm = Diagonal(method=method, num_matvecs=num_matvecs, tol=tol, probes=probes, seed=seed)
    result: DiagonalResult = run(algorithm, op, **driver)
    return result
