r"""XNysTrace [1]_: as XTrace, with the Nystrom approximation of a positive semidefinite operator in the sketch's place.

.. math:: \operatorname{tr} A \approx \frac1k\sum_{i=1}^k \Big(\operatorname{tr}\hat A_i
          + c_i\,\omega_i^\top (A - \hat A_i)\,\omega_i\Big), \qquad
          \hat A_i = Y_{-i}\,(\Omega_{-i}^\top Y_{-i})^{-1}\,Y_{-i}^\top, \quad Y = A\Omega.

One product a test vector, so twice as many of them as XTrace has. :math:`A - \hat A_i` vanishes on the other test
vectors; for probes with no preferred direction the part of :math:`\omega_i` outside their span is brought to the norm
that it has on average: :math:`c_i = (n - k + 1)\,((\Omega^\top\Omega)^{-1})_{ii}`; for sign probes :math:`c_i = 1`. The
standard error is that of :mod:`curvkit_core.algorithms.estimators.exchangeable`.

References
----------
.. [1] Epperly, Tropp, Webber, "XTrace: Making the most of every sample in stochastic trace estimation", SIAM J. Matrix
   Anal. Appl. 45(1), 2024, 1-23.
"""

from __future__ import annotations

import torch
from attrs import field, frozen, validators
from torch import Tensor

from curvkit_core.algorithms.estimators.exchangeable import exchangeable_stderr
from curvkit_core.algorithms.estimators.leave_one_out import NystromLeftOut
from curvkit_core.algorithms.estimators.probe_products import ProbeProducts, probe_products
from curvkit_core.algorithms.estimators.samples import PROBE_KINDS, mean_and_stderr
from curvkit_core.algorithms.estimators.stopping import reached
from curvkit_core.algorithms.estimators.whole_space import WholeSpaceState, spans_everything, whole_space
from curvkit_core.algorithms.estimators.xtrace import whole_trace
from curvkit_core.algorithms.protocol import Progress
from curvkit_core.algorithms.seeds import fresh_seed, is_seed
from curvkit_core.backends import VectorSpace
from curvkit_core.results.types import TraceResult

__all__ = ["XNysTrace"]


