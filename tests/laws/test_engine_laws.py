"""L12: strategies, cache policies and memory budgets agree, whatever happened between two products."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from laws.drawn import (
    BROKEN,
    KINDS,
    TOLERANCE,
    Kind,
    Recipe,
    Sample,
    cuts,
    each_family,
    each_kind,
    gap,
    gaussian,
    recipes,
)
from torch import Tensor, nn

from curvkit_core import CrossEntropyLoss, GGNOperator, HessianOperator, Problem
from curvkit_core.linearize import LeanLinearization
from curvkit_core.linearize.reverse import ReverseLinearization

EXACT = [
    {"strategy": strategy, "cache": cache}
    for strategy in ("auto", "reverse", "lean")
    for cache in ("auto", "keep", "rebuild", "offload")
    if strategy != "lean" or cache in ("auto", "rebuild")
]
REFERENCE = {"strategy": "reverse", "cache": "rebuild"}
# h = eps^(1/3) |theta|: h^2 and eps / h are both about 1e-10, times third derivatives and 1 / |theta|
ROUGH = 1e-6
budgets = st.sampled_from([None, 0, 20_000, 60_000, "1GiB"])


@st.composite
def exact_options(draw: st.DrawFn) -> dict[str, Any]:
    """A strategy, a cache policy and, where graphs are kept as memory allows, a budget that holds none, some or all."""
    options = draw(st.sampled_from(EXACT))
    return {**options, "memory_budget": draw(budgets)} if options["cache"] == "auto" else options


def reference(kind: Kind, sample: Sample, sizes: tuple[int, ...], V: Tensor, **options: Any) -> Tensor:
    """The product that everything is held against: nothing kept, a problem of its own."""
    return kind.make(sample.problem(sizes, **options), **REFERENCE).apply(V)


@each_family
@each_kind(lambda kind: kind.couples)
@settings(max_examples=5)
@given(data=st.data())
def test_l12_strategies_and_caches_agree(kind: Kind, family: str, data: st.DataObject) -> None:
    """First and later products, by any options, over any cut; L14: the later ones are bitwise the same."""
    recipe = data.draw(recipes(family))
    sample, sizes = recipe.sample(), data.draw(cuts(recipe.examples))
    micro = data.draw(st.none() | st.integers(1, recipe.examples))
    A = kind.make(sample.problem(sizes, microbatch_size=micro), **data.draw(exact_options()))
    V = gaussian(A, 2)
    expected = reference(kind, sample, sizes, V)
    assert gap(A.apply(V), expected) <= TOLERANCE
    second = A.apply(V)
    assert gap(second, expected) <= TOLERANCE
    assert torch.equal(A.apply(V), second)


@each_family
@each_kind(lambda kind: kind.couples)
@settings(max_examples=2)
@given(data=st.data())
def test_l12_finite_differences_agree_to_their_own_error(kind: Kind, family: str, data: st.DataObject) -> None:
    """Within 1e-6 in float64, and not by being exact in secret."""
    recipe = data.draw(recipes(family))
    sample, sizes = recipe.sample(), data.draw(cuts(recipe.examples))
    cache = data.draw(st.sampled_from(["auto", "rebuild"]))
    A = kind.make(sample.problem(sizes), strategy="finite-difference", cache=cache)
    V = gaussian(A, 2)
    assert 0.0 < gap(A.apply(V), reference(kind, sample, sizes, V)) <= ROUGH


@each_family
@settings(max_examples=5)
@given(data=st.data())
def test_l12_operators_that_share_graphs_agree(family: str, data: st.DataObject) -> None:
    """Kinds, blocks and options in any order on one problem."""
    recipe = data.draw(recipes(family))
    sample, sizes = recipe.sample(), data.draw(cuts(recipe.examples))
    shared = sample.problem(sizes)
    names = st.sets(st.sampled_from(shared.parameters.names), min_size=1).map(sorted)
    for _ in range(4):
        kind = data.draw(st.sampled_from(list(KINDS.values())))
        chosen = data.draw(st.none() | names)
        A = kind.make(shared if chosen is None else shared.restrict(chosen), **data.draw(exact_options()))
        V = gaussian(A, 1)
        assert gap(A.apply(V), reference(kind, sample, sizes, V, params=chosen)) <= TOLERANCE


# What may happen to a problem between two products; most of it moves no version counter.


def written_by_data(sample: Sample, problem: Problem) -> None:
    next(sample.model.parameters()).data.mul_(1.5)


def swapped_elements(sample: Sample, problem: Problem) -> None:
    """A permutation: sums and xors of the elements stay as they are."""
    weight = next(p for p in sample.model.parameters() if p.ndim > 1)
    weight.data.copy_(weight.data.flip(0))


def written_by_numpy(sample: Sample, problem: Problem) -> None:
    list(sample.model.parameters())[1].detach().numpy()[...] *= 2.0


def fused_optimizer(sample: Sample, problem: Problem) -> None:
    optimizer = torch.optim.Adam(sample.model.parameters(), lr=0.1, fused=True)
    for parameter in sample.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.zero_grad()


def flat_vector_written_back(sample: Sample, problem: Problem) -> None:
    flat = nn.utils.parameters_to_vector(sample.model.parameters()).detach()
    nn.utils.vector_to_parameters(flat * 1.2, sample.model.parameters())


def state_loaded(sample: Sample, problem: Problem) -> None:
    """Buffers as well; by assignment where no tie would be broken by it."""
    floating = {name: t for name, t in sample.model.state_dict().items() if t.is_floating_point()}
    untied = len(floating) == len({t.data_ptr() for t in floating.values()})
    sample.model.load_state_dict({name: 0.7 * t for name, t in floating.items()}, strict=False, assign=untied)


def buffers_written(sample: Sample, problem: Problem) -> None:
    for buffer in sample.model.buffers():
        if buffer.is_floating_point():
            buffer.data.mul_(1.1)


def other_contents(sample: Sample, problem: Problem) -> None:
    sample.inputs.copy_((sample.inputs + 1) % 3)


def other_order(sample: Sample, problem: Problem) -> None:
    problem.batches.reverse()


EVENTS: list[Callable[[Sample, Problem], None]] = [
    written_by_data,
    swapped_elements,
    written_by_numpy,
    fused_optimizer,
    flat_vector_written_back,
    state_loaded,
    buffers_written,
    other_contents,
    other_order,
]


@each_family
@each_kind(lambda kind: kind.couples)
@settings(max_examples=4)
@given(data=st.data())
def test_l12_products_are_right_whatever_happened_between(kind: Kind, family: str, data: st.DataObject) -> None:
    """Parameters, buffers and data written in every way: the next product is that of the model as it now is."""
    recipe = data.draw(recipes(family))
    sample, sizes = recipe.sample(), data.draw(cuts(recipe.examples))
    problem = sample.problem(sizes)
    A = kind.make(problem, **data.draw(exact_options()))
    V = gaussian(A, 1)
    A.apply(V)
    for event in data.draw(st.lists(st.sampled_from(EVENTS), min_size=1, max_size=3)):
        event(sample, problem)
        found = A.apply(V)
        now = kind.make(Problem(sample.model, problem.batches, sample.loss, preflight="off"), **REFERENCE).apply(V)
        assert gap(found, now) <= TOLERANCE


class Refilled:
    """A loader that fills one and the same buffer with every batch."""

    def __init__(self, batches: list[tuple[Tensor, Tensor]]) -> None:
        self.batches = batches
        self.buffer = tuple(torch.empty_like(t) for t in batches[0])

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for batch in self.batches:
            for own, tensor in zip(self.buffer, batch, strict=True):
                own.copy_(tensor)
            yield self.buffer


@each_family
@each_kind(lambda kind: kind.couples)
def test_l12_a_loader_may_fill_its_buffers_again(kind: Kind, family: str) -> None:
    """A kept graph owns its data: what the loader does with its tensors afterwards is no matter."""
    sample = Recipe(family=family, examples=6).sample()
    loader = Refilled(sample.problem((2, 2, 2)).batches)
    A = kind.make(Problem(sample.model, loader, sample.loss, preflight="off"))
    V = gaussian(A, 1)
    for _ in range(3):
        assert gap(A.apply(V), reference(kind, sample, (2, 2, 2), V)) <= TOLERANCE


class Tempered(nn.Module):
    """A model with a number and a plain tensor that no fingerprint of parameters and buffers sees."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.temperature = 1.0
        self.offset = torch.zeros(3, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) * self.temperature + self.offset


