"""L5: the sampled Fisher's mean over its draws is the GGN."""

from __future__ import annotations

import pytest
import torch
from laws.drawn import FAMILIES, Recipe, Sample, gaussian
from torch import Tensor

from curvkit_core import CurvatureOperator, EmpiricalFisherOperator, GGNOperator
from curvkit_core.operators import FisherOperator

DRAWS, SAMPLES = 60, 4
RECIPES = [Recipe(family=family, ignored=(False, True, False)) for family in FAMILIES]
RECIPES += [Recipe(family="mlp", loss=loss) for loss in ("weighted", "mse", "bce")]


def quadratic(A: CurvatureOperator, V: Tensor) -> Tensor:
    """v^T A v for each row."""
    return (V * A.apply(V)).sum(1)


def standard_errors_off(forms: Tensor, truth: Tensor) -> float:
    """The worst over rows of |mean - truth| in standard errors, which must be small enough to see 45 % of bias."""
    errors = forms.std(0) / len(forms) ** 0.5
    assert bool((errors < 0.45 / 4.5 * truth.abs()).all())
    return float(((forms.mean(0) - truth).abs() / errors).max())


def drawn_forms(sample: Sample, V: Tensor) -> Tensor:
    """The quadratic forms of so many sampled Fishers."""
    problem = sample.problem()
    return torch.stack([quadratic(FisherOperator(problem, num_samples=SAMPLES, seed=seed), V) for seed in range(DRAWS)])


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: f"{r.family}-{r.loss}")
def test_l5_the_mean_of_sampled_fishers_is_the_ggn(recipe: Recipe) -> None:
    """Within 4.5 standard errors, along two directions."""
    sample = recipe.sample()
    G = GGNOperator(sample.problem())
    V = gaussian(G, 2)
    assert standard_errors_off(drawn_forms(sample, V), quadratic(G, V)) <= 4.5


def test_l5_sees_targets_that_are_not_the_models() -> None:
    """Negative controls: the data's own targets; and the likeliest ones."""
    sample = Recipe(family="mlp").sample()
    G = GGNOperator(sample.problem())
    V = gaussian(G, 2)
    forms, truth = drawn_forms(sample, V), quadratic(G, V)
    with torch.no_grad():
        likeliest = sample.model(sample.inputs).argmax(1)
    for targets in (sample.targets, likeliest):
        other = Sample(model=sample.model, inputs=sample.inputs, targets=targets, loss=sample.loss)
        shifted = forms - forms.mean(0) + quadratic(EmpiricalFisherOperator(other.problem()), V)
        assert standard_errors_off(shifted, truth) > 4.5
