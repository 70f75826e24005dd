"""L6 any cut, any order, data twice, any split over ranks; L7 ignored targets and padding; L8 loss times c."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from attrs import evolve, field, frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from laws.drawn import (
    BROKEN,
    KINDS,
    TOLERANCE,
    Kind,
    Recipe,
    Sample,
    ScaledClosedForm,
    ScaledLoss,
    Spoiled,
    cuts,
    each_family,
    each_kind,
    gap,
    gaussian,
    recipes,
)
from torch import Tensor

from curvkit_core import CrossEntropyLoss, CurvatureOperator, Problem
from curvkit_core.backends import SingleBackend

Make = Callable[[Problem], CurvatureOperator]
BY_CLASS = ("cross-entropy", "weighted", "by-autograd", "without-logits")


def spoiling(product: Callable[[CurvatureOperator, Tensor], Tensor]) -> Make:
    """Make GGN operators with this defect."""
    return lambda problem: Spoiled(KINDS["ggn"].make(problem), product)


def difference(make: Make, one: Problem, other: Problem) -> float:
    """How far the operators of two problems lie apart, by two vectors."""
    A, B = make(one), make(other)
    V = gaussian(A, 2)
    return gap(B.apply(V), A.apply(V))


# L6 -----------------------------------------------------------------------------------------------------------------


@frozen
class Rank(SingleBackend):
    """One of several ranks that run one after the other: sums meet in `met`."""

    met: list[tuple[Tensor, ...]] = field(factory=list)

    def reduce(self, sums: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Add this rank's sums to those before it."""
        before = self.met[0] if self.met else tuple(torch.zeros_like(t) for t in sums)
        self.met[:] = [tuple(a + b for a, b in zip(before, sums, strict=True))]
        total, count = self.met[0]
        # clones, since the caller divides in place; the first ranks may hold no unit
        return total.clone(), count.clamp_min(torch.finfo(torch.float64).tiny)


def over_ranks(make: Make, sample: Sample, sizes: tuple[int, ...], empty: int) -> Callable[[Tensor], Tensor]:
    """A product in which every batch is on a rank of its own, and `empty` ranks at the front have none."""
    backend = Rank()
    whole = sample.problem(sizes)
    parts = [[]] * empty + [[batch] for batch in whole.batches]
    problems = [Problem(sample.model, part, sample.loss, backend=backend, preflight="off") for part in parts]

    def product(V: Tensor) -> Tensor:
        backend.met.clear()
        return [make(problem).apply(V) for problem in problems][-1]

    return product


@each_family
@each_kind()
@settings(max_examples=5)
@given(data=st.data())
def test_l6_any_cut_gives_the_same_operator(kind: Kind, family: str, data: st.DataObject) -> None:
    """Batches and microbatches of any sizes."""
    recipe = data.draw(recipes(family))
    sample = recipe.sample()
    micro = data.draw(st.none() | st.integers(1, recipe.examples))
    cut = sample.problem(data.draw(cuts(recipe.examples)), microbatch_size=micro)
    assert difference(kind.make, sample.problem(), cut) <= TOLERANCE


@each_family
@each_kind(lambda kind: not kind.ordered)
@settings(max_examples=4)
@given(data=st.data())
def test_l6_any_order_and_the_data_twice(kind: Kind, family: str, data: st.DataObject) -> None:
    """Rows permuted, everything given twice, cut anew."""
    recipe = data.draw(recipes(family))
    sample = recipe.sample()
    order = torch.tensor(data.draw(st.permutations(range(recipe.examples))) * data.draw(st.integers(1, 2)))
    other = evolve(sample, inputs=sample.inputs[order], targets=sample.targets[order])
    assert difference(kind.make, sample.problem(), other.problem(data.draw(cuts(len(order))))) <= TOLERANCE


