r"""Conjugate gradients [1]_ for :math:`(A + \delta I)x = b`, several right-hand sides in lockstep.

With a preconditioner M they run on :math:`M^{-1/2}(A + \delta I)M^{-1/2}`, of which only products with M^-1 are seen.
No recurrence is believed at the end: where one says that its system is solved, the residual :math:`b - (A + \delta I)x`
is computed by one product more, and the iteration starts again from it where it is too large. In float32 the two drift
apart by a factor that grows with the condition number.

References
----------
.. [1] Hestenes, Stiefel, J. Res. Natl. Bur. Stand. 49(6), 1952, 409-436.
"""

from __future__ import annotations

import torch
from attrs import define, field, frozen, validators
from torch import Tensor

from curvkit_core.algorithms.protocol import Progress
from curvkit_core.algorithms.solves.preconditioner import Preconditioner
from curvkit_core.algorithms.solves.right_hand_sides import (
    BREAKDOWN,
    CONVERGED,
    NOT_DEFINITE,
    RUNNING,
    STAGNATED,
    WORDS,
    begin,
    inverse_rows,
    with_rounding,
)
from curvkit_core.backends import VectorSpace
from curvkit_core.results.types import SolveResult

__all__ = ["ConjugateGradients"]

_LEAST_GAIN = 0.5  # a restart that does not halve the true residual has met rounding


@define(kw_only=True)
class ConjugateGradientsState:
    """Rows of r systems; small ones are float64 on the CPU.

    `checking` says whose next product is of the solution, for its true residual, and not of the direction. `pending`
    lists the rows that the present round has still to multiply. `squares` are |r|^2, `products` r^T M^-1 r, `scales`
    the largest Rayleigh quotients seen.
    """

    b: Tensor
    x: Tensor
    residual: Tensor
    direction: Tensor
    targets: Tensor
    squares: Tensor
    products: Tensor
    checked: Tensor
    curvatures: Tensor
    scales: Tensor
    phase: Tensor
    checking: Tensor
    pending: Tensor
    num_matvecs: int
    single: bool
    preconditioner: Preconditioner | None


