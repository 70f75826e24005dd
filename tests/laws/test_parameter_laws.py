"""L9 a subset of parameters is that submatrix; L10 tied = E^T A E of untied; L11 unused parameters give zeros."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws.drawn import (
    BROKEN,
    TIES,
    TOLERANCE,
    Kind,
    Recipe,
    Sample,
    Spoiled,
    cuts,
    dense,
    each_family,
    each_kind,
    gap,
    gaussian,
    recipes,
)
from torch import Tensor

from curvkit_core import CurvatureOperator, GGNOperator, LambdaOperator

# L9 -----------------------------------------------------------------------------------------------------------------


def places(whole: CurvatureOperator, block: CurvatureOperator) -> Tensor:
    """Where the block's elements lie in the whole's vectors."""
    by_name = {e.name: e.place for e in whole.problem.parameters}
    return torch.cat([torch.arange(by_name[n].start, by_name[n].stop) for n in block.problem.parameters.names])


def outside_the_submatrix(whole: CurvatureOperator, block: CurvatureOperator) -> float:
    """The block's product against the whole's with a vector that is zero elsewhere."""
    where, V = places(whole, block), gaussian(block, 2)
    embedded = whole.space.zeros(2)
    embedded[:, where] = V
    return gap(block.apply(V), whole.apply(embedded)[:, where])


@each_family
@each_kind()
@settings(max_examples=5)
@given(data=st.data())
def test_l9_a_subset_of_parameters_is_that_submatrix(kind: Kind, family: str, data: st.DataObject) -> None:
    """Chosen by name, by restriction of a problem already used, and by what requires a gradient."""
    recipe = data.draw(recipes(family))
    sample, sizes = recipe.sample(), data.draw(cuts(recipe.examples))
    problem = sample.problem(sizes)
    names = data.draw(st.sets(st.sampled_from(problem.parameters.names), min_size=1))
    whole = kind.make(problem)
    route = data.draw(st.sampled_from(["params", "restrict", "requires_grad"]))
    if route == "restrict":
        whole.apply(gaussian(whole, 1))
        block = kind.make(problem.restrict(list(names)))
    elif route == "params":
        block = kind.make(sample.problem(sizes, params=lambda name, parameter: name in names))
    else:
        for entry in problem.parameters:
            entry.parameter.requires_grad_(entry.name in names)
        block = kind.make(sample.problem(sizes))
    assert set(block.problem.parameters.names) == names
    assert outside_the_submatrix(whole, block) <= TOLERANCE


def test_l9_sees_a_block_in_another_order() -> None:
    """Parameters in alphabetical instead of the model's order; and a block that includes its neighbours' part."""
    problem = Recipe(family="mlp").sample().problem()
    whole, block = GGNOperator(problem), GGNOperator(problem.restrict(["first.*", "again.bias"]))
    assert outside_the_submatrix(whole, block) <= TOLERANCE
    by_name = sorted(block.problem.parameters, key=lambda e: e.name)
    order = torch.cat([torch.arange(e.place.start, e.place.stop) for e in by_name])
    turned = Spoiled(block, lambda A, V: A.apply(V[:, order])[:, order.argsort()])
    assert outside_the_submatrix(whole, turned) > BROKEN

    def with_neighbours(A: CurvatureOperator, V: Tensor) -> Tensor:
        embedded = whole.space.zeros(len(V)) + 1.0
        embedded[:, places(whole, block)] = V
        return whole.apply(embedded)[:, places(whole, block)]

    assert outside_the_submatrix(whole, Spoiled(block, with_neighbours)) > BROKEN


# L10 ----------------------------------------------------------------------------------------------------------------


def untied_twin(recipe: Recipe, tied: Sample) -> Sample:
    """The untied model at the tied one's values, on the same data."""
    twin = recipe.twin().sample()
    own = dict(tied.model.named_parameters(remove_duplicate=False))
    for name, parameter in twin.model.named_parameters():
        parameter.data.copy_(own[TIES[recipe.family].get(name, name)].data)
    twin.model.load_state_dict(dict(tied.model.named_buffers()), strict=False)
    return Sample(model=twin.model, inputs=tied.inputs, targets=tied.targets, loss=tied.loss)