@frozen(kw_only=True)
class XNysTrace:
    """XNysTrace, for symmetric positive semidefinite operators. Holds `num_matvecs` vectors.

    Where the products show negative curvature beyond their rounding and noise, there is no estimate, and the result's
    status says ``"indefinite"``: use XTrace.

    Parameters
    ----------
    num_matvecs : int, at least 2
        Products; an upper bound that is never passed. From n on, with no `tol`, n products give the trace exactly, of
        an indefinite operator, too.
    tol : float or None
        Stop when the standard error is at most `tol` times the estimate's magnitude: looked at for 20 products, then
        for a quarter more each time. All products made are used.
    probes : {"rademacher", "gaussian", "sphere"}
        Distribution of the test vectors.
    seed : int or None
        None draws one and records it.
    """

    needs_symmetric = True

    num_matvecs: int = field(default=99, validator=validators.ge(2))
    tol: float | None = field(default=None, validator=validators.optional(validators.gt(0.0)))
    probes: str = field(default="rademacher", validator=validators.in_(PROBE_KINDS))
    seed: int | None = field(default=None, validator=is_seed)

    def init(self, space: VectorSpace) -> ProbeProducts | WholeSpaceState:
        """Draw the first test vectors."""
        seed = fresh_seed(self.seed)
        if spans_everything(space.n, self.num_matvecs, self.tol):
            return whole_space(space, self.probes, seed)
        return probe_products(space, probes=self.probes, seed=seed, num_matvecs=self.num_matvecs, tol=self.tol)

    def ask(self, state: ProbeProducts | WholeSpaceState, max_rows: int) -> Tensor | None:
        """The next test vectors."""
        return state.pending[:max_rows] if len(state.pending) else None

    def tell(
        self, space: VectorSpace, state: ProbeProducts | WholeSpaceState, V: Tensor, AV: Tensor
    ) -> ProbeProducts | WholeSpaceState:
        """Keep the products; now and then look at the error bar, and go on if it is too long."""
        if isinstance(state, WholeSpaceState):
            return state.take(space, V, AV)
        if state.take(space, AV) and state.look < state.limit:
            result = self.result(space, state)
            if not result.converged and result.status != "indefinite":
                state.grow(space, self.tol)
        return state

    def result(self, space: VectorSpace, state: ProbeProducts | WholeSpaceState) -> TraceResult:
        """The estimate from the products so far; NaN before the first, infinite error before the second."""
        if isinstance(state, WholeSpaceState):
            return whole_trace(state, "xnystrace", self.tol)
        samples, indefinite = torch.empty(0, dtype=torch.float64), False
        estimate, stderr = mean_and_stderr(samples)
        if state.products.size:
            parts = state.nystrom(space)
            indefinite = parts.indefinite
            if not indefinite:
                small = _small(space, state, parts)
                samples = small.estimates()
                estimate, stderr = float(samples.mean()), exchangeable_stderr(samples, small.without)
        return TraceResult(
            estimate=estimate,
            stderr=stderr,
            num_matvecs=state.products.size,
            method="xnystrace",
            seed=state.seed,
            samples=samples,
            converged=reached(estimate, stderr, len(samples), self.tol),
            status="indefinite" if indefinite else "estimated",
        )

    def progress(self, state: ProbeProducts | WholeSpaceState) -> Progress:
        """Products done."""
        done = state.num_matvecs if isinstance(state, WholeSpaceState) else state.products.size
        return Progress(done=done, total=self.num_matvecs)


@frozen(kw_only=True, eq=False)
class _Small:
    """What the estimates are made of; `gram` is F^T F, `spread` the inverse of Omega^T Omega where that is needed."""

    parts: NystromLeftOut
    gram: Tensor
    spread: Tensor | None
    n: int

    def estimates(self) -> Tensor:
        """The k estimates, each with one test vector left out."""
        return self._estimates(self.parts.directions, self.parts.coordinates, self.gram.trace(), self.spread)

    def without(self, j: int) -> Tensor:
        """The mean of the k - 1 estimates where there never was a test vector j."""
        kept = [i for i in range(len(self.gram)) if i != j]
        q = self.parts.directions[:, j : j + 1]
        Q, G = self.parts.directions[:, kept], self.parts.coordinates[:, kept]
        for _ in range(2):  # twice: where A has a low rank the directions are nearly parallel
            Q = Q - q * (q * Q).sum(0)
        total = self.gram.trace() - (q * (self.gram @ q)).sum()
        spread = self.spread
        if spread is not None:
            spread = (spread - spread[:, j : j + 1] * spread[j] / spread[j, j])[kept][:, kept]
        Q = Q / Q.norm(dim=0).clamp_min(torch.finfo(Q.dtype).tiny)
        return self._estimates(Q, G - q * (q * G).sum(0), total, spread, kept).mean()

    def _estimates(
        self, Q: Tensor, G: Tensor, total: Tensor, spread: Tensor | None, kept: list[int] | None = None
    ) -> Tensor:
        forms = self.parts.forms if kept is None else self.parts.forms[kept]
        residual = forms - (G - Q * (Q * G).sum(0)).square().sum(0)
        if spread is not None:
            residual = residual * (self.n - len(spread) + 1) * spread.diagonal()
        return total - (Q * (self.gram @ Q)).sum(0) + residual


def _small(space: VectorSpace, state: ProbeProducts, parts: NystromLeftOut) -> _Small:
    spread = None
    if state.probes != "rademacher":
        spread = torch.linalg.inv(state.test_gram(space))
    return _Small(parts=parts, gram=state.gram_of(space, parts.root), spread=spread, n=space.n)