def test_l12_products_follow_what_is_no_parameter() -> None:
    """A class weight of the loss, a number and a plain tensor of a module: all were read by a kept graph."""
    sample = Recipe(family="mlp").sample()
    model, weight = Tempered(sample.model), torch.ones(3, dtype=torch.float64)
    sample = evolve(sample, model=model, loss=CrossEntropyLoss(weight=weight))
    A = HessianOperator(sample.problem())
    V = gaussian(A, 1)

    def stale() -> float:
        return gap(A.apply(V), reference(KINDS["hessian"], sample, (5,), V))

    assert stale() <= TOLERANCE
    weight.data[0] = 5.0
    assert stale() <= TOLERANCE
    model.temperature = 2.0
    assert stale() <= TOLERANCE
    model.offset.data[1] = 3.0
    assert stale() <= TOLERANCE


def test_l12_sees_strategies_that_differ() -> None:
    """A curvature that is halved where no graph is kept; and a product that trusts an old graph."""

    class HalvedWhenLean(GGNOperator):
        def batch_product(self, lin: Any, batch: Any, V: Tensor) -> Tensor:
            return super().batch_product(lin, batch, V) * (0.5 if isinstance(lin, LeanLinearization) else 1.0)

    problem = Recipe(family="convnet").sample().problem()
    lean, kept = (HalvedWhenLean(problem, strategy=s) for s in ("lean", "reverse"))
    assert gap(lean.apply(gaussian(lean, 1)), kept.apply(gaussian(kept, 1))) > BROKEN


@pytest.mark.parametrize("event", EVENTS[:-1])
def test_l12_sees_a_graph_kept_too_long(event: Callable[[Sample, Problem], None]) -> None:
    """With its fingerprints switched off, a kept graph is wrong or refused by autograd after every event."""
    sample = Recipe(family="mlp", ignored=(False, True)).sample()
    problem = sample.problem((2, 3))
    A = HessianOperator(problem, strategy="reverse", cache="keep")
    V = gaussian(A, 1)
    A.apply(V)
    stale = [kept.graph for kept in problem.history.kept_graphs.graphs.values()]
    event(sample, problem)
    now = reference(KINDS["hessian"], sample, (2, 3), V)
    try:
        found = sum(ReverseLinearization(graph, problem.parameters).hvp(V) for graph in stale) / problem.num_units
    except RuntimeError:  # autograd saw a version move: no number came out
        return
    assert gap(found, now) > BROKEN
