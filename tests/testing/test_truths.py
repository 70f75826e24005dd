"""The kit's dense truths against torch.func and closed forms, and its matrices against their spectra."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, dense_truth, relative

from curvkit_core.testing import (
    CountedOperator,
    dense_empirical_fisher,
    dense_ggn,
    dense_hessian,
    matrix_with,
    tiny_problem,
)
from curvkit_core.testing.variants import untied_twin

TOL = 1e5 * torch.finfo(torch.float64).eps  # as of the laws: sums of a few hundred terms through ten layers
WHOLE = [name for name in CASES if name != "without-logits"]  # whose loss has three outputs, so no dense GGN here


@pytest.mark.parametrize("name", WHOLE)
def test_dense_matrices_equal_those_of_torch_func(name: str) -> None:
    """Hessian, GGN and empirical Fisher; tied weights, convolutions, attention, ignored targets; two batches."""
    case = CASES[name]()
    problem = case.problem((3, len(case.inputs) - 3), preflight="off")
    truth = dense_truth(case)
    order = [p.place for p in problem.parameters.entries]
    assert [place.start for place in order] == sorted(place.start for place in order)
    for found, expected in (
        (dense_hessian(problem), truth.hessian),
        (dense_ggn(problem), truth.ggn),
        (dense_empirical_fisher(problem), truth.empirical_fisher),
    ):
        assert relative(found, expected) <= TOL
        assert relative(1.001 * found, expected) > TOL


def test_the_model_is_as_it_was_afterwards() -> None:
    """Also where a module stands under two names."""
    tiny = tiny_problem("mlp")
    before = {name: (id(p), p.clone()) for name, p in tiny.model.named_parameters(remove_duplicate=False)}
    _ = tiny.hessian, tiny.ggn, tiny.empirical_fisher
    after = dict(tiny.model.named_parameters(remove_duplicate=False))
    assert after.keys() == before.keys()
    assert all(id(after[n]) == before[n][0] and torch.equal(after[n], before[n][1]) for n in before)


def test_least_squares_has_one_constant_curvature() -> None:
    """Hessian and GGN are 2 X~^T X~ / (N D) for each of D outputs, X~ with a column of ones."""
    tiny = tiny_problem("quadratic")
    X = torch.cat([tiny.inputs, torch.ones(9, 1, dtype=torch.float64)], dim=1)
    moment = 2.0 * X.mT @ X / 9 / 2  # the mean over two outputs
    weight, bias = torch.arange(8), torch.arange(8, 10)
    places = [torch.cat([weight[4 * d : 4 * d + 4], bias[d : d + 1]]) for d in range(2)]
    truth = torch.zeros(10, 10, dtype=torch.float64)
    for place in places:
        truth[place[:, None], place] = moment
    assert relative(tiny.hessian, truth) <= TOL
    assert relative(tiny.ggn, truth) <= TOL
    assert relative(tiny.hessian, 1.001 * truth) > TOL


def test_the_untied_twin_computes_the_same() -> None:
    """Equal outputs, and E puts each tied parameter where it is used."""
    tiny = tiny_problem("mlp")
    twin, E = untied_twin(tiny)
    assert torch.equal(twin.model(tiny.inputs), tiny.model(tiny.inputs))
    assert E.shape == (51, 39)
    assert E.sum(1).eq(1).all()
    tied = torch.cat([p.detach().reshape(-1) for p in tiny.model.parameters()])
    untied = torch.cat([p.detach().reshape(-1) for p in twin.model.parameters()])
    assert torch.equal(E @ tied, untied)


def test_matrices_have_their_spectra_and_operators_count() -> None:
    spectrum = torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64)
    matrix = matrix_with(spectrum)
    assert torch.allclose(torch.linalg.eigvalsh(matrix), spectrum.sort().values, atol=1e-14)
    op = CountedOperator(matrix)
    op.apply(torch.eye(3, dtype=torch.float64))
    assert op.num_matvecs == 3
