r"""Hutch++ [1]_: the trace on a sketched range exactly, Hutchinson's estimator on the rest.

.. math:: \operatorname{tr} A \approx \operatorname{tr}(Q A Q^\top)
          + \frac1m\sum_j z_j^\top P A P z_j, \quad P = I - Q^\top Q,

Q the orthonormal rows of a sketch of A's range. Unbiased given Q; its variance falls as 1/m^2 for decaying spectra
instead of 1/m. Three phases, which use the products up: sketch, range, rest.

References
----------
.. [1] Meyer, Musco, Musco, Woodruff, "Hutch++: Optimal stochastic trace estimation", SOSA 2021, algorithm 1.
"""

from __future__ import annotations

import torch
from attrs import define, field, frozen, validators
from torch import Tensor

from curvkit_core.algorithms.estimators.samples import PROBE_KINDS, mean_and_stderr
from curvkit_core.algorithms.estimators.stopping import next_look, reached
from curvkit_core.algorithms.protocol import Progress
from curvkit_core.algorithms.seeds import fresh_seed, is_seed
from curvkit_core.backends import VectorSpace
from curvkit_core.results.types import TraceResult

__all__ = ["HutchPlusPlus"]


@define(kw_only=True)
class HutchPlusPlusState:
    """`basis` holds the sketch's probes, row by row replaced by products, then Q; `done` products of this `phase`.

    The error bar is looked at when there are `look` samples of the rest. `sketched` are the sketch's quadratic forms:
    Hutchinson's estimate, for a run that is stopped before there is a better one.
    """

    seed: int
    phase: str
    look: int
    done: int
    num_matvecs: int
    basis: Tensor
    pending: Tensor
    range_trace: float
    samples: Tensor
    sketched: Tensor


@frozen(kw_only=True)
class HutchPlusPlus:
    """Hutch++; the operator need not be symmetric. Holds a third of `num_matvecs` vectors.

    Parameters
    ----------
    num_matvecs : int, at least 2
        Products in all; an upper bound that is never passed. Below 4 there is no sketch: Hutchinson's estimator.
    tol : float or None
        Stop when the standard error is at most `tol` times the estimate's magnitude. The sketch and its range, two
        thirds of the products, come first; then the bar is looked at for 20 probes, and for a quarter more each time.
    probes : {"rademacher", "gaussian", "sphere"}
        Distribution of sketch and probes.
    seed : int or None
        None draws one and records it.
    """

    num_matvecs: int = field(default=99, validator=validators.ge(2))
    tol: float | None = field(default=None, validator=validators.optional(validators.gt(0.0)))
    probes: str = field(default="rademacher", validator=validators.in_(PROBE_KINDS))
    seed: int | None = field(default=None, validator=is_seed)

    def init(self, space: VectorSpace) -> HutchPlusPlusState:
        """Draw the sketch's probes."""
        seed = fresh_seed(self.seed)
        # two probes at least are left for the rest: one has no standard error
        sketch = min(self.num_matvecs // 3, (self.num_matvecs - 2) // 2, space.n)
        basis = space.random(self.probes, seed, 0, sketch)
        state = HutchPlusPlusState(
            seed=seed,
            phase="sketch",
            look=0,
            done=0,
            num_matvecs=0,
            basis=basis,
            pending=basis,
            range_trace=0.0,
            samples=torch.empty(0, dtype=torch.float64),
            sketched=torch.empty(0, dtype=torch.float64),
        )
        return state if sketch else self._draw(space, state)

    def ask(self, state: HutchPlusPlusState, max_rows: int) -> Tensor | None:
        """The next rows of the phase."""
        return state.pending[:max_rows] if len(state.pending) else None

    def tell(self, space: VectorSpace, state: HutchPlusPlusState, V: Tensor, AV: Tensor) -> HutchPlusPlusState:
        """Take the products in, and go on to the next phase when this one is done."""
        rows = len(V)
        state.num_matvecs += rows
        state.pending = state.pending[rows:]
        if state.phase == "rest":
            state.samples = torch.cat([state.samples, state.range_trace + space.dots(V, AV)])
            if len(state.pending) or (len(state.samples) == state.look and self.result(space, state).converged):
                return state
            return self._draw(space, state)
        if state.phase == "sketch":
            state.sketched = torch.cat([state.sketched, space.dots(V, AV)])
            state.basis[state.done : state.done + rows] = AV
        else:
            for part in space.dots(V, AV).tolist():  # one by one: the sum does not depend on how rows are grouped
                state.range_trace += part
        state.done += rows
        if len(state.pending):
            return state
        if state.phase == "sketch":
            state.basis, _ = space.orthonormalize(state.basis)
            state.phase, state.done, state.pending = "range", 0, state.basis
            return state
        return self._draw(space, state)

    def result(self, space: VectorSpace, state: HutchPlusPlusState) -> TraceResult:
        """Exact, with no error, where the sketch spans everything; Hutchinson's before the first probe of the rest."""
        whole = len(state.basis) == space.n and state.phase == "rest"
        samples = state.samples if len(state.samples) else state.sketched
        estimate, stderr = (state.range_trace, 0.0) if whole else mean_and_stderr(samples)
        return TraceResult(
            estimate=estimate,
            stderr=stderr,
            num_matvecs=state.num_matvecs,
            method="hutch++",
            seed=state.seed,
            samples=state.samples if whole else samples,
            converged=reached(estimate, stderr, len(samples), self.tol, exact=whole),
            status="exact" if whole else "estimated",
        )

    def progress(self, state: HutchPlusPlusState) -> Progress:
        """Products done."""
        return Progress(done=state.num_matvecs, total=self.num_matvecs, note=state.phase)

    def _draw(self, space: VectorSpace, state: HutchPlusPlusState) -> HutchPlusPlusState:
        """The next probes of the rest, freed from the sketched range; none where that is everything."""
        state.phase = "rest"
        sketch = len(state.basis)
        done, limit = len(state.samples), self.num_matvecs - 2 * sketch
        if done == state.look:
            state.look = next_look(done, limit, self.tol)
        rows = min(space.comfortable_rows(), state.look - done)
        if sketch == space.n:
            rows = 0
        z = space.random(self.probes, state.seed, sketch + done, rows)
        for _ in range(2 if sketch and rows else 0):  # twice: one pass leaves eps |z| of the range in z
            z -= space.combine(space.gram(z, state.basis), state.basis)
        state.pending = z
        return state
