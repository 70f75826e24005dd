r"""The randomized Nystrom approximation [1]_ [2]_ of a psd operator.

.. math:: \hat A = (A\Omega)(\Omega^\top A\,\Omega)^{+}(A\Omega)^\top

for random Omega of l columns: the best there is of rank l from these products, between 0 and A in the psd order, exact
where A's rank is at most l. A small shift, of the size of rounding in the products, keeps the middle factor definite;
then further products with random vectors tell how far it is from A.

References
----------
.. [1] Tropp, Yurtsever, Udell, Cevher, "Fixed-rank approximation of a positive-semidefinite matrix from streaming
   data", NIPS 2017, algorithm 3.
.. [2] Frangella, Tropp, Udell, SIAM J. Matrix Anal. Appl. 44(2), 2023, 718-752.
"""

from __future__ import annotations

import math
from typing import Unpack

import torch
from attrs import define, field, frozen, validators
from torch import Tensor

from curvkit_core.algorithms.driver import DriverOptions, run
from curvkit_core.algorithms.estimators.samples import mean_and_stderr
from curvkit_core.algorithms.protocol import Progress
from curvkit_core.algorithms.seeds import fresh_seed, is_seed
from curvkit_core.backends import VectorSpace
from curvkit_core.operators.base import CurvatureOperator
from curvkit_core.operators.lambda_operator import LambdaOperator
from curvkit_core.results.types import NystromResult

__all__ = ["Nystrom", "low_rank_operator", "nystrom"]

_ROUNDING = 10.0  # of eps |A|: what the products' rounding may do to the core, seen are 1 to 4
_NEGATIVE = 4.0  # a negative eigenvalue of the core beyond so many times its rounding is the operator's own


@define(kw_only=True)
class NystromState:
    """Test rows and their products, `done` of them so far; then the approximation, and probes of its error."""

    seed: int
    phase: str
    done: int
    num_matvecs: int
    tests: Tensor
    products: Tensor
    pending: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor
    shift: float
    curvature: float
    indefinite: bool
    squares: Tensor


@frozen(kw_only=True)
class Nystrom:
    """The randomized Nystrom approximation. Holds 2 (rank + oversample) vectors, twice that for a moment.

    Parameters
    ----------
    rank : int, at least 1
        Of the approximation.
    oversample : int, at least 0
        Products beyond that, which make it better; at most n in all.
    error_probes : int, at least 0
        Products spent on how far the approximation is from the operator.
    seed : int or None
        None draws one and records it.
    """

    needs_symmetric = True

    rank: int = field(default=20, validator=validators.ge(1))
    oversample: int = field(default=10, validator=validators.ge(0))
    error_probes: int = field(default=4, validator=validators.ge(0))
    seed: int | None = field(default=None, validator=is_seed)

    def init(self, space: VectorSpace) -> NystromState:
        """Draw the test rows, and make them orthonormal."""
        if self.rank > space.n:
            msg = f"rank={self.rank} is out of range: expected 1 <= rank <= {space.n}, the operator's size."
            raise ValueError(msg)
        seed = fresh_seed(self.seed)
        rows = min(space.n, self.rank + self.oversample)
        tests, _ = space.orthonormalize(space.random("gaussian", seed, 0, rows))
        return NystromState(
            seed=seed,
            phase="sketch",
            done=0,
            num_matvecs=0,
            tests=tests,
            products=space.zeros(rows),
            pending=space.zeros(0),
            eigenvalues=torch.empty(0, dtype=torch.float64),
            eigenvectors=space.zeros(0),
            shift=0.0,
            curvature=float("nan"),
            indefinite=False,
            squares=torch.empty(0, dtype=torch.float64),
        )

    def ask(self, state: NystromState, max_rows: int) -> Tensor | None:
        """The next test rows, then the next probes of the error."""
        rows = self._next_rows(state)[:max_rows]
        return rows if len(rows) else None

    def tell(self, space: VectorSpace, state: NystromState, V: Tensor, AV: Tensor) -> NystromState:
        """Keep the products; approximate when all are there; then square what the approximation leaves of a probe."""
        state.num_matvecs += len(V)
        if state.phase == "sketch":
            state.products[state.done : state.done + len(V)] = AV
            state.done += len(V)
            if state.done == len(state.tests):
                self._approximate(space, state)
                state.tests, state.products = space.zeros(0), space.zeros(0)
                state.phase = "error"
        else:
            state.pending = state.pending[len(V) :].clone()
            for v, product in zip(V.split(1), AV.split(1), strict=True):  # so the bits do not depend on the grouping
                coordinates = space.gram(v, state.eigenvectors) * state.eigenvalues
                rest = product - space.combine(coordinates, state.eigenvectors)
                state.squares = torch.cat([state.squares, space.dots(rest, rest)])
        if state.phase == "error" and not state.indefinite and not len(state.pending):
            used = self.rank + self.oversample + len(state.squares)
            count = min(space.comfortable_rows(), self.error_probes - len(state.squares))
            state.pending = space.random("gaussian", state.seed, used, count)
        return state

    def result(self, space: VectorSpace, state: NystromState) -> NystromResult:
        """The approximation from the products so far, and its error where any probe has seen it."""
        status = "done"
        if state.phase == "sketch":
            status = "max_matvecs"
            self._approximate(space, state)
        probes = len(state.squares)
        mean, stderr = mean_and_stderr(state.squares)
        frobenius = math.sqrt(mean) if probes else float("nan")
        spread = stderr / (2.0 * frobenius) if frobenius > 0.0 else 0.0 if probes > 1 else stderr
        bound = 10.0 * math.sqrt(2.0 / math.pi) * float(state.squares.max()) ** 0.5 if probes else float("inf")
        return NystromResult(
            eigenvalues=state.eigenvalues,
            eigenvectors=state.eigenvectors,
            shift=state.shift,
            status="indefinite" if state.indefinite else status,
            curvature=state.curvature,
            frobenius_error=frobenius,
            stderr=spread,
            error_bound=bound,
            failure=10.0**-probes,
            num_matvecs=state.num_matvecs,
            seed=state.seed,
        )

    def progress(self, state: NystromState) -> Progress:
        """Products done; the end is not known for an indefinite operator."""
        left = len(self._next_rows(state)) + (self.error_probes if state.phase == "sketch" else 0)
        return Progress(done=state.num_matvecs, total=state.num_matvecs + left, note=state.phase)

    def _next_rows(self, state: NystromState) -> Tensor:
        return state.tests[state.done :] if state.phase == "sketch" else state.pending

    def _approximate(self, space: VectorSpace, state: NystromState) -> None:
        """From the first `done` products, whose core is taken to the shift's square root and inverted."""
        tests, products = state.tests[: state.done], state.products[: state.done]
        if not state.done:
            return
        core = space.gram(tests, products)
        noise = float(torch.linalg.matrix_norm(core - core.mT))  # it is symmetric but for the products' rounding
        core = 0.5 * (core + core.mT)
        values, S = torch.linalg.eigh(core)
        size = float(space.norms(products).max())
        state.curvature = float(values[0])
        noise = max(2.0 * noise, _ROUNDING * space.eps * size)
        state.indefinite = float(values[0]) < -_NEGATIVE * noise
        rank = min(self.rank, state.done)
        if state.indefinite:
            state.eigenvalues, state.eigenvectors = values[:0], space.zeros(0)
            return
        if not size > 0.0:
            state.eigenvalues, state.eigenvectors = torch.zeros(rank, dtype=torch.float64), tests[:rank].clone()
            return
        state.shift = max(noise, -2.0 * float(values[0]))
        roots = (values + state.shift).rsqrt()
        factor = space.combine(roots[:, None] * S.mT, products.add(tests, alpha=state.shift))
        Q, R = space.orthonormalize(factor)
        # factor = R^T Q, so factor^T factor = Q^T R R^T Q
        U, sigma, _ = torch.linalg.svd(R)
        state.eigenvalues = (sigma.square() - state.shift).clamp_min(0.0)[:rank]
        state.eigenvectors = space.combine(U[:, :rank].mT, Q)


