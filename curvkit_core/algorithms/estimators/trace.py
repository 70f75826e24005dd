"""The trace, by the estimator that is named."""

from __future__ import annotations

from typing import Unpack

from attrs import field, frozen, validators

from curvkit_core.algorithms.delegating import Delegating
from curvkit_core.algorithms.driver import DriverOptions, run
from curvkit_core.algorithms.estimators.hutchinson import Hutchinson
from curvkit_core.algorithms.estimators.hutchpp import HutchPlusPlus
from curvkit_core.algorithms.estimators.samples import PROBE_KINDS
from curvkit_core.algorithms.estimators.xnystrace import XNysTrace
from curvkit_core.algorithms.estimators.xtrace import XTrace
from curvkit_core.algorithms.seeds import is_seed
from curvkit_core.operators import CurvatureOperator
from curvkit_core.results.types import TraceResult

__all__ = ["Trace", "trace"]

_Estimator = Hutchinson | HutchPlusPlus | XTrace | XNysTrace
_METHODS: dict[str, type[_Estimator]] = {
    "hutch++": HutchPlusPlus,
    "hutchinson": Hutchinson,
    "xtrace": XTrace,
    "xnystrace": XNysTrace,
}


@frozen(kw_only=True)
class Trace(Delegating):
    """The trace of an operator with its standard error.

    Parameters
    ----------
    method : {"hutch++", "hutchinson", "xtrace", "xnystrace"}
        The estimator.
    num_matvecs : int, at least 2
        Products; an upper bound that is never passed.
    tol : float or None
        Stop when the standard error is at most `tol` times the estimate's magnitude.
    probes : {"rademacher", "gaussian", "sphere"}
        Distribution of the probes.
    seed : int or None
        None draws one and records it.
    """

    method: str = field(default="hutch++", validator=validators.in_(tuple(_METHODS)))
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
        """Whether the estimator needs a symmetric operator: XNysTrace does."""
        return getattr(self._engine, "needs_symmetric", False)

    @property
    def _engine(self) -> _Estimator:
        return _METHODS[self.method](num_matvecs=self.num_matvecs, tol=self.tol, probes=self.probes, seed=self.seed)


def trace(
    op: CurvatureOperator,
    *,
    method: str = "hutch++",
    num_matvecs: int = 99,
    tol: float | None = None,
    probes: str = "rademacher",
    seed: int | None = None,
    **driver: Unpack[DriverOptions],
) -> TraceResult:
    r"""Estimate :math:`\operatorname{tr} A`, with its standard error.

    Parameters
    ----------
    op : CurvatureOperator, shape (n, n)
        Need not be symmetric, but for ``method="xnystrace"``, which needs it positive semidefinite; never materialised.
    method : {"hutch++", "hutchinson", "xtrace", "xnystrace"}
        Hutchinson [1]_ holds one block of probes. The others are far better where the spectrum decays: Hutch++ [2]_
        holds a third of `num_matvecs` vectors; XTrace [3]_ holds `num_matvecs`, and half as many more for a moment;
        XNysTrace [3]_ holds `num_matvecs`. From n products on the last two are exact, with no `tol`.
    num_matvecs : int, at least 2
        Products; an upper bound that is never passed.
    tol : float or None
        Stop as soon as the standard error is at most `tol` times the estimate's magnitude, never past `num_matvecs`; no
        error bar from fewer than 20 samples is believed. ``converged`` says whether it came to that. Hutch++ sizes its
        sketch by `num_matvecs` and spends two thirds of it in any case; XTrace and XNysTrace grow.
    probes : {"rademacher", "gaussian", "sphere"}
        Distribution of the probes. For XTrace and XNysTrace the last two are one, and a multiple of the identity is
        exact with them; for Hutchinson a diagonal is with the first.
    seed : int or None
        None draws one and records it in the result.
    **driver
        Budgets, progress and checkpoints: the options of :func:`curvkit_core.algorithms.run`.

    Returns
    -------
    TraceResult
        ``estimate`` and ``stderr`` in the operator's unit: loss per squared parameter, averaged as the problem's
        weighting says. ``samples`` are the estimates behind them. XNysTrace of an operator with negative curvature:
        NaN, and ``status="indefinite"``.

    Raises
    ------
    ValueError
        If an option is out of range, or the method needs a symmetric operator and `op` is none.

    Notes
    -----
    Unbiased, all of them, up to what stopping by `tol` does: below a tenth of the error bar in simulations.

    References
    ----------
    .. [1] Hutchinson, Commun. Stat. Simul. Comput. 19(2), 1990, 433-450.
    .. [2] Meyer, Musco, Musco, Woodruff, SOSA 2021, algorithm 1.
    .. [3] Epperly, Tropp, Webber, SIAM J. Matrix Anal. Appl. 45(1), 2024, 1-23.
    """
    algorithm = Trace(method=method, num_matvecs=num_matvecs, tol=tol, probes=probes, seed=seed)
    result: TraceResult = run(algorithm, op, **driver)
    return result
