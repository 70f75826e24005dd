r"""Eigenpairs by block Lanczos with thick restarts: for repeated and clustered eigenvalues, and for products in blocks.

The basis begins with a block of `block_size` rows and grows by what each product adds to it, so that

.. math:: A Q_m = Q_M T, \quad T = Q_M^\top A Q_m,

for the first m of M vectors (columns here), M - m <= block_size, at any moment: the Ritz pair of :math:`Q_m` with
coordinates s has the residual :math:`\|T s - \theta (s, 0)\|`, exactly [1]_. At a restart the best Ritz vectors are
kept, the vectors not yet multiplied follow them, and the same relation holds [2]_.

A block whose directions begin to depend on the basis shrinks. Once nothing is left of it the basis is invariant; a
random block orthogonal to it then looks for what is missing, until one brings no pair that is wanted.

One product more, of the first Ritz vector when the basis is first full, measures what the products are good for: the
relation above holds for products in bfloat16 too, whose residuals it does not see.

Class and function stay in one file of over 400 lines: nearly half of it is their options, told twice.

References
----------
.. [1] Golub, Underwood, "The block Lanczos method for computing eigenvalues", Mathematical Software III, 1977, 361-377.
.. [2] Wu, Simon, SIAM J. Matrix Anal. Appl. 22(2), 2000, 602-616.
"""

from __future__ import annotations

import math
from typing import Any, Unpack

import torch
from attrs import define, field, frozen, validators
from torch import Tensor

from curvkit_core.algorithms.basis import BASIS_DTYPES, BASIS_STORAGES, Basis
from curvkit_core.algorithms.driver import DriverOptions, run
from curvkit_core.algorithms.eigenpairs.block_orthogonalize import block_orthogonalize
from curvkit_core.algorithms.eigenpairs.block_start import append_random, append_start
from curvkit_core.algorithms.eigenpairs.history import look, look_back
from curvkit_core.algorithms.eigenpairs.wanted import ENDS, wanted_first
from curvkit_core.algorithms.protocol import Progress
from curvkit_core.algorithms.seeds import fresh_seed, is_seed
from curvkit_core.backends import VectorSpace
from curvkit_core.operators import CurvatureOperator
from curvkit_core.results.types import EigenHistory, EigenResult

__all__ = ["BlockLanczos", "block_lanczos"]

_ROUNDING = 10.0  # residuals below this times eps |A| cannot be told from rounding
_SAME = 100.0  # eigenvalues closer than this times eps |A| are the same when a random block looks for others


@define(kw_only=True)
class BlockLanczosState:
    """Rows Q and T = Q A Q^T, whose first `size` columns are known: those of the rows multiplied; `ready` follow.

    The products of a block's first rows wait in `told` for the others, so that the answer does not depend on how many
    rows were multiplied at once.

    `scale` is the largest |A q| so far; `noise` what the product of `probe`, the first Ritz vector when the basis was
    first full, differed by from what T says, None before. `settled` says that the basis has been full since random rows
    came in, `checked` how many rows were multiplied when convergence was last looked at; `best` are the wanted values
    when the basis was last invariant; `dropped` the norm of what products had outside the basis and was taken for
    rounding. After the finish the basis is the eigenvectors, and `values`, `residuals`,
    `converged` are theirs.
    """

    seed: int
    drawn: int
    basis: Basis
    ready: Tensor
    told: Tensor
    projected: Tensor
    limit: int
    size: int
    checked: int
    settled: bool
    scale: float
    noise: float | None
    probe: Tensor | None
    num_matvecs: int
    num_converged: int
    best: Tensor
    done: bool
    values: Tensor | None = None
    residuals: Tensor | None = None
    converged: Tensor | None = None
    history: EigenHistory | None = None
    dropped: float = 0.0


