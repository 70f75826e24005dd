"""Batches that every rank could read, dealt out: one run of neighbours a rank, so that rank by rank is their order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from itertools import islice
from typing import Any

__all__ = ["Dealt"]


class Dealt:
    """Batches number floor(B r / N), ..., floor(B (r + 1) / N) - 1 of B, for rank r of N; it can be read again.

    A list is cut; anything else is read over, from its beginning to the rank's last batch, and counted once by a
    reading of its own where it has no length.

    Parameters
    ----------
    batches : iterable
        The same on every rank, in the same order.
    rank, size : int
        r and N.
    """

    def __init__(self, batches: Iterable[Any], *, rank: int, size: int) -> None:
        self.batches = batches
        self.rank = rank
        self.size = size
        self._total: int | None = None

    def _bounds(self) -> tuple[int, int]:
        if isinstance(self.batches, Sized):
            total = len(self.batches)
        else:
            if self._total is None:
                self._total = sum(1 for _ in self.batches)
            total = self._total
        return total * self.rank // self.size, total * (self.rank + 1) // self.size

    def __len__(self) -> int:
        low, high = self._bounds()
        return high - low

    def __iter__(self) -> Iterator[Any]:
        low, high = self._bounds()
        if low == high:
            return iter(())
        if isinstance(self.batches, Sequence):
            return iter([self.batches[i] for i in range(low, high)])
        return islice(iter(self.batches), low, high)

    def __repr__(self) -> str:
        return f"Dealt({type(self.batches).__name__}, rank {self.rank} of {self.size})"
