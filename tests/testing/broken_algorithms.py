"""Algorithms with one defect each, and the check that must name it."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import torch
from attrs import field, frozen
from torch import Tensor

from curvkit_core import AlgorithmSpec
from curvkit_core.algorithms import Progress
from curvkit_core.results import EigenResult, TraceResult


@frozen(kw_only=True, eq=False)
class PowerState:
    """Of the power method."""

    x: Tensor
    vector: Tensor
    value: float
    residual: float
    count: int


@frozen(kw_only=True)
class Power:
    """The power method, not broken.

    Parameters
    ----------
    tol : float
        Relative residual.
    most : int
        Products.
    seed : int
        Of the start.
    """

    needs_symmetric: ClassVar[bool] = True

    tol: float = 1e-6
    most: int = 500
    seed: int = 0

    def init(self, space: Any) -> PowerState:
        x = space.random("gaussian", self.seed, 0, 1)
        x = x / space.norms(x).to(x)
        return PowerState(x=x, vector=x[:0], value=0.0, residual=float("inf"), count=0)

    def ask(self, state: PowerState, max_rows: int) -> Tensor | None:
        done = state.residual <= self.tol * abs(state.value) or state.count >= self.most
        return None if done else state.x

    def tell(self, space: Any, state: PowerState, V: Tensor, AV: Tensor) -> PowerState:
        value = float(space.dots(V, AV))
        residual = float(space.norms(AV - value * V))
        size = space.norms(AV).to(AV)
        x = torch.where(size > 0, AV / size, V)
        return PowerState(x=x, vector=V, value=value, residual=residual, count=state.count + 1)

    def result(self, space: Any, state: PowerState) -> Any:
        k = len(state.vector)
        return EigenResult(
            eigenvalues=torch.tensor([state.value][:k], dtype=torch.float64),
            eigenvectors=state.vector,
            residuals=torch.tensor([state.residual][:k], dtype=torch.float64),
            converged=torch.tensor([state.residual <= self.tol * abs(state.value)][:k], dtype=torch.bool),
            num_matvecs=state.count,
            seed=self.seed,
            which="LM",
        )

    def progress(self, state: PowerState) -> Progress:
        return Progress(done=state.count, total=self.most)


@frozen(kw_only=True)
class WrongResidual(Power):
    """Its residual is half the true one."""

    def result(self, space: Any, state: PowerState) -> Any:
        found = super().result(space, state)
        return attrs.evolve(found, residuals=found.residuals / 2)


@frozen(kw_only=True)
class EigenvalueOff(Power):
    """Its eigenvalue is wrong by 1e-3."""

    def result(self, space: Any, state: PowerState) -> Any:
        found = super().result(space, state)
        return attrs.evolve(found, eigenvalues=1.001 * found.eigenvalues)


@frozen(kw_only=True)
class TheOtherEnd(Power):
    """Says that it was asked for the smallest."""

    def result(self, space: Any, state: PowerState) -> Any:
        return attrs.evolve(super().result(space, state), which="SA")


@frozen(kw_only=True)
class NotNormalised(Power):
    """Its vector has norm two, and the residual of one."""

    def result(self, space: Any, state: PowerState) -> Any:
        found = super().result(space, state)
        return attrs.evolve(found, eigenvectors=2 * found.eigenvectors)


@frozen(kw_only=True)
class CountsOneLess(Power):
    """Forgets the first product."""

    def result(self, space: Any, state: PowerState) -> Any:
        found = super().result(space, state)
        return attrs.evolve(found, num_matvecs=max(found.num_matvecs - 1, 0))


@frozen(kw_only=True)
class NeverEnds(Power):
    """Asks for ever."""

    def ask(self, state: PowerState, max_rows: int) -> Tensor | None:
        return state.x


@frozen(kw_only=True)
class AbsoluteTolerance(Power):
    """A tolerance in no unit."""

    def ask(self, state: PowerState, max_rows: int) -> Tensor | None:
        return None if state.residual <= 1e-6 or state.count >= self.most else state.x


@frozen(kw_only=True)
class RemembersOutside(Power):
    """Keeps part of its state in a global: a resumed run starts without it."""

    def tell(self, space: Any, state: PowerState, V: Tensor, AV: Tensor) -> PowerState:
        new = super().tell(space, state, V, AV)
        _MEMORY[:] = [new.x.clone()] if state.count == 0 else [*_MEMORY, new.x.clone()][-2:]
        mixed = new.x if len(_MEMORY) < 2 else _MEMORY[1] + 1e-3 * _MEMORY[0]
        return attrs.evolve(new, x=mixed / space.norms(mixed).to(mixed))


_MEMORY: list[Tensor] = []


@frozen(kw_only=True, eq=False)
class OddState(PowerState):
    """A state with something that no file can hold."""

    odd: Any = None


@frozen(kw_only=True)
class StateWithAFunction(Power):
    """Its state holds a function."""

    def tell(self, space: Any, state: PowerState, V: Tensor, AV: Tensor) -> PowerState:
        plain = super().tell(space, state, V, AV)
        return OddState(**{f.name: getattr(plain, f.name) for f in attrs.fields(PowerState)}, odd=lambda: None)


@frozen(kw_only=True)
class NoAnswerBeforeTheEnd(Power):
    """Its result raises until it has converged."""

    def result(self, space: Any, state: PowerState) -> Any:
        if state.residual > self.tol * abs(state.value):
            raise RuntimeError("not converged yet")
        return super().result(space, state)


@frozen(kw_only=True)
class AsksTooMuch(Power):
    """Four rows, however few are allowed."""

    def ask(self, state: PowerState, max_rows: int) -> Tensor | None:
        x = super().ask(state, max_rows)
        return None if x is None else x.expand(4, -1)


@frozen(kw_only=True)
class AskMoves(Power):
    """Asking draws a new vector."""

    def ask(self, state: PowerState, max_rows: int) -> Tensor | None:
        x = super().ask(state, max_rows)
        return None if x is None else x * (1 + 1e-3 * torch.rand(1, dtype=x.dtype))


@frozen(kw_only=True)
class GlobalStart(Power):
    """Starts from torch's generator."""

    def init(self, space: Any) -> PowerState:
        x = torch.randn(1, space.n, dtype=space.dtype)
        return attrs.evolve(super().init(space), x=x / space.norms(x).to(x))


