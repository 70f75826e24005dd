"""Rows in chunks that fit a bound on memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["Rows", "row_chunks"]

#: How a chunk's rows are picked, ``t[rows]``: a slice (no copy) where all rows count, else their numbers.
Rows = slice | Tensor


def row_chunks(keep: Tensor, bytes_a_row: int, limit: int) -> Iterator[Rows]:
    """Cut the rows that count into chunks as equal as can be, each of at most `limit` bytes, or of one row.

    Parameters
    ----------
    keep : Tensor, shape (N,), bool
        Rows that do not count are in no chunk: they cost nothing. Read on the host: one wait for the device.
    bytes_a_row : int
        What one row takes.
    limit : int
        Bytes.
    """
    count = int(keep.sum())
    if not count:
        return
    most = min(count, max(1, limit // max(1, bytes_a_row)))
    chunks = -(-count // most)
    size = -(-count // chunks)
    if count == len(keep):
        yield from (slice(low, min(low + size, count)) for low in range(0, count, size))
    else:
        yield from torch.nonzero(keep)[:, 0].split(size)