@each_family
@each_kind(lambda kind: not kind.ordered and kind.couples)  # a block-diagonal operator reduces once a block
@settings(max_examples=3)
@given(data=st.data())
def test_l6_any_split_over_ranks(kind: Kind, family: str, data: st.DataObject) -> None:
    """Ranks with different numbers of units, some with none: sums and counts are added, then divided once."""
    recipe = data.draw(recipes(family))
    sample = recipe.sample()
    A = kind.make(sample.problem())
    V = gaussian(A, 2)
    product = over_ranks(kind.make, sample, data.draw(cuts(recipe.examples)), data.draw(st.integers(0, 2)))
    assert gap(product(V), A.apply(V)) <= TOLERANCE


def unequal_batches() -> tuple[Sample, tuple[int, ...]]:
    """Five examples as 4 + 1, some targets ignored."""
    return Recipe(family="transformer", ignored=(False, True, False)).sample(), (4, 1)


def test_l6_sees_batches_averaged_equally() -> None:
    """The mean over batches of the batches' means."""
    sample, sizes = unequal_batches()
    averaged = sample.problem(sizes, weighting="batch-mean")
    assert difference(KINDS["ggn"].make, sample.problem(), sample.problem(sizes)) <= TOLERANCE
    assert difference(KINDS["ggn"].make, sample.problem(), averaged) > BROKEN


def test_l6_sees_a_dropped_batch_a_sum_and_a_weight_by_position() -> None:
    """Three operators that depend on the cut, on how often the data is given, and on its order."""
    sample, sizes = unequal_batches()
    problem = sample.problem(sizes)

    def all_but_last(A: CurvatureOperator, V: Tensor) -> Tensor:
        batches = list(A.problem.batches)
        return KINDS["ggn"].make(Problem(sample.model, batches[:-1] or batches, sample.loss, preflight="off")).apply(V)

    def by_position(A: CurvatureOperator, V: Tensor) -> Tensor:
        first = Problem(sample.model, list(A.problem.batches)[:1], sample.loss, preflight="off")
        return A.apply(V) + KINDS["ggn"].make(first).apply(V)

    assert difference(spoiling(all_but_last), sample.problem(), problem) > BROKEN
    turned = evolve(sample, inputs=sample.inputs.flip(0), targets=sample.targets.flip(0)).problem(sizes)
    assert difference(spoiling(by_position), problem, turned) > BROKEN
    assert difference(spoiling(lambda A, V: A.apply(V)), problem, turned) <= TOLERANCE
    twice = evolve(sample, inputs=sample.inputs.repeat(2, 1), targets=sample.targets.repeat(2, 1)).problem()
    summed = spoiling(lambda A, V: A.apply(V) * A.problem.num_units)
    assert difference(summed, sample.problem(), twice) > BROKEN


def test_l6_sees_ranks_weighed_equally() -> None:
    """A mean over ranks of their means."""
    sample, sizes = unequal_batches()
    A = KINDS["ggn"].make(sample.problem())
    V = gaussian(A, 2)
    assert gap(over_ranks(KINDS["ggn"].make, sample, sizes, 1)(V), A.apply(V)) <= TOLERANCE
    ranks = [KINDS["ggn"].make(Problem(sample.model, [b], sample.loss)) for b in sample.problem(sizes).batches]
    assert gap(sum(rank.apply(V) for rank in ranks) / len(ranks), A.apply(V)) > BROKEN


# L7 -----------------------------------------------------------------------------------------------------------------


def with_ignored_rows(sample: Sample, places: Iterable[int], seed: int) -> Sample:
    """Rows of random content between the others, all their targets ignored."""
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = list(sample.inputs), list(sample.targets)
    for place in places:
        other = inputs[int(torch.randint(len(inputs), (), generator=generator))]
        if other.is_floating_point():
            other = other + 10 * torch.randn(other.shape, generator=generator, dtype=other.dtype)
        inputs.insert(place, other)
        targets.insert(place, torch.full_like(targets[0], -100))
    return evolve(sample, inputs=torch.stack(inputs), targets=torch.stack(targets))