def copies(recipe: Recipe, tied: CurvatureOperator, untied: CurvatureOperator) -> Tensor:
    """E, a row an element of the untied vector: the tied element that it is a copy of. E v has index form v[E]."""
    by_alias = {alias: e.place for e in tied.problem.parameters for alias in e.aliases}
    by_name = [by_alias[TIES[recipe.family].get(n, n)] for n in untied.problem.parameters.names]
    return torch.cat([torch.arange(place.start, place.stop) for place in by_name])


def off_the_tied_form(tied: CurvatureOperator, untied: CurvatureOperator, E: Tensor) -> float:
    """|A_tied V - E^T A_untied E V|."""
    V = gaussian(tied, 2)
    return gap(tied.apply(V), tied.space.zeros(2).index_add_(1, E, untied.apply(V[:, E])))


@each_family
@each_kind(lambda kind: kind.couples)
@settings(max_examples=4)
@given(data=st.data())
def test_l10_a_tied_operator_is_the_untied_one_summed(kind: Kind, family: str, data: st.DataObject) -> None:
    """A weight under two names, a module applied twice, an embedding that is the head."""
    recipe = data.draw(recipes(family))
    sample, sizes = recipe.sample(), data.draw(cuts(recipe.examples))
    tied = kind.make(sample.problem(sizes))
    untied = kind.make(untied_twin(recipe, sample).problem())
    assert untied.n > tied.n
    assert off_the_tied_form(tied, untied, copies(recipe, tied, untied)) <= TOLERANCE


@each_family
@each_kind(lambda kind: kind.couples)
def test_l10_sees_uses_of_a_weight_kept_apart(kind: Kind, family: str) -> None:
    """Each use of the shared weight alone, without what couples them: what hooks on modules compute."""
    recipe = Recipe(family=family)
    sample = recipe.sample()
    tied, untied = kind.make(sample.problem()), kind.make(untied_twin(recipe, sample).problem())
    E, M = copies(recipe, tied, untied), dense(untied)
    uses = torch.zeros(untied.n, dtype=torch.bool)
    for entry in untied.problem.parameters:
        uses[entry.place] = entry.name in TIES[family]
    M[uses] *= ~uses
    M[:, uses] *= uses[:, None]

    def apart(v: Tensor) -> Tensor:
        return torch.zeros_like(v).index_add_(0, E, M @ v[E])

    assert off_the_tied_form(tied, untied, E) <= TOLERANCE
    assert off_the_tied_form(LambdaOperator(apart, tied.n, dtype=tied.dtype), untied, E) > BROKEN


# L11 ----------------------------------------------------------------------------------------------------------------


def unused(A: CurvatureOperator) -> Tensor:
    """Which elements belong to parameters that the forward never reads."""
    flags = torch.zeros(A.n, dtype=torch.bool)
    for entry in A.problem.parameters:
        flags[entry.place] = entry.name.startswith("unused")
    return flags


def unused_curvature(A: CurvatureOperator) -> float:
    """The largest element in the rows of unused parameters, and in what their columns give."""
    flags, V = unused(A), gaussian(A, 2)
    return max(float(A.apply(V)[:, flags].abs().max()), float(A.apply(V * flags).abs().max()))


@pytest.mark.parametrize("family", ["mlp", "transformer"])
@each_kind(lambda kind: kind.couples)
@settings(max_examples=3)
@given(data=st.data())
def test_l11_unused_parameters_give_exact_zeros(kind: Kind, family: str, data: st.DataObject) -> None:
    """An unused layer or head; also alone, where the operator is the zero matrix."""
    recipe = data.draw(recipes(family))
    problem = recipe.sample().problem(data.draw(cuts(recipe.examples)))
    assert unused_curvature(kind.make(problem)) == 0.0
    assert not dense(kind.make(problem.restrict("unused*"))).any()


@pytest.mark.parametrize(
    "product",
    [
        lambda A, V: A.apply(V) + 1e-3 * V,  # a damping of its own
        lambda A, V: A.apply(V.roll(1, dims=1)).roll(-1, dims=1),  # offsets that miss the unused parameter
    ],
)
def test_l11_sees_curvature_where_there_is_none(product: Callable[[CurvatureOperator, Tensor], Tensor]) -> None:
    A = GGNOperator(Recipe(family="mlp").sample().problem())
    assert unused_curvature(A) == 0.0
    assert unused_curvature(Spoiled(A, product)) > BROKEN
