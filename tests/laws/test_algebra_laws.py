"""L1 linear, L2 symmetric, L3 semidefinite, L4 Hessian = GGN, L13 apply = stacked products, L14 bitwise the same."""

from __future__ import annotations

from collections.abc import Callable
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

from curvkit_core import CrossEntropyLoss, CurvatureOperator, GGNOperator, HessianOperator

scales = st.integers(-20, 20).map(lambda power: 10.0**power)


def nonlinearity(A: CurvatureOperator, a: float, b: float) -> float:
    """|A(av + bw) - (a Av + b Aw)| / (|a||Av| + |b||Aw|)."""
    v, w = gaussian(A, 2)
    Av, Aw = A @ v, A @ w
    return float((A @ (a * v + b * w) - (a * Av + b * Aw)).norm() / (abs(a) * Av.norm() + abs(b) * Aw.norm()))


def asymmetry(A: CurvatureOperator) -> float:
    """|<Av, w> - <v, Aw>| / (|Av||w| + |v||Aw|)."""
    v, w = gaussian(A, 2)
    Av, Aw = A @ v, A @ w
    return float((Av @ w - v @ Aw).abs() / (Av.norm() * w.norm() + v.norm() * Aw.norm()))


def negativity(A: CurvatureOperator) -> float:
    """-lambda_min / max |lambda|, 0 if there is no negative eigenvalue."""
    M = dense(A)
    eigenvalues = torch.linalg.eigvalsh((M + M.mT) / 2)
    return max(0.0, -float(eigenvalues[0])) / float(eigenvalues.abs().max())


def unstacked(A: CurvatureOperator, rows: int) -> float:
    """apply(V) against its rows one by one."""
    V = gaussian(A, rows)
    return gap(A.apply(V), torch.stack([A @ v for v in V]))


@each_family
@each_kind()
@settings(max_examples=4)
@given(data=st.data())
def test_l1_products_are_linear(kind: Kind, family: str, data: st.DataObject) -> None:
    """A(av + bw) = a Av + b Aw, a and b from 1e-20 to 1e20."""
    recipe = data.draw(recipes(family))
    problem = recipe.sample().problem(data.draw(cuts(recipe.examples)))
    assert nonlinearity(kind.make(problem), data.draw(scales), -data.draw(scales)) <= TOLERANCE


@pytest.mark.parametrize(
    ("product", "a"),
    [
        (lambda A, V: A.apply(V) + 1e-3 * V.norm() * V, 1.0),
        (lambda A, V: A.apply(V) * (V.norm() > 1e-10), 1e-20),  # an absolute threshold
        (lambda A, V: A.apply(V / V.norm()), 1e3),  # normalised and not scaled back
    ],
)
def test_l1_sees_what_is_not_linear(product: Callable, a: float) -> None:
    A = KINDS["ggn"].make(Recipe(family="mlp").sample().problem())
    assert nonlinearity(A, a, -a) <= TOLERANCE
    assert nonlinearity(Spoiled(A, product), a, -a) > BROKEN


@each_family
@each_kind()
@settings(max_examples=4)
@given(data=st.data())
def test_l2_products_are_symmetric(kind: Kind, family: str, data: st.DataObject) -> None:
    """<Av, w> = <v, Aw>."""
    recipe = data.draw(recipes(family))
    A = kind.make(recipe.sample().problem(data.draw(cuts(recipe.examples))))
    assert A.symmetric
    assert asymmetry(A) <= TOLERANCE


@each_kind()
def test_l2_sees_a_wrong_transpose(kind: Kind) -> None:
    """A product whose last step goes to the wrong rows."""
    A = kind.make(Recipe(family="convnet").sample().problem())
    assert asymmetry(A) <= TOLERANCE
    assert asymmetry(Spoiled(A, lambda A, V: A.apply(V).roll(1, dims=1))) > BROKEN


@each_family
@each_kind(lambda kind: kind.semidefinite)
@settings(max_examples=3)
@given(data=st.data())
def test_l3_is_never_negative(kind: Kind, family: str, data: st.DataObject) -> None:
    """No eigenvalue below rounding: the GGN of convex losses, and the Fishers always."""
    A = kind.make(data.draw(recipes(family)).sample().problem())
    assert negativity(A) <= TOLERANCE


