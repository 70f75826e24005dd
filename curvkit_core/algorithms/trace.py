"""The trace, by the estimator that is named."""

from __future__ import annotations

from typing import Any, Unpack

from attrs import field, frozen, validators
from torch import Tensor

from curvkit_core.algorithms.driver import DriverOptions, run
from curvkit_core.algorithms.hutchinson import Hutchinson
from curvkit_core.algorithms.hutchpp import HutchPlusPlus
from curvkit_core.algorithms.protocol import Progress
from curvkit_core.algorithms.samples import PROBE_KINDS
from curvkit_core.algorithms.seeds import is_seed
from curvkit_core.backends import VectorSpace
from curvkit_core.operators import CurvatureOperator
from curvkit_core.results.types import TraceResult

__all__ = ["Trace", "trace"]

_METHODS: dict[str, type[Hutchinson] | type[HutchPlusPlus]] = {"hutchinson": Hutchinson, "hutch++": HutchPlusPlus}


@frozen(kw_only=True)
class Trace:
    """The trace of an operator with its standard error.

    Parameters
    ----------
    method : {"hutch++", "hutchinson"}
        The estimator.
    num_matvecs : int, at least 2
        Products; an upper bound that is never passed.
    probes : {"rademacher", "gaussian", "sphere"}
        Distribution of the probes.
    seed : int or None
        None draws one and records it.
    """

    method: str = field(default="hutch++", validator=validators.in_(tuple(_METHODS)))
    num_matvecs: int = field(default=99, validator=validators.ge(2))
    probes: str = field(default="rademacher", validator=validators.in_(PROBE_KINDS))
    seed: int | None = field(default=None, validator=is_seed)

    def init(self, space: VectorSpace) -> Any:
        """As the estimator."""
        return self._estimator.init(space)

    def ask(self, state: Any, max_rows: int) -> Tensor | None:
        """As the estimator."""
        return self._estimator.ask(state, max_rows)

    def tell(self, space: VectorSpace, state: Any, V: Tensor, AV: Tensor) -> Any:
        """As the estimator."""
        return self._estimator.tell(space, state, V, AV)

    def result(self, space: VectorSpace, state: Any) -> TraceResult:
        """As the estimator."""
        return self._estimator.result(space, state)

    def progress(self, state: Any) -> Progress:
        """As the estimator."""
        return self._estimator.progress(state)

    @property
    def accepts_stochastic(self) -> bool:
        """Whether the estimator may multiply another matrix each time: Hutchinson's may."""
        return getattr(self._estimator, "accepts_stochastic", False)

    @property
    def _estimator(self) -> Hutchinson | HutchPlusPlus:
        return _METHODS[self.method](num_matvecs=self.num_matvecs, probes=self.probes, seed=self.seed)


def trace(
    op: CurvatureOperator,
    *,
    method: str = "hutch++",
    num_matvecs: int = 99,
    probes: str = "rademacher",
    seed: int | None = None,
    **driver: Unpack[DriverOptions],
) -> TraceResult:
    r"""Estimate :math:`\operatorname{tr} A`, with its standard error.

    Parameters
    ----------
    op : CurvatureOperator, shape (n, n)
        Need not be symmetric; never materialised.
    method : {"hutch++", "hutchinson"}
        Hutch++ [2]_ holds a third of `num_matvecs` vectors and is far better where the spectrum decays; Hutchinson [1]_
        holds one block of probes.
    num_matvecs : int, at least 2
        Products; an upper bound that is never passed.
    probes : {"rademacher", "gaussian", "sphere"}
        Distribution of the probes.
    seed : int or None
        None draws one and records it in the result.
    **driver
        Budgets, progress and checkpoints: the options of :func:`curvkit_core.algorithms.run`.

    Returns
    -------
    TraceResult
        ``estimate`` and ``stderr`` in the operator's unit: loss per squared parameter, averaged as the problem's
        weighting says. ``samples`` are the independent estimates behind them.

    Raises
    ------
    ValueError
        If an option is out of range.

    References
    ----------
    .. [1] Hutchinson, Commun. Stat. Simul. Comput. 19(2), 1990, 433-450.
    .. [2] Meyer, Musco, Musco, Woodruff, SOSA 2021, algorithm 1.
    """
    algorithm = Trace(method=method, num_matvecs=num_matvecs, probes=probes, seed=seed)
    result: TraceResult = run(algorithm, op, **driver)
    return result
