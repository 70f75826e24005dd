r"""Eigenpairs at an end of the spectrum by thick-restart Lanczos [1]_.

The basis grows by one product a step to `ncv` vectors; then the best Ritz vectors are kept, the last vector follows
them, and it grows again. The projection :math:`T = Q A Q^\top` is computed in full against an orthonormal basis, so
there are no ghosts. At a breakdown (an invariant subspace) a random orthogonal vector goes on: k pairs come out of an
operator of lower rank, too.

References
----------
.. [1] Wu, Simon, SIAM J. Matrix Anal. Appl. 22(2), 2000, 602-616.
"""

from __future__ import annotations

from typing import Any, Unpack

import torch
from attrs import define, field, frozen, validators
from torch import Tensor

from curvkit_core.algorithms.driver import DriverOptions, run
from curvkit_core.algorithms.krylov import orthogonalize, start_row, unit_random
from curvkit_core.algorithms.protocol import Progress
from curvkit_core.algorithms.seeds import fresh_seed, is_seed
from curvkit_core.backends import VectorSpace
from curvkit_core.operators import CurvatureOperator
from curvkit_core.results.types import EigenResult

__all__ = ["Eigsh", "eigsh"]

_ENDS = ("LA", "SA", "LM", "BE")
_ROUNDING = 10.0  # residuals below this times eps |A| cannot be told from rounding
_COLUMNS = 1 << 20  # the restart's rotation works through so many columns at a time, in place


@define(kw_only=True)
class EigshState:
    """Basis rows Q, of which `size` are multiplied and the next is ready; T = Q A Q^T; |A q - theta q| at a restart.

    `coupling` is the norm of what the last product left outside the basis: the bound on every residual. Right after a
    restart (`size` == `kept`) the residuals are in `kept_residuals` instead.
    """

    seed: int
    given_start: bool
    basis: Tensor
    projected: Tensor
    size: int
    kept: int
    kept_residuals: Tensor
    coupling: float
    scale: float
    num_matvecs: int
    breakdowns: int
    num_converged: int
    done: bool


