r"""Hutchinson's estimator of the diagonal [1]_: :math:`\operatorname{diag} A \approx \frac1m\sum_j z_j \odot A z_j`.

Unbiased for probes with :math:`E[zz^\top] = I`. Element i has the variance
:math:`\big(\sum_{k \ne i} A_{ik}^2 + \kappa A_{ii}^2\big)/m`, with :math:`\kappa = 0` for sign probes, 2 for Gaussian
ones, slightly less for sphere. The quotient :math:`\sum z \odot Az / \sum z \odot z` of [1]_ is the same number for
sign probes; for others it has no :math:`\kappa`, for three more vectors of memory: take sign probes instead.

References
----------
.. [1] Bekas, Kokiopoulou, Saad, "An estimator for the diagonal of a matrix", Appl. Numer. Math. 57(11-12), 2007,
   1214-1229.
"""

from __future__ import annotations

from typing import ClassVar

from attrs import define, field, frozen, validators
from torch import Tensor

from curvkit_core.algorithms.estimators.moments import Moments
from curvkit_core.algorithms.estimators.samples import PROBE_KINDS
from curvkit_core.algorithms.estimators.stopping import next_look, reached
from curvkit_core.algorithms.estimators.whole_space import WholeSpaceState
from curvkit_core.algorithms.protocol import Progress
from curvkit_core.algorithms.seeds import fresh_seed, is_seed
from curvkit_core.backends import VectorSpace
from curvkit_core.results.types import DiagonalResult

__all__ = ["HutchinsonDiagonal"]


@define(kw_only=True)
class HutchinsonDiagonalState:
    """Probes waiting to be multiplied, and the moments of z * A z so far: the error is looked at from `look` on."""

    seed: int
    look: int
    pending: Tensor
    moments: Moments


@frozen(kw_only=True)
class HutchinsonDiagonal:
    """Hutchinson's estimator of the diagonal; the operator need not be symmetric. Holds 2 vectors beside the probes.

    Parameters
    ----------
    num_matvecs : int, at least 2
        Probes; an upper bound that is never passed.
    tol : float or None
        Stop when the root of the summed squared standard errors is at most `tol` times the estimate's norm: looked at
        for 20 probes, then for a quarter more each time.
    probes : {"rademacher", "gaussian", "sphere"}
        Their distribution.
    seed : int or None
        None draws one and records it.
    """

    accepts_stochastic: ClassVar[bool] = True  # independent estimates: the error then covers the batches as well

    num_matvecs: int = field(default=99, validator=validators.ge(2))
    tol: float | None = field(default=None, validator=validators.optional(validators.gt(0.0)))
    probes: str = field(default="rademacher", validator=validators.in_(PROBE_KINDS))
    seed: int | None = field(default=None, validator=is_seed)

    def init(self, space: VectorSpace) -> HutchinsonDiagonalState:
        """Draw the first probes."""
        state = HutchinsonDiagonalState(
            seed=fresh_seed(self.seed),
            look=next_look(0, self.num_matvecs, self.tol),
            pending=space.zeros(0),
            moments=Moments.zeros(space),
        )
        state.pending = self._draw(space, state)
        return state

    def ask(self, state: HutchinsonDiagonalState, max_rows: int) -> Tensor | None:
        """The next probes."""
        return state.pending[:max_rows] if len(state.pending) else None

    def tell(
        self, space: VectorSpace, state: HutchinsonDiagonalState, V: Tensor, AV: Tensor
    ) -> HutchinsonDiagonalState:
        """Take in z * A z; draw the next probes when the block is used up, unless the error is small enough."""
        state.moments.add(V * AV)
        state.pending = state.pending[len(V) :]
        if len(state.pending):
            return state
        if state.moments.count == state.look:
            if self.result(space, state).converged:
                return state
            state.look = next_look(state.look, self.num_matvecs, self.tol)
        state.pending = self._draw(space, state)
        return state

    def result(self, space: VectorSpace, state: HutchinsonDiagonalState) -> DiagonalResult:
        """The mean so far; NaN before the first probe, an infinite error before the second."""
        return diagonal_result(
            space,
            state.moments,
            num_matvecs=state.moments.count,
            method="hutchinson",
            seed=state.seed,
            tol=self.tol,
        )

    def progress(self, state: HutchinsonDiagonalState) -> Progress:
        """Probes done."""
        return Progress(done=state.moments.count, total=self.num_matvecs)

    def _draw(self, space: VectorSpace, state: HutchinsonDiagonalState) -> Tensor:
        done = state.moments.count
        return space.random(self.probes, state.seed, done, min(space.comfortable_rows(), state.look - done))


def diagonal_result(
    space: VectorSpace,
    moments: Moments,
    *,
    num_matvecs: int,
    method: str,
    seed: int,
    tol: float | None,
    offset: Tensor | None = None,
    correction: float = 1.0,
    status: str = "estimated",
) -> DiagonalResult:
    """The mean of vectors plus `offset` (n_local,), their standard error times `correction`; NaN for no vector."""
    estimate = moments.mean.clone() if offset is None else moments.mean + offset
    stderr = correction * moments.stderr()
    total = float(space.norms(stderr[None])[0]) if moments.count > 1 else float("inf")
    if not moments.count:
        estimate.fill_(float("nan"))
        size = float("nan")
    else:
        size = float(space.norms(estimate[None])[0])
    return DiagonalResult(
        estimate=estimate,
        stderr=stderr,
        total_stderr=total,
        num_matvecs=num_matvecs,
        method=method,
        seed=seed,
        converged=reached(size, total, moments.count, tol),
        status=status,
    )


def whole_diagonal(state: WholeSpaceState, method: str, tol: float | None) -> DiagonalResult:
    """The diagonal over the whole basis; NaN, with an infinite error, before the sum is complete."""
    complete = state.complete
    return DiagonalResult(
        estimate=state.diagonal if complete else state.diagonal.new_full(state.diagonal.shape, float("nan")),
        stderr=state.diagonal.new_full(state.diagonal.shape, 0.0 if complete else float("inf")),
        total_stderr=0.0 if complete else float("inf"),
        num_matvecs=state.num_matvecs,
        method=method,
        seed=state.seed,
        converged=reached(0.0, 0.0, 0, tol, exact=complete),
        status="exact" if complete else "estimated",
    )
