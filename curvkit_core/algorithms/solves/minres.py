r"""MINRES [1]_ for :math:`(A + \delta I)x = b`, A symmetric of any signature: several right-hand sides in lockstep.

.. math:: x_k = \arg\min_{x \in K_k} \|b - (A + \delta I)x\|, \quad K_k = \operatorname{span}\{b, Ab, \ldots, A^{k-1}b\}

by Lanczos and plane rotations; with a preconditioner M the norm is that of M^-1. As for conjugate gradients no
recurrence is believed at the end, nor on the way where rounding may have drowned it: the residual is computed anew,
what has been added to x is kept only if it is smaller, and Lanczos begins again from it. The first product then also
shows whether :math:`(A + \delta I)r = 0`, by which a singular system with b outside its range is known.

References
----------
.. [1] Paige, Saunders, SIAM J. Numer. Anal. 12(4), 1975, 617-629.
"""

from __future__ import annotations

import torch
from attrs import define, field, frozen, validators
from torch import Tensor

from curvkit_core.algorithms.protocol import Progress
from curvkit_core.algorithms.solves.preconditioner import Preconditioner
from curvkit_core.algorithms.solves.right_hand_sides import (
    CONVERGED,
    INCOMPATIBLE,
    NOT_DEFINITE,
    RUNNING,
    STAGNATED,
    WORDS,
    begin,
    inverse_rows,
)
from curvkit_core.backends import VectorSpace
from curvkit_core.results.types import SolveResult

__all__ = ["Minres"]

_LEAST_GAIN = 0.5  # a restart that does not halve the true residual has met rounding
_SLOW_GAIN = 0.9  # the same where the recurrence itself was that slow
_AGREES = 1.1  # a true residual up to this times the recurrence's needs no restart
_PATIENCE = 25  # steps before the first look at a residual that rounding may have drowned; doubled where it had not
_STATIONARY = 10.0  # |A r| below this times eps |A| |r|: no step within reach of rounding makes r smaller
_DUBIOUS = 0.1  # rounding in a step that may be so large beside r
_LEAP = 10.0  # a step so many times as long as all before
_SINGULAR = 0.5  # |A r| below eps to this times |A| |r|, and no way to make r smaller: singular
_TINY = torch.finfo(torch.float64).tiny

_STEP, _SOLVED, _FLAT, _DOUBT = range(4)  # the next product: of q, or of x, since r or A r is small, or r in doubt
_OLD, _FRESH, _LAST = range(3)  # the Lanczos vector: further on, the true residual's, or that of one no better


@define(kw_only=True)
class MinresState:
    """Rows of r systems; small ones are float64 on the CPU.

    `x` is verified, `added` is what has come since. `basis` and `basis_before` are the newest Lanczos vectors q,
    `direction` is M^-1 q and `residual` the recurrence's, None where M = I; `search` and `search_before` the directions
    of x. `phi` is the recurrence's norm of the residual in M^-1, `sizes` its 2-norm; `lengths` are |x|, `travel` bounds
    |added|. `beta`, `delta`, `epsilon`, `cosine`, `sine` are the recurrence's, `gammas` the smallest diagonal entry of
    its triangle; `scales` and `norms` lower bounds on the norm of A, with the preconditioner on both sides and without.
    """

    b: Tensor
    x: Tensor
    added: Tensor
    basis: Tensor
    basis_before: Tensor
    search: Tensor
    search_before: Tensor
    direction: Tensor | None
    residual: Tensor | None
    targets: Tensor
    checked: Tensor
    slopes: Tensor
    sizes: Tensor
    lengths: Tensor
    travel: Tensor
    phi: Tensor
    beta: Tensor
    delta: Tensor
    epsilon: Tensor
    cosine: Tensor
    sine: Tensor
    gammas: Tensor
    scales: Tensor
    norms: Tensor
    steps: Tensor
    patience: Tensor
    phase: Tensor
    job: Tensor
    age: Tensor
    pending: Tensor
    num_matvecs: int
    single: bool
    preconditioner: Preconditioner | None


