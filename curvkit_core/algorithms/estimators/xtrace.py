r"""XTrace [1]_: every product serves both the sketch and the estimate of what the sketch leaves.

.. math:: \operatorname{tr} A \approx \frac1k\sum_{i=1}^k \Big(\operatorname{tr}(P_i A P_i)
          + c_i\,\omega_i^\top (I - P_i) A (I - P_i)\,\omega_i\Big),

P_i the projector on the range of :math:`A\Omega` with test vector i left out, on which :math:`\omega_i` does not
depend: each term is unbiased. For probes with no preferred direction :math:`(I - P_i)\omega_i` is brought to the norm
that it has on average, :math:`c_i = (n - k + 1)/\|(I - P_i)\omega_i\|^2`, and a multiple of the identity is then exact;
for sign probes :math:`c_i = 1`. Two products a test vector; all k terms from one QR decomposition by downdating. The
standard error is that of :mod:`curvkit_core.algorithms.estimators.exchangeable`: the paper's, which takes the terms as
independent, is too small by a factor of up to two.

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
from curvkit_core.algorithms.estimators.leave_one_out import left_out_directions
from curvkit_core.algorithms.estimators.samples import PROBE_KINDS, mean_and_stderr
from curvkit_core.algorithms.estimators.sketched_range import SketchedRange, sketched_range
from curvkit_core.algorithms.estimators.stopping import reached
from curvkit_core.algorithms.estimators.whole_space import WholeSpaceState, spans_everything, whole_space
from curvkit_core.algorithms.protocol import Progress
from curvkit_core.algorithms.seeds import fresh_seed, is_seed
from curvkit_core.backends import VectorSpace
from curvkit_core.results.types import TraceResult

__all__ = ["XTrace"]


@frozen(kw_only=True)
class XTrace:
    """XTrace; the operator need not be symmetric. Holds `num_matvecs` vectors, half as many more during the QR.

    Parameters
    ----------
    num_matvecs : int, at least 2
        Products in all; an upper bound that is never passed. From n on, with no `tol`, n products give the trace
        exactly; below 4 there is no range: Hutchinson's estimator.
    tol : float or None
        Stop when the standard error is at most `tol` times the estimate's magnitude: looked at for 20 test vectors (40
        products), then for a quarter more each time. All products made are used.
    probes : {"rademacher", "gaussian", "sphere"}
        Distribution of the test vectors.
    seed : int or None
        None draws one and records it.
    """

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
        """Take the products in; at the end of a stage look at the error bar, and go on if it is too long."""
        if isinstance(state, WholeSpaceState):
            return state.take(space, V, AV)
        through = state.take(space, AV)
        if through and state.stage < state.limit and not self.result(space, state).converged:
            state.grow(space, self.tol)
        return state

    def result(self, space: VectorSpace, state: SketchedRange | WholeSpaceState) -> TraceResult:
        """The estimate of the last stage that is through; before, Hutchinson's from the test vectors so far."""
        if isinstance(state, WholeSpaceState):
            return whole_trace(state, "xtrace", self.tol)
        k = state.stage
        exact = k == space.n
        if exact:  # each estimate is with a dimension left out; this sum is over all
            samples = torch.empty(0, dtype=torch.float64)
            estimate, stderr = float(projected(space, state, k).trace()), 0.0
        elif k:
            small = _small(space, state, k)
            samples = small.estimates()
            estimate = float(samples.mean())
            stderr = exchangeable_stderr(samples, lambda j: small.without(j).estimates().mean())
        else:
            samples = _quadratic_forms(space, state, state.sketched)
            estimate, stderr = mean_and_stderr(samples)
        return TraceResult(
            estimate=estimate,
            stderr=stderr,
            num_matvecs=state.num_matvecs,
            method="xtrace",
            seed=state.seed,
            samples=samples,
            converged=reached(estimate, stderr, len(samples), self.tol, exact=exact),
            status="exact" if exact else "estimated",
        )

    def progress(self, state: SketchedRange | WholeSpaceState) -> Progress:
        """Products done."""
        return Progress(done=state.num_matvecs, total=self.num_matvecs)


def whole_trace(state: WholeSpaceState, method: str, tol: float | None) -> TraceResult:
    """The trace over the whole basis; NaN, with an infinite error, before the sum is complete."""
    complete = state.complete
    return TraceResult(
        estimate=state.trace if complete else float("nan"),
        stderr=0.0 if complete else float("inf"),
        num_matvecs=state.num_matvecs,
        method=method,
        seed=state.seed,
        converged=reached(state.trace, 0.0, 0, tol, exact=complete),
        status="exact" if complete else "estimated",
    )


def projected(space: VectorSpace, state: SketchedRange, k: int) -> Tensor:
    """Q A Q^T, (k, k): element (i, j) belongs to q_i and A q_j."""
    step = space.comfortable_rows()
    rows = [state.image.gram(space, state.basis.rows(space, low, min(low + step, k)), k) for low in range(0, k, step)]
    return torch.cat(rows)


def _quadratic_forms(space: VectorSpace, state: SketchedRange, count: int) -> Tensor:
    """z^T A z of the first `count` test vectors."""
    forms = [torch.empty(0, dtype=torch.float64)]
    forms += [space.dots(z, state.sketch(space, low, low + len(z))) for low, z in state.tests(space, count)]
    return torch.cat(forms)


@frozen(kw_only=True, eq=False)
class _Small:
    """What the estimates are made of, (k, k) with a column a test vector: Q^T A Q, Q^T Y, Q^T Omega, (AQ)^T Omega.

    `squares` are the test vectors' squared norms, of use where `dims`, the dimension left outside k - 1 vectors, is
    given: there a part outside is brought to its mean norm.
    """

    H: Tensor
    R: Tensor
    W: Tensor
    T: Tensor
    squares: Tensor
    dims: int | None
    eps: float

    def estimates(self) -> Tensor:
        """The k estimates, each with one test vector left out."""
        S = left_out_directions(self.R, self.eps)
        beyond = (S * self.W).sum(0)
        U = self.W - S * beyond  # coordinates of P_i omega_i
        forms = beyond * (S * self.R).sum(0) - (self.T * U).sum(0) + (U * (self.H @ U)).sum(0)
        if self.dims is not None:
            forms = forms * self.dims / (self.squares - U.square().sum(0))
        return self.H.trace() - (S * (self.H @ S)).sum(0) + forms

    def without(self, j: int) -> _Small:
        """The same where there never was a test vector j."""
        kept = [i for i in range(len(self.R)) if i != j]
        q, r = torch.linalg.qr(self.R[:, kept])
        return _Small(
            H=q.mT @ self.H @ q,
            R=r,
            W=q.mT @ self.W[:, kept],
            T=q.mT @ self.T[:, kept],
            squares=self.squares[kept],
            dims=None if self.dims is None else self.dims + 1,
            eps=self.eps,
        )


def _small(space: VectorSpace, state: SketchedRange, k: int) -> _Small:
    on_basis, on_image, squares = [], [], []
    for _, z in state.tests(space, k):
        on_basis.append(state.basis.gram(space, z, k).mT)
        on_image.append(state.image.gram(space, z, k).mT)
        squares.append(space.dots(z, z))
    return _Small(
        H=projected(space, state, k),
        R=state.triangle[:k, :k],
        W=torch.cat(on_basis, dim=1),
        T=torch.cat(on_image, dim=1),
        squares=torch.cat(squares),
        dims=None if state.probes == "rademacher" else space.n - k + 1,
        eps=space.eps,
    )
