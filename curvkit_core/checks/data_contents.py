"""What the data of one pass were, as hashes, so that two passes can be compared without being kept.

A row (one example) has a hash of the bytes of all its tensors; a batch has the sum of its rows' hashes, a pass those of
its batches. Sums do not depend on the order, so the hashes tell "the same examples, shuffled" from "other examples".
Every 8-byte word is mixed with its position before anything is added: in plain weighted sums, changes of high bits such
as signs can cancel.
"""

from __future__ import annotations

from typing import Any

import torch
from attrs import define, field, frozen
from torch import Tensor

from curvkit_core.backends.probes import hashed_words
from curvkit_core.losses.batch_tree import tensors
from curvkit_core.problem.batches import leading_size
from curvkit_core.problem.problem import Piece

__all__ = ["Contents", "Digest"]

_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


@frozen(kw_only=True)
class Contents:
    """The data of one pass.

    Parameters
    ----------
    batches : tuple of int
        Each batch's hash, in order.
    rows : int
        Examples.
    units : float
        What the risk's sum is divided by.
    by_row : bool
        Whether examples can be told apart and look alike from batch to batch: every tensor has a row for each of them,
        and no shape differs, as it does under padding to the batch's longest.
    """

    batches: tuple[int, ...]
    rows: int
    units: float
    by_row: bool

    @property
    def all_rows(self) -> int:
        """The hash of all examples, whatever their order and batches."""
        return sum(self.batches) % (1 << 64)


@define(eq=False)
class Digest:
    """Collects a pass's hashes on the device; nothing waits for it before :meth:`contents`."""

    _numbers: list[int] = field(factory=list)
    _hashes: list[Tensor] = field(factory=list)
    _shapes: set[tuple[Any, ...]] = field(factory=set)
    _rows: int = 0
    _whole: bool = False

    def add(self, piece: Piece) -> None:
        """Hash a microbatch."""
        found = list(tensors(piece.batch))
        rows = leading_size(piece.batch) if any(t.ndim for t in found) else 0
        alike = bool(rows) and all(t.ndim and t.shape[0] == rows for t in found)
        self._whole = self._whole or not alike
        self._shapes.add(tuple(t.shape[1:] for t in found))
        self._rows += rows
        self._numbers.append(piece.number)
        self._hashes.append(_mixed(_row_hashes(found, rows if alike else 1)).sum())

    def contents(self, units: float) -> Contents:
        """What was seen; one wait for the device."""
        batches: dict[int, int] = {}
        hashes = torch.stack(self._hashes).tolist() if self._hashes else []
        for number, value in zip(self._numbers, hashes, strict=True):
            batches[number] = (batches.get(number, 0) + value) % (1 << 64)
        by_row = not self._whole and len(self._shapes) <= 1
        return Contents(batches=tuple(batches.values()), rows=self._rows, units=units, by_row=by_row)


def _row_hashes(found: list[Tensor], rows: int) -> Tensor:
    total = torch.zeros(rows, dtype=torch.int64, device=found[0].device if found else None)
    for place, tensor in enumerate(found):
        words = _words(tensor.detach(), rows)
        weights = hashed_words(words.shape[1], device=tensor.device)
        total = total + _mixed(_mixed(words ^ weights).sum(1) + place).to(total.device)
    return total


def _words(tensor: Tensor, rows: int) -> Tensor:
    """The bytes of each row as 64-bit words, (rows, w), padded with zeros."""
    if not tensor.numel():
        return torch.zeros((rows, 0), dtype=torch.int64, device=tensor.device)
    laid = tensor.contiguous().reshape(rows, -1)
    if laid.stride(1) != 1:  # one element a row counts as contiguous whatever its stride
        laid = laid.clone(memory_format=torch.contiguous_format)
    octets = laid.view(torch.uint8)
    if octets.shape[1] % 8 or octets.data_ptr() % 8:
        octets = torch.nn.functional.pad(octets, (0, -octets.shape[1] % 8)).clone()
    return octets.view(torch.int64)


def _mixed(z: Tensor) -> Tensor:
    """Spread every bit over the word: splitmix64's finaliser with arithmetic shifts."""
    z = (z ^ (z >> 30)) * _MIX_1
    z = (z ^ (z >> 27)) * _MIX_2
    return z ^ (z >> 31)
