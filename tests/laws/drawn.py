"""What Hypothesis draws for the laws: recipes of models and data, cuts of the data, and operators to break.

A recipe is plain numbers, so that a failing example is short to read; model and data follow from it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import cycle, islice, pairwise
from typing import Any

import pytest
import torch
from attrs import evolve, field, frozen
from cases import F64, SharedConvNet, TiedMLP, TinyTransformer, head_of
from hypothesis import strategies as st
from torch import Tensor, nn

from curvkit_core import (
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    CurvatureOperator,
    EmpiricalFisherOperator,
    GGNOperator,
    HessianOperator,
    LinearCrossEntropyLoss,
    MSELoss,
    Problem,
)
from curvkit_core.operators import FisherOperator, block_diagonal

# Sums of a few hundred terms of order 1 through ten layers: 1e5 eps. The worst of 2,700 comparisons was 4e-14.
TOLERANCE = 1e5 * torch.finfo(F64).eps
BROKEN = 1e-6  # what a broken operator's gap must exceed: far above any rounding


@frozen(kw_only=True)
class Kind:
    """An operator that the laws hold for.

    Parameters
    ----------
    make : callable
        ``make(problem, **options)`` -> operator.
    semidefinite : bool
        Whether it is never negative (for losses convex in the outputs).
    power : int
        Loss times c gives c^power times the operator: 2 where it is made of products of two gradients.
    ordered : bool
        Whether the order of the data counts: sampled targets go by unit number.
    couples : bool
        Whether it couples all parameters, so that tied = E^T A E of untied.
    """

    make: Callable[..., CurvatureOperator]
    semidefinite: bool = True
    power: int = 1
    ordered: bool = False
    couples: bool = True


def ggn_blocks(problem: Problem, **options: Any) -> CurvatureOperator:
    """The GGN's block-diagonal part: weights in one block, what is named otherwise in the other."""
    names = problem.parameters.names
    groups = [[n for n in names if n.endswith("weight") == which] for which in (True, False)]
    groups = [group for group in groups if group]
    return block_diagonal(problem, groups, kind=lambda block: GGNOperator(block, **options))


# A new operator is one line here.
KINDS = {
    "hessian": Kind(make=HessianOperator, semidefinite=False),
    "ggn": Kind(make=GGNOperator),
    "fisher": Kind(make=partial(FisherOperator, num_samples=2, seed=3), ordered=True),
    "empirical-fisher": Kind(make=EmpiricalFisherOperator, power=2),
    "ggn-blocks": Kind(make=ggn_blocks, couples=False),
}


def each_kind(where: Callable[[Kind], bool] = lambda kind: True) -> pytest.MarkDecorator:
    """Parametrise a law over the kinds for which it is meant."""
    chosen = {name: kind for name, kind in KINDS.items() if where(kind)}
    return pytest.mark.parametrize("kind", chosen.values(), ids=chosen)


FAMILIES = ("mlp", "convnet", "transformer")
each_family = pytest.mark.parametrize("family", FAMILIES)
# Names of the untied twin's own parameters, and those of the tied model that they are copies of.
TIES = {
    "mlp": {"again.weight": "middle.weight"},
    "convnet": {"again.weight": "conv.weight", "again.bias": "conv.bias"},
    "transformer": {"head.weight": "embed.weight"},
}


class ScaledLoss:
    """A loss times a factor, with no closed form for its curvature: autograd's way."""

    def __init__(self, base: Any, factor: float = 1.0) -> None:
        self.base, self.factor = base, factor

    def outputs(self, model: nn.Module, batch: Any) -> tuple[Tensor, ...]:
        return self.base.outputs(model, batch)

    def loss_sum(self, y: tuple[Tensor, ...], batch: Any) -> Tensor:
        return self.factor * self.base.loss_sum(y, batch)

    def unit_losses(self, y: tuple[Tensor, ...], batch: Any) -> Tensor:
        return self.factor * self.base.unit_losses(y, batch)

    def sample_targets(self, y: tuple[Tensor, ...], batch: Any, uniforms: Any) -> Any:
        return self.base.sample_targets(y, batch, uniforms)

    def sampled_losses(self, y: tuple[Tensor, ...], batch: Any, targets: Any) -> Tensor:
        """A likelihood to the power c has c times the curvature: its gradients grow by sqrt(c)."""
        return self.factor**0.5 * self.base.sampled_losses(y, batch, targets)

    def num_units(self, batch: Any) -> float | Tensor:
        return self.base.num_units(batch)