@frozen(kw_only=True)
class ProgressPastItsTotal(Power):
    """Says five products, and goes on."""

    def progress(self, state: PowerState) -> Progress:
        return Progress(done=state.count, total=5)


@frozen(kw_only=True)
class FailsOnZero(Power):
    """Divides by the product's norm, which may be zero."""

    def tell(self, space: Any, state: PowerState, V: Tensor, AV: Tensor) -> PowerState:
        new = super().tell(space, state, V, AV)
        return attrs.evolve(new, value=new.value / float(bool(space.norms(AV) > 0)))


@frozen(kw_only=True)
class TakesAny(Power):
    """Tagged symmetric-only, and does not refuse an operator that is not."""

    needs_symmetric: ClassVar[bool] = False


@frozen(kw_only=True)
class TensorInConfiguration(Power):
    """A start vector as a field."""

    start: Any = field(factory=lambda: torch.ones(3))


@attrs.define(kw_only=True)
class NotFrozen:
    """A class that can be written to.

    Parameters
    ----------
    seed : int
        Of nothing.
    """

    seed: int = 0

    init = Power.init
    ask = tell = result = Power.init


@frozen(kw_only=True, eq=False)
class ProbeState:
    """Probes that are waiting, and values that are known."""

    waiting: Tensor
    values: Tensor


@frozen(kw_only=True)
class Hutchinson:
    """Hutchinson's trace, not broken.

    Parameters
    ----------
    probes : int
        How many.
    seed : int
        Of the probes.
    """

    probes: int = 20
    seed: int = 0

    def init(self, space: Any) -> ProbeState:
        probes = space.random("rademacher", self.seed, 0, self.probes)
        return ProbeState(waiting=probes, values=torch.zeros(0, dtype=torch.float64))

    def ask(self, state: ProbeState, max_rows: int) -> Tensor | None:
        return state.waiting[:max_rows] if len(state.waiting) else None

    def tell(self, space: Any, state: ProbeState, V: Tensor, AV: Tensor) -> ProbeState:
        values = torch.cat([state.values, space.dots(V, AV)])
        return ProbeState(waiting=state.waiting[len(V) :], values=values)

    def result(self, space: Any, state: ProbeState) -> Any:
        m = len(state.values)
        return TraceResult(
            estimate=float(state.values.mean()) if m else float("nan"),
            stderr=float(state.values.std() / m**0.5) if m > 1 else float("inf"),
            num_matvecs=m,
            method="mean",
            seed=self.seed,
        )


