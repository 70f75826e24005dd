"""Batches of every make are moved and cut; what can be read only once is refused."""

from __future__ import annotations

import collections
import dataclasses
from collections import UserDict
from typing import Any, NamedTuple

import attrs
import pytest
import torch
from torch import Tensor

from curvkit_core.losses.batch_tree import map_tensors, tensors
from curvkit_core.problem.batches import check_reiterable, leading_size, microbatches, moved


class Named(NamedTuple):
    x: Tensor
    y: Tensor


@attrs.frozen
class Attrs:
    x: Tensor
    note: str = "kept"


@dataclasses.dataclass(frozen=True)
class Data:
    x: Tensor
    inner: dict[str, Tensor]


X, Y = torch.arange(10.0).view(5, 2), torch.arange(5)
MAKES: dict[str, Any] = {
    "tuple": (X, Y),
    "list": [X, {"y": Y}],
    "named tuple": Named(X, Y),
    "dict": {"x": X, "deep": [Y, (X,)], "text": "kept"},
    "UserDict": UserDict(x=X, y=Y),
    "OrderedDict": collections.OrderedDict(x=X, y=Y),
    "attrs": Attrs(X),
    "dataclass": Data(X, {"y": Y}),
}


@pytest.mark.parametrize("make", list(MAKES))
def test_batches_keep_their_make(make: str) -> None:
    """Every tensor is mapped, everything else and the class are kept, and the user's batch is not changed."""
    batch = MAKES[make]
    before = [t.clone() for t in tensors(batch)]
    doubled = map_tensors(lambda t: 2 * t, batch)
    assert type(doubled) is type(batch)
    assert [torch.equal(2 * a, b) for a, b in zip(tensors(batch), tensors(doubled), strict=True)] == [True] * len(
        before
    )
    assert all(torch.equal(a, b) for a, b in zip(before, tensors(batch), strict=True))
    assert len(before) >= 1
    assert leading_size(moved(batch, torch.device("cpu"))) == 5


@pytest.mark.parametrize("make", list(MAKES))
def test_microbatches_cover_the_batch(make: str) -> None:
    pieces = list(microbatches(MAKES[make], 2))
    assert [leading_size(piece) for piece in pieces] == [2, 2, 1]
    for whole, *parts in zip(tensors(MAKES[make]), *map(tensors, pieces), strict=True):
        assert torch.equal(whole, torch.cat(parts))


def test_tensors_of_another_leading_size_go_along_whole() -> None:
    pieces = list(microbatches({"x": X, "positions": torch.arange(3), "scale": torch.tensor(2.0)}, 4))
    assert [piece["positions"].tolist() for piece in pieces] == [[0, 1, 2]] * 2
    assert [float(piece["scale"]) for piece in pieces] == [2.0] * 2


def test_what_can_be_read_once_is_refused_with_the_mend() -> None:
    """X7: a generator serves one product."""
    with pytest.raises(TypeError, match=r"one-shot iterator \(generator\).* Pass list\(batches\)"):
        check_reiterable(batch for batch in [X])
    with pytest.raises(TypeError, match=r"one-shot iterator \(zip\)"):
        check_reiterable(zip([X], [Y], strict=True))
    with pytest.raises(TypeError, match=r"batches is a Tensor: expected an iterable of batches.* \[batch\]"):
        check_reiterable(X)
    with pytest.raises(TypeError, match="batches=3 is no iterable"):
        check_reiterable(3)
    assert check_reiterable([X]) == [X]


def test_inference_tensors_are_refused_with_the_mend() -> None:
    with torch.inference_mode():
        batch = torch.ones(2)
    with pytest.raises(ValueError, match="made under torch.inference_mode"):
        moved((batch,), torch.device("cpu"))


def test_a_batch_without_rows_cannot_be_counted() -> None:
    with pytest.raises(ValueError, match="no tensor with a leading axis"):
        leading_size({"a": torch.tensor(1.0)})