@frozen(kw_only=True)
class Minres:
    """MINRES for symmetric operators, indefinite and singular ones too. Holds 7 vectors a right-hand side.

    Two more with a preconditioner.

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
    ) -> MinresState:
        """Begin at zero, or at `start` (shaped as b): right-hand sides b are (r, n), or (n,) for one."""
        rows, x, norms = begin(space, b, start)
        phase = torch.where(norms == 0, CONVERGED, RUNNING)
        zeros, small = [torch.zeros_like(rows) for _ in range(7)], [torch.zeros_like(norms) for _ in range(11)]
        plain = preconditioner is None
        state = MinresState(
            b=rows,
            x=x,
            added=zeros[0],
            basis=zeros[1],
            basis_before=zeros[2],
            search=zeros[3],
            search_before=zeros[4],
            direction=None if plain else zeros[5],
            residual=None if plain else zeros[6],
            targets=self.tol * norms,
            checked=norms.clone() if start is None else torch.full_like(norms, float("inf")),
            slopes=torch.full_like(norms, float("inf")),
            sizes=small[0],
            lengths=space.norms(x),
            travel=small[1],
            phi=small[2],
            beta=small[3],
            delta=small[4],
            epsilon=small[5],
            cosine=small[6],
            sine=small[7],
            gammas=small[8],
            scales=small[9],
            norms=small[10],
            steps=torch.zeros_like(phase),
            patience=torch.full_like(phase, _PATIENCE),
            phase=phase,
            job=torch.full_like(phase, _STEP if start is None else _SOLVED),
            age=torch.full_like(phase, _FRESH),
            pending=(phase == RUNNING).nonzero()[:, 0],
            num_matvecs=0,
            single=b.ndim == 1,
            preconditioner=preconditioner,
        )
        if start is None:
            self._restart(space, state, state.pending, rows[state.pending.to(rows.device)])
            state.pending = (state.phase == RUNNING).nonzero()[:, 0]
        return state

    def ask(self, state: MinresState, max_rows: int) -> Tensor | None:
        """The next rows' Lanczos vectors, and solutions where the residual is to be checked."""
        rows = self._next_rows(state, max_rows)
        if not len(rows):
            return None
        where = rows.to(state.x.device)
        look = (state.job[rows] != _STEP).to(state.x.device)[:, None]
        x = state.x[where] + state.added[where]
        return torch.where(look, x, (state.basis if state.direction is None else state.direction)[where])

    def tell(self, space: VectorSpace, state: MinresState, V: Tensor, AV: Tensor) -> MinresState:
        """One step of each system that was multiplied; they do not touch one another."""
        rows = self._next_rows(state, len(V))
        AV = AV.add(V, alpha=self.damping)
        look = state.job[rows] != _STEP
        if bool(look.any()):
            self._look(space, state, rows[look], AV[look.to(AV.device)])
        if not bool(look.all()):
            step = ~look
            self._step(space, state, rows[step], V[step.to(V.device)], AV[step.to(V.device)])
        state.num_matvecs += len(V)
        state.pending = state.pending[len(V) :]
        if not len(state.pending):
            state.pending = (state.phase == RUNNING).nonzero()[:, 0]
        return state

    def result(self, space: VectorSpace, state: MinresState) -> SolveResult:
        """The solutions so far: what was verified last, or what has come since where its residual is surely smaller."""
        unseen = state.sizes + self._drift(space, state)
        better = (state.phase == RUNNING) & (unseen < state.checked)
        solution = torch.where(better.to(state.x.device)[:, None], state.x + state.added, state.x)
        residuals = torch.where(better, unseen, state.checked)
        residuals[state.targets == 0] = 0.0
        return SolveResult(
            solution=solution[0] if state.single else solution,
            residuals=residuals,
            converged=state.phase == CONVERGED,
            status=tuple(WORDS[int(p)] for p in state.phase),
            curvatures=torch.full_like(residuals, float("nan")),
            damping=self.damping,
            method="minres",
            num_matvecs=state.num_matvecs,
        )

    def progress(self, state: MinresState) -> Progress:
        """Products so far, and how many systems are solved."""
        solved = int((state.phase == CONVERGED).sum())
        return Progress(done=state.num_matvecs, note=f"{solved} of {len(state.phase)} solved")

    def _next_rows(self, state: MinresState, rows: int) -> Tensor:
        return state.pending[: max(0, min(rows, self.max_matvecs - state.num_matvecs))]

    def _step(self, space: VectorSpace, state: MinresState, rows: Tensor, V: Tensor, AV: Tensor) -> None:
        """One step of Lanczos, of the factorisation of its matrix by rotations, and of x where it is not flat."""
        where = rows.to(V.device)
        U = AV - _column(state.beta[rows], V) * state.basis_before[where]
        alpha = space.dots(V, U)
        U -= _column(alpha, V) * state.basis[where]
        Z = inverse_rows(space, state.preconditioner, U)
        squares = space.dots(U, Z)
        beta = squares.clamp_min(0.0).sqrt()
        sizes = (state.beta[rows].square() + alpha.square() + squares).sqrt()
        state.scales[rows] = state.scales[rows].maximum(sizes)
        if state.preconditioner is not None:
            state.phase[rows[squares < 0.0]] = NOT_DEFINITE
            sizes = space.norms(AV) / space.norms(V)
        state.norms[rows] = state.norms[rows].maximum(sizes)

        cosine, sine, delta = state.cosine[rows], state.sine[rows], state.delta[rows]
        above, bar = cosine * delta + sine * alpha, sine * delta - cosine * alpha
        gamma = torch.hypot(bar, beta).clamp_min(_TINY)
        W = V - _column(state.epsilon[rows], V) * state.search_before[where] - _column(above, V) * state.search[where]
        W /= _column(gamma, V)
        widths = space.norms(W)
        turn, lift = bar / gamma, beta / gamma
        state.gammas[rows] = state.gammas[rows].minimum(gamma)
        lengths = turn * state.phi[rows]
        flat = self._flat(space, state, rows, torch.hypot(bar, cosine * beta), lengths.abs() * widths, turn.abs())
        going = ~flat & (state.phase[rows] == RUNNING)
        lengths = torch.where(going, lengths, 0.0)
        state.added[where] += _column(lengths, V) * W
        state.travel[rows] += lengths.abs() * widths
        state.search_before[where], state.search[where] = state.search[where], W
        inverse = _column(torch.where(beta > 0.0, 1.0 / beta, 0.0), V)
        state.basis_before[where], state.basis[where] = state.basis[where], inverse * U
        state.epsilon[rows], state.delta[rows], state.beta[rows] = sine * beta, -cosine * beta, beta
        state.cosine[rows], state.sine[rows] = turn, lift
        state.phi[rows] = torch.where(going, lift.abs() * state.phi[rows], state.phi[rows])
        state.sizes[rows] = state.phi[rows]
        if state.direction is not None and state.residual is not None:
            state.direction[where] = inverse * Z
            state.residual[where] *= _column(torch.where(going, lift.square(), 1.0), V)
            state.residual[where] -= _column(lengths * lift, V) * state.basis[where]
            state.sizes[rows] = space.norms(state.residual[where])
        state.steps[rows] += 1
        state.age[rows] = _OLD
        self._choose(space, state, rows, flat | (beta <= _STATIONARY * space.eps * state.scales[rows]))

    def _flat(
        self, space: VectorSpace, state: MinresState, rows: Tensor, slopes: Tensor, lengths: Tensor, gains: Tensor
    ) -> Tensor:
        """Which rows do not go this step, of such `lengths`, for it would add more rounding than take from r.

        Or `slopes`, |A r| / |r|, are zero to rounding. Where r is fresh that decides: incompatible; and where r is no
        smaller than the last, and its slope not half the last one's, no more can be had.
        """
        fresh = state.age[rows] != _OLD
        level = _STATIONARY * space.eps * state.scales[rows]
        # a fresh r is uncertain by eps |A| |x|, and its slope by |A| times that
        x = state.lengths[rows]
        doubt = (state.norms[rows] * x / state.checked[rows]).clamp(1.0, space.eps**-0.5)
        stuck = (state.age[rows] == _LAST) & (slopes > _LEAST_GAIN * state.slopes[rows])
        ended = fresh & (slopes <= level * doubt)
        state.slopes[rows] = torch.where(fresh, slopes, state.slopes[rows])
        state.phase[rows[stuck]] = self._word(space, state, rows[stuck])
        state.phase[rows[ended]] = INCOMPATIBLE
        rounding = space.eps * state.norms[rows] * lengths
        useless = rounding >= gains * state.sizes[rows]
        # the last step in a singular system is a leap into its null space: not before what there is has been verified
        kappa = state.scales[rows] / state.gammas[rows]
        leap = (rounding * kappa > _DUBIOUS * state.sizes[rows]) & (lengths > _LEAP * (state.travel[rows] + x))
        gained = state.sizes[rows] < _SLOW_GAIN * state.checked[rows]
        leap &= gained | (slopes < _LEAST_GAIN * state.slopes[rows])
        return ended | (slopes <= level) | useless | leap

    def _word(self, space: VectorSpace, state: MinresState, rows: Tensor) -> Tensor:
        """How systems end that get no further: incompatible where A r is small beside r."""
        singular = state.slopes[rows] <= space.eps**_SINGULAR * state.scales[rows]
        return torch.where(singular, INCOMPATIBLE, STAGNATED)

    def _choose(self, space: VectorSpace, state: MinresState, rows: Tensor, flat: Tensor) -> None:
        """What the next product of these rows is of."""
        sizes = state.sizes[rows]
        doubtful = (self._drift(space, state)[rows] > sizes) & (state.steps[rows] >= state.patience[rows])
        job = torch.where(doubtful, _DOUBT, _STEP)
        state.job[rows] = torch.where(sizes <= state.targets[rows], _SOLVED, torch.where(flat, _FLAT, job))

    def _drift(self, space: VectorSpace, state: MinresState) -> Tensor:
        """What rounding may have done to the residuals: eps |A| |added| kappa, from the solves with the triangle."""
        kappa = state.scales / state.gammas.clamp_min(_TINY)
        return space.eps * state.norms * (3.0 * state.lengths + state.travel * kappa)

    def _look(self, space: VectorSpace, state: MinresState, rows: Tensor, AX: Tensor) -> None:
        """The true residual: solved; or on as before; or Lanczos from here again; or no better than the last."""
        where = rows.to(AX.device)
        R = state.b[where] - AX
        norms, before, job = space.norms(R), state.checked[rows], state.job[rows]
        # by more than its rounding: a leap into a null space can look smaller than the least there is
        better = (norms < before - space.eps * state.norms[rows] * state.travel[rows]) | before.isinf()
        state.x[where] += _column(better.double(), AX) * state.added[where]
        state.lengths[rows] = space.norms(state.x[where])
        state.added[where] = 0.0
        state.travel[rows] = 0.0
        state.checked[rows] = torch.where(better, norms, before)
        agrees = (job == _DOUBT) & (norms <= _AGREES * state.sizes[rows])
        slow = norms > torch.where(job == _DOUBT, _SLOW_GAIN, _LEAST_GAIN) * before
        stagnated = ~agrees & (~better | (slow & (job != _FLAT)))
        phase = torch.where(stagnated, self._word(space, state, rows), RUNNING)
        state.phase[rows] = torch.where(norms <= state.targets[rows], CONVERGED, phase)
        state.age[rows] = torch.where(agrees, _OLD, torch.where(slow, _LAST, _FRESH))
        state.steps[rows] = 0
        state.patience[rows] = torch.where(agrees, 2 * state.patience[rows], _PATIENCE)
        state.job[rows] = _STEP
        again = ~agrees & (state.phase[rows] == RUNNING)
        self._restart(space, state, rows[again], R[again.to(R.device)])

    def _restart(self, space: VectorSpace, state: MinresState, rows: Tensor, R: Tensor) -> None:
        """Lanczos from the residuals R of these rows."""
        where = rows.to(R.device)
        Z = inverse_rows(space, state.preconditioner, R)
        products = space.dots(R, Z)
        state.phase[rows[~(products > 0.0)]] = NOT_DEFINITE
        size = products.clamp_min(0.0).sqrt()
        inverse = _column(torch.where(size > 0.0, 1.0 / size, 0.0), R)
        state.basis[where] = inverse * R
        if state.direction is not None and state.residual is not None:
            state.direction[where] = inverse * Z
            state.residual[where] = R
        for vectors in (state.basis_before, state.search, state.search_before):
            vectors[where] = 0.0
        for numbers in (state.beta, state.delta, state.epsilon, state.sine):
            numbers[rows] = 0.0
        state.cosine[rows] = -1.0
        state.gammas[rows] = float("inf")
        state.phi[rows] = size
        state.sizes[rows] = state.checked[rows]


def _column(numbers: Tensor, rows: Tensor) -> Tensor:
    """Small numbers as a column to multiply rows by."""
    return numbers.to(rows)[:, None]
