r"""XNysDiag: the diagonal of a positive semidefinite operator, as XNysTrace [1]_ has the trace.

.. math:: \operatorname{diag} A \approx \frac1k\sum_{i=1}^k \Big(\operatorname{diag}\hat A_i
          + \omega_i \odot (A - \hat A_i)\,\omega_i\Big),

:math:`\hat A_i` the Nystrom approximation with test vector i left out: each term is unbiased. One product a test
vector, so twice as many of them as XDiag has.

References
----------
.. [1] Epperly, Tropp, Webber, "XTrace: Making the most of every sample in stochastic trace estimation", SIAM J. Matrix
   Anal. Appl. 45(1), 2024, 1-23.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from attrs import field, frozen, validators
from torch import Tensor

from curvkit_core.algorithms.estimators.exchangeable import jackknife_ratio
from curvkit_core.algorithms.estimators.hutchinson_diagonal import diagonal_result, whole_diagonal
from curvkit_core.algorithms.estimators.leave_one_out import NystromLeftOut
from curvkit_core.algorithms.estimators.moments import Moments
from curvkit_core.algorithms.estimators.probe_products import ProbeProducts, probe_products
from curvkit_core.algorithms.estimators.samples import PROBE_KINDS
from curvkit_core.algorithms.estimators.whole_space import WholeSpaceState, spans_everything, whole_space
from curvkit_core.algorithms.estimators.xdiag import random_signs
from curvkit_core.algorithms.protocol import Progress
from curvkit_core.algorithms.seeds import fresh_seed, is_seed
from curvkit_core.backends import VectorSpace
from curvkit_core.results.types import DiagonalResult

__all__ = ["XNysDiag"]


@frozen(kw_only=True)
class XNysDiag:
    """XNysDiag, for symmetric positive semidefinite operators. Holds `num_matvecs` vectors.

    Where the products show negative curvature beyond their rounding and noise, there is no estimate, and the result's
    status says ``"indefinite"``: use XDiag. The errors are made as XDiag's are.

    Parameters
    ----------
    num_matvecs : int, at least 2
        Products; an upper bound that is never passed. From n on, with no `tol`, n products give the diagonal exactly,
        of an indefinite operator, too.
    tol : float or None
        Stop when the root of the summed squared standard errors is at most `tol` times the estimate's norm: looked at
        for 20 products, then for a quarter more each time. All products made are used.
    probes : {"rademacher", "gaussian", "sphere"}
        Distribution of the test vectors; signs are best, the others add the variance of their squares.
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
        """Keep the products; now and then look at the error, and go on if it is too large."""
        if isinstance(state, WholeSpaceState):
            return state.take(space, V, AV)
        if state.take(space, AV) and state.look < state.limit:
            result = self.result(space, state)
            if not result.converged and result.status != "indefinite":
                state.grow(space, self.tol)
        return state

    def result(self, space: VectorSpace, state: ProbeProducts | WholeSpaceState) -> DiagonalResult:
        """The estimate from the products so far; NaN before the first, infinite errors before the second."""
        if isinstance(state, WholeSpaceState):
            return whole_diagonal(state, "xnysdiag", self.tol)
        moments, offset, correction, status = Moments.zeros(space), None, 1.0, "estimated"
        if state.products.size:
            parts = state.nystrom(space)
            if parts.indefinite:
                status = "indefinite"
            else:
                offset = _approximate_diagonal(space, state, parts)
                for rows in _left_out(space, state, parts):
                    moments.add(rows)
                correction = _correction(space, state, parts)
        return diagonal_result(
            space,
            moments,
            num_matvecs=state.products.size,
            method="xnysdiag",
            seed=state.seed,
            tol=self.tol,
            offset=offset,
            correction=correction,
            status=status,
        )

    def progress(self, state: ProbeProducts | WholeSpaceState) -> Progress:
        """Products done."""
        done = state.num_matvecs if isinstance(state, WholeSpaceState) else state.products.size
        return Progress(done=done, total=self.num_matvecs)


def _approximate_diagonal(space: VectorSpace, state: ProbeProducts, parts: NystromLeftOut) -> Tensor:
    """The diagonal of the whole Nystrom approximation F F^T."""
    total, step = space.zeros(1)[0], space.comfortable_rows()
    for low in range(0, state.products.size, step):
        total = total + state.products.combine(space, parts.root[:, low : low + step].mT).square().sum(0)
    return total


def _left_out(space: VectorSpace, state: ProbeProducts, parts: NystromLeftOut) -> Iterator[Tensor]:
    """What each term has beside the whole approximation's diagonal, some rows at a time."""
    Q, G = parts.directions, parts.coordinates
    dropped = parts.root @ Q
    remainder = torch.eye(len(Q), dtype=Q.dtype) - parts.root @ (G - Q * (Q * G).sum(0))
    for low, z in state.tests(space):
        here = slice(low, low + len(z))
        outside = z * state.products.combine(space, remainder[:, here].mT)
        yield outside - state.products.combine(space, dropped[:, here].mT).square()


@frozen(kw_only=True, eq=False)
class _Small:
    """For m signed sums w of the diagonal: F^T diag(w) F and Omega^T diag(w) Y, both (m, k, k)."""

    parts: NystromLeftOut
    gram: Tensor
    K: Tensor

    def estimates(self) -> Tensor:
        """(m, k): the signed sums of each of the k terms."""
        return self._estimates(self.parts.directions, self.parts.coordinates, self._trace(), self.K)

    def without(self, j: int) -> Tensor:
        """(m,): the mean of the k - 1 terms where there never was a test vector j."""
        kept = [i for i in range(self.K.shape[1]) if i != j]
        q = self.parts.directions[:, j : j + 1]
        Q, G = self.parts.directions[:, kept], self.parts.coordinates[:, kept]
        for _ in range(2):  # twice: where A has a low rank the directions are nearly parallel
            Q = Q - q * (q * Q).sum(0)
        Q = Q / Q.norm(dim=0).clamp_min(torch.finfo(Q.dtype).tiny)
        total = self._trace() - (q * (self.gram @ q)).sum((1, 2))[:, None]
        return self._estimates(Q, G - q * (q * G).sum(0), total, self.K[:, kept], kept).mean(1)

    def _trace(self) -> Tensor:
        return self.gram.diagonal(dim1=1, dim2=2).sum(1, keepdim=True)

    def _estimates(self, Q: Tensor, G: Tensor, total: Tensor, K: Tensor, kept: list[int] | None = None) -> Tensor:
        own = K.diagonal(dim1=1, dim2=2) if kept is None else K[:, range(len(kept)), kept]
        on_root = self.parts.root.mT @ K.mT  # column i: F^T diag(w) omega_i
        residual = own - (on_root * (G - Q * (Q * G).sum(0))).sum(1)
        return total - (Q * (self.gram @ Q)).sum(1) + residual


def _correction(space: VectorSpace, state: ProbeProducts, parts: NystromLeftOut) -> float:
    """What to multiply the terms' spread by."""
    signs = random_signs(space, state.seed)
    K = torch.stack([torch.cat([state.products.gram(space, z * w) for _, z in state.tests(space)]) for w in signs])
    small = _Small(parts=parts, gram=state.gram_of(space, parts.root, signs), K=K)
    return math.sqrt(jackknife_ratio(small.estimates(), small.without))