@each_family
def test_l3_sees_the_hessian(family: str) -> None:
    """Negative control: the Hessian in the GGN's place has negative eigenvalues, in every family."""
    assert negativity(HessianOperator(Recipe(family=family).sample().problem())) > BROKEN


@each_family
@settings(max_examples=6)
@given(data=st.data())
def test_l4_hessian_is_the_ggn_where_the_model_is_linear(family: str, data: st.DataObject) -> None:
    """Over the last layer alone the outputs are linear in the parameters."""
    recipe = data.draw(recipes(family)).twin()
    problem = recipe.sample().problem(params=["last.*", "head.*"])
    H, G = HessianOperator(problem), GGNOperator(problem)
    V = gaussian(H, 2)
    assert gap(H.apply(V), G.apply(V)) <= TOLERANCE


class DiagonalOnly(CrossEntropyLoss):
    """Cross-entropy that takes diag p for the curvature diag p - p p^T."""

    def ggn(self, y: tuple[Tensor, ...], batch: Any, dy: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (torch.softmax(y[0], dim=1) * dy[0],)


@each_family
def test_l4_sees_a_model_that_is_not_linear(family: str) -> None:
    """Negative controls: all parameters; and the last layer with a curvature of the wrong loss."""
    sample = Recipe(family=family).twin().sample()
    wrong = evolve(sample, loss=DiagonalOnly())
    for problem in (sample.problem(), wrong.problem(params=["last.*", "head.*"])):
        H, G = HessianOperator(problem), GGNOperator(problem)
        assert gap(H.apply(gaussian(H, 2)), G.apply(gaussian(H, 2))) > BROKEN


@each_family
@each_kind()
@settings(max_examples=3)
@given(data=st.data())
def test_l13_apply_is_the_stacked_products(kind: Kind, family: str, data: st.DataObject) -> None:
    """Row i of apply(V) is A @ V[i]."""
    recipe = data.draw(recipes(family))
    A = kind.make(recipe.sample().problem(data.draw(cuts(recipe.examples))))
    assert unstacked(A, data.draw(st.integers(1, 4))) <= TOLERANCE


@each_kind()
def test_l13_no_rows_give_none(kind: Kind) -> None:
    """The stack of no products."""
    A = kind.make(Recipe(family="mlp", loss="by-autograd").sample().problem())
    assert A.apply(A.space.zeros(0)).shape == (0, A.n)


@pytest.mark.parametrize(
    "product",
    [
        lambda A, V: A.apply(V / V.norm()) * V.norm(dim=1, keepdim=True),  # one norm for all rows
        lambda A, V: A.apply(V.flip(0)),  # rows come back in another order
        lambda A, V: A.apply(V[:1]).expand(len(V), -1),  # the first row for all
    ],
)
def test_l13_sees_rows_that_mix(product: Callable) -> None:
    A = KINDS["ggn"].make(Recipe(family="mlp").sample().problem())
    assert unstacked(A, 3) <= TOLERANCE
    assert unstacked(Spoiled(A, product), 3) > BROKEN


@each_family
@each_kind(lambda kind: kind.couples)
@settings(max_examples=3)
@given(data=st.data())
def test_l14_the_same_product_twice_is_bitwise_equal(kind: Kind, family: str, data: st.DataObject) -> None:
    """On the CPU, also after other products and from a new operator of a new problem on the same model."""
    recipe = data.draw(recipes(family))
    sample, sizes = recipe.sample(), data.draw(cuts(recipe.examples))
    A = kind.make(sample.problem(sizes))
    V = gaussian(A, 2)
    first = A.apply(V)
    A.apply(gaussian(A, 1, seed=1))
    assert torch.equal(A.apply(V), first)
    assert torch.equal(kind.make(sample.problem(sizes)).apply(V), first)


def test_l14_sees_noise_in_the_last_bit() -> None:
    A = KINDS["ggn"].make(Recipe(family="mlp").sample().problem())
    generator = torch.Generator().manual_seed(0)

    def noisy(A: CurvatureOperator, V: Tensor) -> Tensor:
        return A.apply(V) * (1 + 1e-15 * torch.randn(V.shape, dtype=V.dtype, generator=generator))

    spoiled, V = Spoiled(A, noisy), gaussian(A, 1)
    assert torch.equal(A.apply(V), A.apply(V))
    assert not torch.equal(spoiled.apply(V), spoiled.apply(V))
