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

from curvkit_core.algorithms.protocol import Progress
from curvkit_core.algorithms.samples import PROBE_KINDS, mean_and_stderr
from curvkit_core.algorithms.seeds import fresh_seed, is_seed
from curvkit_core.backends import VectorSpace
from curvkit_core.results.types import TraceResult

__all__ = ["Hutchinson"]


@define(kw_only=True)
class HutchinsonState:
    """Probes waiting to be multiplied, and the quadratic forms so far."""

    seed: int
    pending: Tensor
    samples: Tensor


@frozen(kw_only=True)
class Hutchinson:
    """Hutchinson's trace estimator; the operator need not be symmetric.

    Parameters
    ----------
    num_matvecs : int, at least 2
        Probes.
    probes : {"rademacher", "gaussian", "sphere"}
        Their distribution.
    seed : int or None
        None draws one and records it.
    """

    accepts_stochastic: ClassVar[bool] = True  # independent estimates: the error then covers the batches as well

    num_matvecs: int = field(default=99, validator=validators.ge(2))
    probes: str = field(default="rademacher", validator=validators.in_(PROBE_KINDS))
    seed: int | None = field(default=None, validator=is_seed)

    def init(self, space: VectorSpace) -> HutchinsonState:
        """Draw the first probes."""
        seed = fresh_seed(self.seed)
        return HutchinsonState(
            seed=seed, pending=self._draw(space, seed, 0), samples=torch.empty(0, dtype=torch.float64)
        )

    def ask(self, state: HutchinsonState, max_rows: int) -> Tensor | None:
        """The next probes."""
        return state.pending[:max_rows] if len(state.pending) else None

    def tell(self, space: VectorSpace, state: HutchinsonState, V: Tensor, AV: Tensor) -> HutchinsonState:
        """Take in z^T A z; draw the next probes when the block is used up."""
        state.samples = torch.cat([state.samples, space.dots(V, AV)])
        state.pending = state.pending[len(V) :]
        if not len(state.pending):
            state.pending = self._draw(space, state.seed, len(state.samples))
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
        )

    def progress(self, state: HutchinsonState) -> Progress:
        """Probes done."""
        return Progress(done=len(state.samples), total=self.num_matvecs)

    def _draw(self, space: VectorSpace, seed: int, done: int) -> Tensor:
        rows = min(space.comfortable_rows(), self.num_matvecs - done)
        return space.random(self.probes, seed, done, rows)
