"""Defects seen in other tools, in how data are weighed and read: X1-X8.

Each test states our law and shows the same check failing on a variant with the defect. Over the folder X1-X46 are
covered, but for those that wait for their area: X29 (power iteration with momentum), LOBPCG in X37, X36's stopping rule
(the algorithms), X39-X41 (Triton kernels), X42 (many ranks), and what is about language models alone.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import attrs
import pytest
import torch
from cases import F64, TiedMLP, relative
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from curvkit_core import CrossEntropyLoss, EmpiricalFisherOperator, GGNOperator, HessianOperator, Problem
from curvkit_core.checks import PreflightError
from curvkit_core.losses.batch_tree import map_tensors, tensors
from curvkit_core.problem.batches import microbatches, moved

KINDS = [HessianOperator, GGNOperator, EmpiricalFisherOperator]
SAME = 1e-12  # sums of 49 terms in float64
OTHER = 1e-2  # what the defects change is of order 1
each_kind = pytest.mark.parametrize("kind", KINDS)


def data(examples: int = 49, ignored: int = 0) -> tuple[TiedMLP, Tensor, Tensor]:
    """A small classifier and its data, the first targets ignored."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TiedMLP().to(F64)
        inputs, targets = torch.randn(examples, 4, dtype=F64), torch.randint(0, 3, (examples,))
    targets[:ignored] = -100
    return model, inputs, targets


def cut(inputs: Tensor, targets: Tensor, *sizes: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(inputs.split(sizes), targets.split(sizes), strict=True))


def product(kind: Any, model: TiedMLP, batches: Any, **options: Any) -> Tensor:
    op = kind(Problem(model, batches, CrossEntropyLoss(), **options))
    return op @ op.space.random("gaussian", 0, 0, 1)[0]


def mean_of_batches(kind: Any, model: TiedMLP, batches: list[Any], weights: list[float] | None = None) -> Tensor:
    """The defect: batch means averaged, equally or by weights of another kind than the units'."""
    weights = weights or [1.0] * len(batches)
    parts = [w * product(kind, model, [batch]) for w, batch in zip(weights, batches, strict=True)]
    return sum(parts[1:], parts[0]) / sum(weights)


@each_kind
def test_x01_ragged_batches_are_not_averaged_equally(kind: Any) -> None:
    """Batches are averaged equally; 49 examples as 32/16/1 are the same operator as one batch."""
    model, inputs, targets = data()
    whole = product(kind, model, cut(inputs, targets, 49))
    batches = cut(inputs, targets, 32, 16, 1)
    assert relative(product(kind, model, batches), whole) <= SAME
    assert relative(mean_of_batches(kind, model, batches), whole) > OTHER


@each_kind
def test_x02_ragged_microbatches_are_not_averaged_equally(kind: Any) -> None:
    """The same with microbatches; 48 + 1 is the same operator as 49."""
    model, inputs, targets = data()
    batch = (inputs, targets)
    whole = product(kind, model, [batch])
    for size in (48, 20, 1):
        assert relative(product(kind, model, [batch], microbatch_size=size), whole) <= SAME
    assert relative(mean_of_batches(kind, model, list(microbatches(batch, 48))), whole) > OTHER


@each_kind
def test_x03_batches_are_weighed_by_targets_that_count(kind: Any) -> None:
    """Token means averaged, or weighed by examples: wherever ignored labels lie, the operator is the same."""
    model, inputs, targets = data(ignored=30)
    whole = product(kind, model, [(inputs, targets)])
    spread = torch.randperm(49, generator=torch.Generator().manual_seed(0))
    for order in (torch.arange(49), spread):
        assert relative(product(kind, model, cut(inputs[order], targets[order], 32, 17)), whole) <= SAME
    batches = cut(inputs, targets, 32, 17)
    assert relative(mean_of_batches(kind, model, batches), whole) > OTHER
    assert relative(mean_of_batches(kind, model, batches, [32.0, 17.0]), whole) > OTHER


@each_kind
def test_x04_data_given_twice_is_the_same_operator(kind: Any) -> None:
    """Batches summed without 1/N, or batch means summed, double with the data; an average does not."""
    model, inputs, targets = data(20)
    batches = cut(inputs, targets, 12, 8)
    once = product(kind, model, batches)
    assert relative(product(kind, model, batches * 2), once) <= SAME

    def summed(batches: list[Any]) -> Tensor:
        return mean_of_batches(kind, model, batches) * len(batches)

    assert relative(summed(batches * 2), summed(batches)) > OTHER


def test_x05_a_shuffled_part_of_the_data_is_refused() -> None:
    """num_batches with a shuffling loader is a new matrix at each product: refused by the loader's name."""
    model, inputs, targets = data(20)

    def loader(shuffle: bool) -> DataLoader:
        generator = torch.Generator().manual_seed(0)
        return DataLoader(TensorDataset(inputs, targets), batch_size=5, shuffle=shuffle, generator=generator)

    def products(batches: Any, preflight: str) -> tuple[Tensor, Tensor]:
        op = GGNOperator(Problem(model, batches, CrossEntropyLoss(), num_batches=1, preflight=preflight))
        v = op.space.random("gaussian", 0, 0, 1)[0]
        return op @ v, op @ v

    with pytest.raises(PreflightError, match="DataLoader"):
        products(loader(shuffle=True), "error")
    first, second = products(loader(shuffle=False), "error")
    assert torch.equal(first, second)
    first, second = products(loader(shuffle=True), "off")
    assert relative(second, first) > OTHER


