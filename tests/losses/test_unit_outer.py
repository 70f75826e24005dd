"""Closed forms of the units' outer products in the outputs, against autograd on the unit losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import F64, relative
from torch import Tensor

from curvkit_core import CrossEntropyLoss
from curvkit_core.losses.unit_gradients import outer_by_autograd

WEIGHT = torch.tensor([0.5, 2.0, 0.0, 1.5, 1.0], dtype=F64)
OPTIONS = [{}, {"label_smoothing": 0.1}, {"weight": WEIGHT}, {"weight": WEIGHT, "label_smoothing": 0.2}]
SHAPES = [(6, 5), (4, 5, 3), (2, 5, 3, 2)]


def drawn(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, targets of which some are ignored, and three directions."""
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, dtype=F64, generator=g)
    targets = torch.randint(5, (shape[0], *shape[2:]), generator=g)
    targets.view(-1)[::4] = -100
    return logits, targets, torch.randn((3, *shape), dtype=F64, generator=g)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "+".join(o) or "plain")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_data_targets_agree_with_autograd(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    """Sum of r <r, dy> over the units, for one direction and several: to rounding, and a wrong mass is told apart."""
    loss = CrossEntropyLoss(**options)
    logits, targets, dy = drawn(shape)
    batch = (logits, targets)
    (found,) = loss.unit_outer((logits,), batch, (dy,))
    (expected,) = outer_by_autograd(lambda y: loss.unit_losses(y, batch), (logits,), (dy,))
    assert relative(found, expected) <= 1e-14
    (single,) = loss.unit_outer((logits,), batch, (dy[1],))
    assert torch.equal(single, found[1])
    other = CrossEntropyLoss(**{"label_smoothing": 0.3} | {k: v for k, v in options.items() if k == "weight"})
    assert relative(other.unit_outer((logits,), batch, (dy,))[0], expected) > 1e-3


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "+".join(o) or "plain")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_drawn_targets_agree_with_autograd(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    """The same at targets as sample_targets gives them."""
    loss = CrossEntropyLoss(**options)
    logits, targets, dy = drawn(shape, seed=1)
    batch = (logits, targets)
    classes = torch.arange(int((targets != -100).sum())) % 5
    (found,) = loss.unit_outer((logits,), batch, (dy,), classes)
    (expected,) = outer_by_autograd(lambda y: loss.sampled_losses(y, batch, classes), (logits,), (dy,))
    assert relative(found, expected) <= 1e-14
    assert relative(loss.unit_outer((logits,), batch, (dy,), classes.flip(0))[0], expected) > 1e-3


def test_probabilities_as_targets_agree_with_autograd() -> None:
    loss = CrossEntropyLoss(label_smoothing=0.1, weight=WEIGHT)
    logits, _, dy = drawn((6, 5))
    batch = (logits, logits.flip(0).softmax(1))
    (found,) = loss.unit_outer((logits,), batch, (dy,))
    (expected,) = outer_by_autograd(lambda y: loss.unit_losses(y, batch), (logits,), (dy,))
    assert relative(found, expected) <= 1e-14


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "+".join(o) or "plain")
def test_poison_in_ignored_rows_changes_nothing(options: dict[str, Any]) -> None:
    """X23: inf and NaN in an ignored row's logits and directions; its product is zero."""
    loss = CrossEntropyLoss(**options)
    logits, targets, dy = drawn((8, 5))
    (clean,) = loss.unit_outer((logits,), (logits, targets), (dy,))
    ignored = targets == -100
    logits, dy = logits.clone(), dy.clone()
    logits[ignored] = float("nan")
    dy[:, ignored] = float("inf")
    (found,) = loss.unit_outer((logits,), (logits, targets), (dy,))
    assert torch.equal(found, clean)
    assert not clean[:, ignored].any() and clean[:, ~ignored].any()


@pytest.mark.parametrize("rows", [1, 5, 11])
def test_rows_in_chunks_are_the_rows(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of any height give the bits of the whole."""
    from curvkit_core.kernels import row_softmax

    loss = CrossEntropyLoss()
    logits, targets, dy = drawn((11, 5))
    batch = (logits, targets)
    whole = loss.unit_outer((logits,), batch, (dy,))[0], loss.ggn((logits,), batch, (dy,))[0]
    monkeypatch.setattr(row_softmax, "_CPU_CHUNK", rows * 5)
    again = loss.unit_outer((logits,), batch, (dy,))[0], loss.ggn((logits,), batch, (dy,))[0]
    assert torch.equal(whole[0], again[0]) and torch.equal(whole[1], again[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_accumulated_in_float32(dtype: torch.dtype) -> None:
    """The result is that of the same numbers in float32, rounded once."""
    loss = CrossEntropyLoss()
    logits, targets, dy = drawn((6, 5))
    low, along = logits.to(dtype), dy.to(dtype)
    (found,) = loss.unit_outer((low,), (low, targets), (along,))
    (expected,) = loss.unit_outer((low.float(),), (low, targets), (along.float(),))
    assert found.dtype == dtype
    assert torch.equal(found, expected.to(dtype))
