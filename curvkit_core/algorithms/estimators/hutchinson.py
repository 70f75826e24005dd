r"""Hutchinson's trace estimator [1]_: :math:`\operatorname{tr} A \approx \frac1m\sum_j z_j^\top A z_j`.

Unbiased for probes with :math:`E[zz^\top] = I`. With sign probes the variance is
:math:`2(\|S\|_F^2 - \sum_i S_{ii}^2)/m`, :math:`S = (A + A^\top)/2`; with Gaussian ones :math:`2\|S\|_F^2/m`.

References
----------
.. [1] Hutchinson, Commun. Stat. Simul. Comput. 19(2), 1990, 433-450.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from attrs import define, field, frozen, validators
from torch import Tensor

from curvkit_core.algorithms.estimators.samples import PROBE_KINDS, mean_and_stderr
from curvkit_core.algorithms.estimators.stopping import next_look, reached
from curvkit_core.algorithms.protocol import Progress
from curvkit_core.algorithms.seeds import fresh_seed, is_seed
from curvkit_core.backends import VectorSpace
from curvkit_core.results.types import TraceResult

__all__ = ["Hutchinson"]


@define(kw_only=True)
class HutchinsonState:
    """Probes waiting to be multiplied, and the quadratic forms so far: the error bar is looked at from `look` on."""

    seed: int
    look: int
    pending: Tensor
    samples: Tensor


@frozen(kw_only=True)
class Hutchinson:
    """Hutchinson's trace estimator; the operator need not be symmetric.

    Parameters
    ----------
    num_matvecs : int, at least 2
        Probes; an upper bound that is never passed.
    tol : float or None
        Stop when the standard error is at most `tol` times the estimate's magnitude: looked at for 20 probes, then for
        a quarter more each time.
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

    def init(self, space: VectorSpace) -> HutchinsonState:
        """Draw the first probes."""
        state = HutchinsonState(
            seed=fresh_seed(self.seed),
            look=next_look(0, self.num_matvecs, self.tol),
            pending=space.zeros(0),
            samples=torch.empty(0, dtype=torch.float64),
        )
        state.pending = self._draw(space, state)
        return state

    def ask(self, state: HutchinsonState, max_rows: int) -> Tensor | None:
        """The next probes."""
        return state.pending[:max_rows] if len(state.pending) else None

    def tell(self, space: VectorSpace, state: HutchinsonState, V: Tensor, AV: Tensor) -> HutchinsonState:
        """Take in z^T A z; draw the next probes when the block is used up, unless the error bar is short enough."""
        state.samples = torch.cat([state.samples, space.dots(V, AV)])
        state.pending = state.pending[len(V) :]
        if len(state.pending):
            return state
        if len(state.samples) == state.look:
            if self.result(space, state).converged:
                return state
            state.look = next_look(state.look, self.num_matvecs, self.tol)
        state.pending = self._draw(space, state)
        return state

    def result(self, space: VectorSpace, state: HutchinsonState) -> TraceResult:
        """The mean of the samples so far; NaN before the first, infinite error before the second."""
        estimate, stderr = mean_and_stderr(state.samples)
        return TraceResult(
            estimate=estimate,
            stderr=stderr,
            num_matvecs=len(state.samples),
            method="hutchinson",
            seed=state.seed,
            samples=state.samples,
            converged=reached(estimate, stderr, len(state.samples), self.tol),
        )

    def progress(self, state: HutchinsonState) -> Progress:
        """Probes done."""
        return Progress(done=len(state.samples), total=self.num_matvecs)

    def _draw(self, space: VectorSpace, state: HutchinsonState) -> Tensor:
        done = len(state.samples)
        return space.random(self.probes, state.seed, done, min(space.comfortable_rows(), state.look - done))