class ScaledClosedForm(ScaledLoss):
    """The same with the closed form, scaled."""

    def ggn(self, y: tuple[Tensor, ...], batch: Any, dy: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(self.factor * t for t in self.base.ggn(y, batch, dy))


LOSSES: dict[str, Callable[[], Any]] = {
    "cross-entropy": CrossEntropyLoss,
    "weighted": lambda: CrossEntropyLoss(weight=torch.tensor([0.5, 1.0, 2.0, 1.5], dtype=F64)[:3], label_smoothing=0.1),
    "by-autograd": lambda: ScaledLoss(CrossEntropyLoss()),
    "without-logits": lambda: LinearCrossEntropyLoss("features", head_of, chunk_bytes=100),  # a row or two a chunk
    "mse": MSELoss,
    "bce": BCEWithLogitsLoss,
}


@frozen(kw_only=True, eq=False)
class Sample:
    """A model, its data as one batch, and its loss."""

    model: nn.Module
    inputs: Tensor
    targets: Tensor
    loss: Any

    def problem(self, sizes: tuple[int, ...] | None = None, **options: Any) -> Problem:
        """The problem over the data cut into batches of these sizes; None: one batch. Unchecked: the laws check it."""
        sizes = (len(self.inputs),) if sizes is None else sizes
        batches = list(zip(self.inputs.split(list(sizes)), self.targets.split(list(sizes)), strict=True))
        return Problem(self.model, batches, self.loss, **{"preflight": "off", **options})


@frozen(kw_only=True)
class Recipe:
    """A model and its data in plain numbers."""

    family: str
    seed: int = 0
    examples: int = 5
    width: int = 2
    outputs: int = 3
    length: int = 3
    loss: str = "cross-entropy"
    ignored: tuple[bool, ...] = (False,)
    tied: bool = field(default=True)

    def sample(self) -> Sample:
        """Build it: every parameter and buffer at a value of no special meaning."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return Sample(model=self._model(), inputs=self._inputs(), targets=self._targets(), loss=LOSSES[self.loss]())

    def twin(self) -> Recipe:
        """The same with every use of a shared parameter its own; its values are given by :func:`untied_like`."""
        return evolve(self, tied=False)

    @property
    def rows(self) -> tuple[int, ...]:
        """Shape of the class targets."""
        return (self.examples, self.length) if self.family == "transformer" else (self.examples,)

    def _model(self) -> nn.Module:
        if self.family == "mlp":
            model: nn.Module = TiedMLP(self.outputs, width=self.width, tied=self.tied)
        elif self.family == "convnet":
            model = SharedConvNet(self.outputs, width=self.width, tied=self.tied)
        else:
            model = TinyTransformer(self.outputs, self.width, self.length + 2, tied=self.tied)
        model = model.to(F64)
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=0.3)
        for name, buffer in model.named_buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.rand_like(buffer) + (0.5 if "var" in name else -0.5))
        return model.eval()

    def _inputs(self) -> Tensor:
        if self.family == "transformer":
            return torch.randint(0, self.outputs, self.rows)
        shape = (4,) if self.family == "mlp" else (1, 3, 3)
        return torch.randn(self.examples, *shape, dtype=F64)

    def _targets(self) -> Tensor:
        if self.loss == "mse":
            return torch.randn(self.examples, self.outputs, dtype=F64)
        if self.loss == "bce":
            return torch.randint(0, 2, (self.examples, self.outputs)).to(F64)
        targets = torch.randint(0, self.outputs, self.rows)
        flags = torch.tensor(list(islice(cycle(self.ignored), targets.numel()))).view(self.rows)
        flags.view(-1)[0] = False  # one counts at least
        return targets.masked_fill(flags, -100)


def recipes(family: str, *, losses: tuple[str, ...] | None = None) -> st.SearchStrategy[Recipe]:
    """Recipes of one family, with any loss that fits it or one of `losses`."""
    classes = ("cross-entropy", "weighted", "by-autograd", "without-logits")
    fitting = losses or ((*classes, "mse", "bce") if family == "mlp" else classes)
    return st.builds(
        Recipe,
        family=st.just(family),
        seed=st.integers(0, 2**31),
        examples=st.integers(2, 6),
        width=st.integers(2, 3),
        outputs=st.just(3),
        length=st.integers(1, 4),
        loss=st.sampled_from(fitting),
        ignored=st.lists(st.booleans(), min_size=1, max_size=5).map(tuple),
    )


def cuts(rows: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Sizes of batches that hold `rows` together, each at least 1."""
    inner = st.sets(st.integers(1, rows - 1)) if rows > 1 else st.just(set())
    return inner.map(lambda ends: tuple(b - a for a, b in pairwise([0, *sorted(ends), rows])))


class Spoiled(CurvatureOperator):
    """An operator with a defect: ``product(A, V)`` stands for ``A.apply(V)``."""

    def __init__(self, base: CurvatureOperator, product: Callable[[CurvatureOperator, Tensor], Tensor]) -> None:
        super().__init__(base.space, symmetric=base.symmetric, problem=base.problem)
        self.base, self.product = base, product

    def rows_product(self, V: Tensor) -> Tensor:
        return self.product(self.base, V)


def gaussian(op: CurvatureOperator, rows: int, seed: int = 0) -> Tensor:
    """Rows to multiply: (rows, n)."""
    return op.space.random("gaussian", seed, 0, rows)


def gap(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected|, Frobenius; absolute where nothing is expected; inf where not finite."""
    if found.shape != expected.shape or not bool(found.isfinite().all()):
        return float("inf")
    norm = float(expected.norm())
    return float((found - expected).norm()) / (norm or 1.0)


def dense(op: CurvatureOperator) -> Tensor:
    """The matrix, by products with the unit vectors."""
    return op.apply(torch.eye(op.n, dtype=op.dtype)).mT
