r"""XDiag [1]_: the diagonal, as XTrace has the trace.

.. math:: \operatorname{diag} A \approx \frac1k\sum_{i=1}^k \Big(\operatorname{diag}(P_i A)
          + \omega_i \odot (I - P_i)\,A\,\omega_i\Big),

P_i the projector on the range of :math:`A\Omega` with test vector i left out: each term is unbiased. The paper
multiplies by :math:`A^\top` in the second phase; here A is symmetric.

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
from curvkit_core.algorithms.estimators.leave_one_out import left_out_directions
from curvkit_core.algorithms.estimators.moments import Moments
from curvkit_core.algorithms.estimators.samples import PROBE_KINDS
from curvkit_core.algorithms.estimators.sketched_range import SketchedRange, sketched_range
from curvkit_core.algorithms.estimators.whole_space import WholeSpaceState, spans_everything, whole_space
from curvkit_core.algorithms.protocol import Progress
from curvkit_core.algorithms.seeds import fresh_seed, is_seed
from curvkit_core.backends import VectorSpace
from curvkit_core.results.types import DiagonalResult

__all__ = ["XDiag", "random_signs"]

_FUNCTIONALS = 4  # signed sums of the diagonal, on which the error's correction is measured


@frozen(kw_only=True)
class XDiag:
    """XDiag, for symmetric operators. Holds `num_matvecs` vectors, half as many more during the QR.

    The errors are the spread of the terms, times one factor for all elements: what the terms' correlation takes from
    the spread (:mod:`curvkit_core.algorithms.estimators.exchangeable`), measured on four signed sums of the diagonal.
    They are right on average over the elements, not for each.

    Parameters
    ----------
    num_matvecs : int, at least 2
        Products in all; an upper bound that is never passed. From n on, with no `tol`, n products give the diagonal
        exactly; below 4 there is no range: Hutchinson's estimator.
    tol : float or None
        Stop when the root of the summed squared standard errors is at most `tol` times the estimate's norm: looked at
        for 20 test vectors (40 products), then for a quarter more each time. All products made are used.
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

    def init(self, space: VectorSpace) -> SketchedRange | WholeSpaceState:
        """Draw the first test vectors."""
        seed = fresh_seed(self.seed)
        if spans_everything(space.n, self.num_matvecs, self.tol):
            return whole_space(space, self.probes, seed)
        return sketched_range(space, probes=self.probes, seed=seed, num_matvecs=self.num_matvecs, tol=self.tol)

    def ask(self, state: SketchedRange | WholeSpaceState, max_rows: int) -> Tensor | None:
        """The next test vectors, or basis vectors."""
        return state.pending[:max_rows] if len(state.pending) else None

    def tell(
        self, space: VectorSpace, state: SketchedRange | WholeSpaceState, V: Tensor, AV: Tensor
    ) -> SketchedRange | WholeSpaceState:
        """Take the products in; at the end of a stage look at the error, and go on if it is too large."""
        if isinstance(state, WholeSpaceState):
            return state.take(space, V, AV)
        through = state.take(space, AV)
        if through and state.stage < state.limit and not self.result(space, state).converged:
            state.grow(space, self.tol)
        return state

    def result(self, space: VectorSpace, state: SketchedRange | WholeSpaceState) -> DiagonalResult:
        """The estimate of the last stage that is through; before, Hutchinson's from the test vectors so far."""
        if isinstance(state, WholeSpaceState):
            return whole_diagonal(state, "xdiag", self.tol)
        moments, offset, correction = Moments.zeros(space), None, 1.0
        exact = state.stage == space.n
        if exact:  # nothing is outside, and each term leaves a dimension out
            moments, offset = Moments.zeros(space), _projected_diagonal(space, state)
            moments.count = state.stage
        elif state.stage:
            offset = _projected_diagonal(space, state)
            for rows in _left_out(space, state):
                moments.add(rows)
            correction = _correction(space, state)
        else:
            for low, z in state.tests(space, state.sketched):
                moments.add(z * state.sketch(space, low, low + len(z)))
        return diagonal_result(
            space,
            moments,
            num_matvecs=state.num_matvecs,
            method="xdiag",
            seed=state.seed,
            tol=self.tol,
            offset=offset,
            correction=correction,
            status="exact" if exact else "estimated",
        )

    def progress(self, state: SketchedRange | WholeSpaceState) -> Progress:
        """Products done."""
        return Progress(done=state.num_matvecs, total=self.num_matvecs)


def _projected_diagonal(space: VectorSpace, state: SketchedRange) -> Tensor:
    """diag(Q Q^T A), from Q and A Q."""
    k, step = state.stage, space.comfortable_rows()
    total = space.zeros(1)[0]
    for low in range(0, k, step):
        high = min(low + step, k)
        total = total + (state.basis.rows(space, low, high) * state.image.rows(space, low, high)).sum(0)
    return total


def _left_out(space: VectorSpace, state: SketchedRange) -> Iterator[Tensor]:
    """What each term has beside diag(Q Q^T A), some rows at a time."""
    k = state.stage
    R = state.triangle[:k, :k]
    S = left_out_directions(R, space.eps)
    outside = (S * R).sum(0)
    for low, z in state.tests(space, k):
        C = S[:, low : low + len(z)].mT
        inside = state.basis.combine(space, C)
        z = z * outside[low : low + len(z)].to(z)[:, None]
        yield inside * (z - state.image.combine(space, C))


@frozen(kw_only=True, eq=False)
class _Small:
    """For m signed sums w of the diagonal: Q^T diag(w) A Q, Q^T Y and Q^T diag(w) Omega, (m, k, k) and (k, k)."""

    H: Tensor
    R: Tensor
    W: Tensor
    eps: float

    def estimates(self) -> Tensor:
        """(m, k): the signed sums of each of the k terms."""
        S = left_out_directions(self.R, self.eps)
        inside = self.H.diagonal(dim1=1, dim2=2).sum(1, keepdim=True) - (S * (self.H @ S)).sum(1)
        return inside + (S * self.R).sum(0) * (S * self.W).sum(1)

    def without(self, j: int) -> Tensor:
        """(m,): the mean of the k - 1 terms where there never was a test vector j."""
        kept = [i for i in range(len(self.R)) if i != j]
        q, r = torch.linalg.qr(self.R[:, kept])
        return _Small(H=q.mT @ self.H @ q, R=r, W=q.mT @ self.W[:, :, kept], eps=self.eps).estimates().mean(1)


def _correction(space: VectorSpace, state: SketchedRange) -> float:
    """What to multiply the terms' spread by."""
    k, step = state.stage, space.comfortable_rows()
    signs = random_signs(space, state.seed)
    H = [
        [state.image.gram(space, state.basis.rows(space, low, min(low + step, k)) * w, k) for low in range(0, k, step)]
        for w in signs
    ]
    W = [[state.basis.gram(space, z * w, k).mT for _, z in state.tests(space, k)] for w in signs]
    small = _Small(
        H=torch.stack([torch.cat(rows) for rows in H]),
        R=state.triangle[:k, :k],
        W=torch.stack([torch.cat(columns, dim=1) for columns in W]),
        eps=space.eps,
    )
    return math.sqrt(jackknife_ratio(small.estimates(), small.without))


def random_signs(space: VectorSpace, seed: int) -> Tensor:
    """Signs for signed sums of the diagonal, from another stream than the test vectors: (4, n_local)."""
    return space.random("rademacher", seed, -_FUNCTIONALS, _FUNCTIONALS)
