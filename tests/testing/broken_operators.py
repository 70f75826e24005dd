"""Operators with one defect each, and the check that must name it."""

from __future__ import annotations

import random
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from curvkit_core import GGNOperator, OperatorSpec, Problem
from curvkit_core.linearize import Linearization
from curvkit_core.operators import CurvatureOperator, DataOperator


class Around(CurvatureOperator):
    """A GGN with something done to its products."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.space, symmetric=True, problem=problem)
        self.inner = GGNOperator(problem)

    def rows_product(self, V: Tensor) -> Tensor:
        return self.inner.rows_product(V)


class NotLinear(Around):
    """Products are cut off at a size."""

    def rows_product(self, V: Tensor) -> Tensor:
        return super().rows_product(V).clamp(-0.05, 0.05)


class WrongTranspose(Around):
    """A rotation of the parameters, said to be symmetric."""

    def rows_product(self, V: Tensor) -> Tensor:
        return super().rows_product(V.roll(1, dims=1))


class OwnTransposeWrong(Around):
    """Not symmetric, and it gives itself as its transpose."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.symmetric = False

    def rows_product(self, V: Tensor) -> Tensor:
        return super().rows_product(V.roll(1, dims=1))

    def transposed(self) -> CurvatureOperator:
        return self


class Indefinite(Around):
    """A GGN less a tenth of its trace, tagged psd."""

    def rows_product(self, V: Tensor) -> Tensor:
        return super().rows_product(V) - 0.05 * V


class SumNotMean(Around):
    """Not divided by the number of units."""

    def rows_product(self, V: Tensor) -> Tensor:
        return super().rows_product(V) * self.problem.num_units


class MeanOfBatch(DataOperator):
    """Each microbatch's mean where a sum is due."""

    def batch_product(self, lin: Linearization, batch: Any, V: Tensor) -> Tensor:
        return lin.vjp(lin.loss_curvature(lin.jvp(V))) / max(float(self.problem.loss.num_units(batch)), 1.0)


class DropsTheLastBatch(Around):
    """One batch short where there are several."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        batches = list(problem.batches)
        self.inner = GGNOperator(problem.on_batches(batches[:-1] or batches))


class CountsIgnored(Around):
    """Divides by all rows, ignored ones too."""

    def rows_product(self, V: Tensor) -> Tensor:
        rows = sum(len(batch[0]) for batch in self.problem.batches)
        return super().rows_product(V) * self.problem.num_units / rows


class CurvatureOfIgnored(DataOperator):
    """J^T J of all rows: outputs of ignored targets are not left out."""

    def batch_product(self, lin: Linearization, batch: Any, V: Tensor) -> Tensor:
        return lin.vjp(lin.jvp(V))


class Damped(Around):
    """A damping of its own, in no unit."""

    def rows_product(self, V: Tensor) -> Tensor:
        return super().rows_product(V) + 1e-3 * V


class NormalisedByTheWhole(Around):
    """Divided by the number of parameters that were chosen."""

    def rows_product(self, V: Tensor) -> Tensor:
        return super().rows_product(V) / self.n


class CountsTiedOnce(Around):
    """Weights by how many names a parameter has."""

    def rows_product(self, V: Tensor) -> Tensor:
        scale = torch.ones(self.n, dtype=V.dtype)
        for entry in self.problem.parameters.entries:
            if "middle" in entry.name:
                scale[entry.place] = 1.5
        return super().rows_product(V * scale) * scale


class TouchesUnused(Around):
    """A constant where the loss does not depend on a parameter."""

    def rows_product(self, V: Tensor) -> Tensor:
        product = super().rows_product(V)
        return torch.where(product == 0, 1e-9 * V, product)


class FirstRowOnly(Around):
    """Every row gets the first one's product."""

    def rows_product(self, V: Tensor) -> Tensor:
        return super().rows_product(V)[:1].expand(len(V), -1).clone()


class AddsToWhatIsThere(Around):
    """Memory that is given has something in it."""

    def rows_product_into(self, V: Tensor, out: Tensor) -> None:
        out += super().rows_product(V)


