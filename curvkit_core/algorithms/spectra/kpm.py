r"""The kernel polynomial method [1]_: Chebyshev moments of random probes' spectral measures, to be damped by Jackson's
factors.

.. math:: \mu_k = \frac{z^\top T_k(\tilde A)z}{z^\top z}, \qquad \tilde A = (A - c)/h, \qquad
          \mu_{2k} = 2 v_k^\top v_k - \mu_0, \quad \mu_{2k+1} = 2 v_{k+1}^\top v_k - \mu_1, \quad v_k = T_k(\tilde A)z,

two moments a product. The interval c - h .. c + h comes from a few Lanczos steps: its ends are the extreme Ritz values,
further out by their residuals and by a twentieth of the range. That is no proof, so it is watched: within the interval
no :math:`v_k` can be longer than z, and outside of it T_k grows exponentially. Where a vector grows, the interval is
widened and every probe begins again.

References
----------
.. [1] Weisse, Wellein, Alvermann, Fehske, Rev. Mod. Phys. 78(1), 2006, 275-306.
"""

from __future__ import annotations

import torch
from attrs import define, field, frozen, validators
from torch import Tensor

from curvkit_core.algorithms.estimators.samples import PROBE_KINDS
from curvkit_core.algorithms.protocol import Progress
from curvkit_core.algorithms.seeds import fresh_seed, is_seed
from curvkit_core.algorithms.spectra.lanczos_quadrature import LanczosQuadrature, LanczosQuadratureState
from curvkit_core.algorithms.spectra.quadrature_rules import jacobi_matrices
from curvkit_core.backends import VectorSpace

__all__ = ["ChebyshevMoments", "MomentsSoFar"]

_BOUND_STEPS = 20  # Lanczos steps for the interval
_MARGIN = 0.05  # of the range, at either end
_GROWN = 2.0  # |v_k|^2 / |z|^2 that says that the spectrum sticks out of the interval
_WIDER = 1.25
_BYTES = 2**28  # of one block of vectors


@frozen(kw_only=True, eq=False)
class MomentsSoFar:
    """Chebyshev moments (p, num_moments) of the probes so far, on an interval (None: not known yet)."""

    moments: Tensor
    interval: tuple[float, float] | None
    num_widenings: int


@define(kw_only=True)
class ChebyshevMomentsState:
    """In phase "interval" the Lanczos run; then place s holds v_{k-1}, v_k of probe ``slots[s]``, k = ``orders[s]``.

    `pending` lists the places that the present round has still to multiply; probe j has ``known[j]`` moments.
    """

    seed: int
    phase: str
    bounds: LanczosQuadratureState | None
    centre: float
    half: float
    begun: int
    slots: tuple[int, ...]
    orders: tuple[int, ...]
    pending: tuple[int, ...]
    before: Tensor
    current: Tensor
    moments: Tensor
    known: Tensor
    num_matvecs: int
    num_widenings: int