class ReadOnAndOn:
    """The defect: a part of the data that goes on where the last reader stopped."""

    def __init__(self, batches: list[Any], part: int) -> None:
        self.batches, self.part, self.start = batches, part, 0

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.part):
            yield self.batches[self.start % len(self.batches)]
            self.start += 1


def test_x06_a_part_of_the_data_is_the_same_for_all() -> None:
    """GGN and Fisher keep the first batch, the Hessian takes the next: here all take the first ones, always."""
    model, inputs, targets = data(21)
    batches = cut(inputs, targets, 8, 7, 6)

    def agrees(batches: Any, **options: Any) -> bool:
        """Whether each operator's products, one after the other, are those over the first two batches."""
        found = [product(kind, model, batches, **options) for kind in KINDS for _ in range(2)]
        expected = [product(kind, model, cut(inputs[:15], targets[:15], 8, 7)) for kind in KINDS for _ in range(2)]
        return all(relative(f, e) <= SAME for f, e in zip(found, expected, strict=True))

    assert agrees(batches, num_batches=2)
    assert not agrees(ReadOnAndOn(batches, 2), preflight="off")


def test_x07_a_generator_is_refused_with_the_mend() -> None:
    """A generator as data serves one product and then raises: refused on construction."""
    model, inputs, targets = data(8)
    with pytest.raises(TypeError, match=r"batches is a one-shot iterator \(generator\).* Pass list\(batches\)"):
        Problem(model, (batch for batch in cut(inputs, targets, 4, 4)), CrossEntropyLoss())

    class Hidden:
        """The defect: a one-shot iterator that does not look like one."""

        def __init__(self) -> None:
            self.once = iter(cut(inputs, targets, 4, 4))

        def __iter__(self) -> Iterator[Any]:
            return self.once

    op = GGNOperator(Problem(model, Hidden(), CrossEntropyLoss(), preflight="off"))
    v = op.space.random("gaussian", 0, 0, 1)[0]
    op @ v
    with pytest.raises(ValueError, match="gave no batches"):
        op @ v


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


@attrs.frozen
class AttrsBatch:
    x: Tensor
    y: Tensor


@dataclasses.dataclass
class DataBatch:
    x: Tensor
    y: Tensor


class BatchEncoding(collections.UserDict):
    """As a tokenizer's."""


class Scaled(torch.nn.Module):
    """Takes its input by position or by name."""

    def __init__(self) -> None:
        super().__init__()
        self.body = data()[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


MAKES: list[Callable[[Tensor, Tensor], Any]] = [
    lambda x, y: (x, y),
    lambda x, y: [x, y],
    Pair,
    lambda x, y: {"x": x, "y": y},
    lambda x, y: collections.OrderedDict(x=x, y=y),
    lambda x, y: BatchEncoding(x=x, labels=y),
    AttrsBatch,
    DataBatch,
]


def moved_and_split(
    batch: Any, move: Callable[[Any, torch.device], Any], split: Callable[[Any, int], Iterator[Any]]
) -> bool:
    """Whether the batch keeps its type, all its tensors go to the device, and microbatches hold its rows."""
    try:
        there = move(batch, torch.device("meta"))
        pieces = list(split(batch, 3))
    except TypeError:
        return False
    return (
        type(there) is type(batch)
        and all(t.device.type == "meta" for t in tensors(there))
        and len(list(tensors(there))) == 2
        and [len(next(tensors(piece))) for piece in pieces] == [3, 3, 1]
        and all(type(piece) is type(batch) for piece in pieces)
    )


def naive(fn: Callable[[Tensor], Tensor], batch: Any) -> Any:
    """The defect: tuples are built from a generator, and only true dictionaries are mappings."""
    if isinstance(batch, Tensor):
        return fn(batch)
    if isinstance(batch, tuple | list):
        return type(batch)(naive(fn, item) for item in batch)
    if isinstance(batch, dict):
        return {key: naive(fn, value) for key, value in batch.items()}
    return batch


@pytest.mark.parametrize("make", MAKES)
def test_x08_every_make_of_batch_is_moved_and_split(make: Callable[[Tensor, Tensor], Any]) -> None:
    """A named tuple raises, a UserDict stays where it is and whole: every make is moved, split and multiplied."""
    _, inputs, targets = data(7)
    batch = make(inputs, targets)
    assert moved_and_split(batch, moved, microbatches)
    assert map_tensors(lambda t: t, {"nested": [batch]})["nested"][0] is not None
    model = Scaled()
    expected = product(GGNOperator, model, [(inputs, targets)])
    assert relative(product(GGNOperator, model, [batch], microbatch_size=3), expected) <= SAME


def test_x08_sees_makes_that_are_left_out() -> None:
    """The naive walk fails on the named tuple, the mappings that are no dict, and the classes."""
    _, inputs, targets = data(7)

    def split(batch: Any, size: int) -> Iterator[Any]:
        return (naive(lambda t, low=low: t[low : low + size], batch) for low in range(0, 7, size))

    def move(batch: Any, device: torch.device) -> Any:
        return naive(lambda t: t.to(device), batch)

    fine = [moved_and_split(make(inputs, targets), move, split) for make in MAKES]
    assert fine == [True, True, False, True, False, False, False, False]
