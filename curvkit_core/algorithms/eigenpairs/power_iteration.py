r"""Eigenpairs of largest magnitude by power iteration, one after another, with momentum that leaves them unbiased.

.. math:: y = P A x_t - \beta\, x_{t-1}, \quad x_{t+1} = y / \|y\|, \quad
          \beta = \text{momentum}\,\left(\max_s \|P A x_s\| / 2\right)^2,

P the projector off the pairs found, and :math:`x_{t-1}` scaled with :math:`x_t`, so that the recurrence is that of
[1]_. Momentum m in [0, 1) keeps :math:`\beta` below :math:`\lambda_1^2/4`, where it would no longer converge; the best
is :math:`(\lambda_2/\lambda_1)^2`. The eigenvalue is the Rayleigh quotient :math:`x^\top A x` with the given operator,
whatever the momentum. What the deflation leaves of a found pair's error in a later one is taken out by a Rayleigh-Ritz
step over all found, so that the residuals are those of the given operator, too.

One product more, of an iterate times 0.7, measures what the products are good for: an operator in bfloat16 reaches a
fixed point of its own rounding, with residual zero.

References
----------
.. [1] De Sa, He, Mitliagkas, Re, Xu, "Accelerated stochastic power iteration", AISTATS 2018.
"""

from __future__ import annotations

import math
from typing import Any, Unpack

import torch
from attrs import define, evolve, field, frozen, validators
from torch import Tensor

from curvkit_core.algorithms.driver import DriverOptions, run
from curvkit_core.algorithms.eigenpairs.krylov import start_row, unit_random
from curvkit_core.algorithms.estimators.samples import mean_and_stderr
from curvkit_core.algorithms.protocol import Progress
from curvkit_core.algorithms.seeds import fresh_seed, is_seed
from curvkit_core.backends import VectorSpace
from curvkit_core.operators import CurvatureOperator
from curvkit_core.results.types import EigenResult

__all__ = ["PowerIteration", "power_iteration"]

_ROUNDING = 10.0  # residuals below this times eps |A| cannot be told from rounding
_PROBE_AT = 20  # the product after which the noise is measured, if no pair has come near its tolerance before
_PROBE = 0.7  # no power of two: the product rounds otherwise
_STOCHASTIC = (
    "residual (with two standard errors) and stderr of each pair: the batches' spread over the second half of its "
    "products, for the averaged vector of the first half; not that vector's own error, which makes |eigenvalue| too "
    "small by about the square of its residual over the gap"
)


@define(kw_only=True)
class PowerIterationState:
    """Pairs `found` with their products, and the row `x` to multiply next.

    `latest` is the row multiplied last, of unit norm, with its Rayleigh quotient and the norms of its residual outside
    the pairs found and `inside` them; `shrink` times it is x_{t-1}. `largest` is the largest |P A x| of this pair,
    `scale` the largest |A x| of all, `began` the count of products when this pair began; `noise` what the product of
    0.7 times a row differed by, None before, and `probing` says that it is to be made. For a stochastic operator
    `total` adds up iterates in the first half of a pair's products, and products in the second, whose Rayleigh
    quotients are `samples` and whose squared norms add up to `squares`; `spreads` is what the batches' spread adds to
    each found pair's residual.
    """

    seed: int
    given_start: bool
    found: Tensor
    products: Tensor
    values: Tensor
    stderrs: Tensor
    spreads: Tensor
    x: Tensor
    latest: Tensor
    value: float
    residual: float
    inside: float = 0.0
    squares: float = 0.0
    shrink: float = 0.0
    largest: float = 0.0
    scale: float = 0.0
    began: int = 0
    noise: float | None = None
    probing: bool = False
    averaging: bool = False
    total: Tensor
    samples: Tensor
    product: Tensor
    num_matvecs: int = 0
    done: bool = False


