"""Tables are functions: padding, sparse gradients, frequencies and norms change no derivative, and stay the user's."""

from __future__ import annotations

import pytest
import torch
from cases import F64, relative
from torch import Tensor, nn
from torch.nn import functional

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


class Mixed(nn.Module):
    """A table, the one that a `lookup` is given, with a layer behind it."""

    def __init__(self, table: nn.Module, *, bag: bool = False) -> None:
        super().__init__()
        self.table, self.last, self.bag = table, nn.Linear(3, 2), bag
        with torch.no_grad():
            table.weight.normal_().mul_(0.2)  # below any max_norm here

    def forward(self, tokens: Tensor) -> Tensor:
        rows = self.table(tokens)
        return self.last(torch.tanh(rows if self.bag else rows.sum(1)))


class Counting(nn.Embedding):
    """Reads its padding_idx for more than its gradient, as fairseq's positions do; looks up by torch's function."""

    def forward(self, tokens: Tensor) -> Tensor:
        numbers = tokens.ne(self.padding_idx).cumsum(1)
        return functional.embedding(tokens, self.weight, self.padding_idx, sparse=self.sparse) * numbers[..., None]


OPTIONS = {"padding_idx": 0, "sparse": True, "scale_grad_by_freq": True, "max_norm": 2.0}


def mixed_problem(kind: type, **options: object) -> Problem:
    torch.manual_seed(0)
    model = Mixed(kind(5, 3, **options), bag=issubclass(kind, nn.EmbeddingBag)).to(F64)
    return Problem(model, [(TOKENS, torch.tensor([1, 0]))], CrossEntropyLoss())


TABLES = [(kind, option) for kind in (nn.Embedding, nn.EmbeddingBag) for option in OPTIONS]
TABLES.remove((nn.EmbeddingBag, "padding_idx"))  # part of a bag's value


@pytest.mark.parametrize("strategy", ["reverse", "lean"])
@pytest.mark.parametrize("operator", [GGNOperator, HessianOperator])
@pytest.mark.parametrize(("kind", "option"), TABLES)
def test_no_option_of_training_changes_a_product(kind: type, option: str, operator: type, strategy: str) -> None:
    """The products are those of the table without the option, with the checks on."""
    problem = mixed_problem(kind, **{option: OPTIONS[option]})
    table = problem.model.table
    before = table.weight.detach().clone()
    expected = operator(mixed_problem(kind)).to_dense()
    assert relative(operator(problem, strategy=strategy).to_dense(), expected) <= 1e-13
    assert getattr(table, option) == OPTIONS[option]
    assert torch.equal(table.weight, before)


@pytest.mark.parametrize("operator", [GGNOperator, HessianOperator])
def test_the_padding_of_a_bag_is_part_of_its_value(operator: type) -> None:
    bag, plain = mixed_problem(nn.EmbeddingBag, padding_idx=0), mixed_problem(nn.EmbeddingBag)
    assert relative(operator(bag).to_dense(), operator(plain).to_dense()) > 1e-2
    assert bag.model.table.padding_idx == 0


@pytest.mark.parametrize("strategy", ["reverse", "lean"])
def test_a_forward_that_reads_its_padding_keeps_it(strategy: str) -> None:
    """Against the same lookups with no option, the numbers before them counted beforehand."""
    problem = mixed_problem(Counting, padding_idx=0, sparse=True)
    model = problem.model

    def hessian(flat: Tensor) -> Tensor:
        table, weight, bias = flat[:15].view(5, 3), flat[15:21].view(2, 3), flat[21:]
        rows = table[TOKENS] * TOKENS.ne(0).cumsum(1)[..., None]
        return functional.cross_entropy(torch.tanh(rows.sum(1)) @ weight.mT + bias, torch.tensor([1, 0]))

    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    expected = torch.func.hessian(hessian)(flat)
    assert relative(HessianOperator(problem, strategy=strategy).to_dense(), expected) <= 1e-13
    assert relative(GGNOperator(problem, strategy=strategy).to_dense(), expected) > 1e-2
    GGNOperator(problem, strategy=strategy).to_dense()  # with the checks on: J v and J^T u are transposes
    assert (model.table.padding_idx, model.table.sparse) == (0, True)


def test_a_row_that_has_still_to_be_shortened_is_told() -> None:
    """Its forward writes into the table; nothing is written on the way to the error."""
    problem = mixed_problem(nn.Embedding, max_norm=0.1)
    before = problem.model.table.weight.detach().clone()
    with pytest.raises(ValueError, match=r"a row of an Embedding has norm 0\.\d+, .*max_norm=0.1 .*renorm_\(2, 0, 0.1"):
        GGNOperator(problem) @ torch.ones(problem.parameters.n, dtype=F64)
    assert torch.equal(problem.model.table.weight, before)
    assert problem.model.table.max_norm == 0.1
    problem.model.table.weight.data.renorm_(2, 0, 0.1)
    assert (GGNOperator(problem) @ torch.ones(problem.parameters.n, dtype=F64)).isfinite().all()
