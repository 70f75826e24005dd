"""Rows one after the other and batched give the same; on a CPU they go one after the other."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, relative

from curvkit_core import GGNOperator, HessianOperator
from curvkit_core.linearize.reverse import ForwardGraph, ReverseLinearization
from curvkit_core.linearize.rows import RowPolicy

UNBATCHED = ["shared-convnet", "without-logits"]  # GroupNorm's double backward; a Python function's own backward


@pytest.mark.parametrize("name", [name for name in CASES if name not in UNBATCHED])
@pytest.mark.parametrize("width", [1, 2, 5])
def test_batched_rows_are_the_looped_ones(name: str, width: int) -> None:
    """jvp, vjp and hvp of five rows through every model family, whatever the width."""
    case = CASES[name]()
    problem = case.problem()
    V = problem.space.random("gaussian", 0, 0, 5)
    with problem.opened():
        piece = next(iter(problem.pieces()))
        found = {}
        for batched in (False, True):
            graph = ForwardGraph(problem, piece.batch)
            graph.rows = {kind: RowPolicy(batched=batched, width=width) for kind in graph.rows}
            with graph.opened():
                lin = ReverseLinearization(graph, problem.parameters)
                dy = lin.jvp(V)
                found[batched] = (*dy, lin.vjp(dy), lin.hvp(V))
    for looped, batched in zip(found[False], found[True], strict=True):
        assert relative(batched, looped) <= 1e-12
        assert relative(batched.flip(0), looped) > 1e-3


@pytest.mark.parametrize("name", UNBATCHED)
def test_what_cannot_be_batched_is_looped(name: str) -> None:
    """A second derivative that raises under vmap (torch 2.13): the measurement finds it and rows are looped."""
    problem = CASES[name]().problem()
    V = problem.space.random("gaussian", 0, 0, 3)
    with problem.opened():
        piece = next(iter(problem.pieces()))
        graph = ForwardGraph(problem, piece.batch)
        with graph.opened():
            slopes, leaves = list(graph.gradient().values()), list(graph.leaves.values())
            along = [torch.ones(3, *s.shape, dtype=s.dtype) for s in slopes]
            policy = RowPolicy()
            policy._measure(slopes, leaves, along)
            assert policy.batched is False
            assert len(policy.gradients(slopes, leaves, along)) == len(V)


@pytest.mark.parametrize("kind", [HessianOperator, GGNOperator])
def test_on_a_cpu_rows_go_one_after_the_other(kind: type) -> None:
    problem = CASES["tied-mlp"]().problem()
    op = kind(problem, cache="keep")
    op.apply(op.space.random("gaussian", 0, 0, 3))
    (kept,) = problem.history.kept_graphs.graphs.values()
    policies = [policy.batched for policy in kept.graph.rows.values()]
    assert True not in policies
    assert False in policies


def test_no_row_gives_no_row() -> None:
    op = GGNOperator(CASES["tied-mlp"]().problem())
    assert op.apply(torch.empty(0, op.n, dtype=op.dtype)).shape == (0, op.n)
