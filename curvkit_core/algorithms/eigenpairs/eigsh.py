r"""Eigenpairs at an end of the spectrum by thick-restart Lanczos [1]_.

The basis grows by one product a step, computed in the place of the row that it becomes, to `ncv` vectors; then the best
Ritz vectors are kept, the next vector follows them, and it grows again. A pair that has converged is among the kept
rows and stays there: what comes later is orthogonal to it, so it is neither lost nor found again. Rows are orthogonal
to all before them, so there are no ghosts. At a breakdown (an invariant subspace) a random orthogonal vector goes on: k
pairs come out of an operator of lower rank, too.

One product more, of the first Ritz vector at the first restart, measures what the products are good for: an operator in
bfloat16 gives residuals of 1e-2 that no recurrence sees.

Class and function stay in one file of over 400 lines: nearly half of it is their options, told twice.

References
----------
.. [1] Wu, Simon, SIAM J. Matrix Anal. Appl. 22(2), 2000, 602-616.
"""

from __future__ import annotations

import math
from typing import Any, Unpack

import torch
from attrs import define, field, frozen, validators
from torch import Tensor

from curvkit_core.algorithms.basis import BASIS_DTYPES, BASIS_STORAGES, Basis
from curvkit_core.algorithms.driver import DriverOptions, run
from curvkit_core.algorithms.eigenpairs.history import look, look_back
from curvkit_core.algorithms.eigenpairs.krylov import BREAKDOWN, fresh_row, start_sum
from curvkit_core.algorithms.eigenpairs.lanczos_step import lanczos_step
from curvkit_core.algorithms.eigenpairs.reorthogonalization import REORTHOGONALIZE, Overlaps
from curvkit_core.algorithms.eigenpairs.residual_bounds import ResidualBounds
from curvkit_core.algorithms.eigenpairs.ritz_pairs import ritz_pairs
from curvkit_core.algorithms.eigenpairs.ritz_vectors import orthonormalize_ritz_vectors
from curvkit_core.algorithms.eigenpairs.wanted import ENDS, wanted_first
from curvkit_core.algorithms.protocol import Progress
from curvkit_core.algorithms.seeds import fresh_seed, is_seed
from curvkit_core.backends import VectorSpace
from curvkit_core.operators import CurvatureOperator
from curvkit_core.results.types import EigenHistory, EigenResult

__all__ = ["Eigsh", "eigsh"]


@define(kw_only=True)
class EigshState:
    """Basis rows Q, all multiplied, and the `row` that follows them; T = Q A Q^T, with the row's couplings known.

    `coupling` is the norm of what the last product left outside the basis: the bound on every residual. Right after a
    restart (`kept` rows are all there are) the residuals are in `kept_residuals` instead. `beside` is N, what
    reorthogonalisation took away beside T; `dropped` the norm of what of it restarts have dropped, and breakdowns of
    products. `noise` is what the product of `probe`, the first Ritz vector at the first restart, differed by from what
    T says, None before. Until then `spread` stands in: what reorthogonalisation found in the basis's directions, as if
    there were as much in all n.
    """

    seed: int
    given_start: bool
    basis: Basis
    row: Tensor
    projected: Tensor
    beside: Tensor
    overlaps: Overlaps | None
    kept_residuals: Tensor
    kept: int = 0
    coupling: float = 0.0
    scale: float = 0.0
    dropped: float = 0.0
    noise: float | None = None
    spread: float = 0.0
    probe: Tensor | None = None
    num_matvecs: int = 0
    breakdowns: int = 0
    num_converged: int = 0
    history: EigenHistory | None = None
    done: bool = False
    finished: bool = False


