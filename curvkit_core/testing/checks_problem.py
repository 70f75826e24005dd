"""The laws of problems: they build, can be read again and again, and repeat under their seed."""

from __future__ import annotations

from typing import Any

import torch

from curvkit_core.losses.batch_tree import tensors
from curvkit_core.operators import HessianOperator
from curvkit_core.problem import Problem
from curvkit_core.testing.check import Record, SkippedError, check
from curvkit_core.testing.left_as_it_was import differences, snapshot
from curvkit_core.testing.measures import directions
from curvkit_core.testing.subject import Subject
from curvkit_core.testing.variants import retold

__all__ = ["CHECKS"]


def _problem(subject: Subject, **options: Any) -> Problem:
    built = subject.build(**options)
    if not isinstance(built, Problem):
        msg = f"the factory gave a {type(built).__name__}: expected a curvkit_core.Problem"
        raise AssertionError(msg)
    model = subject.prepared(built.model)
    return built if model is built.model else retold(built, model=model, preflight=built.preflight)


@check("problem")
def builds(subject: Subject, record: Record) -> None:
    """It builds a Problem with parameters, data and a finite loss; the random state is as it was."""
    _problem(subject)  # a first time, for its imports: some of them draw from Python's generator
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(97531)  # no state that a builder would leave behind
        before = snapshot(None, [])
        problem = _problem(subject)
        moved = differences(before, snapshot(None, []))
    record.true(not moved, f"not as it was: {', '.join(moved)}")
    record.more_than("parameters", problem.parameters.n, 0)
    record.more_than("units", problem.num_units, 0)
    with problem.opened(), torch.no_grad():
        losses = [
            problem.loss.loss_sum(problem.loss.outputs(problem.model, p.batch), p.batch) for p in problem.pieces()
        ]
    record.more_than("batches", len(losses), 0)
    record.true(all(bool(loss.isfinite()) for loss in losses), "the loss of a batch is inf or NaN")


@check("problem")
def is_read_again(subject: Subject, record: Record) -> None:
    """Every pass over its data gives the same batches, in the same order."""
    problem = _problem(subject)
    first, second = ([list(tensors(batch)) for batch in problem.batches] for _ in range(2))
    record.more_than("batches", len(first), 0)
    record.equal("batches of the second pass", len(second), len(first))
    for number, (a, b) in enumerate(zip(first, second, strict=True)):
        same = len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        record.true(same, f"batch {number} of the second pass has other contents")


@check("problem")
def repeats(subject: Subject, record: Record) -> None:
    """Built twice it has the same parameters and data, whatever torch's generator says; with another seed others."""
    first = _problem(subject)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2468)
        second = _problem(subject)
    record.equal("where two of one seed differ", _other(first, second), "")
    if not subject.has_option("seed"):
        msg = 'built twice it is the same; it has no option "seed"'
        raise SkippedError(msg)
    record.true(_other(first, _problem(subject, seed=11)), "seeds 0 and 11 give the same model and data")


def _other(one: Problem, two: Problem) -> str:
    names = [e.name for e in one.parameters.entries]
    if names != [e.name for e in two.parameters.entries]:
        return "the parameters' names"
    for a, b in zip(one.parameters.entries, two.parameters.entries, strict=True):
        if not torch.equal(a.parameter, b.parameter):
            return f"the parameter {a.name}"
    data = [[t for batch in problem.batches for t in tensors(batch)] for problem in (one, two)]
    same = len(data[0]) == len(data[1]) and all(torch.equal(a, b) for a, b in zip(*data, strict=True))
    return "" if same else "the data"


@check("problem")
def is_differentiable(subject: Subject, record: Record) -> None:
    """A Hessian product passes the preflight checks, and leaves model and data as they were."""
    problem = _problem(subject)
    batches = list(problem.batches)
    op = HessianOperator(problem)
    v = directions(op.space, 1)
    before = snapshot(problem.model, batches)
    found = op.apply(v)
    moved = differences(before, snapshot(problem.model, batches))
    record.true(bool(found.isfinite().all()), "the product holds inf or NaN")
    record.true(not moved, f"not as it was: {', '.join(moved)}")
    record.note("|H v| / |v|", float(op.space.norms(found) / op.space.norms(v)))


CHECKS = (builds, is_read_again, repeats, is_differentiable)
