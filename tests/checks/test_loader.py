"""X5: a loader that draws other data at each pass is refused by name; one that only shuffles is the same operator."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import F64, relative, tied_mlp
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from curvkit_core import CallableLoss, CrossEntropyLoss, GGNOperator, HessianOperator, MSELoss, Problem
from curvkit_core.backends import SingleBackend, World
from curvkit_core.checks import PreflightError
from curvkit_core.checks.data_contents import Contents, Digest
from curvkit_core.problem.problem import Piece


def contents(batches: list[Any], units: float = 1.0) -> Contents:
    digest = Digest()
    for number, batch in enumerate(batches):
        digest.add(Piece(batch=batch, number=number, part=0, weight=1.0, count=1.0))
    return digest.contents(units)


def two_products(problem: Problem, kind: Any = GGNOperator) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)  # what the loaders shuffle with
    operator = kind(problem)
    v = torch.linspace(-1.0, 1.0, operator.n, dtype=operator.dtype)
    first = operator @ v
    torch.rand(1)  # a pass leaves the generator as it was: without this a loader would shuffle alike
    return first, operator @ v


def shuffling(**options: Any) -> DataLoader:
    case = tied_mlp()
    return DataLoader(TensorDataset(case.inputs, case.targets), batch_size=4, shuffle=True, **options)


def problem_over(batches: Any, **options: Any) -> Problem:
    case = tied_mlp()
    return Problem(case.model, batches, case.loss, **options)


@pytest.mark.parametrize("kind", [HessianOperator, GGNOperator])
@pytest.mark.parametrize("microbatch_size", [None, 3])
def test_a_loader_that_shuffles_all_its_data_passes(kind: Any, microbatch_size: int | None) -> None:
    """Units weigh alike, so the operator is the same to rounding, though no batch comes twice."""
    problem = problem_over(shuffling(), microbatch_size=microbatch_size)
    first, second = two_products(problem, kind)
    assert 0.0 < relative(second, first) <= 1e-12
    assert problem.history.findings == []


@pytest.mark.parametrize(
    ("loader", "options", "names"),
    [
        (
            shuffling(),
            {"num_batches": 2},
            r"sampler RandomSampler, 4 batches, num_batches=2\).*\(8 rows, then 8;.*islice",
        ),
        (
            shuffling(drop_last=True),
            {},
            r"sampler RandomSampler, 3 batches\) gave other examples .*\(12 rows, then 12;",
        ),
        (shuffling(), {"weighting": "batch-mean"}, r"gave other batches when it was read again"),
        (shuffling(drop_last=True), {"mode": "train"}, r"gave other batches when it was read again"),
    ],
    ids=["num-batches", "drop-last", "batch-mean", "batch-statistics"],
)
def test_a_loader_whose_operator_changes_is_refused(loader: Any, options: dict[str, Any], names: str) -> None:
    """A subset drawn anew; and shuffling, where it matters who shares a batch."""
    with pytest.raises(PreflightError, match=r"\[loader-changed\] DataLoader\(dataset TensorDataset, .*" + names):
        two_products(problem_over(loader, **options))
    options["preflight"] = "off"
    first, second = two_products(problem_over(loader, **options))
    assert relative(second, first) > 1e-3


def test_a_changed_subset_is_refused_before_the_first_number() -> None:
    """The generator is as it was after every pass: the second reading starts from another state of it."""
    problem = problem_over(shuffling(), num_batches=2)
    operator = GGNOperator(problem)
    state = torch.get_rng_state()
    with pytest.raises(PreflightError, match="loader-changed"):
        operator @ torch.ones(operator.n, dtype=operator.dtype)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_loader_with_a_generator_of_its_own_is_refused_at_the_second_product() -> None:
    """NumPy's and Python's generators are no business of a pass: what they change shows from pass to pass."""
    problem = problem_over(shuffling(generator=torch.Generator().manual_seed(0)), num_batches=2)
    with pytest.raises(PreflightError, match="loader-changed"):
        two_products(problem)


def test_num_batches_without_shuffling_passes() -> None:
    case = tied_mlp()
    problem = problem_over(DataLoader(TensorDataset(case.inputs, case.targets), batch_size=4), num_batches=2)
    first, second = two_products(problem)
    assert torch.equal(first, second)
    assert problem.num_units < 8  # of 13 examples; ignored targets do not count


class Augmented(Dataset):
    """Flips the sign of some inputs at random."""

    def __len__(self) -> int:
        return 13

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        case = tied_mlp()
        torch.manual_seed(torch.seed() % 2**31)  # the case has reset the generator
        signs = torch.randint(0, 2, (4,)).to(F64) * 2 - 1
        return case.inputs[i] * signs, case.targets[i]


def test_augmentation_is_refused() -> None:
    with pytest.raises(PreflightError, match=r"\[loader-changed\] DataLoader\(dataset Augmented, .*augmentation"):
        two_products(problem_over(DataLoader(Augmented(), batch_size=4)))


def test_data_changed_on_purpose_ask_for_a_new_problem() -> None:
    case = tied_mlp()
    batches = case.batches((8, 5))
    problem = Problem(case.model, batches, case.loss)
    two_products(problem)
    batches[0] = (batches[0][0] + 1.0, batches[0][1])
    two_products(problem)  # two passes were compared, and nothing is hashed any more
    fresh = Problem(case.model, batches, case.loss)
    operator = GGNOperator(fresh)
    v = torch.ones(operator.n, dtype=F64)
    operator @ v
    batches[0] = (batches[0][0] + 1.0, batches[0][1])
    with pytest.raises(PreflightError, match=r"\[loader-changed\] list\(2 batches\) .*make a new Problem"):
        operator @ v


def test_padding_to_the_longest_cannot_be_told() -> None:
    """The same sequences, shuffled: padded to other lengths, their bytes differ and the operator does not."""
    torch.manual_seed(3)
    sequences = [torch.randint(1, 5, (length,)) for length in (2, 3, 5, 4, 3, 2)]

    def collate(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return padded, torch.where(padded == 0, -100, padded - 1)

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(5, 4)

        def forward(self, tokens: Tensor) -> Tensor:
            return (torch.tanh(self.embed(tokens)) @ self.embed.weight.T).movedim(-1, 1)

    def problem(**options: Any) -> Problem:
        loader = DataLoader(sequences, batch_size=2, shuffle=True, collate_fn=collate)
        return Problem(Tagger().double(), loader, CrossEntropyLoss(), **options)

    whole = problem()
    first, second = two_products(whole)
    assert relative(second, first) <= 1e-12
    (finding,) = whole.history.findings
    assert finding.startswith("[loader-changed: inconclusive] DataLoader(dataset list, ")
    with pytest.raises(PreflightError, match=r"\[loader-changed\] .*num_batches=1"):  # other numbers of targets
        two_products(problem(num_batches=1))


def test_many_ranks_are_not_compared_one_by_one() -> None:
    """A rank may get another part of the same data: it is only noted."""

    problem = problem_over(shuffling(drop_last=True), backend=SingleBackend(world=World(rank=0, size=2)))
    two_products(problem)
    (finding,) = problem.history.findings
    assert "on this rank" in finding


def test_bytes_that_cannot_be_read_are_said() -> None:
    """Sparse inputs: the passes are not compared."""
    x = torch.eye(4, dtype=F64).to_sparse()
    problem = Problem(nn.Linear(4, 1).double(), [(x, torch.ones(4, 1, dtype=F64))], MSELoss())
    two_products(problem, lambda p: HessianOperator(p, cache="rebuild"))
    assert problem.history.findings[0].startswith("[loader-changed: inconclusive] the batches' bytes cannot be read")


def test_the_digest_knows_order_from_contents() -> None:
    """Rows in another order and other batches have one sum; a changed row, target, or pairing of both has not."""
    case = tied_mlp()
    x, t = case.inputs, case.targets
    one = contents(case.batches((8, 5)))
    order = torch.randperm(13)
    two = contents(list(zip(x[order].split([6, 7]), t[order].split([6, 7]), strict=True)))
    assert one.all_rows == two.all_rows
    assert one.batches != two.batches
    assert one.by_row
    assert one.all_rows != contents([(x, t.roll(1))]).all_rows
    assert one.all_rows != contents([(t, x)]).all_rows
    nudged = x.clone()
    nudged[3, 2] = nudged[3, 2] * (1 + 2.0**-52)
    assert one.all_rows != contents([(nudged, t)]).all_rows


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.bfloat16, torch.int8, torch.bool])
@pytest.mark.parametrize("shape", [(6,), (6, 3), (6, 2, 5)])
def test_flipped_high_bits_do_not_cancel(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Two signs changed, or all of them: in weighted sums of words modulo 2^64 with odd weights they would cancel."""
    torch.manual_seed(5)
    x = torch.randn(shape, dtype=F64).mul(3).to(dtype)
    x[0].fill_(1)
    x[3].fill_(1)
    flipped = x.clone()
    for row in (0, 3):
        flipped[row] = ~x[row] if dtype == torch.bool else -x[row]
    assert contents([flipped]).all_rows != contents([x]).all_rows
    assert contents([x.clone()]).all_rows == contents([x]).all_rows
    whole = ~x if dtype == torch.bool else -x
    assert contents([whole]).all_rows != contents([x]).all_rows


def test_batches_without_rows_are_hashed_whole() -> None:
    """A scalar, or a tensor with another leading size, makes rows incomparable; equal batches are still equal."""
    x = torch.randn(4, 2)
    for batch in ({"x": x, "scale": torch.tensor(2.0)}, {"x": x, "edges": torch.zeros(2, 7)}, {"note": "none"}):
        assert not contents([batch]).by_row
        assert contents([batch]) == contents([batch])
    assert contents([{"x": x, "s": torch.tensor(2.0)}]) != contents([{"x": x, "s": torch.tensor(3.0)}])


def test_a_callable_loss_over_shuffled_data_passes() -> None:
    loss = CallableLoss(lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1].clamp(min=0)))
    problem = Problem(tied_mlp().model, shuffling(), loss)
    first, second = two_products(problem, HessianOperator)
    assert 0.0 < relative(second, first) <= 1e-12