@frozen(kw_only=True)
class ChebyshevMoments:
    """Chebyshev moments of random probes' spectral measures. Holds two vectors a probe, for `lockstep` probes.

    Parameters
    ----------
    num_probes : int, at least 1
        Independent probes.
    steps : int, at least 1
        Products a probe; they give 2 `steps` + 1 moments. The interval takes up to 20 products before.
    probes : {"rademacher", "gaussian", "sphere"}
        Distribution of the probes.
    lockstep : int or None
        Probes that run at once; None: as many as fit into 256 MiB, at most 16.
    seed : int or None
        None draws one and records it.
    """

    needs_symmetric = True

    num_probes: int = field(default=8, validator=validators.ge(1))
    steps: int = field(default=40, validator=validators.ge(1))
    probes: str = field(default="rademacher", validator=validators.in_(PROBE_KINDS))
    lockstep: int | None = field(default=None, validator=validators.optional(validators.ge(1)))
    seed: int | None = field(default=None, validator=is_seed)

    def init(self, space: VectorSpace) -> ChebyshevMomentsState:
        """Begin with the interval."""
        seed = fresh_seed(self.seed)
        return ChebyshevMomentsState(
            seed=seed,
            phase="interval",
            bounds=self._lanczos(seed).init(space),
            centre=0.0,
            half=0.0,
            begun=0,
            slots=(),
            orders=(),
            pending=(),
            before=space.zeros(0),
            current=space.zeros(0),
            moments=torch.zeros((self.num_probes, 2 * self.steps + 1), dtype=torch.float64),
            known=torch.zeros(self.num_probes, dtype=torch.int64),
            num_matvecs=0,
            num_widenings=0,
        )

    def ask(self, state: ChebyshevMomentsState, max_rows: int) -> Tensor | None:
        """The Lanczos run's vector; then the newest vectors of the places that wait."""
        if state.bounds is not None:
            return self._lanczos(state.seed).ask(state.bounds, max_rows)
        places = state.pending[:max_rows]
        if not places:
            return None
        if places[-1] - places[0] == len(places) - 1:
            return state.current[places[0] : places[-1] + 1]
        return state.current[list(places)]

    def tell(self, space: VectorSpace, state: ChebyshevMomentsState, V: Tensor, AV: Tensor) -> ChebyshevMomentsState:
        """One Lanczos step; or one term of the recurrence, and two moments, for each probe that was multiplied."""
        state.num_matvecs += len(AV)
        if state.bounds is not None:
            lanczos = self._lanczos(state.seed)
            state.bounds = lanczos.tell(space, state.bounds, V, AV)
            if lanczos.ask(state.bounds, 1) is None:
                state.centre, state.half = _interval(state.bounds)
                state.phase, state.bounds = "moments", None
                self._start(space, state)
            return state
        places = state.pending[: len(AV)]
        state.pending = state.pending[len(AV) :]
        rows = (AV - state.centre * V) / state.half
        for place, row in zip(places, rows, strict=True):
            self._take(space, state, place, row[None])
        grown = [place for place in places if state.orders[place] and self._grown(state, place)]
        if grown:
            self._widen(space, state, V[places.index(grown[0])][None], AV[places.index(grown[0])][None])
            return state
        for place in places:
            if state.orders[place] == self.steps:
                self._start_probe(space, state, place)
        if not state.pending:
            state.pending = tuple(s for s, probe in enumerate(state.slots) if probe >= 0)
        return state

    def result(self, space: VectorSpace, state: ChebyshevMomentsState) -> MomentsSoFar:
        """The moments of the probes finished so far; before the first, as many as every one begun has."""
        full = state.moments.shape[1]
        through = state.known == full
        chosen = through if bool(through.any()) else state.known > 1
        count = int(state.known[chosen].min()) if bool(chosen.any()) else 0
        interval = None if state.phase == "interval" else (state.centre - state.half, state.centre + state.half)
        return MomentsSoFar(
            moments=state.moments[chosen][:, :count], interval=interval, num_widenings=state.num_widenings
        )

    def progress(self, state: ChebyshevMomentsState) -> Progress:
        """Products done; those of an interval that was too narrow are done in vain and add to the total."""
        made = int((state.known // 2).sum())
        left = self.num_probes * self.steps - made
        left += _BOUND_STEPS - int(state.bounds.sizes[0]) if state.bounds is not None else 0
        note = (
            state.phase if not state.num_widenings else f"{state.phase}, interval widened {state.num_widenings} times"
        )
        return Progress(done=state.num_matvecs, total=state.num_matvecs + left, note=note)

    def _lanczos(self, seed: int) -> LanczosQuadrature:
        # its start is the vector after the probes', independent of them
        return LanczosQuadrature(
            num_probes=1, steps=_BOUND_STEPS, probes="gaussian", first=self.num_probes, lockstep=1, seed=seed
        )

    def _start(self, space: VectorSpace, state: ChebyshevMomentsState) -> None:
        width = min(self.num_probes, self.lockstep or max(1, min(16, _BYTES // (space.n * space.dtype.itemsize))))
        state.before, state.current = space.zeros(width), space.zeros(width)
        state.begun, state.slots, state.orders = 0, (-1,) * width, (0,) * width
        state.moments.zero_()
        state.known.zero_()
        for place in range(width):
            self._start_probe(space, state, place)
        state.pending = tuple(range(width))

    def _start_probe(self, space: VectorSpace, state: ChebyshevMomentsState, place: int) -> None:
        probe = state.begun if state.begun < self.num_probes else -1
        state.slots = (*state.slots[:place], probe, *state.slots[place + 1 :])
        state.orders = (*state.orders[:place], 0, *state.orders[place + 1 :])
        if probe < 0:
            return
        row = space.random(self.probes, state.seed, probe, 1)
        state.current[place] = row[0] / float(space.norms(row)[0])
        state.moments[probe, 0], state.known[probe] = 1.0, 1
        state.begun += 1

    def _take(self, space: VectorSpace, state: ChebyshevMomentsState, place: int, scaled: Tensor) -> None:
        """Go from v_{k-1}, v_k to v_k, v_{k+1}, given v_k times the scaled operator; moments 2k + 1 and 2k + 2."""
        k, probe = state.orders[place], state.slots[place]
        current = state.current[place : place + 1]
        following = scaled if k == 0 else 2.0 * scaled - state.before[place : place + 1]
        across, square = float(space.dots(following, current)[0]), float(space.dots(following, following)[0])
        row = state.moments[probe]
        row[2 * k + 1] = across if k == 0 else 2.0 * across - row[1]
        row[2 * k + 2] = 2.0 * square - row[0]
        state.before[place], state.current[place] = current[0], following[0]
        state.orders = (*state.orders[:place], k + 1, *state.orders[place + 1 :])
        state.known[probe] = 2 * k + 3

    def _grown(self, state: ChebyshevMomentsState, place: int) -> bool:
        square = 0.5 * (float(state.moments[state.slots[place], 2 * state.orders[place]]) + 1.0)
        return not square <= _GROWN

    def _widen(self, space: VectorSpace, state: ChebyshevMomentsState, v: Tensor, Av: Tensor) -> None:
        """Make the interval a quarter wider and have it hold the grown vector's Rayleigh quotient; begin again."""
        quotient = float(space.dots(v, Av)[0]) / float(space.dots(v, v)[0])
        low = min(state.centre - _WIDER * state.half, quotient - _MARGIN * state.half)
        high = max(state.centre + _WIDER * state.half, quotient + _MARGIN * state.half)
        state.centre, state.half = 0.5 * (low + high), 0.5 * (high - low)
        state.num_widenings += 1
        self._start(space, state)


def _interval(bounds: LanczosQuadratureState) -> tuple[float, float]:
    """Centre and half-width around the Ritz values."""
    m = int(bounds.sizes[0])
    theta, S = torch.linalg.eigh(jacobi_matrices(bounds.alpha[0, :m], bounds.beta[0, : m - 1]))
    residuals = float(bounds.beta[0, m - 1]) * S[-1].abs()
    low, high = float(theta[0] - residuals[0]), float(theta[-1] + residuals[-1])
    largest = max(abs(low), abs(high))
    # a multiple of the identity has no range: a twentieth of its magnitude then, and 1 for zero
    margin = _MARGIN * max(high - low, largest if high - low <= 1e-6 * largest else 0.0) or 1.0
    return 0.5 * (low + high), 0.5 * (high - low) + margin
