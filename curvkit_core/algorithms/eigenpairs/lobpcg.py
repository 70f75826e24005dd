r"""Extreme eigenpairs by LOBPCG, the locally optimal block preconditioned conjugate gradient method [1]_.

Every iteration minimises (or maximises) the Rayleigh quotient over :math:`\operatorname{span}\{X, P, W\}`: the
iterates, the last step, and the preconditioned residuals :math:`W = M^{-1}(A X - \theta X)`. All three are kept
orthonormal to one another: the coordinates of the new X and P are made so as small float64 matrices [2]_ [3]_, W by
block orthogonalisation, which drops what depends. So no Gram matrix becomes singular, and the projected problem is a
plain symmetric one. A pair that has converged gets no new direction but stays in X (soft locking).

Nothing that the recurrences say is believed at the end: before convergence is claimed X is multiplied afresh.

References
----------
.. [1] Knyazev, SIAM J. Sci. Comput. 23(2), 2001, 517-541.
.. [2] Hetmaniuk, Lehoucq, J. Comput. Phys. 218(1), 2006, 324-332.
.. [3] Duersch, Shao, Yang, Gu, SIAM J. Sci. Comput. 40(5), 2018, C655-C676.
"""

from __future__ import annotations

import math
from typing import Any, Unpack

import torch
from attrs import define, field, frozen, validators
from torch import Tensor

from curvkit_core.algorithms.basis import Basis
from curvkit_core.algorithms.driver import DriverOptions, run
from curvkit_core.algorithms.eigenpairs.block_orthogonalize import block_orthogonalize
from curvkit_core.algorithms.eigenpairs.block_start import append_random, append_start
from curvkit_core.algorithms.eigenpairs.history import look
from curvkit_core.algorithms.eigenpairs.wanted import wanted_first
from curvkit_core.algorithms.protocol import Progress
from curvkit_core.algorithms.seeds import fresh_seed, is_seed
from curvkit_core.algorithms.solves.preconditioner import DiagonalPreconditioner, Preconditioner
from curvkit_core.backends import VectorSpace
from curvkit_core.operators import CurvatureOperator
from curvkit_core.results.types import EigenHistory, EigenResult

__all__ = ["LOBPCG", "lobpcg"]

_ROUNDING = 10.0  # residuals below this times eps |A| cannot be told from rounding
_GAIN = 0.9  # where so many iterations do not bring the residuals down to this, X is multiplied afresh
_PATIENCE = 10
_STEP = 1e-8  # coordinates of P below this are rounding of the projected problem


@define(kw_only=True)
class LOBPCGState:
    """Rows S = [X, P, W], orthonormal, and the products AS of the first of them; `ready` are the others.

    X has `block` rows, with Ritz values `theta` and residual norms `residuals`; `fresh` says that those are of products
    of X itself, and not of combinations of earlier ones. `ready` are the rows to multiply, `told` of them done. While
    X is multiplied afresh (`looking`) the new products follow the old ones, and what they differ by is `noise`; `noisy`
    says that noise alone made up the residuals when that was last done. `best` is the smallest residual of the wanted
    pairs together, `since` the number of iterations without a gain. After the finish `rows` are the eigenvectors.
    """

    seed: int
    drawn: int
    block: int
    rows: Basis
    products: Basis
    ready: Tensor
    theta: Tensor
    residuals: Tensor
    preconditioner: Any
    told: int = 0
    fresh: bool = True
    looking: bool = False
    noise: float = 0.0
    noisy: bool = False
    best: float = math.inf
    since: int = 0
    scale: float = 0.0
    num_matvecs: int = 0
    history: EigenHistory | None = None
    status: str = ""
    finished: bool = False