def low_rank_operator(result: NystromResult, *, like: CurvatureOperator | None = None) -> CurvatureOperator:
    r"""The approximation :math:`U^\top \operatorname{diag}(\lambda)\, U` as an operator.

    Parameters
    ----------
    result : NystromResult
    like : CurvatureOperator or None
        One whose vectors are these, as the operator that was approximated; None: whole vectors, of one process.
    """
    rows = result.eigenvectors
    plain = LambdaOperator(torch.zeros_like, rows.shape[1], dtype=rows.dtype, device=rows.device)
    return (plain if like is None else _Zero(like.space)).low_rank_update(rows, result.eigenvalues)


class _Zero(CurvatureOperator):
    """The operator that is zero."""

    def rows_product(self, V: Tensor) -> Tensor:
        return torch.zeros_like(V)


def nystrom(
    op: CurvatureOperator,
    *,
    rank: int = 20,
    oversample: int = 10,
    error_probes: int = 4,
    seed: int | None = None,
    **driver: Unpack[DriverOptions],
) -> NystromResult:
    r"""Approximate a psd operator by one of low rank, :math:`\hat A = U^\top \operatorname{diag}(\lambda)\, U` [1]_.

    Parameters
    ----------
    op : CurvatureOperator, shape (n, n)
        Symmetric positive semidefinite, as the GGN of a convex loss and Fishers are.
    rank : int, 1 to n
        r.
    oversample : int, at least 0
        Products beyond that, which make it better; at most n in all. Memory is 4 (rank + oversample) vectors.
    error_probes : int, at least 0
        q: products spent on how far the approximation is from the operator.
    seed : int or None
        Of the test vectors; None draws one and records it.
    **driver
        Budgets, progress and checkpoints: the options of :func:`curvkit_core.algorithms.run`.

    Returns
    -------
    NystromResult
        Eigenvalues, descending, and orthonormal eigenvectors of the approximation;
        :func:`curvkit_core.algorithms.low_rank_operator` and :meth:`NystromPreconditioner.of` take it. The status is
        ``"indefinite"``, and there are no eigenvalues, where the operator showed a negative one.

    Raises
    ------
    ValueError
        If the operator is not symmetric or an option is out of range.

    Notes
    -----
    Exact to rounding for an operator of rank r or less; else the error is near that of the best approximation of rank r
    where the spectrum decays fast. Of q Gaussian probes, :math:`\|A - \hat A\|_2 \le 10\sqrt{2/\pi}\max_j \|(A - \hat
    A)z_j\|` fails with probability at most :math:`10^{-q}` [2]_. Products of lower precision show as a larger shift.

    References
    ----------
    .. [1] Tropp, Yurtsever, Udell, Cevher, NIPS 2017, algorithm 3.
    .. [2] Halko, Martinsson, Tropp, SIAM Review 53(2), 2011, 217-288, lemma 4.1.
    """
    algorithm = Nystrom(rank=rank, oversample=oversample, error_probes=error_probes, seed=seed)
    result: NystromResult = run(algorithm, op, **driver)
    return result