@frozen(kw_only=True)
class PowerIteration:
    """Power iteration for symmetric operators. Holds 2 k + 6 vectors.

    Parameters
    ----------
    k : int, at least 1
        Eigenpairs wanted, by descending magnitude.
    tol : float, at least 0
        A pair has converged when its residual is below `tol` times its eigenvalue's magnitude, or at rounding level.
    momentum : float, in [0, 1)
        0: plain. The best is (lambda_2 / lambda_1)^2; it changes the number of products, never the answer.
    max_matvecs : int, at least 1
        Products after which it stops, converged or not. Each pair gets an equal share of what is left.
    stochastic : bool or None
        Whether the operator is another matrix at each product, with the wanted one as its mean: then each pair uses up
        its share, half to iterate and half to measure. None: no; the function `power_iteration` asks the operator.
    seed : int or None
        Of the start vectors; None draws one and records it.
    """

    needs_symmetric = True

    k: int = field(default=1, validator=validators.ge(1))
    tol: float = field(default=1e-4, validator=validators.ge(0.0))
    momentum: float = field(default=0.0, validator=[validators.ge(0.0), validators.lt(1.0)])
    max_matvecs: int = field(default=1000, validator=validators.ge(1))
    stochastic: bool | None = field(default=None, validator=validators.optional(validators.instance_of(bool)))
    seed: int | None = field(default=None, validator=is_seed)

    @property
    def accepts_stochastic(self) -> bool:
        """As the option says: a deterministic run would take one product's residual for the mean's."""
        return self.stochastic is True

    def init(self, space: VectorSpace, *, start: Tensor | None = None) -> PowerIterationState:
        """Begin at `start`, (n,), or at random; later pairs begin at random."""
        if self.k > space.n:
            msg = f"k={self.k} is out of range: expected 1 <= k <= {space.n}, the operator's size. Pass a smaller k."
            raise ValueError(msg)
        if self.stochastic and self.max_matvecs < 4 * self.k:
            msg = (
                f"max_matvecs={self.max_matvecs} is too small for k={self.k} pairs of a stochastic operator: expected "
                f"at least {4 * self.k}, two products to iterate and two to measure each."
            )
            raise ValueError(msg)
        seed = fresh_seed(self.seed)
        empty = torch.zeros(0, dtype=torch.float64)
        return PowerIterationState(
            seed=seed,
            given_start=start is not None,
            found=space.zeros(0),
            products=space.zeros(0),
            values=empty,
            stderrs=empty,
            spreads=empty,
            x=start_row(space, start, seed),
            latest=space.zeros(1),
            value=math.nan,
            residual=math.inf,
            total=space.zeros(1 if self.stochastic else 0),
            samples=empty,
            product=space.zeros(1),
        )

    def ask(self, state: PowerIterationState, max_rows: int) -> Tensor | None:
        """The iterate; where a stochastic operator is measured, the averaged vector."""
        if state.done:
            return None
        return _PROBE * state.latest if state.probing else state.x

    def tell(self, space: VectorSpace, state: PowerIterationState, V: Tensor, AV: Tensor) -> PowerIterationState:
        """One step, or the end of a pair and the beginning of the next."""
        state.num_matvecs += 1
        if state.probing:
            state.noise = float(space.norms(AV / _PROBE - state.product)[0])
            state.probing = False
        elif state.averaging:
            self._measure(space, state, AV)
        else:
            self._step(space, state, V, AV)
        used, share = state.num_matvecs - state.began, self._share(state)
        state.done = state.num_matvecs >= self.max_matvecs
        ended = used >= share or state.done
        if self.stochastic:
            if not state.averaging and used >= share // 2:
                self._average(space, state)
        else:
            enough = max(float(self._target(space, state, torch.tensor(state.value))), self._noise(space, state))
            met = state.residual <= enough / self.k**0.5  # the last step mixes up to k residuals
            if state.noise is None and not ended and (met or used >= _PROBE_AT):
                state.probing = True
                return state
            ended = ended or met
        if ended:
            self._accept(space, state)
        return state

    def result(self, space: VectorSpace, state: PowerIterationState) -> EigenResult:
        """The pairs found, and the one that is being iterated on, by descending magnitude."""
        vectors, products = state.found, state.products
        residuals = space.norms(products - state.values.to(products)[:, None] * vectors) + state.spreads
        values, stderrs = state.values, state.stderrs
        if len(values) < self.k and not math.isnan(state.value):
            one = torch.ones(1, dtype=torch.float64)
            vectors = torch.cat([vectors, state.latest])
            values = torch.cat([values, state.value * one])
            residuals = torch.cat([residuals, math.hypot(state.residual, state.inside) * one])
            stderrs = torch.cat([stderrs, math.nan * one])
        order = values.abs().argsort(descending=True, stable=True)
        known = residuals.hypot(torch.tensor(self._noise(space, state), dtype=torch.float64))
        floor = torch.tensor(3.0 * space.eps * state.scale, dtype=torch.float64)
        converged = known <= self._target(space, state, values)
        if not self.stochastic and state.noise is None:
            converged = torch.zeros_like(converged)  # stopped before what the products are good for was known
        result = EigenResult(
            eigenvalues=values[order],
            eigenvectors=vectors[order.to(vectors.device)],
            residuals=known.hypot(floor)[order],
            converged=converged[order],
            num_matvecs=state.num_matvecs,
            seed=None if state.given_start and self.k == 1 else state.seed,
            which="LM",
            status=self._status(space, state, converged),
        )
        return evolve(result, stderr=stderrs[order], error_covers=_STOCHASTIC) if self.stochastic else result

    def progress(self, state: PowerIterationState) -> Progress:
        """Products; the end is known only by its bound."""
        return Progress(done=state.num_matvecs, total=self.max_matvecs, note=f"{len(state.values)} of {self.k} pairs")

    def _share(self, state: PowerIterationState) -> int:
        """Products that this pair may use."""
        return max(1, (self.max_matvecs - state.began) // (self.k - len(state.values)))

    def _target(self, space: VectorSpace, state: PowerIterationState, values: Tensor) -> Tensor:
        return (self.tol * values.double().abs()).clamp_min(_ROUNDING * space.eps * state.scale)

    def _noise(self, space: VectorSpace, state: PowerIterationState) -> float:
        """Twice what was measured for one vector, where that is above rounding."""
        noise = 2.0 * (state.noise or 0.0)
        return noise if noise > _ROUNDING * space.eps * state.scale else 0.0

    def _status(self, space: VectorSpace, state: PowerIterationState, converged: Tensor) -> str:
        if len(converged) == self.k and bool(converged.all()):
            return "converged"
        early = state.done and state.num_matvecs < self.max_matvecs
        return "noise" if early and self._noise(space, state) else "stopped"

    def _step(self, space: VectorSpace, state: PowerIterationState, V: Tensor, AV: Tensor) -> None:
        """x_{t+1}; the residual without its part in the pairs found, which the Rayleigh-Ritz step takes out."""
        state.scale = max(state.scale, float(space.norms(AV)[0]))
        state.product = AV.clone()
        state.value = float(space.dots(V, AV)[0])
        inside = space.gram(AV, state.found)
        state.inside = float(torch.linalg.norm(inside))
        y = AV - space.combine(inside, state.found)
        state.residual = float(space.norms(y - state.value * V)[0])
        state.largest = max(state.largest, float(space.norms(y)[0]))
        beta = self.momentum * (state.largest / 2.0) ** 2
        y = y - beta * state.shrink * state.latest
        norm = float(space.norms(y)[0])
        state.latest = V.clone()
        if norm > 0.0:
            state.shrink = 1.0 / norm
            state.x = self._freed(space, state, y / norm)
        if self.stochastic and 4 * (state.num_matvecs - state.began) >= self._share(state):
            sign = -1.0 if float(space.dots(state.x, state.total)[0]) < 0.0 else 1.0
            state.total += sign * state.x

    def _freed(self, space: VectorSpace, state: PowerIterationState, x: Tensor) -> Tensor:
        """A unit row, orthogonal to the pairs found also where the step has left hardly more than rounding of it."""
        for _ in range(2 if len(state.found) else 0):
            x = x - space.combine(space.gram(x, state.found), state.found)
            norm = float(space.norms(x)[0])
            if not norm > 0.0:
                return state.latest
            x = x / norm
        return x

    def _average(self, space: VectorSpace, state: PowerIterationState) -> None:
        """From here on the averaged iterate is multiplied again and again."""
        norm = float(space.norms(state.total)[0])
        state.x = self._freed(space, state, state.total / norm) if norm > 0.0 else state.x
        state.total = space.zeros(1)
        state.averaging = True

    def _measure(self, space: VectorSpace, state: PowerIterationState, AV: Tensor) -> None:
        """Independent Rayleigh quotients of one vector, and its mean product."""
        state.scale = max(state.scale, float(space.norms(AV)[0]))
        state.samples = torch.cat([state.samples, space.dots(state.x, AV)])
        state.total += AV
        state.latest, state.inside = state.x.clone(), 0.0
        state.value = float(state.samples.mean())
        state.squares += float(space.dots(AV, AV)[0])
        mean = state.total / len(state.samples)
        state.residual = float(space.norms(mean - state.value * state.x)[0]) + self._spread(space, state)

    def _spread(self, space: VectorSpace, state: PowerIterationState) -> float:
        """Two standard errors of the mean product, in norm."""
        m = len(state.samples)
        if m < 2:
            return math.inf
        mean = float(space.norms(state.total / m)[0])
        return 2.0 * math.sqrt(max(0.0, state.squares / m - mean**2) / (m - 1))

    def _accept(self, space: VectorSpace, state: PowerIterationState) -> None:
        """The pair joins those found; another begins."""
        if self.stochastic:
            if not len(state.samples):
                return
            state.product = state.total / len(state.samples)
        spread = self._spread(space, state) if self.stochastic else 0.0
        state.spreads = torch.cat([state.spreads, torch.tensor([spread], dtype=torch.float64)])
        state.found = torch.cat([state.found, state.latest])
        state.products = torch.cat([state.products, state.product])
        state.values = torch.cat([state.values, torch.tensor([state.value], dtype=torch.float64)])
        state.stderrs = torch.cat(
            [state.stderrs, torch.tensor([mean_and_stderr(state.samples)[1]], dtype=torch.float64)]
        )
        if not self.stochastic:
            T = space.gram(state.found, state.products)
            theta, S = torch.linalg.eigh((T + T.mT) / 2)
            order = theta.abs().argsort(descending=True, stable=True)
            state.values, S = theta[order], S[:, order]
            state.found, state.products = space.combine(S.mT, state.found), space.combine(S.mT, state.products)
        if len(state.values) == self.k:
            state.done = True
            return
        state.x = unit_random(space, state.seed, len(state.values), state.found)
        state.latest = space.zeros(1)
        state.value, state.residual, state.shrink, state.largest = math.nan, math.inf, 0.0, 0.0
        state.began, state.averaging, state.squares = state.num_matvecs, False, 0.0
        state.total, state.samples = torch.zeros_like(state.total), torch.zeros(0, dtype=torch.float64)


def power_iteration(
    op: CurvatureOperator,
    *,
    k: int = 1,
    tol: float = 1e-4,
    momentum: float = 0.0,
    max_matvecs: int = 1000,
    stochastic: bool | None = None,
    seed: int | None = None,
    start: Tensor | None = None,
    **driver: Unpack[DriverOptions],
) -> EigenResult:
    r"""Eigenpairs :math:`A q = \theta q` of largest magnitude by power iteration with momentum [1]_.

    Parameters
    ----------
    op : CurvatureOperator, shape (n, n)
        Symmetric. May be stochastic, as a :class:`StochasticOperator` is.
    k : int, 1 to n
        Pairs wanted, by descending magnitude, found one after another.
    tol : float, at least 0
        A pair has converged when its residual is below `tol` times its eigenvalue's magnitude, or at rounding level.
    momentum : float, in [0, 1)
        m of :math:`x_{t+1} = A x_t - m (\lambda_1/2)^2 x_{t-1}`, lambda_1 being estimated on the way. 0: plain. The
        best is (lambda_2 / lambda_1)^2; it changes the number of products, never the answer.
    max_matvecs : int, at least 1
        Products after which it stops, converged or not. Each pair gets an equal share of what is left. Memory is
        2 k + 6 vectors.
    stochastic : bool or None
        Whether the operator is another matrix at each product, with the wanted one as its mean: then each pair uses up
        its share, half to iterate and half to measure. None: as the operator says.
    seed : int or None
        Of the start vectors; None draws one and records it.
    start : Tensor, shape (n,), or None
        Where the first pair begins.
    **driver
        Budgets, progress and checkpoints: the options of :func:`curvkit_core.algorithms.run`.

    Returns
    -------
    EigenResult
        Eigenvalues by descending magnitude, each the Rayleigh quotient of its vector with the given operator; residuals
        with the given operator. For a stochastic operator `stderr` is that of the eigenvalues: see `error_covers`.

    Raises
    ------
    ValueError
        If the operator is not symmetric, or an option is out of range.

    Notes
    -----
    Where eigenvalues of opposite sign have nearly the same magnitude power iteration does not converge, and says so:
    take :func:`curvkit_core.algorithms.eigenpairs.eigsh`, which is faster in any case.

    References
    ----------
    .. [1] De Sa, He, Mitliagkas, Re, Xu, "Accelerated stochastic power iteration", AISTATS 2018.
    """
    stochastic = not op.deterministic if stochastic is None else stochastic
    algorithm = PowerIteration(
        k=k, tol=tol, momentum=momentum, max_matvecs=max_matvecs, stochastic=stochastic, seed=seed
    )
    inputs: dict[str, Any] = {} if start is None else {"start": start}
    result: EigenResult = run(algorithm, op, inputs=inputs, **driver)
    return result
