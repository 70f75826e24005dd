"""The centred covariance of the units' gradients against torch.cov of them, one by one."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, F64, relative, tied_mlp
from per_unit import unit_gradients
from torch import Tensor

from curvkit_core import CrossEntropyLoss, EmpiricalFisherOperator, Problem

TOLERANCE = 1e4 * torch.finfo(F64).eps  # as in test_dense_match


def covariance(gradients: Tensor) -> Tensor:
    return torch.cov(gradients.mT, correction=0)


@pytest.mark.parametrize("name", list(CASES))
def test_products_match_the_dense_covariance(name: str) -> None:
    """In one batch, in ragged ones, in microbatches; the uncentred one, and each half's own, are told apart."""
    case = CASES[name]()
    rows = len(case.inputs)
    gradients = unit_gradients(case)
    expected = covariance(gradients)
    for problem in (case.problem(), case.problem((rows - 3, 2, 1)), case.problem(microbatch_size=2)):
        assert relative(EmpiricalFisherOperator(problem, centered=True).to_dense(), expected) <= TOLERANCE
    uncentered = EmpiricalFisherOperator(case.problem()).to_dense()
    assert relative(uncentered, gradients.mT @ gradients / len(gradients)) <= TOLERANCE
    assert relative(uncentered, expected) > 1e3 * TOLERANCE
    half = len(gradients) // 2
    within = sum(len(g) * covariance(g) for g in (gradients[:half], gradients[half:])) / len(gradients)
    assert relative(within, expected) > 1e3 * TOLERANCE


@pytest.mark.parametrize("options", [{"strategy": "lean"}, {"strategy": "reverse", "cache": "keep"}])
def test_the_mean_is_that_of_the_parameters_as_they_are(options: dict[str, str]) -> None:
    """Steps between products: each is about its own mean, also on kept graphs."""
    case = tied_mlp()
    operator = EmpiricalFisherOperator(case.problem((6, 7)), centered=True, **options)
    before = operator.to_dense()
    with torch.no_grad():
        for p in case.model.parameters():
            p.mul_(1.5)
    expected = covariance(unit_gradients(case))
    assert relative(operator.to_dense(), expected) <= TOLERANCE
    assert relative(before, expected) > 1e3 * TOLERANCE


def test_batches_that_count_alike_give_their_units_unequal_weights() -> None:
    """weighting="batch-mean": the covariance under those weights, 1/2 over 10 units and 1/2 over 1."""
    case = tied_mlp()
    gradients = unit_gradients(case)
    weights = torch.cat([torch.full((10,), 0.05, dtype=F64), torch.full((1,), 0.5, dtype=F64)])
    mean = weights @ gradients
    expected = gradients.mT @ (weights[:, None] * gradients) - mean[:, None] * mean
    operator = EmpiricalFisherOperator(case.problem((12, 1), weighting="batch-mean"), centered=True)
    assert relative(operator.to_dense(), expected) <= TOLERANCE
    assert relative(covariance(gradients), expected) > 1e3 * TOLERANCE


def test_it_is_positive_semidefinite_and_several_vectors_are_single_ones() -> None:
    """L2, L3, L13, L14; and a block over some parameters is the submatrix."""
    problem = CASES["tiny-transformer"]().problem((4, 2))
    operator = EmpiricalFisherOperator(problem, centered=True)
    dense = operator.to_dense()
    assert (dense - dense.mT).abs().max() <= TOLERANCE * dense.norm()
    eigenvalues = torch.linalg.eigvalsh(dense)
    assert eigenvalues[0] >= -TOLERANCE * eigenvalues[-1]
    V = operator.space.random("gaussian", 0, 0, 3)
    assert torch.equal(operator.apply(V), operator.apply(V))
    assert relative(torch.stack([operator @ v for v in V]), operator.apply(V)) <= TOLERANCE
    entry = problem.parameters.entries[2]
    block = EmpiricalFisherOperator(problem.restrict(entry.name), centered=True).to_dense()
    assert relative(block, dense[entry.place, entry.place]) <= TOLERANCE


def test_units_that_count_differently_have_no_covariance() -> None:
    case = tied_mlp()
    loss = CrossEntropyLoss(weight=torch.tensor([0.5, 1.0, 2.0], dtype=F64))
    operator = EmpiricalFisherOperator(Problem(case.model, case.batches(), loss), centered=True)
    with pytest.raises(ValueError, match="gives 11 unit losses and counts them as .*: centered=True needs units that"):
        operator @ torch.ones(operator.n, dtype=F64)
