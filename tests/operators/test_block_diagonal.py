"""Block-diagonal operators: the blocks of the whole's dense matrix, and zero between them."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, F64, dense_truth, relative, tied_mlp
from torch import Tensor

from curvkit_core import EmpiricalFisherOperator, GGNOperator, HessianOperator, Problem
from curvkit_core.operators import BlockDiagonalOperator, FisherOperator, LambdaOperator, block_diagonal

TOLERANCE = 1e4 * torch.finfo(F64).eps  # as in test_dense_match
GROUPS = {
    "tied-mlp": [["last", "first.weight"], "middle", "norm"],
    "regression-mlp": ["last", "first", "again.bias"],
    "shared-convnet": ["head", ["lift", "conv"]],
    "tiny-transformer": ["qkv", ["embed", "norm.bias"], "mix"],
}


def dense_blocks(problem: Problem, matrix: Tensor, groups: list[object]) -> Tensor:
    """The whole's matrix with everything between groups struck out, over the groups' parameters in its order."""
    owner = torch.full((problem.parameters.n,), -1)
    for number, group in enumerate(groups):
        for entry in problem.restrict(group).parameters:
            for whole in problem.parameters:
                if whole.parameter is entry.parameter:
                    owner[whole.place] = number
    kept = (owner >= 0).nonzero()[:, 0]
    same = owner[kept][:, None] == owner[kept]
    return torch.where(same, matrix[kept][:, kept], 0.0)


@pytest.mark.parametrize("name", list(GROUPS))
@pytest.mark.parametrize("kind", ["hessian", "ggn", "empirical-fisher"])
def test_products_match_the_dense_blocks(name: str, kind: str) -> None:
    """Groups out of the parameters' order, several parameters in one, some in none; coupling left in is told apart."""
    case = CASES[name]()
    problem = case.problem((len(case.inputs) - 2, 2))
    whole = getattr(dense_truth(case), kind.replace("-", "_"))
    expected = dense_blocks(problem, whole, GROUPS[name])
    operator = block_diagonal(problem, GROUPS[name], kind=kind)
    assert operator.symmetric
    assert relative(operator.to_dense(), expected) <= TOLERANCE
    selected = [p for group in GROUPS[name] for p in ([group] if isinstance(group, str) else group)]
    coupled = {"hessian": HessianOperator, "ggn": GGNOperator, "empirical-fisher": EmpiricalFisherOperator}[kind](
        problem.restrict(selected)
    )
    assert relative(coupled.to_dense(), expected) > 1e3 * TOLERANCE
    assert operator.problem.parameters.names == coupled.problem.parameters.names
    v = torch.randn(operator.n, dtype=F64)
    assert relative(operator @ v, expected @ v) <= TOLERANCE


def test_blocks_share_the_problems_data_and_history_and_may_be_of_any_kind() -> None:
    """Operators with options of their own, blocks put together by hand."""
    case = tied_mlp()
    problem = case.problem()
    operator = block_diagonal(problem, ["first", "last"], kind=lambda p: FisherOperator(p, num_samples=3, seed=5))
    assert all(block.problem.history is problem.history for block in operator.blocks)
    dense = FisherOperator(problem, num_samples=3, seed=5).to_dense()
    assert relative(operator.to_dense(), dense_blocks(problem, dense, ["first", "last"])) <= TOLERANCE
    mixed = BlockDiagonalOperator(
        problem.restrict(["first", "last"]),
        [GGNOperator(problem.restrict("last")), HessianOperator(problem.restrict("first"))],
    )
    truth = dense_truth(case)
    first, last = (dense_blocks(problem, m, [g]) for m, g in ((truth.hessian, "first"), (truth.ggn, "last")))
    assert relative(mixed.to_dense(), torch.block_diag(first, last)) <= TOLERANCE


def test_only_the_problems_own_parameters_are_taken() -> None:
    """A group's glob may reach further than the problem's selection: what is frozen or not selected stays out."""
    problem = tied_mlp().problem(params=["first.weight", "last"])
    operator = block_diagonal(problem, ["first", "last.bias"])
    assert operator.problem.parameters.names == ("first.weight", "last.bias")


def test_blocks_that_do_not_fit_are_named() -> None:
    problem = tied_mlp().problem()
    with pytest.raises(ValueError, match=r"'last.weight' is in blocks 0 and 1: expected disjoint blocks"):
        block_diagonal(problem, ["last", "last.weight"])
    with pytest.raises(ValueError, match=r"'first.bias' is in no block \(1 such parameters\)"):
        BlockDiagonalOperator(problem.restrict("first"), [GGNOperator(problem.restrict("first.weight"))])
    with pytest.raises(ValueError, match=r"block 0 holds 'last.weight', which is no parameter of"):
        BlockDiagonalOperator(problem.restrict("first"), [GGNOperator(problem.restrict("last"))])
    with pytest.raises(ValueError, match="block 0, LambdaOperator.* is not laid out over a problem's parameters"):
        BlockDiagonalOperator(problem, [LambdaOperator(lambda v: v, 3)])
    with pytest.raises(ValueError, match="selects none of the model's .* parameters. Near names: last.weight"):
        block_diagonal(problem, ["lastt"])
    with pytest.raises(ValueError, match="kind='kfac' is unknown: expected one of 'hessian', 'ggn'"):
        block_diagonal(problem, ["last"], kind="kfac")
    with pytest.raises(TypeError, match=r"groups='last' is one string: expected a list of groups, \['last'"):
        block_diagonal(problem, "last")
    with pytest.raises(ValueError, match="groups is empty"):
        block_diagonal(problem, [])