@frozen(kw_only=True)
class LOBPCG:
    """LOBPCG for symmetric operators. Holds 6 `block_size` vectors.

    Parameters
    ----------
    k : int, at least 1
        Eigenpairs wanted.
    which : {"LA", "SA"}
        Largest or smallest.
    block_size : int or None
        Rows iterated on, at least k: a few more than k speed up the last ones. None: k + max(2, k // 4), at most n.
    tol : float, at least 0
        A pair has converged when its residual is below `tol` times its eigenvalue's magnitude, or at rounding level.
    max_matvecs : int, at least 1
        Products after which it stops, converged or not.
    seed : int or None
        Of the random rows; None draws one and records it.
    """

    needs_symmetric = True

    k: int = field(default=6, validator=validators.ge(1))
    which: str = field(default="LA", validator=validators.in_(("LA", "SA")))
    block_size: int | None = field(default=None, validator=validators.optional(validators.ge(1)))
    tol: float = field(default=1e-4, validator=validators.ge(0.0))
    max_matvecs: int = field(default=1000, validator=validators.ge(1))
    seed: int | None = field(default=None, validator=is_seed)

    def init(
        self, space: VectorSpace, *, start: Tensor | None = None, preconditioner: Tensor | Preconditioner | None = None
    ) -> LOBPCGState:
        """Lay out X: the rows of `start`, (s, n) or (n,), filled up with random ones.

        `preconditioner` is the diagonal (n,) of M, or a :class:`Preconditioner`.
        """
        n = space.n
        if self.k > n:
            msg = f"k={self.k} is out of range: expected 1 <= k <= {n}, the operator's size. Pass a smaller k."
            raise ValueError(msg)
        block = min(n, self.k + max(2, self.k // 4) if self.block_size is None else self.block_size)
        if block < self.k:
            msg = f"block_size={block} is below k={self.k}: expected at least k. Leave it out for the default."
            raise ValueError(msg)
        if isinstance(preconditioner, Tensor):
            diagonal = space.check(preconditioner, "preconditioner")[0]
            preconditioner = DiagonalPreconditioner(diagonal=diagonal)
        rows = Basis.allocate(space, min(n, 3 * block), leading=self.k)
        if start is not None:
            append_start(space, rows, start, block)
        empty = torch.zeros(0, dtype=torch.float64)
        state = LOBPCGState(
            seed=fresh_seed(self.seed),
            drawn=0,
            block=block,
            rows=rows,
            products=Basis.allocate(space, max(2 * block, min(n, 3 * block))),
            ready=space.zeros(0),
            theta=empty,
            residuals=empty,
            preconditioner=preconditioner,
        )
        state.drawn = append_random(space, rows, state.seed, 0, block)
        state.ready = rows.rows(space, 0, block)
        return state

    def ask(self, state: LOBPCGState, max_rows: int) -> Tensor | None:
        """The rows of S whose products are wanting."""
        if state.status:
            return None
        return state.ready[state.told :][: min(max_rows, self.max_matvecs - state.num_matvecs)]

    def tell(self, space: VectorSpace, state: LOBPCGState, V: Tensor, AV: Tensor) -> LOBPCGState:
        """Take the products in; with the last of the block, an iteration."""
        state.num_matvecs += len(V)
        state.scale = max(state.scale, float(space.norms(AV).max()))
        state.products.append(AV)
        state.told += len(V)
        if state.told == len(state.ready):
            self._iterate(space, state)
        if not state.status and state.num_matvecs >= self.max_matvecs:
            state.status = "stopped"
        return state

    def finish(self, space: VectorSpace, state: LOBPCGState) -> LOBPCGState:
        """Let go of everything but the eigenvectors."""
        if not state.finished:
            if not len(state.theta) and state.products.size:
                self._rayleigh_ritz(space, state, state.products.size)
            state.products.release(space, 0)
            state.ready = space.zeros(0)
            vectors = state.rows.release(space, min(self.k, len(state.theta)))
            vectors /= space.norms(vectors).clamp_min(torch.finfo(torch.float64).tiny).to(vectors)[:, None]
            state.finished = True
        return state

    def result(self, space: VectorSpace, state: LOBPCGState) -> EigenResult:
        """The best pairs so far; none before the first block is through, unless the run has ended there."""
        shown = min(self.k, len(state.theta))
        vectors = state.rows.rows(space, 0, shown)
        theta, residuals = state.theta[:shown], state.residuals[:shown]
        known = self._honest(space, state, residuals)
        met = residuals <= self._targets(space, state, theta)
        return EigenResult(
            eigenvalues=theta,
            eigenvectors=vectors if state.finished else vectors.clone(),
            residuals=known,
            converged=met & state.fresh,
            num_matvecs=state.num_matvecs,
            seed=state.seed if state.drawn else None,
            which=self.which,
            status=state.status or "stopped",
            history=look(state.history, state.num_matvecs, theta, known, k=self.k, which=self.which),
        )

    def progress(self, state: LOBPCGState) -> Progress:
        """Products; the end is known only by its bound."""
        return Progress(done=state.num_matvecs, note=f"residuals {state.best:.2g}")

    def _iterate(self, space: VectorSpace, state: LOBPCGState) -> None:
        """The best of S, its residuals, and what to do about them."""
        looked = state.looking
        if looked:
            self._take_fresh(space, state)
        state.fresh = state.rows.size == state.block
        R = self._rayleigh_ritz(space, state, state.block)
        known = self._honest(space, state, state.residuals)
        state.history = look(state.history, state.num_matvecs, state.theta, known, k=self.k, which=self.which)
        met = state.residuals <= self._targets(space, state, state.theta)
        level = float(state.residuals[: self.k].norm())
        state.since = 0 if level < _GAIN * state.best else state.since + 1
        state.best = min(state.best, level)
        solved = bool(met[: self.k].all())
        noisy = looked and level <= 2.0 * state.noise
        if state.fresh and solved:
            state.status = "converged"
        elif noisy and state.noisy:  # twice: the first time it may be rounding gathered on the way
            state.status = "noise"
        elif solved or (state.since >= _PATIENCE and not state.fresh):
            self._multiply_afresh(space, state)
        else:
            state.noisy = noisy if looked else state.noisy
            self._add_directions(space, state, R[(~met).to(R.device)])

    def _rayleigh_ritz(self, space: VectorSpace, state: LOBPCGState, count: int) -> Tensor:
        """X and P from the rows multiplied: the best `count` of them, and the steps to there. Give X's residuals."""
        size = state.products.size
        T = state.rows.gram(space, state.products.rows(space, 0, size), size)
        theta, C = torch.linalg.eigh((T + T.mT) / 2)
        order = wanted_first(theta, self.which)[:count]
        rotation = torch.cat([C[:, order], _steps(C[:, order], state.block)], dim=1).mT
        state.rows.truncate(size)
        state.rows.rotate(space, rotation)
        state.products.rotate(space, rotation)
        state.theta = theta[order]
        X = state.rows.rows(space, 0, count)
        R = state.products.rows(space, 0, count) - state.theta.to(X)[:, None] * X
        state.residuals = space.norms(R)
        return R

    def _add_directions(self, space: VectorSpace, state: LOBPCGState, W: Tensor) -> None:
        """Residuals of the pairs that have not converged, preconditioned."""
        if state.preconditioner is not None:
            W = state.preconditioner.inverse_rows(space, W)
        block = block_orthogonalize(space, W, state.rows).rows[: space.n - state.rows.size]
        if not len(block):
            self._multiply_afresh(space, state)
            return
        state.rows.append(block)
        state.ready, state.told = state.rows.rows(space, state.products.size, state.rows.size), 0

    def _multiply_afresh(self, space: VectorSpace, state: LOBPCGState) -> None:
        """X alone, orthonormal to rounding again, with products of its own."""
        state.rows.truncate(state.block)
        X = state.rows.rows(space, 0, state.block)
        squares, U = torch.linalg.eigh(space.gram(X, X))
        nearest = U / squares.sqrt() @ U.mT  # the symmetric root leaves every row where it is
        state.rows.rotate(space, nearest)
        state.products.rotate(space, nearest)
        state.ready, state.told = state.rows.rows(space, 0, state.block), 0
        state.looking, state.since = True, 0

    def _take_fresh(self, space: VectorSpace, state: LOBPCGState) -> None:
        """X's own products in the place of those combined, which differ from them by noise."""
        b = state.block
        gap = state.products.rows(space, b, 2 * b) - state.products.rows(space, 0, b)
        state.noise = float(space.norms(gap[: self.k]).norm())
        state.products.rotate(space, torch.eye(2 * b, dtype=torch.float64)[b:])
        state.looking = False

    def _honest(self, space: VectorSpace, state: LOBPCGState, residuals: Tensor) -> Tensor:
        """The residuals with noise, and rounding, which recurrences and rotations add up like a random walk."""
        rounding = 3.0 * space.eps * state.num_matvecs**0.5 * state.scale
        return residuals.hypot(torch.tensor(math.hypot(rounding, state.noise), dtype=torch.float64))

    def _targets(self, space: VectorSpace, state: LOBPCGState, theta: Tensor) -> Tensor:
        targets: Tensor = self.tol * theta.abs()
        return targets.clamp_min(_ROUNDING * space.eps * state.scale)


def _steps(X: Tensor, block: int) -> Tensor:
    """Orthonormal coordinates of P: the part of X (size, count) outside the first `block` rows, orthogonal to X."""
    D = X.clone()
    D[:block] = 0.0
    for _ in range(2):
        D -= X @ (X.mT @ D)
    U, sizes, _ = torch.linalg.svd(D, full_matrices=False)
    U = U[:, sizes > _STEP]
    P: Tensor = torch.linalg.qr(U - X @ (X.mT @ U)).Q
    return P


def lobpcg(
    op: CurvatureOperator,
    *,
    k: int = 6,
    which: str = "LA",
    block_size: int | None = None,
    tol: float = 1e-4,
    max_matvecs: int = 1000,
    seed: int | None = None,
    start: Tensor | None = None,
    preconditioner: Tensor | Preconditioner | None = None,
    **driver: Unpack[DriverOptions],
) -> EigenResult:
    r"""Eigenpairs :math:`A q = \theta q` at an end of a symmetric operator's spectrum, by LOBPCG [1]_ [2]_ [3]_.

    Parameters
    ----------
    op : CurvatureOperator, shape (n, n)
        Symmetric.
    k : int, 1 to n
        Pairs wanted.
    which : {"LA", "SA"}
        Largest or smallest.
    block_size : int or None
        Rows iterated on, at least k: a few more than k speed up the last ones. None: k + max(2, k // 4), at most n.
        Memory is 6 `block_size` vectors, whatever the number of iterations, and three blocks more within one.
    tol : float, at least 0
        A pair has converged when its residual is below `tol` times its eigenvalue's magnitude, or at rounding level.
    max_matvecs : int, at least 1
        Products after which it stops, converged or not.
    seed : int or None
        Of the random rows; None draws one and records it.
    start : Tensor, shape (s, n) or (n,), or None
        First iterates, s <= block_size, for instance eigenvectors found before; random ones fill the block up. Where
        s = block_size, eigenvectors of eigenvalues that are not wanted are taken for the answer.
    preconditioner : Tensor of shape (n,), Preconditioner, or None
        M, an approximation of A (for ``which="SA"``) that is positive definite: the diagonal of one, or for instance
        ``NystromPreconditioner.of(nystrom(op, rank=...), damping=...)``. Changes the cost, never the answer.
    **driver
        Budgets, progress and checkpoints: the options of :func:`curvkit_core.algorithms.run`.

    Returns
    -------
    EigenResult
        Eigenvalues descending for LA, ascending for SA; eigenvectors as unit rows; residuals, of products made afresh
        where a pair is said to have converged. The status is ``"noise"`` where rounding, or products in low precision,
        keep the residuals above the tolerance.

    Raises
    ------
    ValueError
        If the operator is not symmetric, or k, block_size, `start` or `preconditioner` do not fit.

    Notes
    -----
    A repeated eigenvalue is found as often as the block has rows for it.

    References
    ----------
    .. [1] Knyazev, SIAM J. Sci. Comput. 23(2), 2001, 517-541.
    .. [2] Hetmaniuk, Lehoucq, J. Comput. Phys. 218(1), 2006, 324-332.
    .. [3] Duersch, Shao, Yang, Gu, SIAM J. Sci. Comput. 40(5), 2018, C655-C676.
    """
    algorithm = LOBPCG(k=k, which=which, block_size=block_size, tol=tol, max_matvecs=max_matvecs, seed=seed)
    inputs: dict[str, Any] = {"start": start, "preconditioner": preconditioner}
    given = {name: value for name, value in inputs.items() if value is not None}
    result: EigenResult = run(algorithm, op, inputs=given, **driver)
    return result
