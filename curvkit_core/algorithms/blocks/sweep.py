r"""A sweep over groups of parameters: every diagonal block's trace, norm and largest eigenvalues, and the coupling.

A vector that is zero outside group h gives column block h of the operator: with sign probes :math:`z_h`,

.. math:: E\,z_h^\top(A z_h)_h = \operatorname{tr} A_{hh}, \qquad E\,\|(A z_h)_g\|^2 = \|A_{gh}\|_F^2,

so one such product a group gives every block's trace and norm and those of all couplings between them, with no part of
another group in the error [1]_. Each block's eigenvalues come from a Lanczos process of its own on such vectors: all
processes take their steps together, so that row j of one basis holds the j-th vector of every group. Rows of several
groups are multiplied in one block: one pass over the data serves as many groups as there are rows.

References
----------
.. [1] Hutchinson, Commun. Stat. Simul. Comput. 19(2), 1990, 433-450.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Unpack

import torch
from attrs import define, field, frozen, validators
from torch import Tensor

from curvkit_core.algorithms.basis import Basis
from curvkit_core.algorithms.blocks.groups import BY, groups_of
from curvkit_core.algorithms.blocks.places import Places, places_of, scale_within, square_within, within
from curvkit_core.algorithms.driver import DriverOptions, run
from curvkit_core.algorithms.estimators.samples import mean_and_stderr
from curvkit_core.algorithms.protocol import Progress
from curvkit_core.algorithms.seeds import fresh_seed, is_seed
from curvkit_core.backends import VectorSpace
from curvkit_core.operators import CurvatureOperator
from curvkit_core.results.sweeps import SweepResult, SweepRow

__all__ = ["Sweep", "sweep"]

_BREAKDOWN = 10.0  # of eps times the block's size: what is left of a vector below that is rounding


@define(kw_only=True)
class SweepState:
    """Probes done, group by group within a probe; then the Lanczos processes, which share one row for each step."""

    seed: int
    names: tuple[str, ...]
    sizes: tuple[int, ...]  # parameters of each group
    owners: Tensor  # (1, n): the number of each element's group, or -1; a vector, so that shards have theirs
    probe: Tensor  # (1, n)
    traces: Tensor  # (rows done,): z_h^T (A z_h)_h
    squares: Tensor  # (rows done, G): |(A z_h)_g|^2
    basis: Basis
    row: Tensor  # (1, n): the step's vectors, one in each active group's places
    image: Tensor  # (1, n): their products, as far as they are there
    waiting: int  # active groups whose product of this step is still to come
    alphas: Tensor  # (steps, G)
    betas: Tensor  # (steps, G)
    lengths: tuple[int, ...]  # steps taken, by group
    active: tuple[int, ...]  # groups that go on
    num_matvecs: int = 0


@frozen(kw_only=True)
class Sweep:
    """A sweep over groups of parameters. Holds `steps` + 4 vectors and one block of products.

    Parameters
    ----------
    by : {"layer", "block", "parameter"} or list of globs
        ``"layer"``: a group a module. ``"block"``: a group for each numbered part of the model (``model.layers.3``),
        and one for each other module at the top. ``"parameter"``: a group each. Globs: a group each, the rest left out.
    k : int, at least 0
        Largest eigenvalues of each group, fewer where a group has fewer; 0: none.
    num_probes : int, at least 2
        Probes of each group, for traces, norms and couplings: a product each.
    steps : int, at least 2
        Lanczos steps of a group, at most: a product each.
    tol : float, at least 0
        A group is done when the residuals of its `k` pairs are below `tol` times their eigenvalues' magnitude.
    seed : int or None
        None draws one and records it.
    """

    needs_symmetric: ClassVar[bool] = True

    by: str | tuple[str, ...] = field(default="layer")
    k: int = field(default=1, validator=validators.ge(0))
    num_probes: int = field(default=16, validator=validators.ge(2))
    steps: int = field(default=40, validator=validators.ge(2))
    tol: float = field(default=1e-3, validator=validators.ge(0.0))
    seed: int | None = field(default=None, validator=is_seed)

    @by.validator
    def _known(self, attribute: Any, value: str | tuple[str, ...]) -> None:
        if isinstance(value, str) and value not in BY:
            msg = f"by={value!r} is unknown: expected one of {', '.join(BY)}, or a list of globs."
            raise ValueError(msg)

    @steps.validator
    def _room(self, attribute: Any, value: int) -> None:
        if value < self.k:
            msg = f"steps={value} is too small for k={self.k}: expected at least k."
            raise ValueError(msg)

    def init(self, space: VectorSpace) -> SweepState:
        """Divide the parameters and draw the first probe."""
        groups = groups_of(space, self.by)
        seed, count = fresh_seed(self.seed), len(groups)
        own = torch.tensor([float(group.n) for group in groups], dtype=torch.float64)
        sizes = tuple(int(size) for size in space.sum_over_shards(own).tolist())
        steps = min(self.steps, max(sizes)) if self.k else 0
        owners = space.zeros(1).sub_(1.0)
        for number, group in enumerate(groups):
            for place in group.places:
                owners[:, place] = number
        return SweepState(
            seed=seed,
            names=tuple(group.name for group in groups),
            sizes=sizes,
            owners=owners,
            probe=space.random("rademacher", seed, 0, 1),
            traces=torch.empty(0, dtype=torch.float64),
            squares=torch.empty((0, count), dtype=torch.float64),
            basis=Basis.allocate(space, steps),
            row=space.zeros(0),
            image=space.zeros(0),
            waiting=0,
            alphas=torch.zeros((steps, count), dtype=torch.float64),
            betas=torch.zeros((steps, count), dtype=torch.float64),
            lengths=(0,) * count,
            active=tuple(range(count)) if self.k else (),
        )

    def ask(self, state: SweepState, max_rows: int) -> Tensor | None:
        """Vectors that are zero outside one group: of the probe, group by group; then of the Lanczos step."""
        groups = self._next(state)[:max_rows]
        if not groups:
            return None
        whole = state.probe if self._probing(state) else state.row
        return torch.cat([torch.where(state.owners == group, whole, 0.0) for group in groups])

    def tell(self, space: VectorSpace, state: SweepState, V: Tensor, AV: Tensor) -> SweepState:
        """Take column blocks in; when a probe, or a step of all groups, is complete, go on to the next."""
        groups = self._next(state)[: len(V)]
        everywhere = places_of(space, self.by)
        state.num_matvecs += len(V)
        if self._probing(state):
            squares = [[square_within(space, image, places) for places in everywhere] for image in AV.split(1)]
            state.squares = torch.cat([state.squares, torch.tensor(squares, dtype=torch.float64)])
            state.traces = torch.cat([state.traces, space.dots(V, AV)])
            done, rest = divmod(len(state.traces), len(state.names))
            if rest == 0 and done < self.num_probes:
                state.probe = space.random("rademacher", state.seed, done, 1)
            elif rest == 0 and self.k:
                self._begin(space, state, everywhere)
            return state
        for group, image in zip(groups, AV, strict=True):
            for low, high in everywhere[group]:
                state.image[0, low:high] = image[low:high]
        state.waiting -= len(groups)
        if state.waiting == 0:
            self._step(space, state, everywhere)
        return state

    def result(self, space: VectorSpace, state: SweepState) -> SweepResult:
        """What is known so far: of whole probes, and of the steps taken."""
        count = len(state.names)
        probes = len(state.traces) // count
        traces = state.traces[: probes * count].reshape(probes, count)
        squares = state.squares[: probes * count].reshape(probes, count, count)  # probe, h, g
        total, total_error = mean_and_stderr(traces.sum(dim=1))
        rows = []
        for i, name in enumerate(state.names):
            trace, trace_error = mean_and_stderr(traces[:, i])
            norm, norm_error = _root(*mean_and_stderr(squares[:, i, i]))
            theta, residuals, converged = self._pairs(state, i, space.eps)
            rows.append(
                SweepRow(
                    group=name,
                    n=state.sizes[i],
                    trace=trace,
                    trace_stderr=trace_error,
                    share=trace / total if total else math.nan,
                    frobenius_norm=norm,
                    frobenius_stderr=norm_error,
                    eigenvalues=tuple(theta.tolist()),
                    residuals=tuple(residuals.tolist()),
                    converged=converged,
                )
            )
        coupling, coupling_error = _coupling(squares)
        return SweepResult(
            by=self.by,
            rows=tuple(rows),
            trace=total,
            trace_stderr=total_error,
            frobenius_norms=squares.mean(dim=0).mT.sqrt() if probes else torch.full((count, count), math.nan).double(),
            coupling=coupling,
            coupling_stderr=coupling_error,
            probes=probes,
            num_matvecs=state.num_matvecs,
            seed=state.seed,
            converged=all(row.converged for row in rows),
        )

    def progress(self, state: SweepState) -> Progress:
        """Products; the end of the Lanczos processes is known only by its bound."""
        count = len(state.names)
        if self._probing(state) or not self.k:
            return Progress(done=state.num_matvecs, total=None if self.k else self.num_probes * count, note="probes")
        note = f"step {state.basis.size + 1}, {count - len(state.active)} of {count} groups done"
        return Progress(done=state.num_matvecs, note=note)

    def _probing(self, state: SweepState) -> bool:
        return len(state.traces) < self.num_probes * len(state.names)

    def _next(self, state: SweepState) -> tuple[int, ...]:
        """The groups whose rows come next."""
        if self._probing(state):
            return tuple(range(len(state.traces) % len(state.names), len(state.names)))
        return state.active[len(state.active) - state.waiting :]

    def _begin(self, space: VectorSpace, state: SweepState, everywhere: Sequence[Places]) -> None:
        """Random unit vectors, one in each group."""
        state.row = space.random("gaussian", state.seed, self.num_probes, 1)
        for places in everywhere:
            scale_within(state.row, places, 1.0 / math.sqrt(square_within(space, state.row, places)))
        state.image, state.waiting = space.zeros(1), len(state.active)

    def _step(self, space: VectorSpace, state: SweepState, everywhere: Sequence[Places]) -> None:
        """One Lanczos step of every active group: each orthogonalises in its own places."""
        j = state.basis.size
        state.basis.append(state.row)
        known = state.basis.rows(space, 0, j + 1)
        going = []
        lengths = list(state.lengths)
        for group in state.active:
            places = everywhere[group]
            alpha = float(within(space, state.row, state.image, places)[0, 0])
            for _ in range(2):  # Kahan-Parlett: twice is enough
                taken = within(space, known, state.image, places)
                for low, high in places:
                    state.image[:, low:high] -= space.combine(taken.mT, known[:, low:high])
            beta = math.sqrt(square_within(space, state.image, places))
            state.alphas[j, group], state.betas[j, group] = alpha, beta
            lengths[group] = j + 1
            if self._goes_on(space, state, group, j + 1):
                scale_within(state.image, places, 1.0 / beta)
                going.append(group)
            else:
                scale_within(state.image, places, 0.0)
                if beta <= self._rounding(state, group, j + 1, space.eps) or j + 1 == state.sizes[group]:
                    state.betas[j, group] = 0.0  # the space of these vectors is invariant
        state.lengths, state.active = tuple(lengths), tuple(going)
        state.row, state.image, state.waiting = state.image, space.zeros(1), len(going)

    def _goes_on(self, space: VectorSpace, state: SweepState, group: int, length: int) -> bool:
        size = state.sizes[group]
        if length >= min(size, len(state.alphas)):
            return False
        if float(state.betas[length - 1, group]) <= self._rounding(state, group, length, space.eps):
            return False
        theta, S = _ritz(state.alphas[:length, group], state.betas[: length - 1, group])
        wanted = min(self.k, size)
        if length < wanted:
            return True
        residuals = float(state.betas[length - 1, group]) * S[-1, :wanted].abs()
        return not bool((residuals <= self._limits(theta[:wanted], theta, space.eps)).all())

    def _pairs(self, state: SweepState, group: int, eps: float) -> tuple[Tensor, Tensor, bool]:
        length = state.lengths[group]
        if length == 0:
            empty = torch.empty(0, dtype=torch.float64)
            return empty, empty, self.k == 0
        theta, S = _ritz(state.alphas[:length, group], state.betas[: length - 1, group])
        wanted = min(self.k, len(theta))
        residuals = float(state.betas[length - 1, group]) * S[-1, :wanted].abs()
        rounding = 4.0 * eps * float(theta.abs().max())
        few = wanted < min(self.k, state.sizes[group]) and float(state.betas[length - 1, group]) > 0.0
        done = not few and bool((residuals <= self._limits(theta[:wanted], theta, eps)).all())
        return theta[:wanted], torch.hypot(residuals, torch.full_like(residuals, rounding)), done

    def _limits(self, wanted: Tensor, theta: Tensor, eps: float) -> Tensor:
        return torch.clamp(self.tol * wanted.abs(), min=8.0 * eps * float(theta.abs().max()))

    def _rounding(self, state: SweepState, group: int, length: int, eps: float) -> float:
        largest = max(float(state.alphas[:length, group].abs().max()), float(state.betas[:length, group].max()))
        return _BREAKDOWN * eps * largest


def sweep(
    op: CurvatureOperator,
    *,
    by: str | Sequence[str] = "layer",
    k: int = 1,
    num_probes: int = 16,
    steps: int = 40,
    tol: float = 1e-3,
    seed: int | None = None,
    **driver: Unpack[DriverOptions],
) -> SweepResult:
    r"""Sweep over groups of parameters: each block's trace, norm and eigenvalues, :math:`\|A_{gh}\|_F`.

    Parameters
    ----------
    op : CurvatureOperator, shape (n, n)
        Symmetric.
    by : {"layer", "block", "parameter"} or sequence of globs
        ``"layer"``: a group a module, by its name. ``"block"``: a group for each numbered part of the model
        (``model.layers.3``), and one for each other module at the top. ``"parameter"``: a group each. Globs: a group
        each; parameters in none are left out.
    k : int, at least 0
        Largest eigenvalues of each group, fewer where a group has fewer; 0: none.
    num_probes : int, at least 2
        Sign probes of each group: a product each.
    steps : int, at least 2
        Lanczos steps of a group, at most: a product each. A group that has converged takes no more.
    tol : float, at least 0
        Relative residual at which a group's eigenvalues have converged.
    seed : int or None
        None draws one and records it.
    **driver
        Budgets, progress and checkpoints: the options of :func:`curvkit_core.algorithms.run`.

    Returns
    -------
    SweepResult
        A row a group, the norms of all blocks, and the coupling between groups as a number.

    Raises
    ------
    ValueError
        If the operator is not symmetric, a glob matches nothing, two share a parameter, or an option is out of range.

    Notes
    -----
    At most (num_probes + steps) products a group, of the whole operator with vectors that are zero outside the group;
    `steps` + 4 vectors and one block of products are held, whatever the number of groups. Repeated eigenvalues of a
    block are found once, as by any single-vector Lanczos process. On shards an inner product within a group is a small
    collective for each of its parameters.
    """
    chosen = by if isinstance(by, str) else tuple(by)
    algorithm = Sweep(by=chosen, k=k, num_probes=num_probes, steps=steps, tol=tol, seed=seed)
    result: SweepResult = run(algorithm, op, **driver)
    return result


def _ritz(alphas: Tensor, betas: Tensor) -> tuple[Tensor, Tensor]:
    """Ritz values, descending, and their coordinates, a column each."""
    T = alphas.diag() + (betas.diag(1) + betas.diag(-1) if len(betas) else 0.0)
    theta, S = torch.linalg.eigh(T)
    return theta.flip(0), S.flip(1)


def _root(square: float, error: float) -> tuple[float, float]:
    """The root of an estimate of a square, and its standard error (delta method)."""
    root = math.sqrt(square) if square > 0.0 else square
    return root, error / (2.0 * root) if root > 0.0 else error


def _coupling(squares: Tensor) -> tuple[float, float]:
    """1 - (diagonal blocks' share), a ratio of means over probes, and its standard error (delta method)."""
    if not len(squares):
        return math.nan, math.inf
    inside, whole = squares.diagonal(dim1=1, dim2=2).sum(dim=1), squares.sum(dim=(1, 2))
    mean = float(whole.mean())
    if mean == 0.0:
        return 0.0, 0.0
    ratio = float(inside.mean()) / mean
    _, error = mean_and_stderr((inside - ratio * whole) / mean)
    return 1.0 - ratio, error