def padded(sample: Sample, columns: int, token: int) -> Sample:
    """Token sequences longer by columns of padding at their ends, where attention is causal."""
    size = (len(sample.inputs), columns)
    inputs = torch.cat([sample.inputs, torch.full(size, token)], dim=1)
    return evolve(sample, inputs=inputs, targets=torch.cat([sample.targets, torch.full(size, -100)], dim=1))


@each_family
@each_kind()
@settings(max_examples=4)
@given(data=st.data())
def test_l7_ignored_targets_change_nothing(kind: Kind, family: str, data: st.DataObject) -> None:
    """Ignored rows put in anywhere, whole batches of them too, and padding at the ends of sequences."""
    recipe = data.draw(recipes(family, losses=BY_CLASS))
    sample = recipe.sample()
    places = data.draw(st.lists(st.integers(0, recipe.examples), max_size=3))
    other = with_ignored_rows(sample, places, recipe.seed)
    if family == "transformer":
        other = padded(other, data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2)))
    cut = other.problem(data.draw(cuts(len(other.inputs))))
    assert difference(kind.make, sample.problem(), cut) <= TOLERANCE


class CountsAll(CrossEntropyLoss):
    """Divides by all targets, ignored ones too."""

    def num_units(self, batch: Any) -> int:
        return batch[1].numel()


class CurvesAll(CrossEntropyLoss):
    """Leaves ignored targets out of the loss but not out of its curvature."""

    def ggn(self, y: tuple[Tensor, ...], batch: Any, dy: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return super().ggn(y, (batch[0], batch[1].clamp_min(0)), dy)


@pytest.mark.parametrize("loss", [CountsAll(), CurvesAll()])
def test_l7_sees_ignored_targets_that_count(loss: CrossEntropyLoss) -> None:
    sample = Recipe(family="transformer").sample()
    other = padded(with_ignored_rows(sample, [0, 2], 0), 1, 0)
    assert difference(KINDS["ggn"].make, sample.problem(), other.problem((3, 4))) <= TOLERANCE
    wrong = evolve(other, loss=loss).problem((3, 4))
    assert difference(KINDS["ggn"].make, evolve(sample, loss=loss).problem(), wrong) > BROKEN


# L8 -----------------------------------------------------------------------------------------------------------------


@each_family
@each_kind()
@settings(max_examples=4)
@given(data=st.data())
def test_l8_the_operator_scales_with_the_loss(kind: Kind, family: str, data: st.DataObject) -> None:
    """Loss times c gives c times the operator (c^2 where it is made of gradients); by closed form and by autograd."""
    recipe = data.draw(recipes(family, losses=("cross-entropy", "weighted")))
    sample = recipe.sample()
    c = 10.0 ** data.draw(st.integers(-12, 12))
    scaled = data.draw(st.sampled_from([ScaledLoss, ScaledClosedForm]))(sample.loss, c)
    A = kind.make(sample.problem())
    B = kind.make(evolve(sample, loss=scaled).problem(data.draw(cuts(recipe.examples))))
    V = gaussian(A, 2)
    assert gap(B.apply(V), c**kind.power * A.apply(V)) <= TOLERANCE


@pytest.mark.parametrize(
    "product",
    [
        lambda A, V: A.apply(V) + 1e-3 * V,  # a damping of its own
        lambda A, V: torch.where(A.apply(V).abs() < 1e-8, 0.0, A.apply(V)),  # an absolute threshold
    ],
)
def test_l8_sees_an_operator_with_a_scale_of_its_own(product: Callable[[CurvatureOperator, Tensor], Tensor]) -> None:
    sample, c = Recipe(family="mlp").sample(), 1e-9
    small = evolve(sample, loss=ScaledLoss(sample.loss, c)).problem()
    for make, holds in ((KINDS["ggn"].make, True), (spoiling(product), False)):
        A, B = make(sample.problem()), make(small)
        found = gap(B.apply(gaussian(A, 1)), c * A.apply(gaussian(A, 1)))
        assert found <= TOLERANCE if holds else found > BROKEN
