"""Every operator against a dense matrix by torch.func, for every model family and every cut of the data."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, DenseTruth, dense_truth, relative

from curvkit_core import EmpiricalFisherOperator, GGNOperator, HessianOperator

OPERATORS = {"hessian": HessianOperator, "ggn": GGNOperator, "empirical_fisher": EmpiricalFisherOperator}
# Sums of at most 500 terms of order 1 through ten layers: 1e4 eps, six orders below a wrong sign or weight.
TOLERANCE = 1e4 * torch.finfo(torch.float64).eps


@pytest.fixture(scope="module", params=list(CASES))
def truth(request: pytest.FixtureRequest) -> tuple[str, DenseTruth]:
    return request.param, dense_truth(CASES[request.param]())


@pytest.mark.parametrize("kind", list(OPERATORS))
def test_products_match_the_dense_matrix(kind: str, truth: tuple[str, DenseTruth]) -> None:
    """A e_i is the matrix's column i; a matrix that is wrong by 1e-3 in one entry is told apart."""
    name, dense = truth
    case = CASES[name]()
    operator = OPERATORS[kind](case.problem())
    expected = getattr(dense, kind)
    found = operator.to_dense()
    assert relative(found, expected) <= TOLERANCE
    broken = expected.clone()
    broken[0, 0] += 1e-3 * expected.norm()
    assert relative(found, broken) > TOLERANCE


@pytest.mark.parametrize("kind", list(OPERATORS))
def test_any_cut_of_the_data_gives_the_same_operator(kind: str, truth: tuple[str, DenseTruth]) -> None:
    """Ragged batches, batches of one, microbatches: the same matrix; averaging batch means is told apart."""
    name, dense = truth
    case = CASES[name]()
    rows = len(case.inputs)
    expected = getattr(dense, kind)
    for sizes, options in (
        ((rows - 3, 2, 1), {}),
        ((1,) * rows, {}),
        (None, {"microbatch_size": 2}),
        ((rows - 1, 1), {"microbatch_size": 3}),
    ):
        assert relative(OPERATORS[kind](case.problem(sizes, **options)).to_dense(), expected) <= TOLERANCE
    if name in ("tied-mlp", "tiny-transformer"):
        sizes = (rows - 1, 1)
        unequal = OPERATORS[kind](case.problem(sizes, weighting="batch-mean")).to_dense()
        assert relative(unequal, expected) > 1e3 * TOLERANCE


@pytest.mark.parametrize("kind", list(OPERATORS))
def test_apply_is_the_stacked_products(kind: str) -> None:
    """L13: rows of apply are single products, bit for bit; L14: and the same again."""
    case = CASES["tiny-transformer"]()
    operator = OPERATORS[kind](case.problem())
    V = operator.space.random("gaussian", 0, 0, 3)
    together = operator.apply(V)
    assert torch.equal(together, torch.stack([operator @ v for v in V]))
    assert torch.equal(together, operator.apply(V))


@pytest.mark.parametrize("kind", list(OPERATORS))
def test_restricted_problem_gives_the_submatrix(kind: str, truth: tuple[str, DenseTruth]) -> None:
    """L9: over some of the parameters the operator is that submatrix of the whole; a frozen one may be named."""
    name, dense = truth
    case = CASES[name]()
    problem = case.problem()
    chosen = problem.parameters.entries[1:3]
    places = torch.cat([torch.arange(e.place.start, e.place.stop) for e in chosen])
    expected = getattr(dense, kind)[places][:, places]
    chosen[0].parameter.requires_grad_(False)
    block = OPERATORS[kind](problem.restrict([e.name for e in chosen])).to_dense()
    assert relative(block, expected) <= TOLERANCE


def test_unused_parameters_have_zero_rows_and_columns() -> None:
    """L11: exactly zero, without a word."""
    case = CASES["tied-mlp"]()
    problem = case.problem()
    places = [e.place for e in problem.parameters if e.name.startswith("unused")]
    assert len(places) == 2
    for kind in OPERATORS.values():
        matrix = kind(problem).to_dense()
        for place in places:
            assert not matrix[place].any()
            assert not matrix[:, place].any()


def test_data_given_twice_gives_the_same_operator() -> None:
    """L6: an average over units does not know how often the data are repeated; a sum would double."""
    case = CASES["tied-mlp"]()
    once = HessianOperator(case.problem()).to_dense()
    doubled = case.problem()
    doubled.batches = case.batches() * 2
    assert relative(HessianOperator(doubled).to_dense(), once) <= TOLERANCE


def test_low_precision_models_have_float32_vectors() -> None:
    """A bfloat16 model's products agree with its float64 twin's to bfloat16's 2^-8, times the depth."""
    case = CASES["tied-mlp"]()
    half = case.model.to(torch.bfloat16)
    rounded = {name: p.double() for name, p in half.state_dict().items() if p.is_floating_point()}
    inputs = case.inputs.bfloat16()
    problem = type(case.problem())(half, [(inputs, case.targets)], case.loss)
    operator = GGNOperator(problem)
    v = operator.space.random("gaussian", 0, 0, 1)[0]
    product = operator @ v
    assert operator.dtype == product.dtype == torch.float32
    twin = CASES["tied-mlp"]().model
    twin.load_state_dict(rounded, strict=False)
    exact = GGNOperator(type(problem)(twin, [(inputs.double(), case.targets)], case.loss)) @ v.double()
    assert relative(product, exact) <= 10 * 2.0**-8
    assert relative(product, exact) > 1e-6