@frozen(kw_only=True)
class Biased(Hutchinson):
    """Divides by one probe too many."""

    def result(self, space: Any, state: Any) -> Any:
        found = super().result(space, state)
        return attrs.evolve(found, estimate=found.estimate * 0.5)


@frozen(kw_only=True)
class ErrorBarTooSmall(Hutchinson):
    """The standard error of one probe divided by m, not by its root."""

    def result(self, space: Any, state: Any) -> Any:
        found = super().result(space, state)
        return attrs.evolve(found, stderr=found.stderr / max(len(state.values), 1) ** 1.5)


@frozen(kw_only=True)
class SeedIgnored(Hutchinson):
    """Always the same probes."""

    def init(self, space: Any) -> Any:
        return attrs.evolve(super().init(space), waiting=space.random("rademacher", 3, 0, self.probes))


@frozen(kw_only=True)
class SaysNothing(Hutchinson):
    """A result that does not say what its error covers."""

    def result(self, space: Any, state: Any) -> Any:
        return attrs.evolve(super().result(space, state), error_covers="")


def spec(cls: type, *tags: str) -> AlgorithmSpec:
    """The spec of a broken algorithm."""
    return AlgorithmSpec(name="local/broken", summary="Broken on purpose", factory=cls, tags=tags)


EIGEN = ("eigenvalues", "symmetric-only")
TRACE = ("trace", "stochastic")
#: What is broken -> the check that must fail, and with it a spec.
BROKEN: dict[str, tuple[str, AlgorithmSpec]] = {
    "wrong residual": ("algorithm-claims", spec(WrongResidual, *EIGEN)),
    "eigenvalue off": ("algorithm-claims", spec(EigenvalueOff, *EIGEN)),
    "the other end": ("algorithm-claims", spec(TheOtherEnd, *EIGEN)),
    "vectors not of norm one": ("algorithm-claims", spec(NotNormalised, *EIGEN)),
    "a product not counted": ("algorithm-counts-products", spec(CountsOneLess, *EIGEN)),
    "never ends": ("algorithm-ends", spec(NeverEnds, *EIGEN)),
    "a tolerance in no unit": ("algorithm-scale", spec(AbsoluteTolerance, *EIGEN)),
    "state kept in a global": ("algorithm-resumes", spec(RemembersOutside, *EIGEN)),
    "state that no file holds": ("algorithm-resumes", spec(StateWithAFunction, *EIGEN)),
    "no result before the end": ("algorithm-claims-at-any-moment", spec(NoAnswerBeforeTheEnd, *EIGEN)),
    "asks too many rows": ("algorithm-any-width", spec(AsksTooMuch, *EIGEN)),
    "asking moves it": ("algorithm-any-width", spec(AskMoves, *EIGEN)),
    "starts from torch's generator": ("algorithm-seed", spec(GlobalStart, *EIGEN)),
    "progress past its total": ("algorithm-progress", spec(ProgressPastItsTotal, *EIGEN)),
    "fails on zero": ("algorithm-small-and-special", spec(FailsOnZero, *EIGEN)),
    "lies about symmetry": ("algorithm-needs-symmetric", spec(TakesAny, *EIGEN)),
    "a tensor in its configuration": ("algorithm-protocol", spec(TensorInConfiguration, *EIGEN)),
    "not frozen": ("algorithm-protocol", spec(NotFrozen, *EIGEN)),
    "biased": ("algorithm-claims", spec(Biased, *TRACE)),
    "error bar too small": ("algorithm-claims-at-any-moment", spec(ErrorBarTooSmall, *TRACE)),
    "seed ignored": ("algorithm-seed", spec(SeedIgnored, *TRACE)),
    "does not say what its error covers": ("algorithm-result-is-kept", spec(SaysNothing, *TRACE)),
}
SOUND = {"the power method": spec(Power, *EIGEN), "Hutchinson": spec(Hutchinson, *TRACE)}
