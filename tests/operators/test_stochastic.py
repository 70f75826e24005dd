"""A fresh batch a product: only for algorithms that can bear it; and the first batches, the same for all."""

from __future__ import annotations

import pytest
import torch
from cases import F64, relative, tied_mlp

from curvkit_core import GGNOperator, HessianOperator, Problem, eigsh, trace
from curvkit_core.operators import StochasticOperator


def test_products_go_through_the_batches_in_turn() -> None:
    """Each product is the batch's own; after the last the first comes again; the rows of one call share a batch."""
    case = tied_mlp()
    problem = case.problem((5, 4, 4))
    alone = [HessianOperator(Problem(case.model, [b], case.loss)) for b in case.batches((5, 4, 4))]
    op = StochasticOperator(HessianOperator, problem)
    V = op.space.random("gaussian", 0, 0, 2)
    for i in range(5):
        assert relative(op.apply(V), alone[i % 3].apply(V)) <= 1e-12
    assert not op.deterministic


def test_only_algorithms_that_bear_it_take_it() -> None:
    op = StochasticOperator(GGNOperator, tied_mlp().problem((5, 4, 4)))
    with pytest.raises(
        ValueError, match="Eigsh multiplies one fixed matrix: StochasticOperator.* is another one at each"
    ):
        eigsh(op, k=1)
    with pytest.raises(ValueError, match="Trace multiplies one fixed matrix"):
        trace(op, num_matvecs=9)
    assert trace(op, method="hutchinson", num_matvecs=4, seed=0).stderr > 0


def test_the_mean_is_the_batch_mean_trace_and_the_error_covers_the_batches() -> None:
    """Over 40 runs of 12 probes: the mean within 4.5 standard errors, stderr near the spread that is there."""
    case = tied_mlp()
    problem = case.problem((5, 4, 4))
    whole = GGNOperator(case.problem((5, 4, 4), weighting="batch-mean"))
    truth = float(whole.to_dense().trace())
    op = StochasticOperator(GGNOperator, problem)
    runs = [trace(op, method="hutchinson", num_matvecs=12, seed=s) for s in range(40)]
    estimates = torch.tensor([r.estimate for r in runs], dtype=F64)
    assert abs(float(estimates.mean()) - truth) <= 4.5 * float(estimates.std()) / 40**0.5
    assert float(estimates.std()) < truth


def test_num_batches_takes_the_same_first_batches_always() -> None:
    """X6: every operator and product sees the first two batches, and their units."""
    case = tied_mlp()
    first = Problem(case.model, case.batches((5, 4, 4))[:2], case.loss)
    problem = case.problem((5, 4, 4), num_batches=2)
    v = problem.space.random("gaussian", 0, 0, 1)[0]
    for kind in (HessianOperator, GGNOperator):
        for _ in range(2):
            assert relative(kind(problem, cache="rebuild") @ v, kind(first) @ v) <= 1e-12
    assert problem.num_units == first.num_units == 7
    with pytest.raises(ValueError, match="num_batches=0: expected a positive integer"):
        case.problem(num_batches=0)