@frozen(kw_only=True)
class BlockLanczos:
    """Thick-restart block Lanczos for symmetric operators. Holds `ncv` + 2 `block_size` vectors.

    Parameters
    ----------
    k : int, at least 1
        Eigenpairs wanted.
    which : {"LA", "SA", "LM", "BE"}
        Largest, smallest, largest in magnitude, or half from each end.
    block_size : int, at least 1
        Copies of an eigenvalue that are found with certainty; a product takes so many rows at once.
    tol : float, at least 0
        A pair has converged when its residual is below `tol` times its eigenvalue's magnitude, or at rounding level.
    ncv : int or None
        Vectors multiplied before a restart; None: max(2 k + block_size, k + 20), at most n.
    max_matvecs : int, at least 1
        Products after which it stops, converged or not.
    seed : int or None
        Of the random rows; None draws one and records it.
    basis_storage : {"device", "host", "disk"}
        Where the basis lies.
    basis_dtype : {None, "float64", "float32", "bfloat16", "float16"}
        What it is kept in; None: the vectors' own. Residuals cannot come below a lower one's rounding.
    """

    needs_symmetric = True

    k: int = field(default=6, validator=validators.ge(1))
    which: str = field(default="LA", validator=validators.in_(ENDS))
    block_size: int = field(default=4, validator=validators.ge(1))
    tol: float = field(default=1e-4, validator=validators.ge(0.0))
    ncv: int | None = field(default=None, validator=validators.optional(validators.ge(2)))
    max_matvecs: int = field(default=1000, validator=validators.ge(1))
    seed: int | None = field(default=None, validator=is_seed)
    basis_storage: str = field(default="device", validator=validators.in_(BASIS_STORAGES))
    basis_dtype: str | None = field(default=None, validator=validators.in_(BASIS_DTYPES))

    def init(self, space: VectorSpace, *, start: Tensor | None = None) -> BlockLanczosState:
        """Lay out the basis and its first block: the rows of `start`, (s, n) or (n,), filled up with random ones."""
        n = space.n
        if self.k > n:
            msg = f"k={self.k} is out of range: expected 1 <= k <= {n}, the operator's size. Pass a smaller k."
            raise ValueError(msg)
        block = min(self.block_size, n)
        limit = min(n, max(2 * self.k + block, self.k + 20) if self.ncv is None else self.ncv)
        least = min(self.k + block, n)
        if limit < least:
            msg = (
                f"ncv={limit} is too small for k={self.k} and block_size={block}: expected {least} <= ncv <= {n}. "
                "Leave it out for the default."
            )
            raise ValueError(msg)
        room = min(n, limit + block)
        basis = Basis.allocate(space, room, leading=self.k, storage=self.basis_storage, dtype=self.basis_dtype)
        if start is not None:
            append_start(space, basis, start, block)
        state = BlockLanczosState(
            seed=fresh_seed(self.seed),
            drawn=0,
            basis=basis,
            ready=space.zeros(0),
            told=space.zeros(0),
            projected=torch.zeros((room, room), dtype=torch.float64),
            limit=limit,
            size=0,
            checked=0,
            settled=False,
            scale=0.0,
            noise=None,
            probe=None,
            num_matvecs=0,
            num_converged=0,
            best=torch.zeros(0, dtype=torch.float64),
            done=False,
        )
        self._fill(space, state, block)
        return state

    def ask(self, state: BlockLanczosState, max_rows: int) -> Tensor | None:
        """Basis vectors not yet multiplied; once, when the basis is first full, the first Ritz vector."""
        if state.done:
            return None
        if state.probe is not None:
            return state.probe
        block = state.ready[: state.limit - state.size][len(state.told) :]
        return block[: min(max_rows, self.max_matvecs - state.num_matvecs)]

    def tell(self, space: VectorSpace, state: BlockLanczosState, V: Tensor, AV: Tensor) -> BlockLanczosState:
        """Extend T and the basis; look for convergence; restart when full, go on at random from an invariant basis."""
        state.num_matvecs += len(V)
        if state.probe is not None:
            self._measure_noise(space, state, V, AV)
        else:
            state.told = torch.cat([state.told, AV])
            whole = len(state.told) == min(len(state.ready), state.limit - state.size)
            if not whole and state.num_matvecs < self.max_matvecs:
                return state
            self._extend(space, state)
        full, invariant = state.size == state.limit, state.size == state.basis.size
        if full or invariant or (state.settled and state.size - state.checked >= self.block_size):
            self._look(space, state, full=full, invariant=invariant)
        state.done = state.done or state.num_matvecs >= self.max_matvecs
        if not state.done:
            if invariant:
                self._fill(space, state, self.block_size)
            state.ready = state.basis.rows(space, state.size, state.basis.size)
        return state

    def finish(self, space: VectorSpace, state: BlockLanczosState) -> BlockLanczosState:
        """Turn the basis into the eigenvectors, in place."""
        if state.values is not None:
            return state
        if len(state.told):
            self._extend(space, state)
        theta, S, coupling = self._ritz(state)
        best = self._shown(theta)
        state.values, state.residuals, state.converged = self._pairs(space, state, theta, coupling, best)
        state.ready = space.zeros(0)
        state.basis.rotate(space, S[:, best].mT)
        vectors = state.basis.release(space, len(best))
        vectors /= space.norms(vectors).clamp_min(torch.finfo(torch.float64).tiny).to(vectors)[:, None]
        return state

    def result(self, space: VectorSpace, state: BlockLanczosState) -> EigenResult:
        """The best pairs so far, fewer than k if fewer products than k were made."""
        if state.values is not None and state.residuals is not None and state.converged is not None:
            values, residuals, converged = state.values, state.residuals, state.converged
            vectors = state.basis.rows(space, 0, len(values))
        else:
            theta, S, coupling = self._ritz(state)
            best = self._shown(theta)
            values, residuals, converged = self._pairs(space, state, theta, coupling, best)
            vectors = state.basis.combine(space, S[:, best].mT)
            vectors /= space.norms(vectors).clamp_min(torch.finfo(torch.float64).tiny).to(vectors)[:, None]
        return EigenResult(
            eigenvalues=values,
            eigenvectors=vectors,
            residuals=residuals,
            converged=converged,
            num_matvecs=state.num_matvecs,
            seed=state.seed if state.drawn else None,
            which=self.which,
            status=_status(converged, self.k, done=state.num_converged == self.k),
            history=look(state.history, state.num_matvecs, values, residuals, k=self.k, which=self.which),
        )

    def progress(self, state: BlockLanczosState) -> Progress:
        """Products; the end is known only by its bound."""
        return Progress(done=state.num_matvecs, note=f"{state.num_converged} of {self.k} converged")

    def _fill(self, space: VectorSpace, state: BlockLanczosState, rows: int) -> None:
        """Random rows, orthogonal to the basis, until so many wait for their products."""
        state.settled = False
        state.drawn = append_random(space, state.basis, state.seed, state.drawn, state.size + rows)
        state.ready = state.basis.rows(space, state.size, state.basis.size)

    def _extend(self, space: VectorSpace, state: BlockLanczosState) -> None:
        """T's next columns from the products told, and the rows that they add to the basis."""
        AV, state.told = state.told, space.zeros(0)
        old = state.basis.size
        columns = slice(state.size, state.size + len(AV))
        state.scale = max(state.scale, float(space.norms(AV).max()))
        block = block_orthogonalize(space, AV, state.basis, scale=state.scale)
        state.dropped = math.hypot(state.dropped, block.dropped)
        new = min(len(block.rows), space.n - old)
        state.basis.append(block.rows[:new])
        state.projected[:old, columns] = block.coefficients.mT
        state.projected[old : old + new, columns] = block.factor[:, :new].mT
        state.size += len(AV)

    def _measure_noise(self, space: VectorSpace, state: BlockLanczosState, V: Tensor, AV: Tensor) -> None:
        """|A q - theta q - what T says is outside the basis|, q the first Ritz vector."""
        theta, S, _ = self._ritz(state)
        outside = (state.projected[state.size : state.basis.size, : state.size] @ S[:, :1]).mT
        gap = AV - float(theta[0]) * V - space.combine(outside, state.ready)
        state.noise = float(space.norms(gap)[0])
        state.probe = None

    def _look(self, space: VectorSpace, state: BlockLanczosState, *, full: bool, invariant: bool) -> None:
        """Done, or a restart, or on."""
        theta, S, coupling = self._ritz(state)
        m = state.size
        if m > state.checked:  # not once more, after the product that measures the noise
            self._note(space, state, theta, coupling)
        state.checked = m
        if not invariant and state.noise is None:
            if state.num_matvecs < self.max_matvecs:
                state.probe = state.basis.combine(space, S[:, :1].mT)
            return
        enough = coupling <= self._target(state.basis.eps(space), theta).clamp_min(2.0 * (state.noise or 0.0))
        state.num_converged = int(enough[: self.k].sum())
        if invariant:
            # all pairs are exact: the question is whether a random block has brought wanted ones that were missing
            best = theta[: self.k]
            same = _SAME * space.eps * state.scale
            unchanged = len(best) == len(state.best) == self.k and bool(((best - state.best).abs() <= same).all())
            state.best = best
            state.done = unchanged or m == space.n
        else:
            state.done = state.num_converged == self.k
        if full and not state.done and state.num_matvecs < self.max_matvecs:
            self._restart(space, state, theta, S)

    def _note(self, space: VectorSpace, state: BlockLanczosState, theta: Tensor, coupling: Tensor) -> None:
        """Note what is known of the pairs, and what was since the last look."""
        unseen = torch.tensor(math.hypot(*self._unseen(space, state, theta)), dtype=torch.float64)
        past = look_back(
            state.history,
            state.projected[: state.basis.size, : state.size],
            start=state.checked,
            end=state.size,
            num_matvecs=state.num_matvecs,
            pairs=lambda m: self._seen_from(state.projected[:m, :m]),
            honest=lambda residuals, _: unseen.hypot(residuals),
            k=self.k,
            which=self.which,
        )
        state.history = look(past, state.num_matvecs, theta, unseen.hypot(coupling), k=self.k, which=self.which)

    def _seen_from(self, T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        theta, S = torch.linalg.eigh((T + T.mT) / 2)
        order = wanted_first(theta, self.which)
        return theta[order], S[:, order], torch.zeros(0, dtype=torch.float64)

    def _restart(self, space: VectorSpace, state: BlockLanczosState, theta: Tensor, S: Tensor) -> None:
        """Keep the k wanted Ritz vectors and some of the rest; the rows not yet multiplied follow them."""
        m, left = state.size, state.basis.size - state.size
        free, b = m - self.k, min(self.block_size, m - self.k)
        # half of what there is, ending inside a block: at a block's end restarts cost a third more products (measured)
        keep = m - min(free, max(b, free // 2 // b * b + b // 2))
        coupling = state.projected[m : m + left, :m] @ S[:, :keep]
        state.basis.rotate(space, torch.block_diag(S[:, :keep].mT, torch.eye(left, dtype=torch.float64)))
        state.projected.zero_()
        state.projected[:keep, :keep] = theta[:keep].diag()
        state.projected[keep : keep + left, :keep] = coupling
        state.size = state.checked = keep
        state.settled = True

    def _ritz(self, state: BlockLanczosState) -> tuple[Tensor, Tensor, Tensor]:
        """Ritz values, most wanted first, their coordinates (columns), and how far A takes each out of the basis."""
        m = state.size
        T = state.projected[:m, :m]
        theta, S = torch.linalg.eigh((T + T.mT) / 2)
        order = wanted_first(theta, self.which)
        theta, S = theta[order], S[:, order]
        return theta, S, (state.projected[m : state.basis.size, :m] @ S).norm(dim=0)

    def _shown(self, theta: Tensor) -> Tensor:
        best = torch.arange(min(self.k, len(theta)))
        return theta[best].argsort() if self.which == "BE" else best

    def _target(self, eps: float, theta: Tensor) -> Tensor:
        return (self.tol * theta.abs()).clamp_min(_ROUNDING * eps * _largest(theta))

    def _pairs(
        self, space: VectorSpace, state: BlockLanczosState, theta: Tensor, coupling: Tensor, best: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Values, residuals and what has converged, of the pairs shown."""
        coarse, floor = (torch.tensor(v, dtype=torch.float64) for v in self._unseen(space, state, theta))
        known = coupling[best].hypot(coarse)
        converged = known <= self._target(space.eps, theta)[best]
        if state.noise is None and state.size < state.basis.size:
            converged = torch.zeros_like(converged)  # stopped before what the products are good for was known
        return theta[best], known.hypot(floor), converged

    def _unseen(self, space: VectorSpace, state: BlockLanczosState, theta: Tensor) -> tuple[float, float]:
        """What T does not know of the residuals: coarse products and storage, and rounding."""
        stored = state.basis.eps(space)
        rounding = _ROUNDING * space.eps * state.num_matvecs**0.5 * _largest(theta)
        # measured for one vector: twice that is taken to hold for all
        noise = max(2.0 * (state.noise or 0.0), _asymmetry(state.projected[: state.size, : state.size]))
        lower = 3.0 * stored * _largest(theta) if stored > space.eps else 0.0
        # rounding adds up like a random walk over the products: no residual is claimed below three times that
        floor = math.hypot(3.0 * space.eps * state.num_matvecs**0.5 * _largest(theta), state.dropped)
        return math.hypot(noise if noise > rounding else 0.0, lower), floor


def _status(converged: Tensor, k: int, *, done: bool) -> str:
    if len(converged) == k and bool(converged.all()):
        return "converged"
    return "noise" if done else "stopped"


def _largest(theta: Tensor) -> float:
    return float(theta.abs().max()) if len(theta) else 0.0


def _asymmetry(T: Tensor) -> float:
    """|E q| where T = Q (A + E) Q^T with A symmetric and E random: root mean square over the columns."""
    return float(torch.linalg.norm(T - T.mT)) / math.sqrt(2.0 * max(len(T), 1))


def block_lanczos(
    op: CurvatureOperator,
    *,
    k: int = 6,
    which: str = "LA",
    block_size: int = 4,
    tol: float = 1e-4,
    ncv: int | None = None,
    max_matvecs: int = 1000,
    seed: int | None = None,
    basis_storage: str = "device",
    basis_dtype: str | None = None,
    start: Tensor | None = None,
    **driver: Unpack[DriverOptions],
) -> EigenResult:
    r"""Eigenpairs :math:`A q = \theta q` at an end of a symmetric operator's spectrum, by block Lanczos [1]_ [2]_.

    Parameters
    ----------
    op : CurvatureOperator, shape (n, n)
        Symmetric.
    k : int, 1 to n
        Pairs wanted.
    which : {"LA", "SA", "LM", "BE"}
        Largest, smallest, largest in magnitude, or half from each end.
    block_size : int, at least 1
        Copies of an eigenvalue that are found with certainty; a product takes so many rows at once.
    tol : float, at least 0
        A pair has converged when its residual is below `tol` times its eigenvalue's magnitude, or at rounding level.
    ncv : int or None
        Vectors multiplied before a restart, k + block_size <= ncv <= n; None: max(2 k + block_size, k + 20), at most n.
        Memory is ncv + 2 block_size vectors, and two blocks more while products are taken in.
    max_matvecs : int, at least 1
        Products after which it stops, converged or not.
    seed : int or None
        Of the random rows; None draws one and records it.
    basis_storage : {"device", "host", "disk"}
        Where the basis lies: in host memory or a memory-mapped file it is read twice or three times a block.
    basis_dtype : {None, "float64", "float32", "bfloat16", "float16"}
        What the basis is kept in; None: the vectors' own. A pair whose residual a lower one's rounding hides is not
        called converged.
    start : Tensor, shape (s, n) or (n,), or None
        Rows of the first block, s <= block_size, for instance eigenvectors found before; random ones fill it up.
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
        If the operator is not symmetric, or k, ncv or `start` do not fit.

    Notes
    -----
    Of an eigenvalue of higher multiplicity than `block_size` the remaining copies come in by rounding alone, unless the
    basis becomes invariant (as for operators of low rank): then all are found. One product measures the noise of
    products in low precision: a pair whose residual that hides is not called converged, and the status is ``"noise"``.

    References
    ----------
    .. [1] Golub, Underwood, "The block Lanczos method for computing eigenvalues", Mathematical Software III, 1977.
    .. [2] Wu, Simon, SIAM J. Matrix Anal. Appl. 22(2), 2000, 602-616.
    """
    algorithm = BlockLanczos(
        k=k,
        which=which,
        block_size=block_size,
        tol=tol,
        ncv=ncv,
        max_matvecs=max_matvecs,
        seed=seed,
        basis_storage=basis_storage,
        basis_dtype=basis_dtype,
    )
    inputs: dict[str, Any] = {} if start is None else {"start": start}
    result: EigenResult = run(algorithm, op, inputs=inputs, **driver)
    return result
