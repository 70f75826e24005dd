"""Batches: refuse what cannot be read twice, move to a device, count, cut into microbatches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from curvkit_core.losses.batch_tree import map_tensors, tensors

__all__ = ["check_reiterable", "leading_size", "microbatches", "moved"]


def check_reiterable(batches: Any) -> Iterable[Any]:
    """Return `batches` if it can be read again and again; a tensor or a one-shot iterator is refused with the mend."""
    if isinstance(batches, Tensor | str | dict):
        msg = (
            f"batches is a {type(batches).__name__}: expected an iterable "
            "of batches. For one batch pass a list: [batch]."
        )
        raise TypeError(msg)
    if not isinstance(batches, Iterable):
        msg = f"batches={batches!r} is no iterable: expected a list of batches or a DataLoader."
        raise TypeError(msg)
    if isinstance(batches, Iterator):
        msg = (
            f"batches is a one-shot iterator ({type(batches).__name__}): every product reads all data again. "
            "Pass list(batches), or the DataLoader itself."
        )
        raise TypeError(msg)
    return batches


def moved(batch: Any, device: torch.device) -> Any:
    """The batch with every tensor on `device`. Tensors made under inference_mode are refused."""
    for tensor in tensors(batch):
        if tensor.is_inference():
            msg = (
                "the batch holds a tensor made under torch.inference_mode(), which autograd cannot use. "
                "Make the batches outside of it, or clone them: tensor.clone()."
            )
            raise ValueError(msg)
    return map_tensors(lambda t: t.to(device, non_blocking=True), batch)


def leading_size(batch: Any) -> int:
    """The leading size that the batch's first tensor with an axis has: its number of rows."""
    for tensor in tensors(batch):
        if tensor.ndim:
            return tensor.shape[0]
    msg = f"a batch of type {type(batch).__name__} holds no tensor with a leading axis: its rows cannot be counted."
    raise ValueError(msg)


def microbatches(batch: Any, size: int | None) -> Iterator[Any]:
    """Cut a batch along its rows into pieces of at most `size`; tensors with another leading size go along whole."""
    if size is None or (rows := leading_size(batch)) <= size:
        yield batch
        return
    for low in range(0, rows, size):
        high = min(low + size, rows)
        yield map_tensors(lambda t: t[low:high] if t.ndim and t.shape[0] == rows else t, batch)  # noqa: B023 - used at once
