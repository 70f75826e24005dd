"""The posterior's precision against dense matrices, and its prior's inverse."""

import pytest
import torch
from attrs import evolve

from curvkit_core import GGNOperator, nystrom, save_result, solve
from curvkit_core.testing import dense_ggn, tiny_problem
from laplace_precision import PrecisionOperator
from laplace_precision.config import PrecisionConfig
from laplace_precision.precision import build, make_prior

EPS = torch.finfo(torch.float64).eps


def earlier_task():
    """The largest eigenpairs of another problem's GGN, over the same parameters."""
    other = tiny_problem("mlp").problem((4, 5), num_batches=1)
    return nystrom(GGNOperator(other), rank=4, seed=0)


def dense_prior(prior):
    """P, written out."""
    return torch.diag(prior.diagonal) + prior.U.mT @ (prior.c[:, None] * prior.U)


def test_precision_equals_the_dense_sum():
    """G + D + w U^T L U, each part by another path; a prior wrong by 1e-3 is seen."""
    problem = tiny_problem("mlp").problem()
    pairs = earlier_task()
    prior = make_prior(problem, weight_decay=0.1, decayed=["*weight"], eigenpairs=pairs, weight=2.0)
    low_rank = pairs.eigenvectors.mT @ (2.0 * pairs.eigenvalues[:, None] * pairs.eigenvectors)
    weights = torch.cat([torch.full((e.numel,), float(e.name.endswith("weight"))) for e in problem.parameters.entries])
    truth = dense_ggn(problem) + 0.1 * torch.diag(weights.double()) + low_rank
    found = PrecisionOperator(problem, prior).to_dense()
    tol = 1e4 * EPS * truth.norm()  # sums of some hundred terms
    assert (found - truth).norm() <= tol
    assert (found + 1e-3 * low_rank - truth).norm() > tol


def test_prior_is_inverted_by_woodbury():
    """P^-1 P v = v, with rank four and a diagonal that varies by parameter."""
    problem = tiny_problem("mlp").problem()
    prior = make_prior(problem, weight_decay=0.3, eigenpairs=earlier_task())
    V = problem.space.random("gaussian", 1, 0, 3)
    truth = torch.linalg.solve(dense_prior(prior), V.mT).mT
    tol = 1e4 * EPS * truth.norm()
    assert (prior.inverse_rows(problem.space, V) - truth).norm() <= tol
    assert (V / prior.diagonal - truth).norm() > tol  # without the low-rank part


def test_prior_without_decay_somewhere_has_no_inverse():
    """Named, with the mend."""
    problem = tiny_problem("mlp").problem()
    prior = make_prior(problem, weight_decay=0.3, decayed=["*weight"])
    with pytest.raises(ValueError, match="some parameters have no weight decay"):
        prior.inverse_rows(problem.space, problem.space.zeros(1))


def test_prior_preconditions_a_solve():
    """The same solution in fewer products than without it."""
    problem = tiny_problem("mlp").problem()
    op = PrecisionOperator(problem, make_prior(problem, weight_decay=1e-4, eigenpairs=earlier_task(), weight=1.0))
    b = problem.space.random("gaussian", 2, 0, 1)[0]
    plain = solve(op, b, tol=1e-8)
    helped = solve(op, b, tol=1e-8, preconditioner=op.prior)
    assert bool(plain.converged.all())
    assert bool(helped.converged.all())
    assert helped.num_matvecs < plain.num_matvecs
    error = (op @ helped.solution - b).norm() / b.norm()
    assert error <= 1e-7


def test_earlier_task_is_read_from_its_folder(tmp_path):
    """A run file names a result's folder; for a part of the parameters its rows are cut."""
    save_result(earlier_task(), tmp_path / "earlier")
    config = PrecisionConfig(weight_decay=0.1, earlier=str(tmp_path / "earlier"))
    problem = tiny_problem("mlp").problem()
    whole = build(problem, config).to_dense()
    part = build(problem.restrict("first.*"), config).to_dense()
    chosen = [entry.place for entry in problem.parameters.entries if entry.name.startswith("first")]
    places = torch.cat([torch.arange(place.start, place.stop) for place in chosen])
    assert (part - whole[places][:, places]).norm() <= 1e4 * EPS * whole.norm()


def test_eigenvectors_of_another_model_are_refused():
    """Named with both sizes."""
    problem = tiny_problem("mlp").problem()
    pairs = earlier_task()
    with pytest.raises(ValueError, match=r"eigenvectors has shape \(4, 7\): expected"):
        make_prior(problem, weight_decay=0.1, eigenpairs=evolve(pairs, eigenvectors=pairs.eigenvectors[:, :7]))
