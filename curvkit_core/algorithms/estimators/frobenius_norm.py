r"""The Frobenius norm by random probes: :math:`\|A\|_F^2 = E\,\|A z\|^2` for :math:`E[zz^\top] = I`.

The mean X of m such samples is unbiased; its root is not. With the standard error :math:`s = \mathrm{sd}(X)/(2\|A\|_F)`
of the root (delta method), :math:`\sqrt{1 + t} \ge 1 + t/2 - t^2/2` gives

.. math:: 0 \le \|A\|_F - E\sqrt X \le 2 s^2/\|A\|_F,

and to first order the bias is a quarter of that. It is what Hutchinson's estimator [1]_ makes of the trace of
:math:`A^\top A`, with one product a probe.

References
----------
.. [1] Hutchinson, Commun. Stat. Simul. Comput. 19(2), 1990, 433-450.
"""

from __future__ import annotations

from typing import Unpack

import torch
from attrs import define, field, frozen, validators
from torch import Tensor

from curvkit_core.algorithms.driver import DriverOptions, run
from curvkit_core.algorithms.estimators.samples import PROBE_KINDS, mean_and_stderr
from curvkit_core.algorithms.estimators.stopping import next_look, reached
from curvkit_core.algorithms.protocol import Progress
from curvkit_core.algorithms.seeds import fresh_seed, is_seed
from curvkit_core.backends import VectorSpace
from curvkit_core.operators import CurvatureOperator
from curvkit_core.results.types import NormResult

__all__ = ["FrobeniusNorm", "frobenius_norm"]


@define(kw_only=True)
class FrobeniusNormState:
    """Probes waiting to be multiplied, and the norms |A z| so far: the error bar is looked at from `look` on."""

    seed: int
    look: int
    pending: Tensor
    norms: Tensor


@frozen(kw_only=True)
class FrobeniusNorm:
    """The Frobenius norm by random probes; the operator need not be symmetric. Holds one block of probes.

    Parameters
    ----------
    num_matvecs : int, at least 2
        Probes; an upper bound that is never passed.
    tol : float or None
        Stop when the standard error is at most `tol` times the estimate: looked at for 20 probes, then for a quarter
        more each time.
    probes : {"rademacher", "gaussian", "sphere"}
        Their distribution.
    seed : int or None
        None draws one and records it.
    """

    num_matvecs: int = field(default=99, validator=validators.ge(2))
    tol: float | None = field(default=None, validator=validators.optional(validators.gt(0.0)))
    probes: str = field(default="rademacher", validator=validators.in_(PROBE_KINDS))
    seed: int | None = field(default=None, validator=is_seed)

    def init(self, space: VectorSpace) -> FrobeniusNormState:
        """Draw the first probes."""
        state = FrobeniusNormState(
            seed=fresh_seed(self.seed),
            look=next_look(0, self.num_matvecs, self.tol),
            pending=space.zeros(0),
            norms=torch.empty(0, dtype=torch.float64),
        )
        state.pending = self._draw(space, state)
        return state

    def ask(self, state: FrobeniusNormState, max_rows: int) -> Tensor | None:
        """The next probes."""
        return state.pending[:max_rows] if len(state.pending) else None

    def tell(self, space: VectorSpace, state: FrobeniusNormState, V: Tensor, AV: Tensor) -> FrobeniusNormState:
        """Take in |A z|; draw the next probes when the block is used up, unless the error bar is short enough."""
        state.norms = torch.cat([state.norms, space.norms(AV)])
        state.pending = state.pending[len(V) :]
        if len(state.pending):
            return state
        if len(state.norms) == state.look:
            if self.result(space, state).converged:
                return state
            state.look = next_look(state.look, self.num_matvecs, self.tol)
        state.pending = self._draw(space, state)
        return state

    def result(self, space: VectorSpace, state: FrobeniusNormState) -> NormResult:
        """The root of the mean square so far; NaN before the first probe, infinite error before the second."""
        samples = state.norms.square()
        square, spread = mean_and_stderr(samples)
        estimate = square**0.5
        stderr = spread / (2.0 * estimate) if spread > 0.0 and estimate > 0.0 else spread
        return NormResult(
            estimate=estimate,
            stderr=stderr,
            bias_bound=2.0 * stderr**2 / estimate if stderr > 0.0 and estimate > 0.0 else stderr,
            num_matvecs=len(samples),
            seed=state.seed,
            samples=samples,
            converged=reached(estimate, stderr, len(samples), self.tol),
        )

    def progress(self, state: FrobeniusNormState) -> Progress:
        """Probes done."""
        return Progress(done=len(state.norms), total=self.num_matvecs)

    def _draw(self, space: VectorSpace, state: FrobeniusNormState) -> Tensor:
        done = len(state.norms)
        return space.random(self.probes, state.seed, done, min(space.comfortable_rows(), state.look - done))


def frobenius_norm(
    op: CurvatureOperator,
    *,
    num_matvecs: int = 99,
    tol: float | None = None,
    probes: str = "rademacher",
    seed: int | None = None,
    **driver: Unpack[DriverOptions],
) -> NormResult:
    r"""Estimate :math:`\|A\|_F = \sqrt{E\,\|A z\|^2}`, with its standard error.

    Parameters
    ----------
    op : CurvatureOperator, shape (n, n)
        Need not be symmetric; never materialised. One block of probes is held.
    num_matvecs : int, at least 2
        Products; an upper bound that is never passed.
    tol : float or None
        Stop as soon as the standard error is at most `tol` times the estimate: looked at for 20 probes, then for a
        quarter more each time. ``converged`` says whether it came to that.
    probes : {"rademacher", "gaussian", "sphere"}
        Distribution of the probes.
    seed : int or None
        None draws one and records it in the result.
    **driver
        Budgets, progress and checkpoints: the options of :func:`curvkit_core.algorithms.run`.

    Returns
    -------
    NormResult
        In the operator's unit. ``samples`` are the independent estimates of the square.

    Raises
    ------
    ValueError
        If an option is out of range.

    Notes
    -----
    Too small on average, by at most ``bias_bound``, which is itself made of the spread seen: small beside ``stderr``
    wherever that is small beside the estimate.
    """
    algorithm = FrobeniusNorm(num_matvecs=num_matvecs, tol=tol, probes=probes, seed=seed)
    result: NormResult = run(algorithm, op, **driver)
    return result