@frozen(kw_only=True)
class Eigsh:
    """Thick-restart Lanczos for symmetric operators. Holds `ncv` + 1 vectors.

    Parameters
    ----------
    k : int, at least 1
        Eigenpairs wanted.
    which : {"LA", "SA", "LM", "BE"}
        Largest, smallest, largest in magnitude, or half from each end.
    tol : float, at least 0
        A pair has converged when its residual is below `tol` times its eigenvalue's magnitude, or at rounding level.
    ncv : int or None
        Vectors in the basis; None: max(2 k + 1, k + 20), at most n.
    max_matvecs : int, at least 1
        Products after which it stops, converged or not.
    seed : int or None
        Of the start vector; None draws one and records it.
    """

    needs_symmetric = True

    k: int = field(default=6, validator=validators.ge(1))
    which: str = field(default="LA", validator=validators.in_(_ENDS))
    tol: float = field(default=1e-4, validator=validators.ge(0.0))
    ncv: int | None = field(default=None, validator=validators.optional(validators.ge(2)))
    max_matvecs: int = field(default=1000, validator=validators.ge(1))
    seed: int | None = field(default=None, validator=is_seed)

    def init(self, space: VectorSpace, *, start: Tensor | None = None) -> EigshState:
        """Lay out the basis and its first vector."""
        if self.k > space.n:
            msg = f"k={self.k} is out of range: expected 1 <= k <= {space.n}, the operator's size. Pass a smaller k."
            raise ValueError(msg)
        ncv = self._basis_size(space.n)
        if ncv <= self.k and ncv < space.n:
            msg = f"ncv={ncv} is too small for k={self.k}: expected k < ncv <= {space.n}. Leave it out for the default."
            raise ValueError(msg)
        seed = fresh_seed(self.seed)
        basis = space.zeros(ncv + 1)
        basis[:1] = start_row(space, start, seed)
        return EigshState(
            seed=seed,
            given_start=start is not None,
            basis=basis,
            projected=torch.zeros((ncv, ncv), dtype=torch.float64),
            size=0,
            kept=0,
            kept_residuals=torch.zeros(0, dtype=torch.float64),
            coupling=0.0,
            scale=0.0,
            num_matvecs=0,
            breakdowns=0,
            num_converged=0,
            done=False,
        )

    def ask(self, state: EigshState, max_rows: int) -> Tensor | None:
        """The newest basis vector."""
        return None if state.done else state.basis[state.size : state.size + 1]

    def tell(self, space: VectorSpace, state: EigshState, V: Tensor, AV: Tensor) -> EigshState:
        """Project, orthogonalise, extend the basis; at its full length stop or restart."""
        j = state.size
        w = AV.clone()
        h, norm, state.coupling = orthogonalize(space, w, state.basis[: j + 1])
        state.projected[: j + 1, j] = h
        state.projected[j, : j + 1] = h
        state.scale = max(state.scale, norm)
        state.num_matvecs += 1
        state.size = j + 1
        if state.size == space.n:
            state.coupling = 0.0
        elif state.coupling <= _ROUNDING * space.eps * state.scale:
            state.coupling = 0.0
            state.breakdowns += 1
            state.basis[j + 1 : j + 2] = unit_random(space, state.seed, state.breakdowns, state.basis[: j + 1])
        else:
            state.basis[j + 1] = w[0] / state.coupling
        full = state.size == len(state.projected)
        if full:
            theta, S, residuals = self._ritz(space, state)
            state.num_converged = int(self._converged(space, state, theta, residuals)[: self.k].sum())
            state.done = state.num_converged == self.k or state.size == space.n
        state.done = state.done or state.num_matvecs >= self.max_matvecs
        if full and not state.done:
            self._restart(space, state, theta, S, residuals)
        return state

    def result(self, space: VectorSpace, state: EigshState) -> EigenResult:
        """The best pairs so far, fewer than k if fewer products than k were made."""
        theta, S, residuals = self._ritz(space, state)
        best = torch.arange(min(self.k, len(theta)))
        if self.which == "BE":
            best = theta[best].argsort()
        vectors = space.combine(S[:, best].mT, state.basis[: state.size])
        norms = space.norms(vectors).clamp_min(torch.finfo(torch.float64).tiny)
        vectors /= norms.to(vectors)[:, None]
        # the bound knows nothing of rounding, which adds up like a random walk over the steps (seen: 4 eps |A| after 56
        # products, 27 after 1,000): no residual is claimed below three times that
        floor = 3.0 * space.eps * state.num_matvecs**0.5 * (float(theta.abs().max()) if len(theta) else 0.0)
        return EigenResult(
            eigenvalues=theta[best],
            eigenvectors=vectors,
            residuals=residuals[best].hypot(torch.tensor(floor, dtype=torch.float64)),
            converged=self._converged(space, state, theta, residuals)[best],
            num_matvecs=state.num_matvecs,
            seed=None if state.given_start else state.seed,
            which=self.which,
        )

    def progress(self, state: EigshState) -> Progress:
        """Products; the end is known only by its bound."""
        return Progress(done=state.num_matvecs, note=f"{state.num_converged} of {self.k} converged")

    def _basis_size(self, n: int) -> int:
        return min(n, max(2 * self.k + 1, self.k + 20) if self.ncv is None else self.ncv)

    def _ritz(self, space: VectorSpace, state: EigshState) -> tuple[Tensor, Tensor, Tensor]:
        """Ritz values, most wanted first, their coordinates (columns) and residual bounds."""
        m = state.size
        theta, S = torch.linalg.eigh(state.projected[:m, :m])
        residuals = state.kept_residuals if m == state.kept and m else state.coupling * S[m - 1 :].abs().reshape(-1)
        order = _wanted_first(theta, self.which)
        if m == state.kept and m:
            # T is diagonal here, with the kept values in the order of kept_residuals
            residuals = residuals[S.abs().argmax(dim=0)]
        return theta[order], S[:, order], residuals[order]

    def _converged(self, space: VectorSpace, state: EigshState, theta: Tensor, residuals: Tensor) -> Tensor:
        rounding = _ROUNDING * space.eps * (float(theta.abs().max()) if len(theta) else 0.0)
        return residuals <= (self.tol * theta.abs()).clamp_min(rounding)

    def _restart(self, space: VectorSpace, state: EigshState, theta: Tensor, S: Tensor, residuals: Tensor) -> None:
        """Keep the best Ritz vectors: the k wanted, and half as many of the rest as there is room for."""
        m = state.size
        keep = min(m - 1, self.k + max(1, (m - self.k) // 2))
        rotation = S[:, :keep].mT
        for low in range(0, state.basis.shape[1], _COLUMNS):
            columns = state.basis[:, low : low + _COLUMNS]
            columns[:keep] = space.combine(rotation, columns[:m])
        state.basis[keep] = state.basis[m]
        state.projected.zero_()
        state.projected[:keep, :keep] = theta[:keep].diag()
        state.kept_residuals = residuals[:keep]
        state.kept = state.size = keep


def _wanted_first(theta: Tensor, which: str) -> Tensor:
    """Indices of ascending `theta`, the most wanted first."""
    up = torch.arange(len(theta))
    if which == "SA":
        return up
    if which == "LM":
        return theta.abs().argsort(descending=True, stable=True)
    down = up.flip(0)
    if which == "LA":
        return down
    ends = torch.stack([down, up], dim=1).reshape(-1)  # "BE": largest, smallest, second largest, ...
    return ends[: len(theta)]


def eigsh(
    op: CurvatureOperator,
    *,
    k: int = 6,
    which: str = "LA",
    tol: float = 1e-4,
    ncv: int | None = None,
    max_matvecs: int = 1000,
    seed: int | None = None,
    start: Tensor | None = None,
    **driver: Unpack[DriverOptions],
) -> EigenResult:
    r"""Eigenpairs :math:`A q = \theta q` at an end of a symmetric operator's spectrum, by thick-restart Lanczos [1]_.

    Parameters
    ----------
    op : CurvatureOperator, shape (n, n)
        Symmetric.
    k : int, 1 to n
        Pairs wanted.
    which : {"LA", "SA", "LM", "BE"}
        Largest, smallest, largest in magnitude, or half from each end.
    tol : float, at least 0
        A pair has converged when its residual is below `tol` times its eigenvalue's magnitude, or at rounding level.
    ncv : int or None
        Vectors in the basis, k < ncv <= n; None: max(2 k + 1, k + 20), at most n. Memory is ncv + 1 + k vectors.
    max_matvecs : int, at least 1
        Products after which it stops, converged or not.
    seed : int or None
        Of the start vector; None draws one and records it.
    start : Tensor, shape (n,), or None
        A start vector of your own, for instance an eigenvector found before.
    **driver
        Budgets, progress and checkpoints: the options of :func:`curvkit_core.algorithms.run`.

    Returns
    -------
    EigenResult
        Eigenvalues descending for LA and (in magnitude) LM, ascending for SA and BE; eigenvectors as unit rows;
        residual bounds; which have converged.

    Raises
    ------
    ValueError
        If the operator is not symmetric, or k or ncv is out of range.

    Notes
    -----
    The copies of a repeated eigenvalue are found one after another as rounding brings them in.

    References
    ----------
    .. [1] Wu, Simon, SIAM J. Matrix Anal. Appl. 22(2), 2000, 602-616.
    """
    algorithm = Eigsh(k=k, which=which, tol=tol, ncv=ncv, max_matvecs=max_matvecs, seed=seed)
    inputs: dict[str, Any] = {} if start is None else {"start": start}
    result: EigenResult = run(algorithm, op, inputs=inputs, **driver)
    return result