@frozen(kw_only=True)
class ConjugateGradients:
    """Conjugate gradients for symmetric positive definite operators. Holds 4 vectors a right-hand side.

    Parameters
    ----------
    tol : float, above 0
        A system is solved when its residual's norm is at most `tol` times that of b.
    max_matvecs : int, at least 1
        Products after which it stops, those for all right-hand sides together.
    damping : float, at least 0
        delta: added to the operator's diagonal.
    """

    needs_symmetric = True

    tol: float = field(default=1e-6, validator=validators.gt(0.0))
    max_matvecs: int = field(default=1000, validator=validators.ge(1))
    damping: float = field(default=0.0, validator=validators.ge(0.0))

    def init(
        self,
        space: VectorSpace,
        *,
        b: Tensor,
        start: Tensor | None = None,
        preconditioner: Preconditioner | None = None,
    ) -> ConjugateGradientsState:
        """Begin at zero, or at `start` (shaped as b): right-hand sides b are (r, n), or (n,) for one."""
        rows, x, norms = begin(space, b, start)
        phase = torch.where(norms == 0, CONVERGED, RUNNING)
        state = ConjugateGradientsState(
            b=rows,
            x=x,
            residual=rows.clone(),
            direction=rows.clone(),
            targets=self.tol * norms,
            squares=norms.square(),
            products=norms.square(),
            checked=torch.full_like(norms, float("inf")),
            curvatures=torch.full_like(norms, float("nan")),
            scales=torch.zeros_like(norms),
            phase=phase,
            checking=torch.full_like(phase, start is not None, dtype=torch.bool),
            pending=(phase == RUNNING).nonzero()[:, 0],
            num_matvecs=0,
            single=b.ndim == 1,
            preconditioner=preconditioner,
        )
        if start is None:
            self._turn(space, state, state.pending, rows[state.pending.to(rows.device)], norms[state.pending].square())
            state.pending = (state.phase == RUNNING).nonzero()[:, 0]
        return state

    def ask(self, state: ConjugateGradientsState, max_rows: int) -> Tensor | None:
        """The next rows' directions, and solutions where the residual is to be checked."""
        rows = self._next_rows(state, max_rows)
        if not len(rows):
            return None
        where = rows.to(state.x.device)
        check = state.checking[rows].to(state.x.device)[:, None]
        return torch.where(check, state.x[where], state.direction[where])

    def tell(
        self, space: VectorSpace, state: ConjugateGradientsState, V: Tensor, AV: Tensor
    ) -> ConjugateGradientsState:
        """One step of each system that was multiplied; they do not touch one another."""
        rows = self._next_rows(state, len(V))
        AV = AV.add(V, alpha=self.damping)
        check = state.checking[rows]
        if bool(check.any()):
            self._take_residual(space, state, rows[check], AV[check.to(AV.device)])
        if not bool(check.all()):
            step = ~check
            self._step(space, state, rows[step], V[step.to(V.device)], AV[step.to(V.device)])
        state.num_matvecs += len(V)
        state.pending = state.pending[len(V) :]
        if not len(state.pending):
            state.pending = (state.phase == RUNNING).nonzero()[:, 0]
        return state

    def result(self, space: VectorSpace, state: ConjugateGradientsState) -> SolveResult:
        """The solutions so far; those that have not converged with the recurrence's residual, widened by rounding."""
        verified = (state.phase == CONVERGED) | (state.phase == STAGNATED)
        recurrence = with_rounding(space, state.squares.clamp_min(0.0).sqrt(), state.scales, state.x)
        residuals = torch.where(verified, state.checked, recurrence)
        residuals[state.targets == 0] = 0.0
        return SolveResult(
            solution=state.x[0] if state.single else state.x,
            residuals=residuals,
            converged=state.phase == CONVERGED,
            status=tuple(WORDS[int(p)] for p in state.phase),
            curvatures=state.curvatures.clone(),
            damping=self.damping,
            method="cg",
            num_matvecs=state.num_matvecs,
        )

    def progress(self, state: ConjugateGradientsState) -> Progress:
        """Products so far, and how many systems are solved."""
        solved = int((state.phase == CONVERGED).sum())
        return Progress(done=state.num_matvecs, note=f"{solved} of {len(state.phase)} solved")

    def _next_rows(self, state: ConjugateGradientsState, rows: int) -> Tensor:
        return state.pending[: max(0, min(rows, self.max_matvecs - state.num_matvecs))]

    def _step(self, space: VectorSpace, state: ConjugateGradientsState, rows: Tensor, P: Tensor, AP: Tensor) -> None:
        curvature = space.dots(P, AP)
        bad = curvature <= 0.0
        if bool(bad.any()):
            state.phase[rows[bad]] = BREAKDOWN
            state.curvatures[rows[bad]] = curvature[bad] / space.dots(P, P)[bad]
            good = ~bad
            on_device = good.to(P.device)
            rows, P, AP, curvature = rows[good], P[on_device], AP[on_device], curvature[good]
        if not len(rows):
            return
        where = rows.to(P.device)
        # |p| >= |r|, so without M curvature / |r|^2 may pass the Rayleigh quotient, but not the largest eigenvalue
        lengths = state.products[rows] if state.preconditioner is None else space.dots(P, P)
        state.scales[rows] = state.scales[rows].maximum(curvature / lengths)
        step = (state.products[rows] / curvature).to(P)[:, None]
        state.x[where] += step * P
        R = state.residual[where] - step * AP
        self._turn(space, state, rows, R, space.dots(R, R), P)
        state.checking[rows] = state.squares[rows].sqrt() <= state.targets[rows]

    def _turn(
        self,
        space: VectorSpace,
        state: ConjugateGradientsState,
        rows: Tensor,
        R: Tensor,
        squares: Tensor,
        P: Tensor | None = None,
    ) -> None:
        """The residuals R of these rows, and the direction from them: conjugate to P, or M^-1 R where that is None."""
        where = rows.to(R.device)
        Z = inverse_rows(space, state.preconditioner, R)
        products = squares if state.preconditioner is None else space.dots(R, Z)
        state.phase[rows[~(products > 0.0) & (squares > 0.0)]] = NOT_DEFINITE
        state.residual[where] = R
        turned = Z if P is None else Z + (products / state.products[rows]).to(P)[:, None] * P
        state.direction[where] = turned
        state.squares[rows] = squares
        state.products[rows] = products

    def _take_residual(self, space: VectorSpace, state: ConjugateGradientsState, rows: Tensor, AX: Tensor) -> None:
        """The true residual: solved, or from here again, or no better than at the last look."""
        R = state.b[rows.to(AX.device)] - AX
        squares = space.dots(R, R)
        norms = squares.sqrt()
        stuck = norms > _LEAST_GAIN * state.checked[rows]
        solved = norms <= state.targets[rows]
        state.phase[rows] = torch.where(solved, CONVERGED, torch.where(stuck, STAGNATED, RUNNING))
        state.checked[rows] = norms
        state.checking[rows] = False
        running = state.phase[rows] == RUNNING
        on_device = running.to(R.device)
        self._turn(space, state, rows[running], R[on_device], squares[running])