@frozen(kw_only=True)
class Eigsh:
    """Thick-restart Lanczos for symmetric operators. Holds `ncv` + 1 vectors, product included; at times three more.

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
    reorthogonalize : {None, "full", "partial"}
        Each row against the whole basis, or only where the estimate of lost orthogonality asks for it, which knows
        nothing of rows in a lower dtype. None: partial, and full for those.
    basis_storage : {"device", "host", "disk"}
        Where the basis lies.
    basis_dtype : {None, "float64", "float32", "bfloat16", "float16"}
        In which precision; None: the vectors' own.
    seed : int or None
        Of the start vector; None draws one and records it.
    """

    needs_symmetric = True

    k: int = field(default=6, validator=validators.ge(1))
    which: str = field(default="LA", validator=validators.in_(ENDS))
    tol: float = field(default=1e-4, validator=validators.ge(0.0))
    ncv: int | None = field(default=None, validator=validators.optional(validators.ge(2)))
    max_matvecs: int = field(default=1000, validator=validators.ge(1))
    reorthogonalize: str | None = field(default=None, validator=validators.optional(validators.in_(REORTHOGONALIZE)))
    basis_storage: str = field(default="device", validator=validators.in_(BASIS_STORAGES))
    basis_dtype: str | None = field(default=None, validator=validators.in_(BASIS_DTYPES))
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
        rounded = self.basis_dtype not in (None, str(space.dtype).removeprefix("torch."))
        if self.reorthogonalize == "partial" and rounded:
            msg = (
                f"reorthogonalize='partial' with basis_dtype={self.basis_dtype!r}: the estimate of lost orthogonality "
                "knows nothing of rounded rows. Expected reorthogonalize='full', or no basis_dtype."
            )
            raise ValueError(msg)
        seed = fresh_seed(self.seed)
        basis = Basis.allocate(space, ncv + 1, leading=self.k, storage=self.basis_storage, dtype=self.basis_dtype)
        return EigshState(
            seed=seed,
            given_start=start is not None,
            basis=basis,
            row=self._rounded(start_sum(space, start, seed)),
            projected=torch.zeros((ncv, ncv), dtype=torch.float64),
            beside=torch.zeros((ncv, ncv), dtype=torch.float64),
            overlaps=None if self.reorthogonalize == "full" or rounded else Overlaps.empty(ncv + 1),
            kept_residuals=torch.zeros(0, dtype=torch.float64),
        )

    def ask(self, state: EigshState, max_rows: int) -> Tensor | None:
        """The newest basis vector; once, after the first restart, the first Ritz vector."""
        if state.done:
            return None
        if state.probe is not None:
            return state.probe
        state.row = state.basis.placed(state.row)
        return state.row

    def room(self, space: VectorSpace, state: EigshState, V: Tensor) -> Tensor | None:
        """Where the row that a product becomes will lie in the basis, after the one that is multiplied."""
        return state.basis.room(V, ahead=1) if state.probe is None else None

    def tell(self, space: VectorSpace, state: EigshState, V: Tensor, AV: Tensor) -> EigshState:
        """Project, orthogonalise, extend the basis; at its full length stop or restart."""
        state.num_matvecs += 1
        probed = state.probe is not None
        if probed:
            self._measure_noise(space, state, V, AV)
        else:
            self._extend(space, state, AV)
        full = state.basis.size == len(state.projected)
        if full or probed:
            theta, S, residuals, left = self._ritz(space, state)
            bounds = self._bounds(space, state, left)
            if full:
                self._look(space, state, theta, residuals, left)
            state.num_converged = int(bounds.converged(theta, residuals)[: self.k].sum())
            # a first breakdown at the very end has shown nothing of what lies outside an invariant subspace
            closed = state.coupling == 0.0 and state.breakdowns == 1
            settled = bool(bounds.settled(theta, residuals)[: self.k].all())
            state.done = state.basis.size == space.n or (settled and state.noise is not None and not closed)
            if full and not state.done and state.num_matvecs < self.max_matvecs:
                m = state.basis.size
                # the k wanted, and half as many of the rest as there is room for
                self._keep(space, state, theta, S, residuals, left, min(m - 1, self.k + max(1, (m - self.k) // 2)))
                if state.noise is None:
                    state.probe = state.basis.rows(space, 0, 1)
        state.done = state.done or state.num_matvecs >= self.max_matvecs
        return state

    def finish(self, space: VectorSpace, state: EigshState) -> EigshState:
        """Turn the basis into the eigenvectors, in place, and let go of the rest."""
        theta, S, residuals, left = self._ritz(space, state)
        k = min(self.k, len(theta))
        order = self._shown(theta, k)
        order = torch.cat([order, torch.arange(k, len(theta))])
        state.probe, state.row = None, space.zeros(0)
        self._keep(space, state, theta[order], S[:, order], residuals[order], left[order][:, order], k)
        vectors = state.basis.release(space, k)
        state.beside[:k, :k] = orthonormalize_ritz_vectors(
            space, vectors, theta[order[:k]], state.beside[:k, :k], state.kept_residuals
        )
        state.done = state.finished = True
        return state

    def result(self, space: VectorSpace, state: EigshState) -> EigenResult:
        """The best pairs so far, fewer than k if fewer products than k were made."""
        theta, S, residuals, left = self._ritz(space, state)
        if state.finished:
            vectors = state.basis.rows(space, 0, state.basis.size)
        else:
            order = self._shown(theta, min(self.k, len(theta)))
            theta, residuals, left = theta[order], residuals[order], left[:, order]
            vectors = state.basis.combine(space, S[:, order].mT)
            left[order] = orthonormalize_ritz_vectors(space, vectors, theta, left[order], residuals)
        bounds = self._bounds(space, state, left)
        known = bounds.honest(residuals)
        return EigenResult(
            eigenvalues=theta,
            eigenvectors=vectors,
            residuals=known,
            converged=bounds.converged(theta, residuals),
            num_matvecs=state.num_matvecs,
            seed=None if state.given_start else state.seed,
            which=self.which,
            status=bounds.status(theta, residuals, self.k),
            history=look(state.history, state.num_matvecs, theta, known, k=self.k, which=self.which),
        )

    def progress(self, state: EigshState) -> Progress:
        """Products; the end is known only by its bound."""
        return Progress(done=state.num_matvecs, note=f"{state.num_converged} of {self.k} converged")

    def _basis_size(self, n: int) -> int:
        return min(n, max(2 * self.k + 1, self.k + 20) if self.ncv is None else self.ncv)

    def _extend(self, space: VectorSpace, state: EigshState, AV: Tensor) -> None:
        """One Lanczos step: the row joins the basis, its product gives T's next column and the next row."""
        basis, T, j = state.basis, state.projected, state.basis.size
        step = lanczos_step(space, basis, T, state.beside, state.row, AV, overlaps=state.overlaps, scale=state.scale)
        state.scale = max(state.scale, step.norm)
        if step.rounding is not None:
            state.spread = max(state.spread, step.rounding * (space.n / basis.size) ** 0.5)
        if basis.size == space.n:
            state.coupling = 0.0
        elif step.beta <= BREAKDOWN * space.eps * state.scale:
            state.coupling = 0.0
            state.dropped = math.hypot(state.dropped, step.beta)
            state.breakdowns += 1
            state.row = self._rounded(fresh_row(space, state.seed, state.breakdowns, basis))
        else:
            state.coupling = step.beta
            state.row = self._rounded(step.rest.div_(step.beta))
        if j + 1 < len(T):
            T[j, j + 1] = T[j + 1, j] = state.coupling

    def _measure_noise(self, space: VectorSpace, state: EigshState, V: Tensor, AV: Tensor) -> None:
        """The norm of A q - theta q - sigma row for the first row q, which T says is zero."""
        gap = torch.add(AV, V, alpha=-float(state.projected[0, 0]))
        gap.add_(state.row, alpha=-float(state.projected[0, state.kept]))
        state.noise = float(space.norms(gap)[0])
        state.probe = None

    def _look(self, space: VectorSpace, state: EigshState, theta: Tensor, residuals: Tensor, left: Tensor) -> None:
        """Note what is known of the pairs, and what was since the last restart."""
        past = look_back(
            state.history,
            state.projected,
            start=state.kept,
            end=state.basis.size,
            num_matvecs=state.num_matvecs,
            pairs=lambda m: self._pairs(space, state, m),
            honest=lambda residuals, left: self._bounds(space, state, left).honest(residuals),
            k=self.k,
            which=self.which,
        )
        known = self._bounds(space, state, left).honest(residuals)
        state.history = look(past, state.num_matvecs, theta, known, k=self.k, which=self.which)

    def _keep(
        self,
        space: VectorSpace,
        state: EigshState,
        theta: Tensor,
        S: Tensor,
        residuals: Tensor,
        left: Tensor,
        keep: int,
    ) -> None:
        """The first `keep` of these Ritz vectors become the basis."""
        m = len(S)
        S = S[:, :keep]
        if torch.equal(S, torch.eye(m, dtype=S.dtype)[:, :keep]):
            state.basis.truncate(keep)
        else:
            state.basis.rotate(space, S.mT)
        if state.overlaps is not None:
            state.overlaps.rotate(S)
        T = state.projected
        coupled = state.coupling * S[-1] if m != state.kept else T[:m, m] @ S
        T.zero_()
        T[:keep, :keep] = theta[:keep].diag()
        if keep < len(T):
            T[:keep, keep] = T[keep, :keep] = coupled
        state.dropped = math.hypot(state.dropped, float(left[keep:, :keep].norm()))
        state.beside.zero_()
        state.beside[:keep, :keep] = left[:keep, :keep]
        state.kept_residuals = residuals[:keep]
        state.kept = keep

    def _ritz(self, space: VectorSpace, state: EigshState) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Ritz values, most wanted first, their coordinates (columns), residuals by the coupling, and what is left."""
        m = state.basis.size
        if m == state.kept:  # T is diagonal
            S = torch.eye(m, dtype=torch.float64)
            return state.projected[:m, :m].diagonal(), S, state.kept_residuals, state.beside[:m, :m]
        theta, S, left = self._pairs(space, state, m)
        return theta, S, state.coupling * S[m - 1].abs(), left

    def _pairs(self, space: VectorSpace, state: EigshState, m: int) -> tuple[Tensor, Tensor, Tensor]:
        """The pairs of the first m rows, most wanted first."""
        overlap = 0.0 if state.overlaps is None else state.overlaps.largest(m, space.eps)
        T, N = state.projected[:m, :m], state.beside[:m, :m]
        theta, S, left = ritz_pairs(T, N, overlap=overlap, eps=space.eps, scale=state.scale)
        order = wanted_first(theta, self.which)
        return theta[order], S[:, order], left[order][:, order]

    def _shown(self, theta: Tensor, k: int) -> Tensor:
        """The first k in the order that results have."""
        return theta[:k].argsort() if self.which == "BE" else torch.arange(k)

    def _rounded(self, row: Tensor) -> Tensor:
        """The row as the basis stores it: that is what is multiplied."""
        if self.basis_dtype is None:
            return row
        stored: torch.dtype = getattr(torch, self.basis_dtype)
        return row.to(stored).to(row.dtype)

    def _bounds(self, space: VectorSpace, state: EigshState, left: Tensor) -> ResidualBounds:
        """Of pairs that leave the columns of `left`; the noise was measured for one vector: twice that may be."""
        noise = state.spread if state.noise is None else state.noise
        stored = 0.0 if self.basis_dtype is None else torch.finfo(getattr(torch, self.basis_dtype)).eps
        return ResidualBounds(
            tol=self.tol,
            eps=space.eps,
            scale=state.scale,
            num_matvecs=state.num_matvecs,
            coarseness=left.norm(dim=0).hypot(
                torch.tensor(math.hypot(2.0 * noise, state.dropped, stored * state.scale), dtype=torch.float64)
            ),
        )


def eigsh(
    op: CurvatureOperator,
    *,
    k: int = 6,
    which: str = "LA",
    tol: float = 1e-4,
    ncv: int | None = None,
    max_matvecs: int = 1000,
    reorthogonalize: str | None = None,
    basis_storage: str = "device",
    basis_dtype: str | None = None,
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
        Vectors in the basis, k < ncv <= n; None: max(2 k + 1, k + 20), at most n. At most
        ncv + 4 vectors are held, the result included, which lies where the basis was.
    max_matvecs : int, at least 1
        Products after which it stops, converged or not.
    reorthogonalize : {None, "full", "partial"}
        Each row against the whole basis; or only where the estimate of lost orthogonality asks for it, which saves
        most of the passes over the basis: eigenpairs are as good, as what is taken away is kept beside T. The estimate
        starts from the rounding that the first products show, so it asks more often of an operator in bfloat16. It
        knows nothing of rows that are rounded themselves, by `basis_dtype`. None: partial, and full for those.
    basis_storage : {"device", "host", "disk"}
        Where the basis lies; off the device a step brings it over, two rows at a time. The k eigenvectors come back to
        the device.
    basis_dtype : {None, "float64", "float32", "bfloat16", "float16"}
        In which precision; None: the vectors' own. Rounded rows limit the residuals: to 8e-3 |A| in bfloat16, 1e-3 |A|
        in float16.
    seed : int or None
        Of the start vector; None draws one and records it.
    start : Tensor, shape (n,) or (p, n), or None
        A start of your own, for instance the eigenvectors found before, a little earlier in training. Of several rows
        the sum is taken, each at norm 1: the Krylov space of a sum of p eigenvectors holds them all after p products.
    **driver
        Budgets, progress and checkpoints: the options of :func:`curvkit_core.algorithms.run`.

    Returns
    -------
    EigenResult
        Eigenvalues descending for LA and (in magnitude) LM, ascending for SA and BE; eigenvectors as unit rows;
        residual bounds; which have converged, and in ``status`` why it ended.

    Raises
    ------
    ValueError
        If the operator is not symmetric, or k or ncv is out of range.

    Notes
    -----
    One start vector sees one vector of every eigenspace: further copies of a repeated eigenvalue come in by rounding,
    or at a breakdown, one after another, and may be missing when all pairs found have converged. No value is given more
    often than it is there. Where copies matter, use :func:`curvkit_core.block_lanczos` with a block as large as the
    multiplicity.

    One product, of the first Ritz vector at the first restart, measures how far products can be trusted. Where that is
    too little for `tol` (operators in bfloat16), the result's ``status`` is ``"noise"`` and `converged` is False.

    References
    ----------
    .. [1] Wu, Simon, SIAM J. Matrix Anal. Appl. 22(2), 2000, 602-616.
    """
    algorithm = Eigsh(
        k=k,
        which=which,
        tol=tol,
        ncv=ncv,
        max_matvecs=max_matvecs,
        reorthogonalize=reorthogonalize,
        basis_storage=basis_storage,
        basis_dtype=basis_dtype,
        seed=seed,
    )
    inputs: dict[str, Any] = {} if start is None else {"start": start}
    result: EigenResult = run(algorithm, op, inputs=inputs, **driver)
    return result
