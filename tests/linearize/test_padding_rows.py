"""A padding row is a row: every strategy differentiates it, as the checks' differences do, and it stays the user's."""

from __future__ import annotations

import pytest
import torch
from cases import F64, relative
from torch import Tensor, nn

from curvkit_core import CrossEntropyLoss, GGNOperator, HessianOperator, Problem

TOKENS, TARGETS = torch.tensor([[0, 1, 2], [3, 0, 0]]), torch.tensor([4, 0])


class WithPadding(nn.Module):
    """Means of embeddings, the padding's own row among them, and a head tied to the table."""

    def __init__(self, padding_idx: int | None) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 3, padding_idx=padding_idx)
        with torch.no_grad():
            self.table.weight.normal_()  # training from other weights leaves no zeros there

    def forward(self, tokens: Tensor) -> Tensor:
        return logits(self.table.weight, self.table(tokens))


def logits(weight: Tensor, rows: Tensor) -> Tensor:
    return torch.tanh(rows).mean(1) @ weight.mT


def problem_with(padding_idx: int | None) -> Problem:
    torch.manual_seed(0)
    return Problem(WithPadding(padding_idx).to(F64), [(TOKENS, TARGETS)], CrossEntropyLoss())


@pytest.mark.parametrize("strategy", ["reverse", "lean"])
def test_the_gauss_newton_matrix_is_that_of_the_whole_table(strategy: str) -> None:
    """With the checks on; without the row, as torch's own gradient has it, it is another matrix."""
    problem = problem_with(0)
    table = problem.model.table.weight.detach()
    z = logits(table, table[TOKENS])
    p = torch.softmax(z, 1)
    H = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]

    def dense(held: bool) -> Tensor:
        def at(weight: Tensor) -> Tensor:
            rows = torch.cat([table[:1], weight[1:]]) if held else weight
            return logits(weight, rows[TOKENS])

        J = torch.func.jacrev(at)(table).reshape(2, 5, 15)
        return (J.mT @ H @ J).mean(0)

    found = GGNOperator(problem, strategy=strategy).to_dense()
    assert relative(found, dense(held=False)) <= 1e-13
    assert relative(found, dense(held=True)) > 1e-2


def test_the_hessian_is_that_of_a_table_without_padding() -> None:
    expected = HessianOperator(problem_with(None)).to_dense()
    assert relative(HessianOperator(problem_with(0)).to_dense(), expected) <= 1e-13


def test_the_users_table_keeps_its_padding_row() -> None:
    """After a product, and after one that raises."""
    problem = problem_with(0)
    v = torch.ones(15, dtype=F64)
    GGNOperator(problem, strategy="lean") @ v
    assert problem.model.table.padding_idx == 0
    broken = Problem(problem.model, [(TOKENS + 4, TARGETS)], CrossEntropyLoss())
    with pytest.raises(IndexError):
        GGNOperator(broken) @ v
    assert problem.model.table.padding_idx == 0
