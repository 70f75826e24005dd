r"""Conjugate gradients [1]_ for :math:`(A + \delta I)x = b`, several right-hand sides in lockstep.

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
from curvkit_core.backends import VectorSpace
from curvkit_core.results.types import SolveResult

__all__ = ["ConjugateGradients"]

_LEAST_GAIN = 0.5  # a restart that does not halve the true residual has met rounding

_RUNNING, _CONVERGED, _BREAKDOWN, _STAGNATED = 0, 1, 2, 3
_WORDS = ("max_matvecs", "converged", "breakdown", "stagnated")


@define(kw_only=True)
class ConjugateGradientsState:
    """Rows of r systems; small ones are float64 on the CPU.

    `checking` says whose next product is of the solution, for its true residual, and not of the direction. `pending`
    lists the rows that the present round has still to multiply.
    """

    b: Tensor
    x: Tensor
    residual: Tensor
    direction: Tensor
    targets: Tensor
    squares: Tensor
    checked: Tensor
    curvatures: Tensor
    phase: Tensor
    checking: Tensor
    pending: Tensor
    num_matvecs: int
    single: bool


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

    def init(self, space: VectorSpace, *, b: Tensor, start: Tensor | None = None) -> ConjugateGradientsState:
        """Begin at zero, or at `start` (shaped as b): right-hand sides b are (r, n), or (n,) for one."""
        rows = space.check(b, "b").clone()
        x = torch.zeros_like(rows) if start is None else space.check(start, "start").clone()
        if x.shape != rows.shape:
            msg = f"start has shape {tuple(x.shape)}: expected {tuple(rows.shape)}, a row for each right-hand side."
            raise ValueError(msg)
        norms = space.norms(rows)
        if not bool(torch.isfinite(norms).all()):
            number = int((~torch.isfinite(norms)).nonzero()[0])
            msg = f"right-hand side {number} has norm {float(norms[number])}: expected finite numbers."
            raise ValueError(msg)
        zero = norms == 0
        x[zero.to(x.device)] = 0.0
        phase = torch.where(zero, _CONVERGED, _RUNNING)
        return ConjugateGradientsState(
            b=rows,
            x=x,
            residual=rows.clone(),
            direction=rows.clone(),
            targets=self.tol * norms,
            squares=norms.square(),
            checked=torch.full_like(norms, float("inf")),
            curvatures=torch.full_like(norms, float("nan")),
            phase=phase,
            checking=torch.full_like(zero, start is not None),
            pending=(phase == _RUNNING).nonzero()[:, 0],
            num_matvecs=0,
            single=b.ndim == 1,
        )

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
            state.pending = (state.phase == _RUNNING).nonzero()[:, 0]
        return state

    def result(self, space: VectorSpace, state: ConjugateGradientsState) -> SolveResult:
        """The solutions so far; those that have not converged with the recurrence's residual, unchecked."""
        residuals = torch.where(state.phase == _CONVERGED, state.checked, state.squares.clamp_min(0.0).sqrt())
        residuals[state.targets == 0] = 0.0
        return SolveResult(
            solution=state.x[0] if state.single else state.x,
            residuals=residuals,
            converged=state.phase == _CONVERGED,
            status=tuple(_WORDS[int(p)] for p in state.phase),
            curvatures=state.curvatures.clone(),
            damping=self.damping,
            num_matvecs=state.num_matvecs,
        )

    def progress(self, state: ConjugateGradientsState) -> Progress:
        """Products so far, and how many systems are solved."""
        solved = int((state.phase == _CONVERGED).sum())
        return Progress(done=state.num_matvecs, note=f"{solved} of {len(state.phase)} solved")

    def _next_rows(self, state: ConjugateGradientsState, rows: int) -> Tensor:
        return state.pending[: max(0, min(rows, self.max_matvecs - state.num_matvecs))]

    def _step(self, space: VectorSpace, state: ConjugateGradientsState, rows: Tensor, P: Tensor, AP: Tensor) -> None:
        curvature = space.dots(P, AP)
        bad = curvature <= 0.0
        if bool(bad.any()):
            state.phase[rows[bad]] = _BREAKDOWN
            state.curvatures[rows[bad]] = curvature[bad] / space.dots(P, P)[bad]
            good = ~bad
            on_device = good.to(P.device)
            rows, P, AP, curvature = rows[good], P[on_device], AP[on_device], curvature[good]
        if not len(rows):
            return
        where = rows.to(P.device)
        length = (state.squares[rows] / curvature).to(P)[:, None]
        state.x[where] += length * P
        R = state.residual[where] - length * AP
        squares = space.dots(R, R)
        state.residual[where] = R
        state.direction[where] = R + (squares / state.squares[rows]).to(P)[:, None] * P
        state.squares[rows] = squares
        state.checking[rows] = squares.sqrt() <= state.targets[rows]

    def _take_residual(self, space: VectorSpace, state: ConjugateGradientsState, rows: Tensor, AX: Tensor) -> None:
        """The true residual: solved, or from here again, or no better than at the last look."""
        where = rows.to(AX.device)
        R = state.b[where] - AX
        squares = space.dots(R, R)
        norms = squares.sqrt()
        state.residual[where] = R
        state.direction[where] = R
        state.squares[rows] = squares
        stuck = norms > _LEAST_GAIN * state.checked[rows]
        solved = norms <= state.targets[rows]
        state.phase[rows] = torch.where(solved, _CONVERGED, torch.where(stuck, _STAGNATED, _RUNNING))
        state.checked[rows] = norms
        state.checking[rows] = False