class Noisy(Around):
    """Draws from torch's generator."""

    def rows_product(self, V: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            return super().rows_product(V) * (1 + 1e-12 * torch.rand(1, dtype=V.dtype))


class MovesRandomState(Around):
    """Draws from Python's generator, and does nothing with it."""

    def rows_product(self, V: Tensor) -> Tensor:
        random.random()
        return super().rows_product(V)


class LeaksGradients(Around):
    """Calls backward on the user's model."""

    def rows_product(self, V: Tensor) -> Tensor:
        model, batch = self.problem.model, next(iter(self.problem.batches))
        self.problem.loss.loss_sum(self.problem.loss.outputs(model, batch), batch).backward()
        return super().rows_product(V)


class MutatesParameters(Around):
    """A finite difference in place: there and back is not where it began."""

    def rows_product(self, V: Tensor) -> Tensor:
        for parameter in self.problem.model.parameters():
            parameter.data.add_(0.1).sub_(0.1)
        return super().rows_product(V)


class LeavesEvalMode(Around):
    """Puts the model into eval mode for good."""

    def rows_product(self, V: Tensor) -> Tensor:
        self.problem.model.eval()
        return super().rows_product(V)


class LeavesHook(Around):
    """Registers a hook and forgets it."""

    def rows_product(self, V: Tensor) -> Tensor:
        self.problem.model.register_forward_hook(lambda module, inputs, output: None)
        return super().rows_product(V)


class WritesVectors(Around):
    """Normalises the vectors that it was given, in place."""

    def rows_product(self, V: Tensor) -> Tensor:
        V /= V.norm(dim=1, keepdim=True)
        return super().rows_product(V)


class KeepsItsProduct(Around):
    """Gives its own cache away, to be overwritten."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self._key: Tensor | None = None
        self._kept: Tensor | None = None

    def rows_product(self, V: Tensor) -> Tensor:
        if self._key is None or self._kept is None or not torch.equal(self._key, V):
            self._key, self._kept = V.clone(), super().rows_product(V)
        return self._kept


class HalfPrecision(Around):
    """Products come back in float32 where the vectors are float64."""

    def rows_product(self, V: Tensor) -> Tensor:
        return super().rows_product(V).float()


class WorksInHalf(Around):
    """Rounds its products to the parameters' dtype, and to float16 where that is float32."""

    def rows_product(self, V: Tensor) -> Tensor:
        product = super().rows_product(V)
        return product if product.dtype == torch.float64 else product.half().float()


class Twice(Around):
    """Twice the matrix: every law holds but the truth."""

    def rows_product(self, V: Tensor) -> Tensor:
        return 2.0 * super().rows_product(V)


class SaysNotSymmetric(Around):
    """Tagged symmetric, and says that it is not."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.symmetric = False


@frozen(kw_only=True)
class Strategy:
    """How products are made.

    Parameters
    ----------
    strategy : str
        A name.
    cache : str
        Another.
    """

    strategy: str = "reverse"
    cache: str = "rebuild"


def strategy_that_matters(problem: Problem, config: Strategy) -> CurvatureOperator:
    """Another operator where graphs are kept."""
    return (1.001 if config.cache == "keep" else 1.0) * GGNOperator(problem)


def no_operator(problem: Problem) -> Any:
    return torch.eye(problem.parameters.n)


def spec(factory: Any, *, config: Any = None, tags: tuple[str, ...] = ("symmetric", "psd")) -> OperatorSpec:
    """The spec of a broken operator."""
    return OperatorSpec(name="local/broken", summary="Broken on purpose", factory=factory, config=config, tags=tags)


#: What is broken -> the check that must fail, and with it a spec.
BROKEN: dict[str, tuple[str, OperatorSpec]] = {
    "products cut off": ("operator-linear", spec(NotLinear)),
    "wrong transpose": ("operator-symmetric", spec(WrongTranspose)),
    "wrong transpose of its own": ("operator-symmetric", spec(OwnTransposeWrong, tags=())),
    "not positive": ("operator-psd", spec(Indefinite)),
    "sum instead of mean": ("operator-any-order-and-twice", spec(SumNotMean)),
    "mean instead of sum": ("operator-any-cut", spec(MeanOfBatch)),
    "drops the last batch": ("operator-any-cut", spec(DropsTheLastBatch)),
    "ignored rows in the divisor": ("operator-ignored-targets", spec(CountsIgnored)),
    "ignores ignore_index": ("operator-ignored-targets", spec(CurvatureOfIgnored)),
    "damping of its own": ("operator-loss-scale", spec(Damped)),
    "scaled by its size": ("operator-subset", spec(NormalisedByTheWhole)),
    "tied parameters weighed": ("operator-tied-parameters", spec(CountsTiedOnce)),
    "unused parameters not zero": ("operator-unused-parameters", spec(TouchesUnused)),
    "first row only": ("operator-apply-is-products", spec(FirstRowOnly)),
    "adds to what is there": ("operator-apply-is-products", spec(AddsToWhatIsThere)),
    "noise": ("operator-repeats", spec(Noisy)),
    "moves the random state": ("operator-leaves-all-as-it-was", spec(MovesRandomState)),
    "leaks gradients": ("operator-leaves-all-as-it-was", spec(LeaksGradients)),
    "mutates parameters": ("operator-leaves-all-as-it-was", spec(MutatesParameters)),
    "leaves eval mode": ("operator-leaves-all-as-it-was", spec(LeavesEvalMode)),
    "leaves a hook": ("operator-leaves-all-as-it-was", spec(LeavesHook)),
    "writes to the vectors": ("operator-leaves-all-as-it-was", spec(WritesVectors)),
    "gives its cache away": ("operator-product-is-the-callers", spec(KeepsItsProduct)),
    "other dtype": ("operator-shape", spec(HalfPrecision)),
    "works in half precision": ("operator-narrow-parameters", spec(WorksInHalf)),
    "twice the matrix": ("operator-dense-match", spec(Twice)),
    "tagged symmetric and is not": ("operator-tags", spec(SaysNotSymmetric)),
    "tagged stochastic and is not": ("operator-tags", spec(Around, tags=("symmetric", "stochastic"))),
    "a strategy that changes meaning": ("operator-strategies", spec(strategy_that_matters, config=Strategy)),
    "no operator at all": ("operator-shape", spec(no_operator)),
    "a tag that nobody knows": ("component-tags", spec(Around, tags=("symmetric", "symetric"))),
}
SOUND = {"the same, not broken": spec(Around)}
